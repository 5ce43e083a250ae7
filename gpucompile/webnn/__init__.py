"""The W3C Web Neural Network API in Python: the specification's names in snake_case, options as keyword arguments.

    context = ML().create_context()
    builder = MLGraphBuilder(context)
    a = builder.input("a", "float32", [2, 2])
    graph = builder.build({"c": builder.relu(builder.add(a, a))})

    x = context.create_tensor("float32", [2, 2], writable=True)
    y = context.create_tensor("float32", [2, 2], readable=True)
    context.write_tensor(x, np.ones((2, 2), np.float32))
    context.dispatch(graph, {"a": x}, {"c": y})
    context.read_tensor(y)

Differences from the browser: `build` returns when the graph is compiled, `read_tensor` when the data is there (both
have awaitable forms, `*_async`), and an invalid state is a TypeInferenceError or InputError, no InvalidStateError.
"""

from gpucompile.webnn.builder import MLGraphBuilder
from gpucompile.webnn.context import ML, MLContext
from gpucompile.webnn.objects import MLGraph, MLOperand, MLOperandDescriptor, MLTensor

__all__ = ["ML", "MLContext", "MLGraph", "MLGraphBuilder", "MLOperand", "MLOperandDescriptor", "MLTensor"]
