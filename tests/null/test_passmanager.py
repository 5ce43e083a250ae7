"""Pipelines as text, the pass manager, its instruments and the files that replay a failure."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpucompile.errors import ParseError, PassError, UnsupportedError
from gpucompile.ir.graph import Graph
from gpucompile.ir.text import parse_graph, print_graph
from gpucompile.ops.contraction import Matmul
from gpucompile.passmanager import (
    CheckEach,
    CheckReports,
    Context,
    Dump,
    Pass,
    PassManager,
    PrintAfterChange,
    Statistics,
    StopAfter,
    Timing,
    all_passes,
    base,
    fingerprint,
    named_pipelines,
    parse_pipeline,
    print_pipeline,
    random_inputs,
    read_reproducer,
)
from gpucompile.passmanager.instruments import difference
from gpucompile.target import Target

TEXT = """
graph @m(%x: f32[4,4]) {
  %w = constant {value = splat<f32[4,4]>(0.5)}
  %t = transpose(%w) {permutation = [1, 0]}
  %a = matmul(%x, %t)
  %b = matmul(%x, %a)
  return y: %b
}
"""


class Suite:
    """Passes that exist during one test."""

    @dataclass(frozen=True)
    class Sample(Pass):
        count: int = 3
        ratio: float = 0.5
        fast: bool = False
        word: str = "plain"
        mode: Literal["a", "b"] = "a"
        sizes: tuple[int, ...] = ()
        cap: float | None = None

        def run(self, graph: Graph, ctx: Context) -> bool:
            ctx.remark(None, "never does anything")
            return False

    @dataclass(frozen=True)
    class SwapOperands(Pass):
        """Wrong on purpose: a @ b -> b @ a."""

        honest: bool = True

        def run(self, graph: Graph, ctx: Context) -> bool:
            for node in graph.nodes:
                if isinstance(node.op, Matmul):
                    node.inputs = node.inputs[::-1]
                    ctx.count("swapped")
                    return self.honest
            return False

    @dataclass(frozen=True)
    class Crash(Pass):
        kind: str = "KeyError"

        def run(self, graph: Graph, ctx: Context) -> bool:
            if self.kind == "type":  # a broken graph: the verifier finds it
                node = next(iter(graph.nodes_reversed))
                node.output.type = node.output.type.with_shape((1,))
                return True
            if self.kind == "none":
                return None  # type: ignore[return-value]
            raise {"KeyError": KeyError("lost"), "unsupported": UnsupportedError("no such thing")}[self.kind]


@pytest.fixture(autouse=True)
def passes() -> Iterator[None]:
    all_passes()  # discovered before, so that only the test's passes leave again
    mine = {"sample": Suite.Sample, "swap-operands": Suite.SwapOperands, "crash": Suite.Crash}
    Pass.registry.update(mine)
    yield
    for name in mine:
        del Pass.registry[name]


for _cls in (Suite.Sample, Suite.SwapOperands, Suite.Crash):  # defining them registered them
    del Pass.registry[_cls.name]


def graph() -> Graph:
    return parse_graph(TEXT)


# Pipelines -----------------------------------------------------------------------------------------------------------


def test_passes_are_discovered() -> None:
    assert {"dce", "cse", "fold-constants"} <= set(all_passes())


def test_every_pass_has_defaults_and_a_docstring() -> None:
    for name, cls in all_passes().items():
        if cls.__module__ == __name__:
            continue
        assert print_pipeline([cls()]) == name
        assert parse_pipeline(name) == (cls(),)
        assert cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}("), f"{name} has no docstring"


def test_named_pipelines_parse() -> None:
    for name, text in named_pipelines().items():
        assert parse_pipeline(name) == parse_pipeline(text)


WORDS = st.text() | st.sampled_from(["plain", "two words", "true", "f32", "4", "a-b", ""])
SAMPLES = st.builds(
    Suite.Sample, st.integers(), st.floats(allow_nan=False), st.booleans(), WORDS, st.sampled_from(["a", "b"]),
    st.lists(st.integers(), max_size=3).map(tuple), st.none() | st.floats(allow_nan=False),
)  # fmt: skip


@given(st.lists(SAMPLES | st.builds(Suite.SwapOperands, st.booleans()), max_size=4))
def test_pipelines_round_trip(pipeline: list[Pass]) -> None:
    text = print_pipeline(pipeline)
    again = parse_pipeline(text)
    assert again == tuple(pipeline)
    assert print_pipeline(again) == text


def test_pipeline_syntax(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "sample{count=4 ratio=1 fast=true word=abc mode=b sizes=[1, 2] cap=2},dce , sample{}"
    first, _, last = parse_pipeline(text)
    assert first == Suite.Sample(4, 1.0, True, "abc", "b", (1, 2), 2.0)
    assert last == Suite.Sample()
    assert parse_pipeline("") == ()
    named = {"short": "dce,cse", "long": "short,sample{count=1},short", "loop": "dce,loop2", "loop2": "loop"}
    monkeypatch.setattr("gpucompile.passmanager.pipeline.named_pipelines", lambda: named)
    assert print_pipeline(parse_pipeline("long")) == "dce,cse,sample{count=1},dce,cse"
    with pytest.raises(PassError, match="pipeline loop contains itself: loop > loop2 > loop"):
        parse_pipeline("loop")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dse", "pipeline:1:1: unknown pass 'dse'; did you mean dce?"),
        ("zzzzzz", "unknown pass 'zzzzzz'; known: "),
        ("dce,,cse", "pipeline:1:5: expected a pass, found ','"),
        ("dce,", "pipeline:1:5: expected a pass, found the end"),
        ("dce cse", "pipeline:1:5: expected ',', found 'cse'"),
        ("sample{count", "expected '=', found the end"),
        ("sample{count=}", "expected a value, found '}'"),
        ("sample{conut=3}", "pipeline:1:8: sample has no option 'conut'; did you mean count?"),
        ("dce{x=3}", "dce has no option 'x'; it has: none"),
        ("sample{count=2.5}", "pipeline:1:14: option count of sample wants int, got '2.5'"),
        ("sample{count=true}", "option count of sample wants int, got 'true'"),
        ("sample{fast=1}", "option fast of sample wants true or false, got '1'"),
        ("sample{mode=c}", 'option mode of sample wants "a" or "b", got \'c\''),
        ("sample{cap=x}", "option cap of sample wants float or none, got 'x'"),
        ("sample{count=1 count=2}", "option count of sample is given twice"),
    ],
)
def test_pipeline_errors(text: str, message: str) -> None:
    with pytest.raises(PassError) as e:
        parse_pipeline(text)
    assert message in str(e.value)


def test_two_passes_of_one_name() -> None:
    with pytest.raises(TypeError, match="two passes are called dce"):

        class Dce(Pass):
            pass


# Manager -------------------------------------------------------------------------------------------------------------


def test_run_reports_change() -> None:
    g = graph()
    assert PassManager("fold-constants,dce").run(g) is True
    assert PassManager("fold-constants,dce").run(g) is False
    assert [n.op.name for n in g.nodes] == ["constant", "matmul", "matmul"]


def test_a_crash_leaves_a_file_that_replays_it(tmp_path: Path) -> None:
    target = Target(("shader-f16",), cores=7, name="mine")
    ctx = Context(target, reproducer_dir=tmp_path / "new")
    with pytest.raises(PassError, match="pass crash failed: KeyError: 'lost'; replay it with") as e:
        PassManager('fold-constants,sample{word="a\\nb"},crash,dce').run(graph(), ctx)
    (path,) = (tmp_path / "new").iterdir()
    assert path.name == "failed-03-crash.gir"
    assert str(path) in str(e.value)
    again, pipeline, replay_target = read_reproducer(path)
    assert pipeline == "crash,dce"
    assert replay_target == target
    folded = graph()
    PassManager("fold-constants").run(folded)
    assert print_graph(again) == print_graph(folded)  # the graph before the pass
    with pytest.raises(PassError, match="KeyError: 'lost'"):
        PassManager(pipeline).run(again, Context(replay_target, reproducer_dir=tmp_path))


def test_the_temporary_folder_is_the_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(PassError):
        PassManager("crash").run(graph())
    assert [p.name for p in tmp_path.glob("gpucompile-*/*")] == ["failed-01-crash.gir"]


def test_a_broken_graph_is_found_after_the_pass(tmp_path: Path) -> None:
    ctx = Context(reproducer_dir=tmp_path)
    with pytest.raises(PassError, match=r"pass crash failed: VerificationError: m: .*matmul.* should have type"):
        PassManager("crash{kind=type}").run(graph(), ctx)
    with pytest.raises(PassError, match="pass crash failed: TypeError: run returned None"):
        PassManager("crash{kind=none}").run(graph(), ctx)
    PassManager("crash{kind=type}", verify=False).run(graph(), ctx)


def test_a_model_error_goes_through() -> None:
    with pytest.raises(UnsupportedError, match=r"^no such thing$"):
        PassManager("crash{kind=unsupported}").run(graph())


def test_the_failure_matters_more_than_its_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(PassError, match=r"KeyError: 'lost' \(no reproducer could be written: "):
        PassManager("crash").run(graph(), Context(reproducer_dir=tmp_path / "file"))


@pytest.mark.parametrize(
    ("text", "message"), [(TEXT, "is no reproducer"), ("// pipeline: dce\n// target: {\n" + TEXT, "malformed")]
)
def test_files_that_are_no_reproducers(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.gir").write_text(text)
    with pytest.raises(ParseError, match=message):
        read_reproducer(tmp_path / "a.gir")


# Instruments ---------------------------------------------------------------------------------------------------------


def test_print_and_dump_only_what_changed(tmp_path: Path) -> None:
    stream = io.StringIO()
    PassManager("cse,fold-constants,dce,swap-operands", [PrintAfterChange(stream), Dump(tmp_path)]).run(graph())
    assert re.findall(r"^// after .*", stream.getvalue(), re.M) == ["// after fold-constants", "// after swap-operands"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "00-input.gir",
        "02-fold-constants.gir",
        "04-swap-operands.gir",
    ]
    parse_graph((tmp_path / "02-fold-constants.gir").read_text())


def test_check_each_names_pass_output_and_error(tmp_path: Path) -> None:
    ctx = Context(reproducer_dir=tmp_path)
    with pytest.raises(PassError, match=r"pass swap-operands failed: .*output y: largest error .*--check-each$"):
        PassManager("fold-constants,swap-operands,dce", [CheckEach()]).run(graph(), ctx)
    PassManager("fold-constants,cse,dce", [CheckEach(seed=1), CheckReports()]).run(graph(), ctx)


def test_a_silent_change_is_found(tmp_path: Path) -> None:
    ctx = Context(reproducer_dir=tmp_path)
    with pytest.raises(PassError, match=r"pass swap-operands failed: .*reports no change"):
        PassManager("swap-operands{honest=false}", [CheckReports()]).run(graph(), ctx)


def test_stop_after() -> None:
    timing = Timing()
    PassManager("cse,dce,fold-constants", [StopAfter(2), timing]).run(graph())
    assert [name for name, _ in timing.seconds] == ["cse", "dce"]
    assert len(timing.table().splitlines()) == 3


def test_statistics_and_remarks() -> None:
    statistics, ctx = Statistics(), Context(why_not=True)
    PassManager("sample,fold-constants,fold-constants", [statistics]).run(graph(), ctx)
    assert statistics.table().splitlines() == [
        "sample: no change",
        "fold-constants: 4 -> 3 nodes (folded 1, transpose -1)",
        "fold-constants: no change",
    ]
    assert [str(r) for r in ctx.remarks] == ["sample: never does anything"]
    quiet = Context()
    PassManager("sample").run(graph(), quiet)
    assert not quiet.remarks


def test_fingerprint_ignores_names_only() -> None:
    a, b = graph(), graph()
    next(b.nodes).output.name = "other"
    assert fingerprint(a) == fingerprint(b)
    for old, new in (("0.5", "0.25"), ("%x, %a", "%a, %x"), ("return y", "return z"), ("[1, 0]", "[0, 1]")):
        assert fingerprint(parse_graph(TEXT.replace(old, new))) != fingerprint(a)


@pytest.mark.parametrize(
    ("a", "b", "problem"),
    [
        ([1.0, 2.0], [1.0, 2.00001], ""),
        ([1.0, 2.0], [1.0, 2.001], "largest error 0.001, allowed 4e-05"),
        ([np.nan, 1.0], [np.nan, 1.0], ""),
        ([np.nan, 1.0], [1.0, 1.0], "1 of 2 elements differ in being finite"),
        ([np.inf, 1.0], [-np.inf, 1.0], "1 of 2 elements differ in being finite"),
        ([np.inf], [np.inf], ""),
        ([], [], ""),
    ],
)
def test_difference(a: list[float], b: list[float], problem: str) -> None:
    assert difference(np.array(a, np.float32), np.array(b, np.float32)) == problem


def test_difference_of_integers_and_types() -> None:
    one: Any = np.array([1, 2])
    assert difference(one, one + 1) == "2 of 2 elements differ"
    assert difference(one, one.astype(np.int32)) == "int32[2] became int64[2]"


def test_random_inputs_are_seeded_and_typed() -> None:
    g = parse_graph("graph @g(%a: f16[9], %b: i4[99], %c: u64[9], %d: u8[999], %e: f32[]) { return %a }")
    first, second = random_inputs(g, 3), random_inputs(g, 3)
    for v in g.inputs:
        assert first[v.name].dtype == v.type.dtype.numpy and first[v.name].shape == v.type.shape
        np.testing.assert_array_equal(first[v.name], second[v.name])
    assert first["b"].min() == -8 and first["b"].max() == 7 and first["d"].max() == 255
    assert base.PASSES_PACKAGE == "gpucompile.passes"
