"""ONNX's backend tests on gpucompile: every case with its outcome, and a command that prints totals.

    python -m tests.onnx_backend                  the numpy interpreter instead of a device: what the importer can do
    python -m tests.onnx_backend --device         on the default device
    python -m tests.onnx_backend --cpu            on the CPU through OpenVINO
    python -m tests.onnx_backend --device -k conv --list refused

An outcome is `native` (compiled, and the results are those ONNX expects), `fallback` (the same, with nodes on the CPU),
`refused` (an UnsupportedError says why) or
`wrong` (anything else).
"""

from __future__ import annotations

import argparse
import functools
import re
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.backend.test.case.test_case import TestCase
from onnx.backend.test.loader import load_model_tests
from onnx.backend.test.runner import Runner

import gpucompile
from gpucompile.errors import UnsupportedError
from gpucompile.frontends.onnx.partition import DevicePart, Partition
from gpucompile.ir.graph import Graph
from gpucompile.ir.interpret import interpret
from gpucompile.onnx_backend import PreparedModel, WebGPUBackend
from gpucompile.runtime.host import open_host

#: The kinds of tests whose data come with the onnx package.
KINDS = ("node", "simple", "pytorch-converted", "pytorch-operator")


#: Cases (as regular expressions) that run with nodes on the CPU but cannot give what ONNX expects, with the reason.
EXCUSED = {
    r"test_bernoulli.*|test_training_dropout(_default)?(_mask)?": "random numbers of numpy's generator are expected",
    r"test_image_decoder_.*": "onnx's ReferenceEvaluator needs Pillow",
    r"test_range_bfloat16_type_positive_delta_expanded": "onnx's ReferenceEvaluator gives another length",
}


class InterpretedGraph:
    """What GraphRunner is, without a device."""

    def __init__(self, graph: Graph | Partition, device: object) -> None:
        self.graph = graph
        for part in [graph] if isinstance(graph, Graph) else graph.parts:
            if isinstance(part, (Graph, DevicePart)):
                (part if isinstance(part, Graph) else part.graph).verify()

    def __call__(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        if isinstance(self.graph, Graph):
            return interpret(self.graph, inputs)
        known = dict(inputs)
        for part in self.graph.parts:
            if isinstance(part, DevicePart):
                known |= interpret(part.graph, known)
            else:
                known |= open_host(part.model.SerializeToString()).run(known)
        return {name: known[value] for name, value in self.graph.outputs.items()}


class InterpretedModel(PreparedModel):
    runner = InterpretedGraph


class OpenvinoGraph:
    """The same on OpenVINO's CPU."""

    def __init__(self, graph: Graph | Partition, device: object) -> None:
        if not isinstance(graph, Graph):
            raise UnsupportedError("nodes on hosts are not run here")
        self.executable = gpucompile.load(gpucompile.compile(graph, devices=("cpu",)), "cpu")

    def __call__(self, inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        return self.executable.run(inputs)


class OpenvinoModel(PreparedModel):
    runner = OpenvinoGraph


class Interpreter(WebGPUBackend):
    """The backend with the numpy interpreter in place of the device."""

    prepared = InterpretedModel


@dataclass(frozen=True)
class Outcome:
    name: str
    kind: str  # native, fallback, excused, refused or wrong
    why: str = ""
    seconds: float = 0.0
    compiled_in: bool = False  # whether values of inputs decided what was compiled


#: The names of the cases that are refused, one a line. It must only shrink.
REFUSED = Path(__file__).parent / "e2e" / "onnx_refused.txt"
#: The totals of a run of all cases, as `docs/onnx.md` has them.
TOTALS = Path(__file__).parent / "e2e" / "onnx_totals.txt"


@functools.cache
def _all_cases() -> tuple[TestCase, ...]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # numpy's, while ONNX makes its data
        found = [case for kind in KINDS for case in load_model_tests(kind=kind)]
    return tuple(sorted(found, key=lambda c: c.name))


def cases(pattern: str = "") -> Iterator[TestCase]:
    """The test cases whose names match `pattern`, in a fixed order."""
    return (case for case in _all_cases() if re.search(pattern, case.name))


def run(case: TestCase, interpreted: bool, device: Any = None, fallback: bool = False) -> Outcome:
    """Run one case on all its data sets; on `device`, which may be "cpu"."""
    start = time.perf_counter()
    prepared = InterpretedModel if interpreted else OpenvinoModel if device == "cpu" else PreparedModel
    rep = None
    try:
        model, data = _data(case)
        rep = prepared(model, None if device == "cpu" else device, "allow" if fallback else "error")
        for inputs, wanted in data:
            got = rep.run([_array(x) for x in inputs])
            for want, y in zip(_flat(wanted), _flat(got), strict=True):
                # half precision: two units in the last place, as ONNX's runner allows for bfloat16
                rtol = max(case.rtol, 2**-9) if want.dtype == np.float16 else case.rtol
                # and sums of numbers that cancel: rounding of the largest is what is left
                scale = float(np.abs(want[np.isfinite(want)]).max(initial=0)) if want.dtype.kind == "f" else 0.0
                atol = max(case.atol, 1e-6 * scale) if want.dtype == np.float32 else case.atol
                Runner.assert_similar_outputs([want], [y], rtol, atol)
    except UnsupportedError as e:
        return Outcome(case.name, "refused", str(e), time.perf_counter() - start)
    except Exception as e:
        excuse = next((why for names, why in EXCUSED.items() if re.fullmatch(names, case.name)), None)
        if excuse and rep is not None and rep.fallback:
            return Outcome(case.name, "excused", excuse, time.perf_counter() - start)
        last = traceback.extract_tb(e.__traceback__)[-1]
        why = f"{type(e).__name__}: {e} ({Path(last.filename).name}:{last.lineno})"
        return Outcome(case.name, "wrong", why, time.perf_counter() - start)
    why = "; ".join(f"{n.op}: {n.reason}" for n in rep.fallback)
    kind = "fallback" if why else "native"
    return Outcome(case.name, kind, why, time.perf_counter() - start, bool(rep.compiled_in))


def _array(x: Any) -> Any:
    return onnx.numpy_helper.to_array(x) if isinstance(x, onnx.TensorProto) else x


def _flat(results: Iterable[Any]) -> Iterator[Any]:
    """The arrays in outputs; ONNX's own comparison of sequences fails on scalars in them."""
    for y in results:
        if isinstance(y, list):
            yield from _flat(y)
        else:
            yield _array(y)


def _data(case: TestCase) -> tuple[onnx.ModelProto, list[tuple[list[Any], list[Any]]]]:
    """A case's model and its data sets, from memory or from its folder."""
    if case.model is not None:
        return case.model, list(case.data_sets or [])
    assert case.model_dir is not None
    folder = Path(case.model_dir)
    model = onnx.load(folder / "model.onnx")
    sets = []
    for place in sorted(folder.glob("test_data_set*")):
        sets.append((_load(place, "input", model.graph.input), _load(place, "output", model.graph.output)))
    return model, sets


def _load(folder: Path, prefix: str, infos: Any) -> list[Any]:
    out: list[Any] = []
    for i in range(len(list(folder.glob(f"{prefix}_*.pb")))):
        data = (folder / f"{prefix}_{i}.pb").read_bytes()
        if infos[i].type.HasField("sequence_type"):
            out.append(onnx.numpy_helper.to_list(onnx.SequenceProto.FromString(data)))
        elif infos[i].type.HasField("optional_type"):
            out.append(onnx.numpy_helper.to_optional(onnx.OptionalProto.FromString(data)))
        else:
            out.append(onnx.numpy_helper.to_array(onnx.TensorProto.FromString(data)))
    return out


def reason(why: str) -> str:
    """A refusal without what differs from case to case."""
    why = re.sub(r"^(model '[^']*'|the model): ", "", why)
    why = re.sub(r" '[^']*':?", "", why)
    return re.sub(r"\s+", " ", re.sub(r"%\S+|\[[\d, -]*\]|'[^']*'|(?<=\w)\(?\d+x.*", "", why))[:150]


def totals(outcomes: Sequence[Outcome]) -> str:
    """How many cases there are of each kind."""
    counts = Counter(o.kind for o in outcomes)
    known = sum(o.kind == "native" and o.compiled_in for o in outcomes)
    rest = ", ".join(f"{counts[kind]} {kind}" for kind in ("fallback", "excused", "refused", "wrong"))
    return f"{len(outcomes)} cases: {counts['native']} native ({known} of them with input values compiled in), {rest}"


def _pattern(text: str) -> str:
    try:
        re.compile(text)
    except re.error as e:
        raise argparse.ArgumentTypeError(f"{text!r} is not a regular expression: {e}") from e
    return text


def main(argv: Iterable[str] | None = None) -> int:
    """Print totals, and refusals by reason; 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description="ONNX's backend tests on gpucompile")
    parser.add_argument("-k", default="", type=_pattern, metavar="REGEX", help="only cases whose names match")
    parser.add_argument("--device", action="store_true", help="run on the default device")
    parser.add_argument("--cpu", action="store_true", help="run on the CPU through OpenVINO")
    parser.add_argument("--update", action="store_true", help=f"write the refused cases to {REFUSED.name}")
    parser.add_argument(
        "--list", choices=("native", "fallback", "excused", "refused", "wrong"), help="list these cases"
    )
    parser.add_argument("--fallback", action="store_true", help="leave what the device does not take to the CPU")
    args = parser.parse_args(None if argv is None else list(argv))
    outcomes = []
    device: Any = "cpu" if args.cpu else None
    if args.device:
        from gpucompile.runtime.device import default_device

        device = default_device()
    warnings.simplefilter("ignore")
    for case in cases(args.k):
        outcomes.append(run(case, device is None, device, args.fallback))
    counts = Counter(o.kind for o in outcomes)
    for why, count in Counter(reason(o.why) for o in outcomes if o.kind not in ("native", "wrong")).most_common():
        print(f"{count:5}  {why}")
    for o in outcomes:
        if o.kind in (args.list, "wrong"):
            print(f"{o.kind}: {o.name}: {o.why[:600]}")
    if args.update and not args.k and not args.fallback:
        REFUSED.write_text("".join(f"{o.name}\n" for o in outcomes if o.kind == "refused"))
        TOTALS.write_text(totals(outcomes) + "\n")
    slow = sorted(outcomes, key=lambda o: -o.seconds)[:5]
    print("slowest: " + ", ".join(f"{o.name} {o.seconds:.1f} s" for o in slow))
    print(f"{totals(outcomes)}; {sum(o.seconds for o in outcomes):.0f} s")
    return 1 if counts["wrong"] else 0


if __name__ == "__main__":
    raise SystemExit(main())
