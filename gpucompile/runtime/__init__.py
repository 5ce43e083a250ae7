"""The runtime: everything needed to run a shader bundle, and nothing of the compiler.

    format      plans and manifests as data
    bundle      reading and checking bundles
    device      adapters, devices, errors
    player      a plan's GPU objects, and how to run them
    executable  the public face: numpy in, numpy out

It imports numpy, wgpu and the standard library; wgpu only once a device is opened.
"""

from gpucompile.runtime.adapters import AdapterInfo, list_adapters
from gpucompile.runtime.bundle import BundleData, read_bundle
from gpucompile.runtime.device import Device
from gpucompile.runtime.executable import Executable
from gpucompile.runtime.loading import load

__all__ = ["AdapterInfo", "BundleData", "Device", "Executable", "list_adapters", "load", "read_bundle"]
