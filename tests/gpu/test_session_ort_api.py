"""ONNX Runtime's Python API, piece by piece: what is accepted works, the rest is refused or warned of by name."""

from __future__ import annotations

import asyncio
import threading
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper

import gpucompile
from gpucompile import InferenceSession, IOBinding, OrtValue, RunOptions, SessionOptions, Tensor
from gpucompile.capi import onnxruntime_pybind11_state as exceptions
from gpucompile.errors import ClosedError, GpucompileError, GpucompileWarning, InputError, UnsupportedError
from gpucompile.webnn import MLContext
from tests.gpu.test_session import X, context, gpu, model, session, want

__all__ = ["context", "session"]  # fixtures


def on(device: gpucompile.Device) -> list[Any]:
    return [("webgpu", {"device": device})]


# the module -----------------------------------------------------------------------------------------------------------

#: What of ONNX Runtime has no counterpart: its plugins, training, LoRA, sparse tensors, allocators, other GPUs.
ABSENT = {
    "InferenceSession": {
        "get_input_epdevices", "get_input_memory_infos", "get_output_memory_infos", "get_tuning_results",
        "get_provider_graph_assignment_info", "release_captured_graph", "run_with_ortvaluevector",
        "set_ep_dynamic_options", "set_tuning_results",
    },
    "SessionOptions": {
        "add_external_initializers", "add_external_initializers_from_files_in_memory", "add_initializer",
        "add_provider_for_devices", "clear_ep_context_data_read_func", "register_custom_ops_library",
        "set_ep_context_data_read_func", "set_load_cancellation_flag", "set_provider_selection_policy",
        "set_provider_selection_policy_delegate",
    },
    "RunOptions": {"add_active_adapter"},
    "IOBinding": {"get_outputs_as_ortvaluevector"},
    "OrtValue": {"as_sparse_tensor", "ort_value_from_sparse_tensor", "ortvalue_from_numpy_with_onnx_type"},
    "ModelMetadata": set(),
    "NodeArg": set(),
    "GraphOptimizationLevel": set(),
    "ExecutionMode": set(),
}  # fmt: skip


@pytest.mark.parametrize("name", ABSENT)
def test_every_name_is_there_or_known_to_be_absent(name: str) -> None:
    theirs = {n for n in dir(getattr(onnxruntime, name)) if not n.startswith("_")} - {"name", "value"}
    ours = getattr(gpucompile, name)
    if name == "IOBinding":
        theirs -= {"value"}
    here = {n for n in theirs if hasattr(ours, n) or n in getattr(ours, "__dataclass_fields__", ())}
    here |= {n for n in theirs if name == "RunOptions" and hasattr(RunOptions(), n)}
    assert theirs - here <= ABSENT[name], "new in this version of onnxruntime"
    assert not here & ABSENT[name]


def test_absent_methods_say_why(session: InferenceSession) -> None:
    for thing, name, text in (
        (session, "get_tuning_results", "not tuned at run time"),
        (session, "run_with_ortvaluevector", "use run_with_ort_values"),
        (SessionOptions(), "register_custom_ops_library", "custom operators"),
        (SessionOptions(), "add_initializer", "compiled in"),
        (session, "nonsense", "InferenceSession has no 'nonsense'"),
    ):
        with pytest.raises(AttributeError, match=text):
            getattr(thing, name)
    with pytest.raises(AttributeError):
        SessionOptions().nonsense = 3  # type: ignore[attr-defined]
    with pytest.raises(AttributeError):
        RunOptions().nonsense = 3  # type: ignore[attr-defined]


def test_the_machine(adapter: Any) -> None:
    available = gpucompile.get_available_providers()
    assert available[0] == "WebGpuExecutionProvider" and set(available) <= set(gpucompile.get_all_providers())
    assert gpucompile.get_device() == "GPU"
    assert [level.name for level in gpucompile.GraphOptimizationLevel] == [
        name for name in onnxruntime.GraphOptimizationLevel.__members__
    ]
    for level in gpucompile.GraphOptimizationLevel:
        assert int(getattr(onnxruntime.GraphOptimizationLevel, level.name).value) == level


def test_exceptions_have_the_names_of_onnx_runtime(device: Any, session: InferenceSession, tmp_path: Path) -> None:
    assert gpucompile.capi.onnxruntime_pybind11_state is exceptions
    theirs = onnxruntime.capi.onnxruntime_pybind11_state
    for name in exceptions.__all__:
        assert issubclass(getattr(theirs, name), Exception)
    x, file = {"x": X}, tmp_path / "bad.onnx"
    file.write_bytes(b"\xff" * 99)
    ort = onnxruntime.InferenceSession(model().SerializeToString())
    cases: tuple[tuple[str, Callable[[Any, Any], Any]], ...] = (
        ("InvalidArgument", lambda ort, s: s.run(["nothing"], x)),
        ("InvalidArgument", lambda ort, s: s.run(None, {**x, "z": X})),
        ("InvalidArgument", lambda ort, s: s.run(None, {"x": X.astype(np.float64)})),
        ("InvalidArgument", lambda ort, s: s.run(None, {"x": X[:, :3]})),
        ("InvalidArgument", lambda ort, s: s.run(None, {"x": X[0]})),
        ("NoSuchFile", lambda ort, s: ort.InferenceSession(str(tmp_path / "none.onnx"))),
        ("InvalidProtobuf", lambda ort, s: ort.InferenceSession(str(file))),
    )
    for name, call in cases:
        with pytest.raises(getattr(theirs, name)):
            call(onnxruntime, ort)
        with pytest.raises(getattr(exceptions, name)):
            call(gpucompile, session)
        with pytest.raises(exceptions.Fail):
            call(gpucompile, session)
    for s in (ort, session):  # missing inputs are no InvalidArgument there, but a ValueError
        with pytest.raises(ValueError, match="'x'"):
            s.run(None, {})
        with pytest.raises(ValueError, match="'x'"):
            s.run_async(None, {}, lambda *_: None, None)


# options --------------------------------------------------------------------------------------------------------------


def test_hints_are_warned_of_by_name(device: Any) -> None:
    options = SessionOptions()
    options.intra_op_num_threads = 4
    options.execution_mode = gpucompile.ExecutionMode.ORT_PARALLEL
    options.enable_mem_pattern = False
    options.logid = "mine"
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.use_deterministic_compute = True
    expected = "mine: .*execution_mode, enable_mem_pattern, intra_op_num_threads, session.intra_op.allow_spinning$"
    with pytest.warns(GpucompileWarning, match=expected):
        InferenceSession(model(2), options, on(device)).close()
    theirs = onnxruntime.SessionOptions()
    theirs.inter_op_num_threads = 2
    with pytest.warns(GpucompileWarning, match="without effect: inter_op_num_threads$"):
        InferenceSession(model(2), theirs, on(device)).close()
    with pytest.warns(GpucompileWarning, match="webgpu: num_threads, webgpu: preferred_layout"):
        more = {"numThreads": 2, "preferredLayout": "NHWC", "device": device}
        InferenceSession(model(2), providers=["webgpu"], provider_options=[more]).close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        options.log_severity_level = 3
        InferenceSession(model(2), options, on(device)).close()
        options.log_severity_level = -1
        gpucompile.set_default_logger_severity(3)
        try:
            InferenceSession(model(2), options, on(device)).close()
        finally:
            gpucompile.set_default_logger_severity(2)
        InferenceSession(model(2), onnxruntime.SessionOptions(), on(device)).close()
    with pytest.raises(InputError, match="none of 0"):
        gpucompile.set_default_logger_severity(9)


def test_configuration_entries() -> None:
    for options in (SessionOptions(), onnxruntime.SessionOptions(), RunOptions(), onnxruntime.RunOptions()):
        kind = "run" if hasattr(options, "terminate") else "session"
        getattr(options, f"add_{kind}_config_entry")("a.key", "7")
        get = getattr(options, f"get_{kind}_config_entry")
        assert get("a.key") == "7"
        with pytest.raises(RuntimeError, match="does not have configuration"):
            get("another.key")


def test_refused_options(device: Any) -> None:
    refused: tuple[tuple[dict[str, Any], str], ...] = (
        ({"config_entries": {"session.load_model_format": "ORT"}}, "ONNX files or gpucompile's bundles"),
        ({"optimized_model_filepath": "model.onnx"}, "saved as a .gpub"),
        ({"free_dimension_overrides": {"n": "2"}}, "'n' is '2'"),
        ({"free_dimension_overrides": {"n": -2}}, "'n' is -2"),
        ({"intra_op_num_threads": -1}, "intra_op_num_threads"),
        ({"free_dimension_overrides_by_denotation": {"DATA_BATCH": 2}}, "no 'DATA_BATCH'; the model has no denot"),
        ({"enable_fallback": 1}, "list cpu after"),
        ({"sess_options": 7}, "sess_options are SessionOptions, not int"),
        ({"providers": ["cuda"], "executionProviders": ["webgpu"]}, "given and in the options"),
        ({"providers": ["webgpu", ("webnn", {"deviceType": "npu"})]}, "webnn after it would have nothing to do"),
        ({"providers": [("webgpu", {"device_id": 1})]}, "device_id 1"),
        ({"providers": [("webgpu", {"powerPreference": "fast"})]}, "powerPreference 'fast'"),
        ({"providers": [("webgpu", {"num_threads": "many"})]}, "numThreads"),
    )
    for options, text in refused:
        with pytest.raises((InputError, UnsupportedError), match=text):
            InferenceSession(model(), **{"providers": on(device), **options})
    InferenceSession(model(), providers=on(device), enable_fallback=0).close()


def test_options_in_the_words_of_onnxruntime_web(device: Any) -> None:
    options = {
        "executionProviders": [{"name": "webgpu", "device": device}],
        "freeDimensionOverrides": {"n": 2},
        "graphOptimizationLevel": "all",
        "enableGraphCapture": True,
        "logId": "",
    }
    with InferenceSession(model(), options) as session:
        assert session.get_providers() == ["webgpu"] and session.get_inputs()[0].shape == [2, 4]
    added = SessionOptions()
    assert not added.has_providers()
    added.add_provider("WebGpuExecutionProvider", {"device_id": "0"})
    assert added.has_providers()
    with InferenceSession(model(2), added) as session:
        assert session.get_provider_options() == {"WebGpuExecutionProvider": {"device_id": "0"}}


def test_free_dimensions_by_denotation(device: Any) -> None:
    denoted = model("n")
    denoted.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    found = []
    for ort, providers in ((gpucompile, on(device)), (onnxruntime, ["CPUExecutionProvider"])):
        options = ort.SessionOptions()
        options.add_free_dimension_override_by_denotation("DATA_BATCH", 3)
        session = ort.InferenceSession(denoted.SerializeToString(), options, providers)
        found.append([(a.name, a.shape, a.type, str(a)) for a in (*session.get_inputs(), *session.get_outputs())])
    assert found[0] == found[1]
    fixed = model(2)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].denotation = "DATA_BATCH"
    with pytest.raises(InputError, match="is to be 3, axis 0 of input 'x' is 2"):
        options = {"free_dimension_overrides_by_denotation": {"DATA_BATCH": 3}}
        InferenceSession(fixed, options, on(device))


def test_the_compiled_model_is_saved(device: Any, tmp_path: Path) -> None:
    path = str(tmp_path / "optimized.gpub")
    options = {"optimized_model_filepath": path, "free_dimension_overrides": {"n": 2}}
    InferenceSession(model(), options, on(device)).close()
    with InferenceSession(path, providers=on(device)) as session:
        np.testing.assert_allclose(session.run(["y"], {"x": X})[0], want()[0])
    with pytest.raises(UnsupportedError, match="'n' has no size"):
        InferenceSession(model(), {"optimized_model_filepath": path}, on(device))


def test_the_cpu_takes_what_the_gpu_cannot(device: Any) -> None:
    value = helper.make_tensor_value_info
    nodes = [helper.make_node("Relu", ["x"], ["r"]), helper.make_node("NonZero", ["r"], ["where"])]
    graph = helper.make_graph(
        nodes, "g", [value("x", 1, [2, 4]), value("b", TensorProto.BOOL, [2])],
        [value("where", TensorProto.INT64, [2, "k"]), value("r", 1, [2, 4])],
    )  # fmt: skip
    graph.node.append(helper.make_node("Not", ["b"], ["c"]))
    graph.output.append(value("c", TensorProto.BOOL, [2]))
    m = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    with pytest.raises(UnsupportedError, match="NonZero"):
        InferenceSession(m, providers=on(device))
    both = [*on(device), "CPUExecutionProvider"]
    with pytest.raises(UnsupportedError, match="NonZero"):
        InferenceSession(m, {"config_entries": {"session.disable_cpu_ep_fallback": "1"}}, both)
    feeds = {"x": X - 3, "b": np.array([True, False])}
    with pytest.warns(GpucompileWarning, match="NonZero"), InferenceSession(m, providers=both) as session:
        expected = onnxruntime.InferenceSession(m.SerializeToString()).run(None, feeds)
        for got, wanted in zip(session.run(None, feeds), expected, strict=True):
            np.testing.assert_array_equal(got, wanted)
            assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(asyncio.run(session.run_async(["where"], feeds))[0], expected[0])  # type: ignore[arg-type]
        assert session.memory()["total"] > 0
    with pytest.raises(UnsupportedError, match="memory_budget"), pytest.warns(GpucompileWarning):
        InferenceSession(m, providers=both, memory_budget=1 << 30)


def test_providers_can_be_changed(device: Any) -> None:
    with InferenceSession(model(2), providers=on(device), preferred_output_location="gpu-buffer") as session:
        (before,) = session.run(["y"], {"x": X})
        session.set_providers(["webnn"], [{"device": device}])
        assert session.get_providers() == ["webnn"]
        np.testing.assert_allclose(session.run(["y"], {"x": X})[0].numpy(), want()[0])
        np.testing.assert_allclose(before.numpy(), want()[0])
        session.disable_fallback()
        with pytest.raises(UnsupportedError, match="list cpu after"):
            session.enable_fallback()


# runs -----------------------------------------------------------------------------------------------------------------


def test_run_options(session: InferenceSession) -> None:
    for make in (RunOptions, onnxruntime.RunOptions):
        options = make()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            session.run(["y"], {"x": X}, options)
        options.only_execute_path_to_fetches = True
        with pytest.warns(GpucompileWarning, match="only_execute_path_to_fetches"):
            session.run(["y"], {"x": X}, options)
        options.terminate = True
        binding = session.io_binding()
        for run in (
            lambda o=options: session.run(["y"], {"x": X}, o),
            lambda o=options: session.run_async(["y"], {"x": X}, run_options=o),
            lambda o=options, b=binding: session.run_with_iobinding(b, o),
            lambda o=options: session.run_with_ort_values(["y"], {"x": X}, o),
        ):
            with pytest.raises(GpucompileError, match="terminate"):
                run()
    with pytest.raises(InputError, match="not int"):
        session.run(["y"], {"x": X}, 3)


def test_lists_and_empty_names(session: InferenceSession) -> None:
    ort = onnxruntime.InferenceSession(model().SerializeToString())
    for s in (ort, session):
        assert [np.shape(y) for y in s.run([], {"x": X.tolist()})] == [(2, 4), (2, 4), ()]
    with pytest.raises(InputError, match=r"the list is no tensor\(float\)"):
        session.run(None, {"x": [["a", "b", "c", "d"]]})


def test_initializers_that_are_inputs(device: Any) -> None:
    m = model(2)
    m.graph.input.append(helper.make_tensor_value_info("w", TensorProto.FLOAT, [4]))
    ort = onnxruntime.InferenceSession(m.SerializeToString())
    with InferenceSession(m, providers=on(device)) as session:
        for get in ("get_inputs", "get_overridable_initializers"):
            assert list(map(str, getattr(session, get)())) == list(map(str, getattr(ort, get)()))
        np.testing.assert_allclose(session.run(["y"], {"x": X})[0], want()[0])
        with pytest.raises(InputError, match="'w' is an initializer, whose value is compiled in"):
            session.run(None, {"x": X, "w": X[0]})


def test_errors_in_callbacks_are_seen(session: InferenceSession, monkeypatch: pytest.MonkeyPatch) -> None:
    seen, done = [], threading.Event()
    monkeypatch.setattr("sys.excepthook", lambda kind, e, tb: (seen.append(e), done.set()))

    def callback(results: list[Any], data: Any, error: str) -> None:
        raise RuntimeError(f"{len(results)} {data} {error}")

    session.run_async(["y"], {"x": X}, callback, "data")
    assert done.wait(30) and str(seen[0]) == "1 data "
    done.clear()
    session.run_async(["y"], {"x": X.astype(np.int32)}, callback, "data")
    assert done.wait(30) and str(seen[1]).startswith("0 data input 'x' is int32")


def test_profiling_ends(device: Any, tmp_path: Path) -> None:
    before = time.monotonic_ns()
    options = {"enable_profiling": True, "profile_file_prefix": str(tmp_path / "p")}
    with InferenceSession(model(2), options, on(device)) as session:
        assert before <= session.get_profiling_start_time_ns() <= time.monotonic_ns()
        session.end_profiling()
        session.run(None, {"x": X})
        for ended in (session.end_profiling, session.get_profiling_start_time_ns):
            with pytest.raises(InputError, match="enable_profiling"):
                ended()


# fetches --------------------------------------------------------------------------------------------------------------


def test_fetches_that_do_not_fit_fail_before_anything_runs(
    session: InferenceSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    session.run(None, {"x": X})  # compiled
    disposed = Tensor.from_numpy(np.empty_like(X))
    disposed.dispose()
    readonly = np.empty_like(X)
    readonly.flags.writeable = False
    started = []
    (program,) = session._programs.values()
    player = program.executable._player
    assert player is not None
    monkeypatch.setattr(player, "start", lambda *a, **k: started.append(a))
    fetches: tuple[tuple[Any, type[Exception], str], ...] = (
        (np.empty((2, 3), np.float32), InputError, r"fetch 'y' is float32\[2, 3\], the output is float32\[2, 4\]"),
        (np.empty((2, 4), np.float16), InputError, "fetch 'y' is float16"),
        (Tensor.from_numpy(np.empty((4, 2), np.float32)), InputError, "fetch 'y'"),
        (Tensor.from_gpu_buffer(gpu(session, X), dtype="int32", dims=[2, 4]), InputError, "fetch 'y'"),
        (OrtValue(Tensor.from_gpu_buffer(gpu(session, X), dtype="float32", dims=[8])), InputError, "fetch 'y'"),
        (disposed, ClosedError, "used after dispose"),
        (readonly, InputError, "the array is read-only"),
        (Tensor.from_numpy(readonly), InputError, "the array is read-only"),
    )
    for target, kind, text in fetches:
        with pytest.raises(kind, match=text):
            session.run(None, {"x": X}, fetches={"y": target})
    assert not started


# OrtValue and IO binding ----------------------------------------------------------------------------------------------


def described(value: Any) -> list[Any]:
    return [
        value.shape(), value.data_type(), value.element_type(), value.device_name(), value.has_value(),
        value.is_tensor(), value.is_sparse_tensor(), value.is_tensor_sequence(), value.tensor_size_in_bytes(),
        value.numpy().tolist(), value.numpy().dtype, np.asarray(value).tolist(), np.from_dlpack(value).tolist(),
        value.__dlpack_device__(),
    ]  # fmt: skip


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8", "uint8", "int64", "uint64", "int32", "bool"])
def test_ort_values_on_the_host(dtype: str) -> None:
    array = (np.arange(6).reshape(2, 3) % 2).astype(dtype)
    ours, theirs = (ort.OrtValue.ortvalue_from_numpy(array) for ort in (gpucompile, onnxruntime))
    assert described(ours) == described(theirs)
    assert ours.data_ptr() == theirs.data_ptr() == array.ctypes.data
    for value in (ours, theirs):
        value.update_inplace(1 - array if dtype != "bool" else ~array)
    assert described(ours) == described(theirs)
    assert described(OrtValue.from_dlpack(theirs))[:3] == described(theirs)[:3] or dtype == "bool"
    for element in (array.dtype.type, theirs.element_type()):
        for ort in (gpucompile, onnxruntime):
            made = ort.OrtValue.ortvalue_from_shape_and_type([3, 2], element)
            assert (made.shape(), made.data_type()) == ([3, 2], theirs.data_type())


def test_ort_values_on_the_gpu(context: MLContext, session: InferenceSession) -> None:
    for array in (X, X > 2, X.astype(np.float16)):
        value = OrtValue.ortvalue_from_numpy(array, "webgpu", 0, context=context)
        assert (value.device_name(), value.shape()) == ("webgpu", [2, 4]) and value.tensor.owned
        np.testing.assert_array_equal(value.numpy(), array)
        assert value.numpy().dtype == array.dtype
        assert value.data_type() == OrtValue.ortvalue_from_numpy(array).data_type()
        value.update_inplace(OrtValue.ortvalue_from_numpy(array[::-1]))
        np.testing.assert_array_equal(value.numpy(), array[::-1])
        with pytest.raises(InputError, match="no addresses"):
            value.data_ptr()
        value.tensor.dispose()
        assert not value.has_value()
    x = OrtValue.ortvalue_from_numpy(X, "gpu", context=context)
    y = session.create_ortvalue_from_shape_and_type([2, 4], np.float32)
    session.run(["y"], {"x": x}, fetches={"y": y})
    np.testing.assert_allclose(y.numpy(), want()[0])
    ours = session.run_with_ort_values(None, {"x": x})
    ort = onnxruntime.InferenceSession(model().SerializeToString())
    theirs = ort.run_with_ort_values(None, {"x": onnxruntime.OrtValue.ortvalue_from_numpy(X)})
    for a, b in zip(ours, theirs, strict=True):
        assert (a.data_type(), a.shape(), a.device_name()) == (b.data_type(), b.shape(), b.device_name())
        np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-6)
    wrong: tuple[tuple[Callable[[], Any], str], ...] = (
        (lambda: y.update_inplace(X[0]), "does not fit"),
        (lambda: y.update_inplace([1]), "an array or an OrtValue"),
        (lambda: OrtValue.ortvalue_from_numpy(X, "cuda"), "unknown device 'cuda'"),
        (lambda: OrtValue.ortvalue_from_numpy(X, "gpu", 1), "device_id is 1"),
        (lambda: OrtValue.ortvalue_from_shape_and_type([2], np.float64), "no data type"),
        (lambda: OrtValue.ortvalue_from_shape_and_type([2], 8), "no data type"),
        (lambda: OrtValue(X), "a Tensor is wanted"),  # type: ignore[arg-type]
    )
    for call, text in wrong:
        with pytest.raises(InputError, match=text):
            call()
    with pytest.raises(UnsupportedError, match="memory_info"):
        OrtValue.ortvalue_from_shape_and_type([2], np.float32, memory_info=object())


def test_bindings_of_memory(session: InferenceSession) -> None:
    """The forms of bind_input and bind_output that ONNX Runtime documents, on the CPU with both."""
    for s in (onnxruntime.InferenceSession(model().SerializeToString()), session):
        binding, y, positive = s.io_binding(), np.zeros_like(X), np.zeros(X.shape, bool)
        binding.bind_input("x", "cpu", 0, np.float32, X.shape, X.ctypes.data)
        binding.bind_output("y", "cpu", 0, np.float32, X.shape, y.ctypes.data)
        binding.bind_output("positive", "cpu", 0, np.bool_, X.shape, positive.ctypes.data)
        binding.bind_output("total")
        s.run_with_iobinding(binding)
        np.testing.assert_allclose(y, want()[0])
        np.testing.assert_array_equal(positive, want()[1])
        assert [v.data_type() for v in binding.get_outputs()] == ["tensor(float)", "tensor(bool)", "tensor(float)"]
        np.testing.assert_allclose(binding.copy_outputs_to_cpu()[2], want()[2], rtol=1e-6)
        binding.clear_binding_inputs()
        with pytest.raises(Exception, match="x"):
            s.run_with_iobinding(binding)


def test_bound_outputs_go_where_they_are_bound(context: MLContext) -> None:
    """Whatever the session prefers; and they follow a free dimension that changes."""
    options = {"preferred_output_location": "gpu-buffer"}
    with InferenceSession(model(), options, [("webnn", {"context": context})]) as session:
        binding = session.io_binding()
        binding.bind_output("y", "webgpu", 0, np.float32)
        binding.bind_output("total", "cpu")
        binding.bind_output("positive", "webnn")
        held = []
        for rows in (2, 2, 3):
            x = np.ones((rows, 4), np.float32)
            binding.bind_cpu_input("x", x)
            session.run_with_iobinding(binding)
            values = binding.get_outputs()
            assert [v.tensor.location for v in values] == ["gpu-buffer", "cpu", "ml-tensor"]
            assert [v.data_type() for v in values] == ["tensor(float)", "tensor(float)", "tensor(bool)"]
            for got, wanted in zip(binding.copy_outputs_to_cpu(), [want(x)[i] for i in (0, 2, 1)], strict=True):
                np.testing.assert_allclose(got, wanted)
                assert got.dtype == wanted.dtype
            held.append(values[0].tensor)
        assert held[0] is held[1] and held[0].disposed and not held[2].disposed
        binding.bind_output("y", "webgpu", 0, np.float32, [2, 4])
        assert held[2].disposed
        with pytest.raises(InputError, match=r"bound as float32\[2, 4\], the output is float32\[3, 4\]"):
            session.run_with_iobinding(binding)
        binding.bind_output("y", "webgpu", 0, np.int32, [3, 4])
        with pytest.raises(InputError, match="bound as int32"):
            session.run_with_iobinding(binding)


def test_bindings_that_make_no_sense(session: InferenceSession) -> None:
    binding = session.io_binding()
    wrong: tuple[tuple[Callable[[], Any], str], ...] = (
        (lambda: session.run_with_iobinding(binding), "'x'|no output is bound"),
        (lambda: binding.bind_output("q"), "no output 'q'"),
        (lambda: binding.bind_output("y", "cuda"), "unknown device 'cuda'"),
        (lambda: binding.bind_output("y", "gpu", 1), "device_id is 1"),
        (lambda: binding.bind_input("x", "cpu", 0, np.float32, [2, 4]), "buffer_ptr is missing"),
        (lambda: binding.bind_input("x", "cpu", 0, None, None, X.ctypes.data), "element_type and shape are needed"),
        (lambda: binding.bind_input("x", "gpu", 0, np.float32, [2, 4], X.ctypes.data), "an address on the CPU"),
        (lambda: binding.bind_input("x", "cpu", 0, np.float32, [8], X), r"float32\[8\] given, the array is"),
        (lambda: binding.bind_ortvalue_output("y", X), "an OrtValue is wanted"),
        (lambda: session.run_with_iobinding(IOBinding(other)), "another session's"),
    )
    with InferenceSession(model(2), providers=[("webnn", {"context": session.context})]) as other:
        for call, text in wrong:
            with pytest.raises(InputError, match=text):
                call()


def test_types_in_onnx_runtimes_words() -> None:
    """What scikit-learn's models have: sequences of maps."""
    from gpucompile.session.model import read_header

    tensor = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    probabilities = onnx.TypeProto()
    probabilities.map_type.key_type = TensorProto.INT64
    probabilities.map_type.value_type.CopyFrom(tensor)
    types = {
        "seq(map(int64,tensor(float)))": helper.make_sequence_type_proto(probabilities),
        "optional(tensor(float))": helper.make_optional_type_proto(tensor),
        "sparse_tensor(double)": helper.make_sparse_tensor_type_proto(TensorProto.DOUBLE, [2]),
        "tensor(string)": helper.make_tensor_type_proto(TensorProto.STRING, [2]),
        "tensor(float8e4m3fn)": helper.make_tensor_type_proto(TensorProto.FLOAT8E4M3FN, [2]),
    }
    inputs = [onnx.ValueInfoProto(name=text, type=proto) for text, proto in types.items()]
    header = read_header(helper.make_model(helper.make_graph([], "g", inputs, [])))
    assert [a.type for a in header.inputs] == list(types)
    assert header.metadata.version == 2**63 - 1


def test_sequences_and_lists_of_strings_for_the_cpu() -> None:
    text = (
        '<ir_version: 9, opset_import: ["" : 20]> g(float[4] x, seq(float[4]) q, string[N] t)'
        "=> (seq(float[4]) s, string[N] u) { y = Relu(x) s = SequenceInsert(q, y) u = StringConcat(t, t) }"
    )
    data = onnx.parser.parse_model(text).SerializeToString()
    x = np.arange(-2, 2, dtype=np.float32)
    with pytest.warns(gpucompile.GpucompileWarning, match="CPU"):
        session = InferenceSession(data, providers=["webgpu", "cpu"])
        for q in ([x, -x], (x,), []):
            s, u = session.run(None, {"x": x, "q": q, "t": ["a", "b"]})
            np.testing.assert_array_equal(s, [*q, np.maximum(x, 0)])
            assert u.tolist() == ["aa", "bb"]
        session.close()
