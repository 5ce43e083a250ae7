"""Runs a file of the suite and compares what fails with the known gaps, both ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.wpt import gaps, suite


def check_file(kind: str, file: str, context: Any, run: Callable[[Any, Any], None]) -> None:
    """Run all tests of a file. Fails for a test that fails and is in no gap, and for one in a gap that passes."""
    adapter = suite.Adapter(context)
    known = {name: reason for reason, files in gaps.GAPS[kind].items() for name in files.get(file, ())}
    wrong, used = [], set()
    for test in suite.load(kind, file):
        name = test["name"]
        try:
            run(adapter, test)
        except Exception as e:
            if name in known:
                used.add(name)
            else:
                wrong.append(f"{name}: {type(e).__name__}: {e}")
        else:
            if name in known:
                used.add(name)
                wrong.append(f"{name}: passes now; remove it from the gaps ({known[name]})")
    wrong += [f"{name}: in the gaps, but there is no such test" for name in known if name not in used]
    assert not wrong, f"\n{file}:\n" + "\n".join(wrong)
