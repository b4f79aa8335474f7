"""The machine's NVIDIA GPUs, as the driver's library (NVML, by way of nvidia-ml-py) shows them. Nothing here decides
anything.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import stat
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import TypeVar

from harness.errors import EnvironmentMissing

Answer = TypeVar("Answer")


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """One GPU. memory_bytes: all of it; free_bytes: what nobody has taken, whether or not the owner can be seen from
    here. mig: whether it is split into instances. processes: ids of those that compute or draw on it, null where the
    driver does not tell. persistence, ecc: null where it has no such thing.
    """

    index: int
    name: str
    memory_bytes: int
    free_bytes: int
    mig: bool
    processes: tuple[int, ...] | None
    persistence: bool | None
    ecc: bool | None


@dataclass(frozen=True, kw_only=True)
class Gpus:
    """All GPUs in the driver's order, and the versions of the driver and of the CUDA that it speaks. `absent`: why
    there is none.
    """

    devices: tuple[Gpu, ...] = ()
    driver: str | None = None
    cuda: str | None = None
    absent: str = ""

    def __str__(self) -> str:
        """As people count them: "7x NVIDIA H100 80GB HBM3, 1x NVIDIA A100", or why there is none."""
        names = [gpu.name for gpu in self.devices]
        return ", ".join(f"{names.count(name)}x {name}" for name in dict.fromkeys(names)) or f"none: {self.absent}"


def find_gpus(nvml: ModuleType | None = None) -> Gpus:
    """Ask the driver. `nvml`: what to ask in place of the library `pynvml`.

    Raises EnvironmentMissing if there is a driver but it cannot answer; a machine without one has no GPUs."""
    nvml = nvml or importlib.import_module("pynvml")  # half a megabyte of Python that only this needs
    try:
        nvml.nvmlInit()
    except nvml.NVMLError_LibraryNotFound:
        return Gpus(absent="no NVIDIA driver (libnvidia-ml.so.1 is not there)")
    except nvml.NVMLError_DriverNotLoaded:
        return Gpus(absent="the NVIDIA driver is not loaded")
    except nvml.NVMLError as error:
        raise EnvironmentMissing(f"the NVIDIA driver does not start: {error}") from None
    try:
        devices = tuple(_read(nvml, index) for index in range(nvml.nvmlDeviceGetCount()))
        cuda = nvml.nvmlSystemGetCudaDriverVersion()
        return Gpus(
            devices=devices,
            driver=nvml.nvmlSystemGetDriverVersion(),
            cuda=f"{cuda // 1000}.{cuda % 1000 // 10}",
            absent="" if devices else "the NVIDIA driver has no GPU",
        )
    except nvml.NVMLError as error:
        raise EnvironmentMissing(f"the NVIDIA driver does not answer: {error}") from None
    finally:
        with contextlib.suppress(nvml.NVMLError):
            nvml.nvmlShutdown()


def _read(nvml: ModuleType, index: int) -> Gpu:
    try:
        handle = nvml.nvmlDeviceGetHandleByIndex(index)
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        mig = _ask(nvml, lambda: nvml.nvmlDeviceGetMigMode(handle)[0])
        ecc = _ask(nvml, lambda: nvml.nvmlDeviceGetEccMode(handle)[0])
        persistence = _ask(nvml, lambda: nvml.nvmlDeviceGetPersistenceMode(handle))
        return Gpu(
            index=index,
            name=nvml.nvmlDeviceGetName(handle),
            memory_bytes=memory.total,
            free_bytes=memory.free,
            mig=mig == nvml.NVML_DEVICE_MIG_ENABLE,
            processes=_processes(nvml, handle),
            persistence=None if persistence is None else persistence == nvml.NVML_FEATURE_ENABLED,
            ecc=None if ecc is None else ecc == nvml.NVML_FEATURE_ENABLED,
        )
    except nvml.NVMLError as error:
        raise EnvironmentMissing(f"the NVIDIA driver does not answer about GPU {index}: {error}") from None


def _processes(nvml: ModuleType, handle: object) -> tuple[int, ...] | None:
    computing = _ask(nvml, lambda: nvml.nvmlDeviceGetComputeRunningProcesses(handle))
    drawing = _ask(nvml, lambda: nvml.nvmlDeviceGetGraphicsRunningProcesses(handle))
    if computing is None:
        return None
    return tuple(sorted({process.pid for process in (*computing, *(drawing or ()))}))


def _ask(nvml: ModuleType, question: Callable[[], Answer]) -> Answer | None:
    """The answer, or None if this GPU has no such thing."""
    try:
        return question()
    except nvml.NVMLError_NotSupported:
        return None


def device_nodes(devices: Path = Path("/dev")) -> list[Path]:
    """The character devices that a CUDA program opens: /dev/nvidia0 ..., nvidiactl, nvidia-uvm and their like."""
    found = [*devices.glob("nvidia*"), *devices.glob("nvidia-caps/*")]
    return sorted(path for path in found if stat.S_ISCHR(path.stat().st_mode))


def read_gpus(text: str) -> tuple[Gpus, tuple[str, ...]]:
    """GPUs and their device nodes, from what this module prints as a program (`python -m harness.gpus`), in a container
    that has them.
    """
    said = json.loads(text)
    devices = tuple(
        Gpu(**{**gpu, "processes": None if gpu["processes"] is None else tuple(gpu["processes"])})
        for gpu in said["gpus"].pop("devices")
    )
    return Gpus(devices=devices, **said["gpus"]), tuple(said["nodes"])


def main() -> None:
    try:
        gpus = find_gpus()
    except EnvironmentMissing as error:
        sys.exit(str(error))
    print(json.dumps({"gpus": asdict(gpus), "nodes": [str(node) for node in device_nodes()]}))


if __name__ == "__main__":
    main()
