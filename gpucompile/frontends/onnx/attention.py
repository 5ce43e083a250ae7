"""Attention as ONNX Runtime's ops have it, and rotary embeddings. (ONNX's own Attention is a function of other ops.)

Everything meets in `attend`: queries [batch, heads, steps, size], keys and values [batch, key heads, length, size].
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from gpucompile.errors import ModelError
from gpucompile.frontends.onnx.call import MICROSOFT, Call, Operand, onnx_op, scalar, type_of
from gpucompile.frontends.onnx.movement import sliced, unsqueezed
from gpucompile.ir.types import DataType
from gpucompile.ops.activation import Linear, Tanh
from gpucompile.ops.contraction import Matmul
from gpucompile.ops.elementwise import Add, Max, Mul, Sub
from gpucompile.ops.gather import Gather
from gpucompile.ops.logical import Greater, GreaterOrEqual, Lesser, LesserOrEqual, LogicalAnd, NotEqual, Where
from gpucompile.ops.movement import Concat, Expand, Reshape, Transpose
from gpucompile.ops.softmax import Softmax
from gpucompile.ops.update import UpdateSlice

I32 = DataType.INT32


def attend(
    call: Call,
    q: Operand,
    k: Operand,
    v: Operand,
    biases: Sequence[Operand] = (),
    allowed: Operand | None = None,
    sink: Operand | None = None,
) -> Operand:
    """softmax(scale * q k^T + biases) v; [batch, heads, steps, size of v].

    Where `allowed` is 0 the scores count as lowest. `sink` [heads] is one more score that takes its share and gives
    nothing. Attributes of the node: scale, softcap."""
    b, n, s, h = type_of(q).shape
    m, t = type_of(k).shape[1:3]
    if n % m:
        raise ModelError(f"{n} query heads do not divide among {m} key heads")
    dtype = type_of(q).dtype
    scale = call.attr("scale", 0.0) or 1 / math.sqrt(h)
    rows = call.add(Reshape((b, m, n // m * s, h)), call.add(Linear(scale), q))
    scores = call.add(Matmul(), rows, call.add(Transpose((0, 1, 3, 2)), k))
    scores = call.add(Reshape((b, n, s, t)), scores)
    cap = call.attr("softcap", 0.0)
    if cap:
        scores = call.add(Linear(cap), call.add(Tanh(), call.add(Linear(1 / cap), scores)))
    for bias in biases:
        scores = call.add(Add(), scores, bias)
    if allowed is not None:
        lowest = np.array(np.finfo(dtype.value).min, dtype.numpy)
        scores = call.add(Where(), allowed, scores, lowest)
    if sink is not None:
        column = call.add(Expand((b, n, s, 1)), call.add(Reshape((1, n, 1, 1)), sink))
        shares = call.add(Softmax(3), call.add(Concat(3), scores, column))
        shares = sliced(call, shares, [slice(None)] * 3 + [slice(0, t)])
    else:
        shares = call.add(Softmax(3), scores)
    out = call.add(Matmul(), call.add(Reshape((b, m, n // m * s, t)), shares), v)
    return call.add(Reshape((b, n, s, type_of(v).shape[3])), out)


def split_heads(call: Call, x: Operand, heads: int) -> Operand:
    """[batch, steps, heads * size] -> [batch, heads, steps, size]"""
    b, s, d = type_of(x).shape
    if not heads or d % heads:
        raise ModelError(f"{heads} heads do not divide {d} channels")
    return call.add(Transpose((0, 2, 1, 3)), call.add(Reshape((b, s, heads, d // heads)), x))


def join_heads(call: Call, x: Operand) -> Operand:
    """[batch, heads, steps, size] -> [batch, steps, heads * size]"""
    b, n, s, h = type_of(x).shape
    return call.add(Reshape((b, s, n * h)), call.add(Transpose((0, 2, 1, 3)), x))


def joined(call: Call, past: Operand | None, new: Operand) -> Operand:
    """New keys or values behind the past ones."""
    if past is None or not type_of(past).size:
        return new
    return call.add(Concat(2), past, new)


def _padding(call: Call, mask: Operand, batch: int, steps: int, length: int) -> Operand:
    """A mask of keys, 0 where there is padding, as [batch or 1, 1, steps or 1, length]. Of rank 1 it says how many keys
    there are for each batch entry, and with twice as many numbers where they start."""
    t = type_of(mask)
    if t.rank == 1 and t.shape[0] in (batch, 2 * batch):
        positions = np.arange(length).astype(t.dtype.numpy).reshape(1, 1, 1, length)
        end = call.add(Reshape((batch, 1, 1, 1)), sliced(call, mask, [slice(0, batch)]))
        inside = call.add(Lesser(), positions, end)
        if t.shape[0] == batch:
            return inside
        start = call.add(Reshape((batch, 1, 1, 1)), sliced(call, mask, [slice(batch, 2 * batch)]))
        return call.add(LogicalAnd(), inside, call.add(GreaterOrEqual(), positions, start))
    if t.shape == (batch, length):
        mask = call.add(Reshape((batch, 1, 1, length)), mask)
    elif t.shape == (batch, steps, length):
        mask = call.add(Reshape((batch, 1, steps, length)), mask)
    else:
        call.unsupported(f"a mask of type {t}")
    return call.add(NotEqual(), mask, scalar(0, t.dtype))


def _causal(call: Call, steps: int, length: int) -> np.ndarray:
    """[1, 1, steps, length]: 1 where a key is not after the query; queries are the last steps."""
    call.limit(steps, length)
    return np.tril(np.ones((steps, length), np.uint8), length - steps).reshape(1, 1, steps, length)


def _masks(call: Call, mask: Operand | None, batch: int, steps: int, length: int) -> list[Operand]:
    """Biases for a padding mask and for `unidirectional`, which add mask_filter_value where there is nothing to see."""
    dtype = call.type().dtype
    zero, low = scalar(0, dtype), scalar(max(call.attr("mask_filter_value", -10000.0), -65504.0), dtype)
    biases = []
    if mask is not None:
        biases.append(call.add(Where(), _padding(call, mask, batch, steps, length), zero, low))
    if call.attr("unidirectional", 0):
        lowest = np.array(np.finfo(dtype.value).min, dtype.numpy)
        biases.append(np.where(_causal(call, steps, length) != 0, zero, lowest))
    return biases


@onnx_op("Attention", domain=MICROSOFT)
def attention(call: Call) -> tuple[Operand | None, ...]:
    """Queries, keys and values from one product with the weights. `present` stacks keys and values."""
    x, heads = call.operand(0), call.attr("num_heads")
    b, s, _ = call.type().shape
    if call.attr("do_rotary", 0) or call.has(6):
        call.unsupported("do_rotary" if call.attr("do_rotary", 0) else "past_sequence_length")
    total = call.type(1).shape[1]
    sizes = call.attr("qkv_hidden_sizes") or [total // 3] * 3
    if sum(sizes) != total:
        raise ModelError(f"qkv_hidden_sizes {sizes} do not suit weights {call.type(1)}")
    packed = call.add(Matmul(), x, call.operand(1))
    packed = call.add(Add(), packed, call.operand(2)) if call.has(2) else packed
    q, k, v = _parts(call, packed, sizes, [heads] * 3)
    if call.has(4) and call.type(4).size:
        past = [_half(call, i) for i in (0, 1)]
        k, v = joined(call, past[0], k), joined(call, past[1], v)
    length = type_of(k).shape[2]
    mask = call.optional(3)
    biases = _masks(call, mask, b, s, length)
    biases += [call.operand(5)] if call.has(5) else []
    out = join_heads(call, attend(call, q, k, v, biases))
    present = None
    if len(call.wanted) > 1 and call.wanted[1]:
        present = call.add(Concat(0), unsqueezed(call, k, 0), unsqueezed(call, v, 0))
    return out, present


def _half(call: Call, index: int) -> Operand:
    """Keys or values of `past` [2, batch, heads, length, size]."""
    shape = call.type(4).shape
    part = sliced(call, call.operand(4), [slice(index, index + 1)] + [slice(None)] * 4)
    return call.add(Reshape(shape[1:]), part)


def _parts(call: Call, packed: Operand, sizes: Sequence[int], heads: Sequence[int]) -> list[Operand]:
    """Pieces of the last axis of [batch, steps, channels], each split into its heads."""
    parts, start = [], 0
    for size, count in zip(sizes, heads, strict=True):
        piece = sliced(call, packed, [slice(None), slice(None), slice(start, start + size)])
        parts.append(split_heads(call, piece, count))
        start += size
    return parts


@onnx_op("MultiHeadAttention", domain=MICROSOFT)
def multi_head_attention(call: Call) -> tuple[Operand | None, ...]:
    heads = call.attr("num_heads")
    if call.has(8) or call.has(9):
        call.unsupported("past_sequence_length" if call.has(8) else "cache_indirection")
    q, k, v = _query_key_value(call, heads)
    k, v = joined(call, call.optional(6), k), joined(call, call.optional(7), v)
    (b, _, s, _), length = type_of(q).shape, type_of(k).shape[2]
    biases = _masks(call, call.optional(4), b, s, length)
    biases += [call.operand(5)] if call.has(5) else []
    if any(call.wanted[3:]):
        call.unsupported("its output 3 (the scores) is used")
    return join_heads(call, attend(call, q, k, v, biases)), k, v


def _query_key_value(call: Call, heads: int) -> tuple[Operand, Operand, Operand]:
    """In its packed forms, from three matrices, or with keys and values that already have heads; biases added."""
    q, t = call.operand(0), call.type()
    if t.rank == 5:  # [batch, steps, heads, 3, size]
        b, s, n, _, h = t.shape
        parts = [sliced(call, q, [slice(None)] * 3 + [slice(i, i + 1), slice(None)]) for i in range(3)]
        flat = [call.add(Reshape((b, s, n * h)), p) for p in parts]
    else:
        flat = [q]
        if call.has(1) and call.type(1).rank == 5:  # [batch, length, heads, 2, size]
            b, length, n, _, h = call.type(1).shape
            parts = [sliced(call, call.operand(1), [slice(None)] * 3 + [slice(i, i + 1), slice(None)]) for i in (0, 1)]
            flat += [call.add(Reshape((b, length, n * h)), p) for p in parts]
        elif call.has(1):
            flat += [call.operand(1), call.operand(2)]
        else:
            raise ModelError("key is missing")
    bias = call.optional(3)
    results, start = [], 0
    for x in flat:
        width = type_of(x).shape[-1] if type_of(x).rank == 3 else type_of(x).shape[1] * type_of(x).shape[3]
        if bias is not None:
            piece = sliced(call, bias, [slice(start, start + width)])
            if type_of(x).rank == 4:
                n, h = type_of(x).shape[1], type_of(x).shape[3]
                piece = call.add(Reshape((n, 1, h)), piece)
            x = call.add(Add(), x, piece)
            start += width
        results.append(x if type_of(x).rank == 4 else split_heads(call, x, heads))
    return results[0], results[1], results[2]


# Rotary embedding ----------------------------------------------------------------------------------------------------


def rotated(call: Call, x: Operand, cos: Operand, sin: Operand, interleaved: bool) -> Operand:
    """x [batch, heads, steps, size] with pairs of channels turned; cos and sin are [batch or 1, 1, steps, pairs].

    Pairs are neighbours if `interleaved`, else the channel and the one half of the turned part further on; what the
    tables do not cover stays."""
    b, n, s, h = type_of(x).shape
    pairs = type_of(cos).shape[-1]
    rest = sliced(call, x, [slice(None)] * 3 + [slice(2 * pairs, h)]) if 2 * pairs < h else None
    x = sliced(call, x, [slice(None)] * 3 + [slice(0, 2 * pairs)])
    shape = (b, n, s, pairs, 2) if interleaved else (b, n, s, 2, pairs)
    axis = 4 if interleaved else 3
    split = call.add(Reshape(shape), x)
    first, second = (
        call.add(
            Reshape((b, n, s, pairs)),
            sliced(call, split, [slice(i, i + 1) if a == axis else slice(None) for a in range(5)]),
        )
        for i in (0, 1)
    )
    one = call.add(Sub(), call.add(Mul(), first, cos), call.add(Mul(), second, sin))
    two = call.add(Add(), call.add(Mul(), first, sin), call.add(Mul(), second, cos))
    out = call.add(
        Reshape((b, n, s, 2 * pairs)), call.add(Concat(axis), unsqueezed(call, one, axis), unsqueezed(call, two, axis))
    )
    return out if rest is None else call.add(Concat(3), out, rest)


def _turns(call: Call, positions: Operand, table: Operand, batch: int, steps: int) -> Operand:
    """Rows of a table at positions [batch, steps], as [batch, 1, steps, pairs]."""
    rows = call.add(Gather(0), table, positions)
    return call.add(Reshape((batch, 1, steps, type_of(table).shape[1])), rows)


@onnx_op("RotaryEmbedding", domain=MICROSOFT)
def rotary_embedding(call: Call) -> Operand:
    x, t = call.operand(0), call.type()
    cos, sin, positions = call.operand(2), call.operand(3), call.operand(1)
    if call.attr("is_packed_batching", 0) or call.attr("scale", 1.0) != 1.0:
        call.unsupported("is_packed_batching" if call.attr("is_packed_batching", 0) else "scale")
    width = call.attr("rotary_embedding_dim", 0)
    flat = t.rank == 3
    if flat:
        size = 2 * call.type(2).shape[1] if not width else 0
        heads = call.attr("num_heads", 0) or (t.shape[2] // size if size else 0)
        x = split_heads(call, x, heads)
    b, _, s, _ = type_of(x).shape
    if call.type(1).size == 1 and b * s != 1:  # where the first step stands
        dtype = call.type(1).dtype.numpy
        start = call.add(Reshape((1, 1)), positions)
        positions = call.add(Expand((b, s)), call.add(Add(), start, np.arange(s).astype(dtype).reshape(1, s)))
    turns = [_turns(call, positions, table, b, s) for table in (cos, sin)]
    out = rotated(call, x, turns[0], turns[1], bool(call.attr("interleaved", 0)))
    return join_heads(call, out) if flat else out


# Grouped queries -----------------------------------------------------------------------------------------------------


@onnx_op("GroupQueryAttention", domain=MICROSOFT)
def group_query_attention(call: Call) -> tuple[Operand | None, ...]:
    """Causal attention with a cache of keys and values. Entry b of the batch has seqlens_k[b] + 1 keys, the last steps
    of which are new; its queries stand at their positions. Where the cache is as long as all that will come, new keys
    are written into it, else it grows."""
    heads, groups = call.attr("num_heads"), call.attr("kv_num_heads")
    b, s, d = call.type().shape
    if call.has(1):
        q = split_heads(call, call.operand(0), heads)
        k, v = (split_heads(call, call.operand(i), groups) for i in (1, 2))
    else:
        size = d // (heads + 2 * groups)
        q, k, v = _parts(call, call.operand(0), [heads * size, groups * size, groups * size], [heads, groups, groups])
    lengths = call.add(Reshape((b, 1)), call.operand(5))
    start = call.add(Max(), call.add(Add(), lengths, scalar(1 - s, I32)), scalar(0, I32))
    positions = call.add(Add(), start, np.arange(s, dtype=np.int32).reshape(1, s))
    if call.attr("do_rotary", 0):
        at = call.operand(9) if call.has(9) else positions
        turns = [_turns(call, at, call.operand(i), b, s) for i in (7, 8)]
        interleaved = bool(call.attr("rotary_interleaved", 0))
        q, k = (rotated(call, x, turns[0], turns[1], interleaved) for x in (q, k))
    k, v = _cached(call, k, 3, start), _cached(call, v, 4, start)
    length = type_of(k).shape[2]
    keys = np.arange(length, dtype=np.int32).reshape(1, 1, 1, length)
    queries = call.add(Reshape((b, 1, s, 1)), positions)
    allowed = call.add(LesserOrEqual(), keys, queries)
    window = call.attr("local_window_size", -1)
    if window > 0:
        near = call.add(Greater(), keys, call.add(Sub(), queries, scalar(window, I32)))
        allowed = call.add(LogicalAnd(), allowed, near)
    sink = call.optional(11)
    if sink is None and call.attr("smooth_softmax", 0):
        sink = np.zeros(heads, call.type().dtype.numpy)
    biases = [call.operand(10)] if call.has(10) else []
    if any(call.wanted[3:]):
        call.unsupported("its output 3 (the scores) is used")
    out = attend(call, q, k, v, biases, allowed, sink)
    return join_heads(call, out), k, v


def _cached(call: Call, new: Operand, index: int, start: Operand) -> Operand:
    """The cache (input `index`) with the new entries in it, from `start` [batch, 1] on."""
    past = call.optional(index)
    if past is None or not type_of(past).size:
        return new
    b, _, s, _ = type_of(new).shape
    space = type_of(past).shape[2]
    total = call.operand(6)
    known = int(total.reshape(-1)[0]) if isinstance(total, np.ndarray) else None
    if known is not None and known == space + s:
        return joined(call, past, new)
    if known is not None and known > space:
        raise ModelError(f"{known} keys in all, {space} past and {s} new ones")
    return call.add(UpdateSlice(2), past, call.add(Reshape((b,)), start), new)
