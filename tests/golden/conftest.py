"""Golden files: the text that a test generates, kept in `files/` under the test's name.

    pytest tests/golden --update-golden     writes what is generated now; look at the diff before committing it

A missing file is a failure, and so is a file that no test asks for.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "files"
OPTION = "--update-golden"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(OPTION, action="store_true", help="write the golden files of tests/golden instead of comparing")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str, str], None]:
    """golden(file name, text): the file must hold the text."""

    def check(name: str, text: str) -> None:
        path = FOLDER / name
        if request.config.getoption(OPTION, default=False):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            return
        hint = f"see what changed, then: pytest tests/golden {OPTION}"
        if not path.is_file():
            pytest.fail(f"there is no golden file {name}; {hint}", pytrace=False)
        expected = path.read_text(encoding="utf-8")
        if text != expected:
            lines = difflib.unified_diff(expected.splitlines(), text.splitlines(), name, "generated", lineterm="")
            pytest.fail("\n".join([f"{name} differs; {hint}", *lines]), pytrace=False)

    return check
