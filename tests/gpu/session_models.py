"""Models for tests of sessions, what they compute, and a count of what they allocate."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from gpucompile.runtime.device import Device


def layers(size: int, rows: int | str = 4, count: int = 3, seed: int = 0) -> onnx.ModelProto:
    """y = a chain of `count` square matrix products with tanh; the results between them need scratch memory."""
    rng = np.random.default_rng(seed)
    nodes, weights, last = [], [], "x"
    for i in range(count):
        w = rng.normal(size=(size, size)).astype(np.float32) / size**0.5
        weights.append(numpy_helper.from_array(w, f"w{i}"))
        nodes.append(helper.make_node("MatMul", [last, f"w{i}"], [f"m{i}"]))
        last = "y" if i == count - 1 else f"t{i}"
        nodes.append(helper.make_node("Tanh", [f"m{i}"], [last]))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes, "layers", [value("x", TensorProto.FLOAT, [rows, size])], [value("y", TensorProto.FLOAT, [rows, size])],
        weights,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def expected(model: onnx.ModelProto, x: np.ndarray) -> np.ndarray:
    """What `layers` gives."""
    for w in model.graph.initializer:
        x = np.tanh(x @ numpy_helper.to_array(w))
    return x


class Allocations:
    """The GPU objects that wgpu makes for a device while this watches it: sizes of the buffers that are not destroyed,
    in the order of their creation, and how many of everything."""

    def __init__(self, device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
        self.alive: dict[int, tuple[str, int]] = {}
        self.most = 0
        self.made: dict[str, int] = {}
        self._kept: list[Any] = []  # so that ids stay theirs
        kind = type(device.handle)
        for name in ("create_buffer", "create_bind_group", "create_shader_module", "create_compute_pipeline"):
            monkeypatch.setattr(kind, name, self._counting(name, getattr(kind, name)))
        probe = device.handle.create_buffer(size=4, usage=1)
        destroy = type(probe).destroy

        def destroying(buffer: Any) -> None:
            self.alive.pop(id(buffer), None)
            destroy(buffer)

        destroying.marks = True  # type: ignore[attr-defined]  # `destroy` does
        monkeypatch.setattr(type(probe), "destroy", destroying)
        probe.destroy()
        self.forget()

    def _counting(self, name: str, create: Any) -> Any:
        def counting(handle: Any, **options: Any) -> Any:
            made = create(handle, **options)
            self.made[name] = self.made.get(name, 0) + 1
            if name == "create_buffer":
                self._kept.append(made)
                self.alive[id(made)] = (options.get("label", ""), options["size"])
                self.most = max(self.most, self.bytes)
            return made

        return counting

    def forget(self) -> None:
        """Count what was made from now on; buffers that are alive stay counted."""
        self.made.clear()
        self.most = self.bytes

    @property
    def bytes(self) -> int:
        """Of the buffers that are alive."""
        return sum(size for _, size in self.alive.values())

    def bytes_of(self, label: str) -> int:
        """Of those whose label begins so."""
        return sum(size for name, size in self.alive.values() if name.startswith(label))
