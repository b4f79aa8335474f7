"""What this machine is, read once before a run: facts for the record, and for what the rules ask (`preflight.py`)."""

from __future__ import annotations

import json
import os
import platform
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import EnvironmentMissing
from harness.gpus import Gpus, device_nodes, find_gpus
from harness.kernel import features
from harness.sandbox.cgroup import hierarchies, memory_limit_bytes

Facts = dict[str, str | int | float | bool | None]
IMAGE = Path("/etc/parameter-golf-image.json")


@dataclass(frozen=True)
class Image:
    """The container image that the harness runs in, as its build has written it down: the commit it was built from, and
    the sha256 of the lock that its packages come from.
    """

    revision: str
    lock_sha256: str


@dataclass(frozen=True, kw_only=True)
class Machine:
    """kernel: its release. features: for each of `kernel.ATTEMPTS` "" or why it does not work. cgroup_versions,
    controllers: of the control groups that the harness may make. memory_bytes: what the harness may use, all of the
    machine's or less if a control group says so. shared_memory_bytes: the size of the machine's own /dev/shm. image:
    null outside of one.
    """

    gpus: Gpus
    gpu_nodes: tuple[str, ...]
    kernel: str
    features: Mapping[str, str]
    cgroup_versions: tuple[int, ...]
    controllers: tuple[str, ...]
    memory_bytes: int
    shared_memory_bytes: int
    image: Image | None

    def facts(self) -> Facts:
        """For record.json: flat, and nothing that is not known."""
        devices = self.gpus.devices
        facts: Facts = {
            "kernel": self.kernel,
            "gpus": ", ".join(gpu.name for gpu in devices),
            "gpus_absent": self.gpus.absent or None,
            "gpu_driver": self.gpus.driver,
            "gpu_cuda": self.gpus.cuda,
            "memory_bytes": self.memory_bytes,
            "shared_memory_bytes": self.shared_memory_bytes,
            "cgroup_versions": ", ".join(map(str, self.cgroup_versions)),
            "cgroup_controllers": ", ".join(self.controllers),
            "image_revision": self.image.revision if self.image else None,
            "image_lock_sha256": self.image.lock_sha256 if self.image else None,
        }
        for gpu in devices:
            facts[f"gpu{gpu.index}_memory_bytes"] = gpu.memory_bytes
            facts[f"gpu{gpu.index}_free_bytes"] = gpu.free_bytes
            facts[f"gpu{gpu.index}_mig"] = gpu.mig
            facts[f"gpu{gpu.index}_processes"] = None if gpu.processes is None else len(gpu.processes)
            facts[f"gpu{gpu.index}_persistence"] = gpu.persistence
            facts[f"gpu{gpu.index}_ecc"] = gpu.ecc
        for name, fault in self.features.items():
            facts[f"kernel_{name}"] = not fault
        return facts


def survey(ask_for_gpus: Callable[[], tuple[Gpus, tuple[str, ...]]] | None = None) -> Machine:
    """Look at the machine; takes a fraction of a second, and longer where GPUs have to wake up. ask_for_gpus: who knows
    the GPUs and their device nodes if this process cannot see them.

    A driver that does not answer counts as no GPUs, with its words: rules may need none. Raises EnvironmentMissing if
    the image does not say what it is."""
    try:
        gpus, nodes = ask_for_gpus() if ask_for_gpus else (find_gpus(), tuple(map(str, device_nodes())))
    except EnvironmentMissing as error:
        gpus, nodes = Gpus(absent=str(error)), ()
    groups = hierarchies() if os.geteuid() == 0 else []  # without root no sandbox gets one
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(
        gpus=gpus,
        gpu_nodes=nodes,
        kernel=platform.release(),
        features=features(),
        cgroup_versions=tuple(sorted({group.version for group in groups if group.controllers})),
        controllers=tuple(sorted(frozenset().union(*(group.controllers for group in groups)))),
        memory_bytes=min(memory, memory_limit_bytes() or memory),
        shared_memory_bytes=shutil.disk_usage("/dev/shm").total if Path("/dev/shm").is_dir() else 0,
        image=read_image(),
    )


def read_image(path: Path = IMAGE) -> Image | None:
    """What the image's build has written to `path`; None where nothing is. Raises EnvironmentMissing if that cannot be
    understood.
    """
    try:
        found = json.loads(path.read_bytes())
        image = Image(found["revision"], found["lock_sha256"])
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        image = None
    if image is None or not all(isinstance(text, str) and text for text in (image.revision, image.lock_sha256)):
        raise EnvironmentMissing(f"{path} does not say revision and lock_sha256 of this image; build the image again")
    return image


def free_bytes(out: Path) -> tuple[int, Path]:
    """What is free on the file system where `out` is or would be made, and the directory that was asked about."""
    place = next(path for path in (out.absolute(), *out.absolute().parents) if path.exists())
    return shutil.disk_usage(place).free, place
