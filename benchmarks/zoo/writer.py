"""Writes a network node by node: names, seeded random weights, and the layers that many architectures share.

Weights keep activations near unit variance: filters are normal with variance gain / fan-in, biases small, scales
of normalisations around 1. Each weight has a generator of its own, seeded with its number.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]
Shape = Sequence[int | str]
IR_VERSION = 8


class Writer:
    """Collects a network. A value is its name; methods that add layers return the result's name."""

    def __init__(self, name: str, opset: int = 17, seed: int = 0) -> None:
        self.name = name
        self.opset = opset
        self.seed = seed
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    # parts -------------------------------------------------------------------------------------------------------

    def input(self, name: str, shape: Shape, dtype: int = TensorProto.FLOAT) -> str:
        """An input; texts in `shape` are free dimensions."""
        self.inputs.append(helper.make_tensor_value_info(name, dtype, shape))
        return name

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output; "" is an input left out."""
        return self.split(op, 1, *inputs, **attributes)[0]

    def split(self, op: str, outputs: int, *inputs: str, **attributes: Any) -> list[str]:
        """A node with several outputs."""
        number = len(self.nodes)
        names = [f"{op}_{number}" + (f"_{i}" if i else "") for i in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, name=f"{op}_{number}", **attributes))
        return names

    def output(self, name: str, value: str, shape: Shape | None = None, dtype: int = TensorProto.FLOAT) -> None:
        """Make `value` an output called `name`."""
        self.nodes.append(helper.make_node("Identity", [value], [name], name=name))
        self.outputs.append(helper.make_tensor_value_info(name, dtype, shape))

    def constant(self, value: Any, dtype: type[np.generic] = np.float32) -> str:
        """A Constant node, as exporters write for scalars and shapes; equal ones are one."""
        array = np.asarray(value, dtype)
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._constants:
            tensor = numpy_helper.from_array(array)
            self._constants[key] = self.node("Constant", value=tensor)
        return self._constants[key]

    def ints(self, *values: int) -> str:
        """An int64 vector, for axes and shapes."""
        return self.constant(values, np.int64)

    def data(self, array: Array) -> str:
        """An initializer."""
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def weight(self, *shape: int, scale: float = 1.0, mean: float = 0.0) -> str:
        """A float32 initializer, normal around `mean` with standard deviation `scale`."""
        rng = np.random.default_rng([self.seed, len(self.weights)])
        values = rng.standard_normal(shape, dtype=np.float32)
        values *= np.float32(scale)
        values += np.float32(mean)
        return self.data(values)

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, self.weights)
        opset = helper.make_opsetid("", self.opset)
        return helper.make_model(graph, opset_imports=[opset], ir_version=IR_VERSION, producer_name="gpucompile zoo")

    # elementwise and shapes ----------------------------------------------------------------------------------------

    def add(self, a: str, b: str) -> str:
        return self.node("Add", a, b)

    def mul(self, a: str, b: str) -> str:
        return self.node("Mul", a, b)

    def relu(self, x: str) -> str:
        return self.node("Relu", x)

    def relu6(self, x: str) -> str:
        return self.node("Clip", x, self.constant(0.0), self.constant(6.0))

    def silu(self, x: str) -> str:
        return self.mul(x, self.node("Sigmoid", x))

    def transpose(self, x: str, *order: int) -> str:
        return self.node("Transpose", x, perm=order)

    def reshape(self, x: str, *shape: int) -> str:
        return self.node("Reshape", x, self.ints(*shape))

    def unsqueeze(self, x: str, *axes: int) -> str:
        if self.opset < 13:
            return self.node("Unsqueeze", x, axes=axes)
        return self.node("Unsqueeze", x, self.ints(*axes))

    def squeeze(self, x: str, *axes: int) -> str:
        return self.node("Squeeze", x, axes=axes) if self.opset < 13 else self.node("Squeeze", x, self.ints(*axes))

    def concat(self, parts: Iterable[str], axis: int) -> str:
        return self.node("Concat", *parts, axis=axis)

    def slice(self, x: str, start: str | int, end: str | int, axis: int, step: int = 1) -> str:
        low, high = (self.ints(v) if isinstance(v, int) else v for v in (start, end))
        return self.node("Slice", x, low, high, self.ints(axis), self.ints(step))

    def cast(self, x: str, dtype: int) -> str:
        return self.node("Cast", x, to=dtype)

    def size(self, x: str, axis: int) -> str:
        """The size of an axis as an int64 scalar, by Shape and Gather."""
        return self.node("Gather", self.node("Shape", x), self.constant(axis, np.int64), axis=0)

    def shape_of(self, *sizes: int | str) -> str:
        """An int64 vector of numbers and of scalar values, by Unsqueeze and Concat."""
        parts = [self.ints(s) if isinstance(s, int) else self.unsqueeze(s, 0) for s in sizes]
        return self.concat(parts, 0)

    def mean(self, x: str, *axes: int, keep: int = 1) -> str:
        if self.opset < 18:
            return self.node("ReduceMean", x, axes=axes, keepdims=keep)
        return self.node("ReduceMean", x, self.ints(*axes), keepdims=keep)

    # layers --------------------------------------------------------------------------------------------------------

    def conv(
        self,
        x: str,
        channels: int,
        out: int,
        kernel: int | tuple[int, ...] = 3,
        stride: int = 1,
        pad: int | tuple[int, ...] | str | None = None,
        groups: int = 1,
        dilation: int = 1,
        bias: bool = True,
        gain: float = 2.0,
    ) -> str:
        """A convolution, of one axis where `kernel` has one entry. `pad`: one number for all sides, all of them, or
        auto_pad; by default what keeps the size at stride 1."""
        k = (kernel, kernel) if isinstance(kernel, int) else kernel
        attributes: dict[str, Any] = {"kernel_shape": k, "strides": [stride] * len(k), "group": groups}
        attributes["dilations"] = [dilation] * len(k)
        if isinstance(pad, str):
            attributes["auto_pad"] = pad
        else:
            same = [dilation * (s // 2) for s in k] * 2
            attributes["pads"] = same if pad is None else [pad] * 2 * len(k) if isinstance(pad, int) else pad
        fan_in = channels // groups * math.prod(k)
        inputs = [x, self.weight(out, channels // groups, *k, scale=math.sqrt(gain / fan_in))]
        if bias:
            inputs.append(self.weight(out, scale=0.1))
        return self.node("Conv", *inputs, **attributes)

    def batch_norm(self, x: str, channels: int, scale: float = 1.0, epsilon: float = 1e-5) -> str:
        rng = np.random.default_rng([self.seed, len(self.weights), 1])
        gamma = self.weight(channels, scale=0.1 * scale, mean=scale)
        beta, mean = self.weight(channels, scale=0.1), self.weight(channels, scale=0.1)
        variance = self.data(rng.uniform(0.75, 1.3, channels).astype(np.float32))
        return self.node("BatchNormalization", x, gamma, beta, mean, variance, epsilon=epsilon)

    def max_pool(self, x: str, kernel: int, stride: int, pad: int = 0) -> str:
        return self.node("MaxPool", x, kernel_shape=[kernel] * 2, strides=[stride] * 2, pads=[pad] * 4)

    def gemm(self, x: str, channels: int, out: int) -> str:
        """A linear layer of a matrix: Gemm with transB, as exported."""
        w = self.weight(out, channels, scale=1 / math.sqrt(channels))
        return self.node("Gemm", x, w, self.weight(out, scale=0.1), transB=1)

    def linear(self, x: str, channels: int, out: int, bias: bool = True, gain: float = 1.0) -> str:
        """A linear layer of a tensor of any rank: MatMul and Add, as exported."""
        y = self.node("MatMul", x, self.weight(channels, out, scale=math.sqrt(gain / channels)))
        return self.add(self.weight(out, scale=0.1), y) if bias else y

    def group_norm(self, x: str, channels: int, groups: int, epsilon: float = 1e-5) -> str:
        """As exported: InstanceNormalization of [N, groups, -1] with scale 1, then scale and bias."""
        ones, zeros = self.constant([1.0] * groups), self.constant([0.0] * groups)
        flat = self.reshape(x, 0, groups, -1)
        normal = self.node("InstanceNormalization", flat, ones, zeros, epsilon=epsilon)
        back = self.node("Reshape", normal, self.node("Shape", x))
        scaled = self.mul(back, self.weight(channels, 1, 1, scale=0.1, mean=1.0))
        return self.add(scaled, self.weight(channels, 1, 1, scale=0.1))


def random_images(shape: Sequence[int], seed: int) -> Array:
    """Seeded float32 images [N, C, H, W] with mean 0, variance near 1 and structure at three scales."""
    rng = np.random.default_rng(seed)
    out = np.zeros(shape, np.float32)
    for cell in (1, 4, 16):
        rows, columns = -(-shape[2] // cell), -(-shape[3] // cell)
        noise = rng.standard_normal((*shape[:2], rows, columns), dtype=np.float32)
        out += 0.58 * noise.repeat(cell, axis=2).repeat(cell, axis=3)[:, :, : shape[2], : shape[3]]
    return out


def random_feeds(model: onnx.ModelProto, dims: Mapping[str, int], seed: int, below: int) -> dict[str, Array]:
    """Seeded inputs for a model: images for rank 4, normal numbers for other floats, integers in 1..`below`-1 for ids,
    and for what is called a mask, ones that end in zeros in the last row."""
    rng = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for value in model.graph.input:
        shape = [dims[d.dim_param] if d.dim_param else d.dim_value for d in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            plain = len(shape) != 4
            feeds[value.name] = rng.standard_normal(shape, np.float32) if plain else random_images(shape, seed)
        elif "mask" in value.name:
            mask = np.ones(shape, np.int64)
            mask[-1, -(shape[-1] // 4) or shape[-1] :] = 0
            feeds[value.name] = mask
        elif "token_type" in value.name:
            feeds[value.name] = np.sort(rng.integers(0, 2, shape), axis=-1)
        else:
            feeds[value.name] = rng.integers(1, below, shape)
    return feeds
