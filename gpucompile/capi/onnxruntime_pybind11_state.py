"""ONNX Runtime's names of exceptions for ours, so that `except InvalidArgument` catches what is meant.

A name stands for the class that holds what ONNX Runtime raises there, which may hold more: `NoSuchFile`,
`InvalidProtobuf` and `InvalidGraph` are all ModelError, `Fail` is every error of gpucompile.
"""

from gpucompile.errors import DeviceError as EPFail
from gpucompile.errors import DeviceError as RuntimeException
from gpucompile.errors import GpucompileError as Fail
from gpucompile.errors import InputError as InvalidArgument
from gpucompile.errors import ModelError as InvalidGraph
from gpucompile.errors import ModelError as InvalidProtobuf
from gpucompile.errors import ModelError as NoModel
from gpucompile.errors import ModelError as NoSuchFile
from gpucompile.errors import UnsupportedError as NotImplemented

__all__ = [
    "EPFail",
    "Fail",
    "InvalidArgument",
    "InvalidGraph",
    "InvalidProtobuf",
    "NoModel",
    "NoSuchFile",
    "NotImplemented",
    "RuntimeException",
]
