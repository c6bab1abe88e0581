"""The array module is chosen by the array, and cupy is never imported."""

import sys
from types import ModuleType

import numpy as np
import pytest

from gpu.array import array_module, to_device, to_host


class DeviceArray:
    """Stands for a cupy array."""

    def __init__(self, host: np.ndarray) -> None:
        self.host = host

    def get(self) -> np.ndarray:
        return self.host.copy()


@pytest.fixture
def device_module(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    module = ModuleType("cupy")
    module.ndarray = DeviceArray  # type: ignore[attr-defined]
    module.asarray = lambda a: a if isinstance(a, DeviceArray) else DeviceArray(a)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


def test_host_arrays_belong_to_numpy() -> None:
    assert array_module(np.zeros(1)) is np
    assert array_module([1, 2]) is np


def test_host_arrays_are_not_copied() -> None:
    a = np.arange(3)
    assert to_host(a) is a
    assert to_device(a, np) is a


def test_device_arrays_belong_to_their_module_and_come_back(device_module: ModuleType) -> None:
    there = to_device(np.arange(3), device_module)
    assert array_module(there) is device_module
    assert array_module(np.zeros(1)) is np
    np.testing.assert_array_equal(to_host(there), [0, 1, 2])
    np.testing.assert_array_equal(to_device(there, np), [0, 1, 2])
