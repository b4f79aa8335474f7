"""A stand-in for the library `pynvml`: its names, signatures, constants and errors, and GPUs that a test makes up.

`tests/harness/test_gpus.py` compares it with the library itself."""

from __future__ import annotations

from dataclasses import dataclass, field
from types import SimpleNamespace

H100 = "NVIDIA H100 80GB HBM3"
H100_BYTES = 81_559 << 20


@dataclass
class Card:
    """A GPU. `fails`: a function that does not work on it -> the error's number."""

    name: str = H100
    total: int = H100_BYTES
    free: int = H100_BYTES - (600 << 20)
    mig: int | None = 0
    computing: tuple[int, ...] = ()
    drawing: tuple[int, ...] = ()
    fails: dict[str, int] = field(default_factory=dict)


class FakeNvml:
    """To be passed where the module would be. `starts`: the number of the error that nvmlInit ends in, 0 for none."""

    NVML_FEATURE_DISABLED, NVML_FEATURE_ENABLED = 0, 1
    NVML_DEVICE_MIG_DISABLE, NVML_DEVICE_MIG_ENABLE = 0, 1
    NVML_ERROR_NOT_SUPPORTED = 3
    NVML_ERROR_DRIVER_NOT_LOADED = 9
    NVML_ERROR_LIBRARY_NOT_FOUND = 12
    NVML_ERROR_GPU_IS_LOST = 15
    NVML_ERROR_LIB_RM_VERSION_MISMATCH = 18

    class NVMLError(Exception):
        def __init__(self, value: int) -> None:
            super().__init__(value)
            self.value = value

        def __str__(self) -> str:
            return {15: "GPU is lost", 18: "RM has detected an NVML/RM version mismatch."}.get(self.value, "?")

    class NVMLError_NotSupported(NVMLError):
        pass

    class NVMLError_DriverNotLoaded(NVMLError):
        pass

    class NVMLError_LibraryNotFound(NVMLError):
        pass

    def __init__(self, cards: list[Card] | None = None, starts: int = 0) -> None:
        self._cards, self._starts, self.open = cards or [], starts, 0

    def _error(self, number: int) -> NVMLError:
        kinds = {3: self.NVMLError_NotSupported, 9: self.NVMLError_DriverNotLoaded, 12: self.NVMLError_LibraryNotFound}
        return kinds.get(number, self.NVMLError)(number)

    def _check(self, handle: Card, function: str) -> Card:
        if not self.open:
            raise self._error(1)
        if function in handle.fails:
            raise self._error(handle.fails[function])
        return handle

    def nvmlInit(self):
        if self._starts:
            raise self._error(self._starts)
        self.open += 1

    def nvmlShutdown(self):
        self.open -= 1

    def nvmlSystemGetDriverVersion(self):
        return "550.54.15"

    def nvmlSystemGetCudaDriverVersion(self):
        return 12040

    def nvmlDeviceGetCount(self):
        return len(self._cards)

    def nvmlDeviceGetHandleByIndex(self, index):
        return self._check(self._cards[index], "nvmlDeviceGetHandleByIndex")

    def nvmlDeviceGetName(self, handle):
        return self._check(handle, "nvmlDeviceGetName").name

    def nvmlDeviceGetMemoryInfo(self, handle, version=None):
        card = self._check(handle, "nvmlDeviceGetMemoryInfo")
        return SimpleNamespace(total=card.total, free=card.free, used=card.total - card.free)

    def nvmlDeviceGetMigMode(self, device):
        card = self._check(device, "nvmlDeviceGetMigMode")
        if card.mig is None:
            raise self._error(self.NVML_ERROR_NOT_SUPPORTED)
        return [card.mig, card.mig]

    def nvmlDeviceGetEccMode(self, handle):
        self._check(handle, "nvmlDeviceGetEccMode")
        return [1, 1]

    def nvmlDeviceGetPersistenceMode(self, handle):
        self._check(handle, "nvmlDeviceGetPersistenceMode")
        return 0

    def nvmlDeviceGetComputeRunningProcesses(self, handle):
        card = self._check(handle, "nvmlDeviceGetComputeRunningProcesses")
        return [SimpleNamespace(pid=pid, usedGpuMemory=1 << 30, gpuInstanceId=None) for pid in card.computing]

    def nvmlDeviceGetGraphicsRunningProcesses(self, handle):
        card = self._check(handle, "nvmlDeviceGetGraphicsRunningProcesses")
        return [SimpleNamespace(pid=pid, usedGpuMemory=None, gpuInstanceId=None) for pid in card.drawing]
