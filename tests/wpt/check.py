"""Runs a file of the suite and compares what fails with the known gaps, both ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from gpucompile.errors import UnsupportedError
from gpucompile.webnn.operators import OPERATORS, op_class
from tests.wpt import gaps, suite

#: Operators that have no class yet. A test of one of them must raise UnsupportedError, whatever it expects.
MISSING = {name for name in OPERATORS if op_class(name) is None}


def operators_of(test: dict[str, Any]) -> set[str]:
    """The operators a test uses, in snake_case."""
    if "op" in test:
        return {suite.snake(test["op"])}
    return {suite.snake(o["name"]) for o in test["graph"]["operators"]}


def uses(test: dict[str, Any], data_type: str) -> bool:
    """Whether a conformance test has a tensor of this data type, or casts to it."""
    return "graph" in test and f'"{data_type}"' in json.dumps(test["graph"])


def check_file(kind: str, file: str, context: Any, run: Callable[[Any, Any], None]) -> None:
    """Run all tests of a file. Fails for a test that fails and is in no gap, and for one in a gap that passes.

    Where the context lacks float16, its tests may raise UnsupportedError."""
    adapter = suite.Adapter(context)
    lacks_half = "float16" not in context.op_support_limits()["input"]["data_types"]
    known = {name: reason for reason, files in gaps.GAPS[kind].items() for name in files.get(file, ())}
    wrong, used = [], set()
    for test in suite.load(kind, file):
        name = test["name"]
        if operators_of(test) & MISSING:
            known.pop(name, None)
            try:
                run(adapter, test)
            except UnsupportedError:
                continue
            except (TypeError, ValueError) as e:  # found before the operator that is missing
                if test.get("expect") == "throws":
                    continue
                wrong.append(f"{name}: {type(e).__name__}: {e}")
            else:
                if test.get("expect") != "throws":
                    wrong.append(f"{name}: passes, though its operator has no class")
            continue
        try:
            run(adapter, test)
        except Exception as e:
            if name in known:
                used.add(name)
            elif not (lacks_half and isinstance(e, UnsupportedError) and uses(test, "float16")):
                wrong.append(f"{name}: {type(e).__name__}: {e}")
        else:
            if name in known:
                used.add(name)
                wrong.append(f"{name}: passes now; remove it from the gaps ({known[name]})")
    wrong += [f"{name}: in the gaps, but there is no such test" for name in known if name not in used]
    assert not wrong, f"\n{file}:\n" + "\n".join(wrong)
