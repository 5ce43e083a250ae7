"""The import order of the packages, read from the syntax tree: docs/architecture.md has the reasons.

Every import counts, those inside functions, under TYPE_CHECKING and by `import_module("...")` included: an import put
off is still a dependency.
"""

from __future__ import annotations

import ast
import importlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

#: layer -> the layers directly below it; it may import those, what is below them, and itself. `api` is the user-facing
#: modules of API, `init` is gpucompile/__init__.py, that is: the public names.
BELOW = {
    "errors": [],
    "target": ["errors"],
    "runtime": ["errors"],
    "ir": ["target"],
    "ops": ["ir"],
    "frontends": ["ops"],
    "kernels": ["ops", "shaders"],
    "passmanager": ["ops"],
    "passes": ["passmanager"],
    "shaders": [],
    "plan": ["frontends", "kernels", "passes", "runtime"],
    "backends": ["plan"],
    "api": ["backends"],
    "init": ["api"],
    "cli": ["init"],
}
API = {"capi", "compiler", "division", "fallback", "dynamic", "onnx_backend", "precision", "session", "sizes", "webnn"}
LAYER_OF = {name: name for name in BELOW if name not in ("api", "init")}
LAYER_OF |= {**dict.fromkeys(API, "api"), "__init__": "init", "__main__": "cli"}

#: The runtime stands alone: an application that plays bundles installs these and nothing else.
RUNTIME_NEEDS = {"numpy", "wgpu", "gpucompile"} | set(sys.stdlib_module_names)
#: It is imported only where one of its devices is asked for, and only there.
OPENVINO = ("gpucompile.runtime.openvino", "gpucompile.backends.openvino")
#: Except for host parts, which are ONNX models; imported when one is opened.
RUNTIME_MAY_NEED = {"gpucompile.runtime.host": {"onnx", "onnxruntime"}}


def allowed(layer: str) -> set[str]:
    """The layer itself and everything below it."""
    return {layer}.union(*(allowed(lower) for lower in BELOW[layer]))


def modules() -> dict[str, Path]:
    """Dotted name -> file, for each module of the package. The links to passes/ and shaders/ are not followed."""
    found = {}
    for top, prefix in (("gpucompile", ""), ("passes", "gpucompile."), ("shaders", "gpucompile.")):
        for folder, _, files in os.walk(ROOT / top):
            for file in sorted(f for f in files if f.endswith(".py")):
                path = Path(folder, file)
                parts = path.relative_to(ROOT).with_suffix("").parts
                found[prefix + ".".join(parts)] = path
    return found


MODULES = modules()


def layer_of(module: str) -> str:
    """`gpucompile.ir.graph` -> `ir`; a plain `gpucompile` is the public names."""
    parts = module.split(".")
    name = parts[1] if len(parts) > 1 else "__init__"
    assert name in LAYER_OF, f"{module}: gpucompile.{name} has no place in the import order; give it one in {__file__}"
    return LAYER_OF[name]


def imports(source: str, module: str) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of each import in `source`, relative ones made absolute.

    `module` ends in `.__init__` where the source is a package's. `from p import n` gives `p`, or `p.n` where p is
    gpucompile and n one of its layers.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, alias.name
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(module.split(".")[: -node.level]) if node.level else ""
            base = ".".join(filter(None, [base, node.module or ""]))
            for alias in node.names:
                is_layer = base == "gpucompile" and alias.name in LAYER_OF
                yield node.lineno, f"{base}.{alias.name}" if is_layer else base
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if called in ("import_module", "__import__") and isinstance(node.args[0].value, str):
                yield node.lineno, node.args[0].value


def violations(source: str, module: str) -> list[str]:
    layer = layer_of(module)
    wrong = []
    for line, name in imports(source, module):
        top = name.split(".")[0]
        if top in ("passes", "shaders"):
            wrong.append(f"{module}:{line}: imports {name}, which is called gpucompile.{name}")
        elif top == "gpucompile" and layer_of(name) not in allowed(layer):
            wrong.append(f"{module}:{line}: {layer} imports {name}, which is above or beside it")
        elif top == "openvino" and not module.startswith(OPENVINO):
            wrong.append(f"{module}:{line}: imports {name}; only {', '.join(OPENVINO)} may")
        elif layer == "runtime" and top not in RUNTIME_NEEDS | {"openvino"} | RUNTIME_MAY_NEED.get(module, set()):
            wrong.append(
                f"{module}:{line}: runtime imports {name}; it may need numpy, wgpu and the standard library only"
            )
    return wrong


def test_order_holds() -> None:
    wrong = [line for module, path in MODULES.items() for line in violations(path.read_text("utf-8"), module)]
    assert not wrong, "\n" + "\n".join(wrong)


def test_every_layer_is_seen() -> None:
    assert {layer_of(module) for module in MODULES} == set(BELOW)


def test_shaders_hold_no_code() -> None:
    assert [m for m in MODULES if m.startswith("gpucompile.shaders")] == ["gpucompile.shaders.__init__"]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("gpucompile.ir.graph", "import gpucompile.ops.conv"),
        ("gpucompile.ir.graph", "from ..ops import conv"),
        ("gpucompile.ir.__init__", "from ..ops import conv"),
        ("gpucompile.ir.graph", "from gpucompile import ops"),
        ("gpucompile.ir.graph", "def f():\n    import gpucompile"),
        ("gpucompile.ir.graph", "if TYPE_CHECKING:\n    from gpucompile.plan.arena import Arena"),
        ("gpucompile.ir.graph", "importlib.import_module('gpucompile.ops')"),
        ("gpucompile.kernels.kernel", "from gpucompile.passes import fuse"),
        ("gpucompile.passes.fuse", "from gpucompile.kernels import kernel"),
        ("gpucompile.passes.fuse", "from passes import dce"),
        ("gpucompile.passmanager.manager", "from gpucompile.passes import dce"),
        ("gpucompile.plan.plan", "from gpucompile.webnn import ML"),
        ("gpucompile.errors", "from gpucompile.target import Target"),
        ("gpucompile.runtime.player", "from gpucompile.plan import plan"),
        ("gpucompile.runtime.player", "from gpucompile.target import Target"),
        ("gpucompile.runtime.player", "import onnx"),
        ("gpucompile.runtime.player", "import openvino"),
        ("gpucompile.passes.fuse", "import openvino"),
        ("gpucompile.plan.bundle", "from gpucompile.backends.openvino import lower"),
        ("gpucompile.session", "from gpucompile.cli import main"),
    ],
)
def test_wrong_imports_are_found(module: str, source: str) -> None:
    assert len(violations(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "gpucompile.ir.graph",
            "import onnx\nfrom . import types\nfrom .op import Op\nfrom gpucompile.errors import ParseError",
        ),
        ("gpucompile.ops.conv", "from gpucompile.ir import graph\nfrom gpucompile import target"),
        ("gpucompile.passes.fuse", "from gpucompile.passmanager import Pass\nfrom . import dce"),
        ("gpucompile.plan.plan", "from gpucompile.runtime.format import Plan\nfrom ..kernels import kernel"),
        (
            "gpucompile.runtime.player",
            "import json, numpy as np\nimport wgpu\nfrom ..errors import DeviceError\nfrom . import format",
        ),
        ("gpucompile.session", "from gpucompile.compiler import compile\nfrom gpucompile.runtime import player"),
        ("gpucompile.__init__", "from .compiler import compile\nfrom .session import InferenceSession"),
        ("gpucompile.cli.main", "import gpucompile\nfrom gpucompile.ir import text"),
    ],
)
def test_right_imports_pass(module: str, source: str) -> None:
    assert violations(source, module) == []


@pytest.mark.parametrize("name", ["passes", "shaders"])
def test_folders_refuse_their_plain_names(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT))
    with pytest.raises(ImportError, match=rf"gpucompile\.{name}"):
        importlib.import_module(name)
    assert importlib.import_module(f"gpucompile.{name}").__name__ == f"gpucompile.{name}"
