"""Which inputs are the past of which outputs, and the sizes of the free dimensions that a cache decides."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gpucompile.errors import InputError, UnsupportedError

if TYPE_CHECKING:
    from gpucompile.frontends.onnx.importer import Interface

Dims = Mapping[str, int]
LEAST = 4  # slots: fewer cannot be told from other small extents
#: What exporters call the outputs of inputs that are called past...
_PRESENT = (("past_key_values", "present"), ("past_key_values", "present_key_values"), ("past", "present"))


@dataclass(frozen=True)
class KeyValueCache:
    """Compile a decoder for a key/value cache of `capacity` slots (tokens, for each entry of the batch) that is updated
    in place.

    pairs  past input -> present output. Default: by the names that exporters give them, `past_key_values.0.key` and
           `present.0.key`, `past_key_0` and `present_key_0`, `past_0` and `present_0`; those of an encoder
           (`past_key_values.0.encoder.key`) do not grow and are left alone
    """

    capacity: int
    pairs: Mapping[str, str] | None = field(default=None, hash=False)

    def __post_init__(self) -> None:
        if isinstance(self.capacity, bool) or not isinstance(self.capacity, int) or self.capacity < LEAST:
            raise InputError(f"cache: the capacity is a number of tokens, at least {LEAST}, not {self.capacity!r}")


@dataclass(frozen=True)
class Layout:
    """A model's caches: past input -> present output, sizes of all free dimensions to import it with, and the axes of
    other inputs that run over the slots. `count` tokens are new in a run. `shared` says that the model's attention
    writes into the cache itself (GroupQueryAttention), so that past and present have one size."""

    pairs: dict[str, str]
    dims: dict[str, int]
    masks: dict[str, int]
    count: int
    shared: bool
    growing: frozenset[str]  # the free dimensions that depend on the length

    def shorter(self, tokens: int) -> dict[str, int]:
        """The sizes for a past that is so many tokens shorter."""
        return {name: size - tokens * (name in self.growing) for name, size in self.dims.items()}

    def others(self) -> tuple[int, ...]:
        """By how many tokens the pasts are shorter that a model is looked at with: one, and all (none is filled, or,
        where a cache has one size, there is room for one token more than are new)."""
        past = min(self.dims[name] for name in self.growing)
        return tuple(sorted({1, past - min(past - 1, self.count + 1) if self.shared else past}))


def find_pairs(model: Interface, declared: Mapping[str, str] | None) -> dict[str, str]:
    """Past inputs and their present outputs. InputError for declared names that there are not, UnsupportedError where
    there is no pair."""
    outputs = set(model.outputs)
    if declared is not None:
        for past, present in declared.items():
            if past not in model.inputs:
                raise InputError(f"cache: there is no input {past!r}; there are {', '.join(model.inputs)}")
            if present not in outputs:
                raise InputError(f"cache: there is no output {present!r}; there are {', '.join(model.outputs)}")
        return dict(declared)
    pairs = {}
    for name in model.inputs:
        names = [name.replace(old, new, 1) for old, new in _PRESENT if old in name and ".encoder." not in name]
        found = next((n for n in names if n in outputs), None)
        if found is not None:
            pairs[name] = found
    if not pairs:
        raise UnsupportedError(
            "cache: no input has the name of a past whose present is an output, such as past_key_values.0.key and "
            "present.0.key; name them by pairs={past: present}"
        )
    return pairs


def free_dimensions(model: Interface, pairs: Mapping[str, str]) -> tuple[dict[str, int], dict[str, int]]:
    """The free dimensions that a cache decides: those of pasts, name by name the axis; and those of other inputs that
    count past and new tokens together, such as a mask's: past inputs -> axis, other inputs -> axis."""
    pasts: dict[str, int] = {}
    for name in pairs:
        free = [axis for axis, d in enumerate(model.inputs[name]) if isinstance(d, str)]
        if not free:
            raise UnsupportedError(
                f"cache: input {name!r} has the fixed shape {list(model.inputs[name])}, so that no capacity can be "
                "chosen; a model that writes into such a cache itself is in place without this option"
            )
        named = [axis for axis in free if "past" in str(model.inputs[name][axis])]
        if not named and len(free) > 1:  # the batch comes first, and no more than it is free beside the past
            named = free[1:]
        axes = named or free
        if len(axes) != 1:
            raise UnsupportedError(
                f"cache: input {name!r} has shape {list(model.inputs[name])}: which of its axes grows is not clear"
            )
        pasts[name] = axes[0]
    grown = {str(model.inputs[n][a]) for n, a in pasts.items()}
    others: dict[str, int] = {}
    for name, shape in model.inputs.items():
        for axis, d in enumerate(shape):
            counts = isinstance(d, str) and (d in grown or "past" in d or "total" in d or "+" in d)
            if name not in pairs and counts:
                others[name] = axis
    return pasts, others


def layout_of(model: Interface, dims: Dims, cache: KeyValueCache) -> Layout:
    """What to import a model with. `dims` has the sizes of the free dimensions but for those that the cache decides.

    Raises InputError for sizes that are missing, or given though the cache decides them, or too large."""
    pairs = find_pairs(model, cache.pairs)
    pasts, masks = free_dimensions(model, pairs)
    past_names = {str(model.inputs[n][a]) for n, a in pasts.items()}
    total_names = {str(model.inputs[n][a]) for n, a in masks.items()} - past_names
    for name in dims:
        if name in past_names | total_names:
            raise InputError(f"cache: dims has {name!r}, which the cache's capacity decides")
    count = _new_tokens(model, dims, pairs, masks)
    shared = writes_cache(model)
    most = cache.capacity if shared else cache.capacity - 2
    if not 1 <= count <= most:
        raise InputError(f"cache: {count} new tokens at once do not fit, a capacity of {cache.capacity} takes {most}")
    past = cache.capacity if shared else cache.capacity - count
    bound = {**dims, **dict.fromkeys(past_names, past), **dict.fromkeys(total_names, cache.capacity)}
    needed = [d for shape in model.inputs.values() for d in shape if isinstance(d, str)]
    for name in needed:
        if name not in bound:
            raise InputError(f"cache: dims must say how large the free dimension {name!r} is")
    return Layout(pairs, bound, masks, count, shared, frozenset(past_names | total_names))


def writes_cache(model: Interface) -> bool:
    """Whether the model's attention writes into a cache of fixed size itself, at places that other inputs tell."""
    return "GroupQueryAttention" in model.ops


def _new_tokens(model: Interface, dims: Dims, pairs: Mapping[str, str], masks: Mapping[str, int]) -> int:
    """How many tokens a run adds: axis 1 of the first input that is neither a past nor a mask."""
    for name, shape in model.inputs.items():
        if name not in pairs and name not in masks and len(shape) > 1:
            size = shape[1] if isinstance(shape[1], int) else dims.get(shape[1])
            if size is None:
                raise InputError(f"cache: dims must say how large {shape[1]!r} is, the number of new tokens")
            return int(size)
    raise UnsupportedError("cache: no input has an axis of new tokens")
