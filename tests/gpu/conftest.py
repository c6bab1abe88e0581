"""The kernels' device: the GPU where there is one, and always its emulation on the CPU."""

from pathlib import Path

import pytest

from emulation import Emulated
from gpu.kernels.device import Cuda, Device


def _cuda() -> Device | None:
    try:
        import cupy

        return Cuda() if cupy.cuda.runtime.getDeviceCount() else None
    except Exception:  # no cupy, no driver, or no device: each says so in its own way
        return None


@pytest.fixture(params=["emulated", "cuda"])
def device(request: pytest.FixtureRequest) -> Device:
    if request.param == "emulated":
        return Emulated()
    found = _cuda()
    if found is None:
        pytest.skip("no GPU in this machine")
    return found
