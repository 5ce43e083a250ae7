"""Passes, pipelines and what runs and watches them: `PassManager("fold-constants,dce").run(graph)`."""

from gpucompile.passmanager.base import Context, Pass, Remark, all_passes, named_pipelines
from gpucompile.passmanager.instruments import (
    CheckEach,
    CheckReports,
    Dump,
    Instrument,
    PrintAfterChange,
    Statistics,
    StopAfter,
    Timing,
    fingerprint,
    random_inputs,
)
from gpucompile.passmanager.manager import PassManager, read_reproducer
from gpucompile.passmanager.pipeline import parse_pipeline, print_pass, print_pipeline

__all__ = [
    "CheckEach",
    "CheckReports",
    "Context",
    "Dump",
    "Instrument",
    "Pass",
    "PassManager",
    "PrintAfterChange",
    "Remark",
    "Statistics",
    "StopAfter",
    "Timing",
    "all_passes",
    "fingerprint",
    "named_pipelines",
    "parse_pipeline",
    "print_pass",
    "print_pipeline",
    "random_inputs",
    "read_reproducer",
]
