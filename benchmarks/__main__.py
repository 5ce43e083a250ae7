"""`python -m benchmarks NAME [arguments]`: runs one benchmark. Without a name, or with --help, lists them.

A benchmark is a module of this folder that has a `main(arguments) -> exit code`; the first line of its docstring says
what it measures.
"""

from __future__ import annotations

import ast
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

#: Shorter names for modules.
SHORT = {"compile": "compile_time"}


def found() -> dict[str, str]:
    """Module name -> first line of its docstring, for every benchmark in this folder; nothing is imported."""
    benchmarks = {}
    for path in sorted(Path(__file__).parent.glob("[a-z]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        if any(isinstance(n, ast.FunctionDef) and n.name == "main" for n in tree.body):
            benchmarks[path.stem] = (ast.get_docstring(tree) or "").split("\n")[0]
    return benchmarks


def main(arguments: Sequence[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    known = found()
    if not given or given[0] in ("-h", "--help", "help"):
        print("usage: python -m benchmarks NAME [arguments]      (NAME --help shows its arguments)\n")
        for module, text in known.items():
            names = [short for short, long in SHORT.items() if long == module] or [module]
            print(f"  {names[0]:<10} {text}")
        return 0
    name, *rest = given
    module = SHORT.get(name, name)
    if module not in known:
        print(f"unknown benchmark {name!r}; known: {', '.join([*known, *SHORT])}", file=sys.stderr)
        return 2
    code: int = importlib.import_module(f"benchmarks.{module}").main(rest)
    return code


if __name__ == "__main__":
    sys.exit(main())
