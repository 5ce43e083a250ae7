"""Runs the W3C suite and prints what passes: `python -m tests.wpt` (`--help`).

Everything in the data runs here, also what the specification of June 2026 contradicts or does not know (`nonspec`) and
float16 twins of WPT's float32 tests of operators that only move data (`derived`). With --write, the table and the
failures replace those in docs/webnn.md.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpucompile.errors import GpucompileError
from gpucompile.webnn import ML
from tests.wpt import suite

PAGE = Path(__file__).resolve().parents[2] / "docs" / "webnn.md"
MARKS = ("<!-- status: python -m tests.wpt --write -->\n", "<!-- end of status -->\n")


def group_of(kind: str, test: dict[str, Any]) -> str:
    """Which row of the table a test belongs to; empty for what only JavaScript can run."""
    tags = test.get("tags", [])
    if any(t.startswith("js") for t in tags):
        return ""
    if test.get("nonspec") or any(t.startswith("nonspec") for t in tags):
        return f"{kind}, beyond or against the specification"
    if any(t.startswith("limit") for t in tags):
        return f"{kind}, for a limit of 2 GiB a tensor"
    if test.get("source", "").startswith("derived"):
        return f"{kind}, float16 twins"
    return kind


def run(context: Any) -> tuple[Counter[str], Counter[str], list[str]]:
    """Passed and all by group, for the two main groups by file too (`conformance/add`), and a line for each failure."""
    adapter = suite.Adapter(context)
    passed, total, failures = Counter[str](), Counter[str](), []
    for kind, check in (("conformance", suite.run_conformance), ("validation", suite.run_validation)):
        for file in suite.files(kind):
            for test in json.loads(gzip.decompress((suite.HERE / kind / f"{file}.json.gz").read_bytes())):
                group = group_of(kind, test)
                if not group:
                    continue
                counted = (group, f"{kind}/{file}") if group == kind else (group,)
                total.update(counted)
                try:
                    check(adapter, test)
                except (GpucompileError, TypeError, ValueError, AssertionError, suite.Mismatch) as e:
                    reason = " ".join(str(e).split())[:160].replace("|", "/")
                    failures.append(f"{group} / {file}: {test['name']}: {reason}")
                else:
                    passed.update(counted)
    return passed, total, failures


def report(context: Any) -> str:
    """Markdown: the table, then the failures."""
    passed, total, failures = run(context)
    lines = ["| tests | passed | of |", "|---|---:|---:|"]
    lines += [f"| {group} | {passed[group]:,} | {total[group]:,} |" for group in sorted(total) if "/" not in group]
    for kind in ("conformance", "validation"):
        files = sorted(name for name in total if name.startswith(f"{kind}/"))
        short = ", ".join(f"{name.split('/')[1]} {passed[name]}/{total[name]}" for name in files)
        lines += ["", f"By file, {kind}: {short}."]
    return "\n".join([*lines, "", f"Not passed ({len(failures)}):", "", *(f"- {line}" for line in failures), ""])


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.wpt", description=__doc__.splitlines()[0])
    parser.add_argument("--pipeline", default="default", help="passes, as in `gpucompile opt`")
    parser.add_argument("--write", action="store_true", help="put the result into docs/webnn.md")
    options = parser.parse_args(arguments)
    with ML().create_context(pipeline=options.pipeline) as context:
        text = report(context)
    if options.write:
        page = PAGE.read_text("utf-8")
        pattern = re.compile(f"(?<={re.escape(MARKS[0])}).*(?={re.escape(MARKS[1])})", re.DOTALL)
        PAGE.write_text(pattern.sub(lambda _: "\n" + text + "\n", page), "utf-8")
    else:
        print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
