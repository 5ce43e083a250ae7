"""The benchmark of what a run costs beyond its kernels works, and its parts make sense."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import overhead


def test_small(adapter: Any, tmp_path: Path) -> None:
    assert overhead.main(["--model", "small", "--repeat", "3", "--json", str(tmp_path / "figures.json")]) == 0
    found = json.loads((tmp_path / "figures.json").read_text("utf-8"))
    ours, host = found["ours"], found["host"]
    assert ours["kernels"] == host["kernels"] == 50
    assert ours["pipelined"] > 0 and ours["waited"] > 0
    assert 0 < host["python"] < host["call"] and 0 < host["recording"] < host["call"]
