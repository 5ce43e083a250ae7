"""Fixtures for every tier: the Vulkan adapter and one device per test process.

Without an adapter the tests that ask for one fail. They are never skipped: a run that tested nothing must not look
green.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import settings

# The same examples in every run: a failure in CI is one that everybody sees. Look for new ones with
# --hypothesis-profile=default, or in the slow tests.
settings.register_profile("same", derandomize=True, deadline=None)
settings.load_profile("same")


@pytest.fixture(scope="session", autouse=True)
def temporary_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """What is written to the folder for temporary files (passes that fail leave reproducers there) goes where pytest
    cleans up."""
    folder = str(tmp_path_factory.mktemp("temporary"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("tempfile.tempdir", folder)
        patch.setenv("TMPDIR", folder)  # for processes that tests start
        yield


@pytest.fixture(scope="session")
def adapter() -> Any:
    """A Vulkan `wgpu.GPUAdapter`; the OpenGL one that wgpu offers beside it does not count."""
    import wgpu
    from wgpu.backends.wgpu_native.extras import set_instance_extras

    # An instance that an earlier test made stays; it may list OpenGL as well, which is sorted out below.
    with contextlib.suppress(RuntimeError):
        set_instance_extras(backends=["Vulkan"])
    for found in wgpu.gpu.enumerate_adapters_sync():
        if found.info["backend_type"] == "Vulkan":
            return found
    pytest.fail("no Vulkan adapter: run the tests by ./dev test, which installs a software one", pytrace=False)


@pytest.fixture(scope="session")
def device(adapter: Any) -> Iterator[Any]:
    """The `gpucompile.runtime.device.Device` all tests of a process share; a test that breaks one opens its own."""
    from gpucompile.runtime.device import Device

    device = Device.open()
    yield device
    if hasattr(device, "close"):
        device.close()
