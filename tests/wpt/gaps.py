"""What is known not to pass: suite (or device that runs the conformance suite) -> reason -> file -> tests. It must
shrink: a test that passes has to leave it."""

from __future__ import annotations

GAPS: dict[str, dict[str, dict[str, tuple[str, ...]]]] = {
    "validation": {},
    "conformance": {},
    "openvino-cpu": {},
}
