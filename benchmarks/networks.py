"""The nine image networks that the `onnx` wheel ships, as they are and with random weights at opset 17.

The shipped files (opset 9) make most weights by ConstantOfShape, all 0.02: their outputs are the same number a thousand
times, which many wrong compilers get right. `randomized` keeps the architecture and replaces every weight:

    shipped, opset 9 --upgrade--> opset 17, weights missing --fill in node order--> initializers

Weights must neither kill nor blow up the activations, however deep the network. No data is run for that: the mean and
variance of each channel are carried from the input to the output under the assumption that a channel is normally
distributed, one rule per op (`_Filler`). They decide the scale of each tensor:

    conv, gemm   normal filters; the predicted output has second moment 1 (more for the logits); filters with a wide
                 fan-in are half centred: with the mean left in, the common mean of ReLU outputs drowns the image after
                 some layers; with all of it gone, each layer magnifies small differences, rounding errors included
    batch norm   running mean and variance are the predicted ones, perturbed; scale and bias are random around 1 and 0,
                 the scale around 0.3 at the end of a residual branch
    bias         normal, small

Each tensor has its own generator, seeded with its name, so that weights do not depend on the order of creation.

    python -m benchmarks.networks OUTDIR [NAME...]          writes NAME.onnx (alexnet 244 MB, vgg19 575 MB)
    python -m benchmarks.networks --statistics [NAME...]    what the activations look like (needs onnxruntime)
"""

from __future__ import annotations

import argparse
import math
import os
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import onnx
from onnx import helper, numpy_helper

#: Short name -> the name in the wheel's `onnx/backend/test/data/light` folder.
_FILES = {
    "alexnet": "bvlc_alexnet",
    "densenet121": "densenet121",
    "inception_v1": "inception_v1",
    "inception_v2": "inception_v2",
    "resnet50": "resnet50",
    "shufflenet": "shufflenet",
    "squeezenet": "squeezenet",
    "vgg19": "vgg19",
    "zfnet512": "zfnet512",
}
NAMES: tuple[str, ...] = tuple(_FILES)

OPSET = 17
IR_VERSION = 8
#: Part of the cache's file names: raise it whenever `randomized`, `random_input` or the choice of weights changes.
VERSION = 1

Array = np.ndarray[Any, Any]
#: Mean and variance, both of the tensor's rank; axes along which they do not vary have size 1.
Moments = tuple[Array, Array]


# ---- what the wheel ships ----------------------------------------------------------------------------------------


def _light(file: str) -> Path:
    path = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light" / file
    if not path.is_file():
        raise FileNotFoundError(f"{path}: this version of the onnx package does not ship it")
    return path


def shipped(name: str) -> Path:
    """The network's file inside the `onnx` wheel: opset 9, constant weights."""
    return _light(f"light_{_check(name)}.onnx")


def stored_output(name: str) -> Array:
    """The output that the wheel stores for `shipped_input(name)`: float32, [1, 1000] or [1, 1000, 1, 1]. Every element
    is 0.001; densenet121, which ends without a softmax, has 0.46095502 everywhere."""
    return numpy_helper.to_array(onnx.load_tensor(str(_light(f"light_{_check(name)}_output_0.pb"))))


def shipped_input(name: str) -> dict[str, Array]:
    """The input behind `stored_output`: float32 [1, 3, 224, 224], the ramp from 0 to 1 of the ONNX backend tests."""
    data, shape = _data_input(onnx.load(shipped(name)))
    size = math.prod(shape)
    return {data: (np.arange(size).reshape(shape) / size).astype(np.float32)}


def _check(name: str) -> str:
    if name not in _FILES:
        raise ValueError(f"unknown network {name!r}; known: {', '.join(NAMES)}")
    return _FILES[name]


def _data_input(model: onnx.ModelProto) -> tuple[str, tuple[int, ...]]:
    """The one graph input that is no weight: its name and shape."""
    weights = {t.name for t in model.graph.initializer}
    (data,) = (v for v in model.graph.input if v.name not in weights)
    return data.name, _shape(data)


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(d.dim_value for d in value.type.tensor_type.shape.dim)


# ---- random weights and inputs -----------------------------------------------------------------------------------


def random_input(name: str, seed: int = 0) -> dict[str, Array]:
    """One seeded random image, float32 [1, 3, 224, 224] with mean 0 and variance 1. It has structure at four scales, as
    white noise would look alike to a network that ends in an average over positions."""
    data, shape = _data_input(onnx.load(shipped(name)))
    rng = np.random.default_rng(seed)
    image = np.zeros(shape, np.float32)
    for blocks in (4, 16, 56, 224):
        noise = rng.standard_normal((*shape[:2], blocks, blocks), dtype=np.float32)
        image += 0.5 * noise.repeat(shape[2] // blocks, axis=2).repeat(shape[3] // blocks, axis=3)
    return {data: image}


def randomized(name: str, seed: int = 0) -> onnx.ModelProto:
    """The network at opset 17 with seeded random weights as initializers: no ConstantOfShape, Dropout or Sum.

    The input is float32 [1, 3, 224, 224]. The same name and seed give the same model, up to the last bit of a tensor's
    scale, which sums of floats decide. vgg19 takes 575 MB."""
    old = onnx.shape_inference.infer_shapes(onnx.load(shipped(name)))
    graph = old.graph
    shapes = {v.name: _shape(v) for v in [*graph.input, *graph.value_info, *graph.output]}
    integers = {t.name: t for t in graph.initializer if t.data_type == onnx.TensorProto.INT64}
    data, shape = _data_input(old)

    nodes, axes = _upgrade(graph.node)
    weights = _Filler(nodes, shapes, f"{name}/", seed)
    weights.fill(data)

    made = {i for n in nodes for i in n.input if i in integers}
    initializers = [integers[i] for i in sorted(made)] + axes
    initializers += [_tensor(key, value) for key, value in weights.tensors.items()]
    output = helper.make_tensor_value_info(graph.output[0].name, onnx.TensorProto.FLOAT, shapes[graph.output[0].name])
    image = helper.make_tensor_value_info(data, onnx.TensorProto.FLOAT, shape)
    new = helper.make_graph(nodes, f"{name}, random weights, seed {seed}", [image], [output], initializers)
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(new, opset_imports=[opset], ir_version=IR_VERSION, producer_name="gpucompile benchmarks")


def _tensor(name: str, value: Array) -> onnx.TensorProto:
    return onnx.TensorProto(
        name=name,
        data_type=onnx.TensorProto.FLOAT,
        dims=value.shape,
        raw_data=value.astype("<f4", copy=False).tobytes(),
    )


def _upgrade(old: Iterable[onnx.NodeProto]) -> tuple[list[onnx.NodeProto], list[onnx.TensorProto]]:
    """Nodes of opset 9 -> nodes of opset 17 without ConstantOfShape, and the initializers that the new ones need.

    Unsqueeze takes its axes as an input since opset 13. Dropout does nothing in inference and is left out. Sum of two
    becomes Add (the peer onnxruntime-webgpu has no Sum). Softmax normalised all axes from 1 on taken together before
    opset 13, now axis 1 alone, which is the same for [1, 1000] and [1, 1000, 1, 1]."""
    nodes: list[onnx.NodeProto] = []
    axes: dict[str, onnx.TensorProto] = {}
    renamed: dict[str, str] = {}
    for n in old:
        inputs = [renamed.get(i, i) for i in n.input]
        attributes = {a.name: helper.get_attribute_value(a) for a in n.attribute}
        op = n.op_type
        if op == "ConstantOfShape":
            continue
        if op == "Dropout":
            renamed[n.output[0]] = inputs[0]
            continue
        if op == "Sum" and len(inputs) == 2:
            op = "Add"
        elif op == "Unsqueeze":
            numbers = attributes.pop("axes")
            key = "axes_" + "_".join(map(str, numbers))
            axes[key] = numpy_helper.from_array(np.array(numbers, np.int64), key)
            inputs.append(key)
        elif op == "Softmax":
            attributes["axis"] = 1
        nodes.append(helper.make_node(op, inputs, list(n.output), name=n.output[0], **attributes))
    return nodes, list(axes.values())


class _Filler:
    """Chooses all weights in node order while it carries the moments of every tensor along; see the module's text."""

    LOGITS = 1.5  # standard deviation over the classes: a softmax over 1,000 of them then peaks at some per cent
    LOGITS_AVERAGED = 4.0  # the same where ReLU and an average over positions follow, which take much of it away
    CENTRED = 0.5  # the share of a filter's mean that is taken away
    CENTRED_FROM = 16  # from this fan-in on; a centred 3x3 depthwise filter would be a mere high-pass
    BRANCH = 0.3  # what batch normalisation scales by where its result is added to a shortcut

    def __init__(
        self, nodes: Sequence[onnx.NodeProto], shapes: dict[str, tuple[int, ...]], prefix: str, seed: int
    ) -> None:
        self.nodes = nodes
        self.shapes = shapes
        self.prefix = prefix
        self.seed = seed
        self.tensors: dict[str, Array] = {}
        self.moments: dict[str, Moments] = {}
        self.source = {n.output[0]: n.input[0] for n in nodes if n.op_type in ("Reshape", "Unsqueeze")}
        self.branches = {n.input[0] for n in nodes if n.op_type == "Add"}
        self.last = [n.output[0] for n in nodes if n.op_type in ("Conv", "Gemm")][-1]

    def fill(self, data: str) -> None:
        """Fill `tensors`; `data` names the network's input, taken to have mean 0 and variance 1."""
        channels = (1, self.shapes[data][1], 1, 1)
        self.moments[data] = np.zeros(channels), np.ones(channels)
        for n in self.nodes:
            if n.op_type in ("Reshape", "Unsqueeze") and n.input[0] not in self.moments:
                continue  # only moves a weight
            attributes = {a.name: helper.get_attribute_value(a) for a in n.attribute}
            self.moments[n.output[0]] = getattr(self, f"_{n.op_type.lower()}")(n, attributes)

    def _weight(self, name: str, make: Callable[[np.random.Generator, tuple[int, ...]], Array]) -> Array:
        """The weight behind `name` (through Reshape and Unsqueeze), made now, in the shape that `name` has."""
        root = name
        while root in self.source:
            root = self.source[root]
        if root in self.tensors:
            raise ValueError(f"weight {root} has two uses")
        rng = np.random.default_rng([self.seed, zlib.crc32((self.prefix + root).encode())])
        value = make(rng, self.shapes[root]).astype(np.float32, copy=False)
        self.tensors[root] = value
        return value.reshape(self.shapes[name])

    def _vector(self, name: str, mean: float | Array, spread: float | Array) -> Array:
        """A normally distributed parameter with one number per channel, clipped to two `spread`s."""
        return self._weight(name, lambda rng, s: mean + spread * rng.standard_normal(s[0]).clip(-2, 2).reshape(s))

    # -- one rule per op: fills its weights, returns its result's moments

    def _conv(self, n: onnx.NodeProto, attributes: dict[str, Any]) -> Moments:
        mean, var = (m[0, :, 0, 0] for m in self.moments[n.input[0]])
        mean, var = self._contract(n, mean, var, attributes.get("group", 1), self._inside(n, attributes))
        return mean.reshape(1, -1, 1, 1), var.reshape(1, -1, 1, 1)

    def _gemm(self, n: onnx.NodeProto, attributes: dict[str, Any]) -> Moments:
        if attributes.get("transB") != 1:
            raise ValueError("weights of a Gemm are expected as [outputs, inputs]")
        mean, var = (np.broadcast_to(m, self.shapes[n.input[0]])[0] for m in self.moments[n.input[0]])
        mean, var = self._contract(n, mean, var, 1, 1.0)
        return mean[None], var[None]

    def _contract(self, n: onnx.NodeProto, mean: Array, var: Array, groups: int, inside: float) -> Moments:
        """Conv and Gemm: [C] moments of the input channels -> [O] moments of the output channels."""
        target = 1.0
        if n.output[0] == self.last:
            averaged = n.op_type == "Conv" and self.nodes[-1].op_type == "Softmax"
            target = self.LOGITS_AVERAGED if averaged else self.LOGITS

        w = self._weight(n.input[1], lambda rng, s: rng.standard_normal(s, dtype=np.float32))
        grouped = w.reshape(groups, w.shape[0] // groups, w.shape[1], -1)  # [G, O/G, C/G, taps], a view
        if math.prod(w.shape[1:]) >= self.CENTRED_FROM:
            grouped -= self.CENTRED * grouped.mean(axis=(2, 3), keepdims=True)
        mean, var = mean.reshape(groups, -1).astype(np.float32), var.reshape(groups, -1).astype(np.float32)
        out_mean = inside * np.einsum("goct,gc->go", grouped, mean).ravel()
        out_var = inside * np.einsum("goct,goct,gc->go", grouped, grouped, var).ravel()
        scale = target / math.sqrt(float(np.mean(out_var + out_mean**2)))
        w *= np.float32(scale)
        out_mean, out_var = out_mean * scale, out_var * scale**2
        if len(n.input) > 2:
            out_mean = out_mean + self._vector(n.input[2], 0.0, 0.1 * target)
        return out_mean, out_var

    def _inside(self, n: onnx.NodeProto, attributes: dict[str, Any]) -> float:
        """The share of a window's taps that lie on the image and not on its padding, averaged over all windows."""
        share = 1.0
        image, kernel = self.shapes[n.input[0]][2:], attributes["kernel_shape"]
        pads, strides = attributes.get("pads", [0] * 4), attributes.get("strides", [1, 1])
        for axis, count in enumerate(self.shapes[n.output[0]][2:]):
            taps = np.arange(count)[:, None] * strides[axis] - pads[axis] + np.arange(kernel[axis])
            share *= float(np.mean((taps >= 0) & (taps < image[axis])))
        return share

    def _batchnormalization(self, n: onnx.NodeProto, attributes: dict[str, Any]) -> Moments:
        mean, var = self.moments[n.input[0]]
        m, v = mean.ravel(), np.maximum(var.ravel(), 1e-3)
        mean_scale = self.BRANCH if n.output[0] in self.branches else 1.0
        scale = self._vector(n.input[1], mean_scale, 0.15 * mean_scale)
        bias = self._vector(n.input[2], 0.0, 0.2)
        running_mean = self._vector(n.input[3], m, 0.1 * np.sqrt(v))
        running_var = self._weight(n.input[4], lambda rng, s: v * rng.uniform(0.75, 1.3, s))
        factor = scale / np.sqrt(running_var + attributes.get("epsilon", 1e-5))
        return (factor * (m - running_mean) + bias).reshape(mean.shape), (factor**2 * v).reshape(var.shape)

    def _mul(self, n: onnx.NodeProto, _: dict[str, Any]) -> Moments:
        mean, var = self.moments[n.input[0]]
        w = self._vector(n.input[1], 1.0, 0.15)
        return mean * w, var * w**2

    def _add(self, n: onnx.NodeProto, _: dict[str, Any]) -> Moments:
        mean, var = self.moments[n.input[0]]
        if n.input[1] in self.moments:
            other_mean, other_var = self.moments[n.input[1]]
            return mean + other_mean, var + other_var
        return mean + self._vector(n.input[1], 0.0, 0.2), var

    def _relu(self, n: onnx.NodeProto, _: dict[str, Any]) -> Moments:
        """E[max(x, 0)] and its variance for normal x: m P + s p and (m^2 + s^2) P + m s p - mean^2."""
        m, v = self.moments[n.input[0]]
        s = np.sqrt(np.maximum(v, 1e-12))
        above = 0.5 * (1 + np.vectorize(math.erf)(m / s / math.sqrt(2)))
        density = np.exp(-0.5 * (m / s) ** 2) / math.sqrt(2 * math.pi)
        mean = m * above + s * density
        return mean, np.maximum((m * m + v) * above + m * s * density - mean**2, 1e-6)

    def _lrn(self, n: onnx.NodeProto, attributes: dict[str, Any]) -> Moments:
        mean, var = self.moments[n.input[0]]
        energy = float(np.mean(var + mean**2))
        factor = (attributes["bias"] + attributes["alpha"] * energy) ** -attributes["beta"]
        return mean * factor, var * factor**2

    def _maxpool(self, n: onnx.NodeProto, attributes: dict[str, Any]) -> Moments:
        """Rough, as measured after ReLU: the maximum of neighbours that resemble each other a little."""
        mean, var = self.moments[n.input[0]]
        shift = 0.6 * math.log(math.prod(attributes["kernel_shape"]))
        return mean + shift * np.sqrt(var), 1.45 * var

    def _averagepool(self, n: onnx.NodeProto, attributes: dict[str, Any]) -> Moments:
        """Rough, as measured: the variance falls by less than the window's area, as neighbours resemble each other."""
        mean, var = self.moments[n.input[0]]
        return mean, var / math.prod(attributes["kernel_shape"]) ** 0.4

    def _globalaveragepool(self, n: onnx.NodeProto, _: dict[str, Any]) -> Moments:
        mean, var = self.moments[n.input[0]]
        return mean, var / math.prod(self.shapes[n.input[0]][2:]) ** 0.4

    def _concat(self, n: onnx.NodeProto, _: dict[str, Any]) -> Moments:
        parts = [self.moments[i] for i in n.input]
        return np.concatenate([p[0] for p in parts], axis=1), np.concatenate([p[1] for p in parts], axis=1)

    def _reshape(self, n: onnx.NodeProto, _: dict[str, Any]) -> Moments:
        before, after = self.shapes[n.input[0]], self.shapes[n.output[0]]

        def move(m: Array) -> Array:
            m = np.broadcast_to(m, before).reshape(after)
            return m if m.ndim == 2 else m[..., :1, :1]

        mean, var = self.moments[n.input[0]]
        return move(mean), move(var)

    def _transpose(self, n: onnx.NodeProto, attributes: dict[str, Any]) -> Moments:
        mean, var = self.moments[n.input[0]]
        return mean.transpose(attributes["perm"]), var.transpose(attributes["perm"])

    def _softmax(self, n: onnx.NodeProto, _: dict[str, Any]) -> Moments:
        return self.moments[n.input[0]]  # the end: nobody reads it


# ---- files -------------------------------------------------------------------------------------------------------


def write(folder: str | os.PathLike[str], names: Iterable[str] = NAMES, seed: int = 0) -> list[Path]:
    """Write NAME.onnx for each of `names` into `folder` (made if missing) and return the paths."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    for name in names:
        path = folder / f"{name}.onnx"
        _replace(path, _content(name, seed))
        paths.append(path)
    return paths


def _content(name: str, seed: int) -> Callable[[BinaryIO], object]:
    return lambda file: file.write(randomized(name, seed).SerializeToString())


def cached(name: str) -> Path:
    """The file of `randomized(name)` in the user's cache ($XDG_CACHE_HOME or ~/.cache), written when it is missing."""
    path = _cache() / f"{name}-v{VERSION}.onnx"
    _check(name)
    if not path.is_file():
        _replace(path, _content(name, seed=0))
    return path


def expected(name: str) -> Array:
    """onnxruntime's CPU output (float32, [1, 1000] or [1, 1000, 1, 1]) of `cached(name)` for `random_input(name)`.

    Kept beside the model. Needs onnxruntime unless it is there already."""
    path = _cache() / f"{name}-v{VERSION}.npz"
    if not path.is_file():
        import onnxruntime

        session = onnxruntime.InferenceSession(cached(name), providers=["CPUExecutionProvider"])
        (output,) = session.run(None, random_input(name))
        _replace(path, lambda file: np.savez(file, output=output))
    with np.load(path) as file:
        output = file["output"]
    return np.asarray(output)


def _cache() -> Path:
    """The cache folder, made if missing; a folder of this user under the temporary one where the home is read-only."""
    home = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    fallback = Path(tempfile.gettempdir()) / f"gpucompile-{os.getuid() if hasattr(os, 'getuid') else 'cache'}"
    for folder in (Path(home) / "gpucompile" / "networks", fallback):
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise OSError(f"neither {home} nor {fallback.parent} can be written; set XDG_CACHE_HOME")


def _replace(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Let `fill(file)` write a temporary file beside `path`, then rename it: no reader ever sees half a file."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            fill(file)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


# ---- command line ------------------------------------------------------------------------------------------------


def statistics(name: str, seed: int = 0) -> dict[str, float]:
    """Run `randomized(name, seed)` on onnxruntime's CPU and describe its activations.

    `std min`, `std max`: standard deviations of the outputs of conv and gemm nodes. `zeros max`: the largest share of
    zeros after any ReLU. `top`: the largest output probability (of a softmax put after a network that has none).
    `varies`: the largest difference between the outputs of two images / the largest value. `amplifies`: relative change
    of the output / relative change of the input when white noise of 1e-3 is added to it; rounding errors grow likewise.
    """
    import onnxruntime

    model = randomized(name, seed)
    final = model.graph.output[0].name
    watched = {n.output[0]: n.op_type for n in model.graph.node if n.op_type in ("Conv", "Gemm", "Relu")}
    model.graph.output.extend(helper.make_empty_tensor_value_info(w) for w in watched if w != final)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

    image, other = random_input(name, 1), random_input(name, 2)
    (key,) = image
    noise = np.random.default_rng(3).standard_normal(image[key].shape, dtype=np.float32)
    names = [o.name for o in session.get_outputs()]
    values = dict(zip(names, session.run(None, image)))
    y = values[final]
    (y_other,) = session.run([final], other)
    (y_moved,) = session.run([final], {key: image[key] + 1e-3 * noise})

    spreads = [float(values[w].std()) for w, op in watched.items() if op != "Relu"]
    zeros = [float(np.mean(values[w] == 0)) for w, op in watched.items() if op == "Relu"]
    ends_in_softmax = model.graph.node[-1].op_type == "Softmax"
    probabilities = y if ends_in_softmax else np.exp(y - y.max()) / np.exp(y - y.max()).sum()
    return {
        "std min": min(spreads),
        "std max": max(spreads),
        "zeros max": max(zeros),
        "top": float(probabilities.max()),
        "varies": float(np.abs(y - y_other).max() / np.abs(y).max()),
        "amplifies": float(np.linalg.norm(y - y_moved) / np.linalg.norm(y) / 1e-3),
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.networks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("folder", nargs="?", help="where NAME.onnx is written")
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"all when left out: {', '.join(NAMES)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--statistics", action="store_true", help="write nothing, show how activations are distributed")
    options = parser.parse_args(arguments)
    if options.statistics:
        names = tuple(n for n in (options.folder, *options.names) if n) or NAMES
    elif options.folder:
        names = tuple(options.names) or NAMES
    else:
        parser.error("OUTDIR is missing")
    for name in names:
        if name not in NAMES:
            parser.error(f"unknown network {name!r}; known: {', '.join(NAMES)}")
    for name in names:
        if options.statistics:
            figures = statistics(name, options.seed)
            print(f"{name:13}", "  ".join(f"{key} {value:8.4f}" for key, value in figures.items()), flush=True)
        else:
            (path,) = write(options.folder, [name], options.seed)
            print(f"{path}  {path.stat().st_size / 1e6:.1f} MB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
