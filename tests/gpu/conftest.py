"""The kernels' device: the GPU where there is one, and always its emulation on the CPU."""

import pytest
from emulation import Emulated

from gpu.kernels.device import Device, find


@pytest.fixture(params=["emulated", "cuda"])
def device(request: pytest.FixtureRequest) -> Device:
    if request.param == "emulated":
        return Emulated()
    found = find("auto")
    if found is None:
        pytest.skip("no GPU in this machine")
    return found
