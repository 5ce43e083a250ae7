"""Models on OpenVINO's devices, CPU and NPU, behind the interface of `Executable`.

    find_device("npu") -> OpenvinoDevice;  OpenvinoExecutable(bundle, device) -> exe(x), exe.run({...})

OpenVINO is imported when one of its devices is first asked for. Inputs are read where numpy has them, and outputs
written there; outputs are copied where the model returns an input, inputs where the array is read-only.
Every thread that runs gets a request of its own.

Models have uint32 as int32, and for the CPU 64-bit integers as pairs of int32: views of numpy's arrays. A model for the
NPU has int64, computed in 32 bits: inputs beyond int32 are refused.
"""

from __future__ import annotations

import asyncio
import functools
import importlib
import io
import threading
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from gpucompile.errors import BundleError, ClosedError, DeviceError, InputError, UnsupportedError
from gpucompile.runtime.bundle import HasOpenvino
from gpucompile.runtime.executable import NUMPY_DTYPES, Array, Executable
from gpucompile.runtime.format import OpenvinoModel, Port

Kind = Literal["cpu", "npu"]
KINDS: tuple[Kind, ...] = ("npu", "cpu")
POWER = ("default", "high-performance", "low-power")
_DRIVER = "NPU_DRIVER_VERSION"
#: Properties that only say what is wished, and that not every device (NPU_TURBO: driver) has.
_WISHES = ("NPU_TURBO", "SCHEDULING_CORE_TYPE")


@functools.cache
def openvino_module() -> Any:
    """The package `openvino`; UnsupportedError where it is not installed."""
    try:
        return importlib.import_module("openvino")
    except ImportError as e:
        raise UnsupportedError(f"NPU and CPU need OpenVINO: pip install 'gpucompile[openvino]' ({e})") from e


@functools.cache
def _core() -> Any:
    return openvino_module().Core()


def version() -> str:
    """OpenVINO's version, such as 2026.4.1."""
    return str(openvino_module().__version__).split("-")[0]


@dataclass(frozen=True)
class OpenvinoDevice:
    """One of OpenVINO's devices: its kind, its name there (`CPU`, `NPU.1`), what it calls itself, and the version of
    its driver where it needs one."""

    kind: Kind
    name: str
    full_name: str
    driver: str = ""

    @property
    def is_software(self) -> bool:
        """Whether no accelerator does the work."""
        return self.kind == "cpu"


@dataclass(frozen=True)
class OpenvinoOptions:
    """How a device shall run a model; None leaves it to OpenVINO.

    precision    f32, f16 or bf16: in what the CPU computes float32 (the NPU always computes in float16)
    threads      of the CPU
    power        default, high-performance or low-power; a wish: it picks the cores of a CPU that has several kinds, and
                 the clock of an NPU whose driver lets it
    cache_dir    a folder for compiled models, which load faster the next time
    """

    precision: str = "f32"
    threads: int | None = None
    power: str = "default"
    cache_dir: str | Path | None = None

    def __post_init__(self) -> None:
        if self.precision not in ("f32", "f16", "bf16"):
            raise InputError(f"precision must be f32, f16 or bf16, not {self.precision!r}")
        if self.power not in POWER:
            raise InputError(f"power must be one of {', '.join(POWER)}, not {self.power!r}")
        if self.threads is not None and self.threads < 1:
            raise InputError(f"threads must be at least 1, not {self.threads}")

    def properties(self, kind: Kind) -> dict[str, Any]:
        """OpenVINO's properties for a kind of device."""
        out: dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY"}
        if kind == "cpu":
            out["INFERENCE_PRECISION_HINT"] = self.precision
            if self.precision == "f32":  # else what meets weights of 4 and 8 bits is computed in 8 bits
                out["DYNAMIC_QUANTIZATION_GROUP_SIZE"] = 0
            if self.threads is not None:
                out["INFERENCE_NUM_THREADS"] = self.threads
            if self.power == "low-power":
                out["SCHEDULING_CORE_TYPE"] = "ECORE_ONLY"
        elif self.power != "default":
            out["NPU_TURBO"] = self.power == "high-performance"
        if self.cache_dir is not None:
            out["CACHE_DIR"] = str(self.cache_dir)
        return out


# Devices -------------------------------------------------------------------------------------------------------------


def list_devices() -> list[OpenvinoDevice]:
    """OpenVINO's CPU and NPU devices of this machine, NPUs first; empty where OpenVINO is not installed."""
    try:
        core = _core()
    except UnsupportedError:
        return []
    out = []
    for name in core.available_devices:
        kind = name.split(".")[0].lower()
        if kind in KINDS:
            full_name = str(core.get_property(name, "FULL_DEVICE_NAME"))
            driver = str(core.get_property(name, _DRIVER)) if _DRIVER in _supported(name) else ""
            out.append(OpenvinoDevice(kind, name, full_name, driver))
    return sorted(out, key=lambda d: (KINDS.index(d.kind), d.name))


def _supported(name: str) -> Collection[str]:
    """The properties that a device has."""
    names: Collection[str] = _core().get_property(name, "SUPPORTED_PROPERTIES")
    return names


def find_device(kind: str) -> OpenvinoDevice:
    """The first device of a kind, cpu or npu. Raises DeviceError where there is none, UnsupportedError without
    OpenVINO."""
    core = _core()
    devices = list_devices()
    for device in devices:
        if device.kind == kind:
            return device
    found = ", ".join(core.available_devices) or "none"
    hint = "; an NPU needs its driver, see OpenVINO's documentation" if kind == "npu" else ""
    raise DeviceError(f"no {kind} device: OpenVINO {version()} finds {found}{hint}. Device auto takes what there is")


# Models --------------------------------------------------------------------------------------------------------------


class _Files(Protocol):
    """A model and its files: an `OpenvinoFiles` just compiled."""

    @property
    def model(self) -> OpenvinoModel: ...

    @property
    def files(self) -> Mapping[str, bytes]: ...


def _read(model: OpenvinoModel, xml: memoryview | bytes, weights: memoryview | bytes) -> Any:
    ov = openvino_module()
    tensor = ov.Tensor(np.frombuffer(weights, np.uint8).copy())
    try:
        return _core().read_model(model=bytes(xml), weights=tensor)
    except RuntimeError as e:
        raise BundleError(f"{model.xml.file}: OpenVINO {version()} cannot read it: {_reason(e)}") from e


def _settings(device: OpenvinoDevice, options: OpenvinoOptions) -> dict[str, Any]:
    """The options as properties that the device has."""
    wanted = options.properties(device.kind)
    lacking = {w for w in _WISHES if w in wanted} - set(_supported(device.name))
    return {name: value for name, value in wanted.items() if name not in lacking}


def _compile(model: Any, device: OpenvinoDevice, options: OpenvinoOptions, **more: Any) -> Any:
    try:
        return _core().compile_model(model, device.name, _settings(device, options) | more)
    except RuntimeError as e:
        raise DeviceError(f"OpenVINO's {device.name} cannot compile the model: {_reason(e)}") from e


def export(files: _Files, device: OpenvinoDevice, options: OpenvinoOptions | None = None) -> bytes:
    """A model as the device's plugin exports it. Raises DeviceError where it cannot."""
    model = files.model
    compiled = _compile(
        _read(model, files.files[model.xml.file], files.files[model.weights.file]), device, options or OpenvinoOptions()
    )
    try:
        stream = io.BytesIO()
        compiled.export_model(stream)
        return stream.getvalue()
    except RuntimeError as e:
        raise DeviceError(f"OpenVINO's {device.name} cannot export a model: {_reason(e)}") from e


def _reason(e: RuntimeError) -> str:
    """The last line of OpenVINO's message that says something; those before name its source files."""
    lines = [line.strip() for line in str(e).splitlines() if line.strip()]
    said = [line for line in lines if not line.startswith(("Exception from", "Check '"))]
    return (said or lines or ["no reason given"])[-1]


def model_for(bundle: HasOpenvino, device: OpenvinoDevice) -> OpenvinoModel:
    """The model of a bundle for a device: the CPU also runs what was made to the NPU's rules."""
    for kind in (device.kind, *(("npu",) if device.kind == "cpu" else ())):
        if kind in bundle.openvino:
            return bundle.openvino_model(kind)
    have = f"only one for {', '.join(bundle.openvino)}" if bundle.openvino else "none"
    raise BundleError(
        f"the bundle has no OpenVINO model for {device.kind}, {have}; compile it with --device {device.kind}"
    )


class OpenvinoExecutable(Executable):
    """A model on one of OpenVINO's devices: the interface of `Executable`."""

    def __init__(
        self, bundle: HasOpenvino, device: OpenvinoDevice | str = "cpu", options: OpenvinoOptions | None = None
    ) -> None:
        """Compile the model of a bundle for a device, or take what the bundle has for just this device and version of
        OpenVINO. Raises BundleError for a damaged or unsuitable bundle, DeviceError if the device refuses."""
        self.openvino_device = device if isinstance(device, OpenvinoDevice) else find_device(device)
        self.options = options or OpenvinoOptions()
        self.model = model_for(bundle, self.openvino_device)
        self.from_blob = False
        self._lock = threading.RLock()
        self._requests: list[Any] = []
        self._bundle_files = {f: bytes(bundle.openvino_file(f)) for f in (self.model.xml, self.model.weights)}
        self._compiled = self._import(bundle) or _compile(self._source(), self.openvino_device, self.options)

    def _source(self) -> Any:
        return _read(self.model, self._bundle_files[self.model.xml], self._bundle_files[self.model.weights])

    def _import(self, bundle: HasOpenvino) -> Any:
        for blob in self.model.blobs:
            device = self.openvino_device
            if (blob.device, blob.driver, blob.version) == (device.full_name, device.driver, version()):
                data = bytes(bundle.openvino_file(blob.data))
                try:
                    compiled = _core().import_model(data, device.name, _settings(device, self.options))
                except RuntimeError as e:
                    raise BundleError(f"{blob.data.file}: OpenVINO cannot import it: {_reason(e)}") from e
                self.from_blob = True
                return compiled
        return None

    @property
    def inputs(self) -> tuple[Port, ...]:
        return self.model.inputs

    @property
    def outputs(self) -> tuple[Port, ...]:
        return self.model.outputs

    @property
    def device_name(self) -> str:
        return self.openvino_device.full_name

    @property
    def kernels(self) -> int:
        """How many operations the device executes."""
        return len(self._open().get_runtime_model().get_ops())

    # ------------------------------------------------------------------ running

    def run(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Run once: arrays by input name -> new arrays by output name.

        Raises InputError for inputs that do not fit, DeviceError if the device fails, ClosedError after `close`."""
        arrays = [a for a in self._check(inputs) if a is not None]
        results = [np.empty(p.shape, NUMPY_DTYPES[p.dtype]) for p in self.outputs]
        self.infer(arrays, results)
        return {p.name: r for p, r in zip(self.outputs, results, strict=True)}

    def infer(self, inputs: list[Array], outputs: list[Array]) -> None:
        """Run once on contiguous arrays in the order of the ports, into such arrays. Nothing is checked but, where the
        model computes 64-bit integers in 32 bits, their range."""
        # OpenVINO shares no memory that is read-only, nor does it keep what it shares alive
        inputs = [array if array.flags.writeable else array.copy() for array in inputs]
        request = self._request()
        tensor = openvino_module().Tensor
        try:
            for i, (port, array) in enumerate(zip(self.inputs, inputs, strict=True)):
                element = request.model_inputs[i].get_element_type().get_type_name()
                if element in ("i64", "u64"):
                    _require_32_bits(port, array)
                request.set_input_tensor(i, tensor(_as_stored(port, array, element), shared_memory=True))
            stored = [
                _as_stored(port, array, request.model_outputs[i].get_element_type().get_type_name())
                for i, (port, array) in enumerate(zip(self.outputs, outputs, strict=True))
            ]
            for i, array in enumerate(stored if self._writes_in_place else ()):
                request.set_output_tensor(i, tensor(array, shared_memory=True))
            request.infer()
            for i, array in enumerate(() if self._writes_in_place else stored):
                np.copyto(array, request.get_output_tensor(i).data)
        except RuntimeError as e:
            raise DeviceError(f"OpenVINO's {self.openvino_device.name} failed: {_reason(e)}") from e
        with self._lock:
            self._requests.append(request)

    async def run_async(self, inputs: Mapping[str, Any]) -> dict[str, Array]:
        """Like `run`, in a thread."""
        return await asyncio.to_thread(self.run, inputs)

    def run_bound(
        self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], read: Collection[str] | None = None
    ) -> dict[str, Array]:
        """`run`, giving the outputs in `read` only; UnsupportedError if `outputs` has GPU buffers."""
        if outputs or any(hasattr(v, "usage") for v in inputs.values()):
            raise UnsupportedError("a model on OpenVINO takes and gives numpy arrays, no GPU buffers")
        return {name: array for name, array in self.run(inputs).items() if read is None or name in read}

    async def run_bound_async(
        self, inputs: Mapping[str, Any], outputs: Mapping[str, Any], read: Collection[str] | None = None
    ) -> dict[str, Array]:
        """`run_bound`, in a thread."""
        return await asyncio.to_thread(self.run_bound, inputs, outputs, read)

    def dispatch(self, inputs: Mapping[str, Any], outputs: Mapping[str, Any]) -> None:
        """Not possible: raises UnsupportedError, as GPU buffers are not OpenVINO's."""
        raise UnsupportedError("a model on OpenVINO cannot be dispatched on GPU buffers; use run")

    def profile(self, inputs: Mapping[str, Any], repeat: int = 1) -> list[tuple[str, float]]:
        """Name and seconds of every operation that the device executes, the average of `repeat` runs; compiles the
        model once more, as measuring slows it down."""
        arrays = [a for a in self._check(inputs) if a is not None]
        compiled = _compile(self._source(), self.openvino_device, self.options, PERF_COUNT=True)
        request = compiled.create_infer_request()
        seconds: dict[str, float] = {}
        for _ in range(repeat):
            request.infer([openvino_module().Tensor(a) for a in arrays])
            for info in request.get_profiling_info():
                name = f"{info.node_name} ({info.node_type}, {info.exec_type})"
                seconds[name] = seconds.get(name, 0.0) + info.real_time.total_seconds() / repeat
        return list(seconds.items())

    def precisions(self) -> list[tuple[str, str, str]]:
        """Kind, name and data type of execution of every operation of the device's own graph."""
        out = []
        for op in self._open().get_runtime_model().get_ordered_ops():
            info = op.get_rt_info()
            kind, dtype = (str(info[key].astype(str)) for key in ("layerType", "runtimePrecision"))
            out.append((kind, str(op.get_friendly_name()), dtype))
        return out

    @functools.cached_property
    def _writes_in_place(self) -> bool:
        """Whether the device can be given the memory of its outputs: where one is an input, it leaves that alone."""
        for result in self._open().get_runtime_model().get_results():
            if result.input_value(0).get_node().get_rt_info()["layerType"].astype(str) == "Input":
                return False
        return True

    def _open(self) -> Any:
        compiled = self._compiled
        if compiled is None:
            raise ClosedError("the executable is closed")
        return compiled

    def _request(self) -> Any:
        with self._lock:
            compiled = self._open()
            return self._requests.pop() if self._requests else compiled.create_infer_request()

    def _pack(self, port: Port, value: Any) -> Array:
        return np.asarray(self._checked(port, value), order="C")

    # ------------------------------------------------------------------ life

    def memory(self) -> dict[str, int]:
        """Bytes by kind: weight."""
        self._open()
        return {"weight": self.model.weights.size}

    @property
    def closed(self) -> bool:
        return self._compiled is None

    def close(self) -> None:
        """Let go of the model. Running afterwards raises ClosedError; closing twice is fine."""
        with self._lock:
            self._compiled = None
            self._requests = []
            self._bundle_files = {}

    def __repr__(self) -> str:
        state = "closed" if self.closed else "from blob" if self.from_blob else "compiled"
        return f"<OpenvinoExecutable on {self.openvino_device.full_name!r}: {state}>"


def words_of(array: Array) -> Array:
    """A view of contiguous 64-bit integers as int32, with an axis of low and high words at the end."""
    return array.reshape(-1).view(np.int32).reshape(*array.shape, 2)


def _as_stored(port: Port, array: Array, element: str) -> Array:
    """A contiguous array as the model has it: uint32 and 64-bit integers may be views of int32."""
    if element != "i32" or port.dtype not in ("uint32", "int64", "uint64"):
        return array
    return array.view(np.int32) if port.dtype == "uint32" else words_of(array)


def _require_32_bits(port: Port, array: Array) -> None:
    limits = np.iinfo(np.int32)
    if array.size and (array.min() < limits.min or array.max() > limits.max):
        raise InputError(f"input {port.name!r} has numbers beyond int32, in which OpenVINO computes {port.dtype}")
