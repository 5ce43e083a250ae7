"""All ops. Importing this package imports every module in it, and with that registers every op class."""

from __future__ import annotations

import importlib
import pkgutil

from gpucompile.ir.op import Op

for _module in sorted(m.name for m in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")

#: Every op class by name.
OPS = dict(sorted(Op.registry.items()))
