"""What a model says of its outputs, against what it computes.

As in ONNX Runtime another data type is an error, another shape a warning: exporters write shapes that do not hold for
other sizes of free dimensions.
"""

from __future__ import annotations

import warnings

import numpy as np
import onnx
from onnx import TensorProto

from gpucompile.errors import GpucompileWarning, ModelError
from gpucompile.frontends.onnx.call import Anything, Builder, Opaque
from gpucompile.frontends.onnx.tensors import DATA_TYPES, element_name, element_type
from gpucompile.ir.graph import Value


def check_declared(info: onnx.ValueInfoProto, result: Anything | Opaque | None, builder: Builder) -> None:
    """Compare an output with its declaration, as far as both are known. Raises ModelError for another data type."""
    tensor = info.type.tensor_type
    if not info.type.HasField("tensor_type") or not isinstance(result, (Value, np.ndarray)):
        return
    found = builder.type(result)
    wanted = DATA_TYPES.get(tensor.elem_type)
    if tensor.elem_type != TensorProto.UNDEFINED and wanted is not None and wanted is not found.dtype:
        name = element_name(element_type(found.dtype))
        raise ModelError(f"output {info.name!r} is {name}, the model says {element_name(tensor.elem_type)}")
    if not tensor.HasField("shape"):
        return
    # some exporters write -1 for what they do not know
    dims = tensor.shape.dim
    said = [d.dim_value if d.HasField("dim_value") and d.dim_value >= 0 else (d.dim_param or "?") for d in dims]
    fits = len(said) == found.rank and all(
        not isinstance(s, int) or s == n for s, n in zip(said, found.shape, strict=True)
    )
    if not fits:
        text = ", ".join(map(str, said))
        warnings.warn(
            f"output {info.name!r} has the shape {list(found.shape)}, the model says [{text}]",
            GpucompileWarning,
            stacklevel=2,
        )
