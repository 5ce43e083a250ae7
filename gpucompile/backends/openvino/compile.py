"""The driver: graph -> passes -> rules -> openvino.Model -> intermediate representation for a bundle."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gpucompile.backends.openvino.lower import lower
from gpucompile.backends.openvino.rules import Rejection, model_rejections, rejections
from gpucompile.errors import InputError, UnsupportedError
from gpucompile.ir.graph import Graph, Value
from gpucompile.passmanager.base import Context
from gpucompile.passmanager.manager import PassManager
from gpucompile.plan.bundle import OpenvinoFiles
from gpucompile.runtime.format import OpenvinoBlob, OpenvinoModel, Port, Shard
from gpucompile.runtime.openvino import OpenvinoOptions, export, find_device, openvino_module, version
from gpucompile.target import Target

if TYPE_CHECKING:
    import openvino

Progress = Callable[[str, int, int], None]

#: The pipelines of `passes/pipelines.py` by device.
PIPELINE = {"cpu": "openvino-cpu", "npu": "openvino-npu"}
#: How many refused nodes an error lists.
_SHOWN = 5


def compile_graph(
    graph: Graph, device: str = "cpu", pipeline: str | None = None, progress: Progress | None = None
) -> OpenvinoFiles:
    """The OpenVINO model of a graph, which is not changed, for `device`, cpu or npu; `pipeline` None is the device's.

    Raises UnsupportedError naming the nodes that the device does not take, or where OpenVINO is not installed."""
    if device not in PIPELINE:
        raise InputError(f"OpenVINO's devices are {', '.join(PIPELINE)}, not {device!r}")
    openvino_module()  # says how to install it before anything else is done
    graph = graph.clone()
    PassManager(pipeline or PIPELINE[device]).run(graph, Context(Target.portable()), progress)
    model = lowered(graph, device)
    if isinstance(model, list):
        refused = model
        more = f"; and {len(refused) - _SHOWN} more" if len(refused) > _SHOWN else ""
        raise UnsupportedError(f"OpenVINO's {device.upper()} device: {'; '.join(map(str, refused[:_SHOWN]))}{more}")
    ports = _ports(graph.inputs, [v.name for v in graph.inputs]), _ports(graph.outputs, graph.output_names)
    return write(model, device, *ports)


def lowered(graph: Graph, device: str) -> openvino.Model | list[Rejection]:
    """The model of a graph after its pipeline, or what the device has against the graph or the model."""
    refused = list(rejections(graph, device))
    if refused:
        return refused
    model = lower(graph, device)
    return list(model_rejections(model, device)) or model


def _ports(values: Sequence[Value], names: Sequence[str]) -> tuple[Port, ...]:
    return tuple(Port(name, v.type.dtype.value, v.type.shape, 0) for name, v in zip(names, values, strict=True))


def write(model: openvino.Model, device: str, inputs: tuple[Port, ...], outputs: tuple[Port, ...]) -> OpenvinoFiles:
    """The model as xml and weights; for the NPU with weights in float16, in which it computes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.xml")
        openvino_module().save_model(model, path, compress_to_fp16=device == "npu")
        xml, weights = path.read_bytes(), path.with_suffix(".bin").read_bytes()
    files = {f"openvino/{device}.xml": xml, f"openvino/{device}.bin": weights}
    xml_file, weights_file = (_shard(name, data) for name, data in files.items())
    meta = OpenvinoModel(cast("Any", device), version(), xml_file, weights_file, inputs, outputs)
    return OpenvinoFiles(meta, files)


def with_blob(files: OpenvinoFiles, options: OpenvinoOptions | None = None) -> OpenvinoFiles:
    """The model with what the plugin of its device here makes of it, which loads faster, there and with this version of
    OpenVINO only. Raises DeviceError where there is no such device, or its plugin cannot export."""
    device = find_device(files.model.device)
    data = export(files, device, options)
    name = f"openvino/{files.model.device}.blob"
    blob = OpenvinoBlob(device.full_name, version(), _shard(name, data), device.driver)
    return OpenvinoFiles(replace(files.model, blobs=(blob,)), {**files.files, name: data})


def _shard(name: str, data: bytes) -> Shard:
    return Shard(name, len(data), hashlib.sha256(data).hexdigest())
