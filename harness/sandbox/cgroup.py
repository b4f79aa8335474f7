"""A control group for each sandbox: limits of memory, processes and processors, and one more way to kill it and to see
that it is empty.

Works with version 2, version 1, and both side by side. A group's name holds the process id and start time of the
harness that made it, so that the next start can tell groups that a killed harness has left behind."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from harness.processes import is_running, start_time

FOLDER = "parameter-golf"
CONTROLLERS = ("cpuset", "memory", "pids")
CPU_WEIGHT = 1_000  # ten times what others have
REMOVE_SECONDS = 2.0  # a group can be removed once its last process has been reaped
# What a folder answers that is removed meanwhile: EEXIST between two steps of `mkdir(exist_ok=True)`, ENODEV to writes
REMOVED_MEANWHILE = (errno.ENOENT, errno.EEXIST, errno.ENODEV)
_numbers = itertools.count()


@dataclass(frozen=True)
class Hierarchy:
    """A mounted hierarchy that this process may make groups in. `controllers`: those of CONTROLLERS that it offers."""

    root: Path
    version: int
    controllers: frozenset[str]


def hierarchies(mountinfo: Path = Path("/proc/self/mountinfo")) -> list[Hierarchy]:
    """The writable hierarchies that offer any of CONTROLLERS, and version 2 even without them, for its cgroup.kill."""
    return [hierarchy for hierarchy in _mounted(mountinfo) if os.access(hierarchy.root, os.W_OK)]


def _mounted(mountinfo: Path) -> list[Hierarchy]:
    found = []
    for line in mountinfo.read_text().splitlines():
        fields = line.split()
        kind, options = fields[fields.index("-") + 1], fields[fields.index("-") + 3].split(",")
        root = Path(fields[4])
        if kind == "cgroup2":
            offered = (root / "cgroup.controllers").read_text().split()
            found.append(Hierarchy(root, 2, frozenset(offered) & frozenset(CONTROLLERS)))
        elif kind == "cgroup" and (offered := frozenset(options) & frozenset(CONTROLLERS)):
            found.append(Hierarchy(root, 1, offered))
    return found


def memory_limit_bytes(
    mountinfo: Path = Path("/proc/self/mountinfo"), own: Path = Path("/proc/self/cgroup")
) -> int | None:
    """How much memory the control groups that this process is in leave to it, such as a container's; None: no limit."""
    limits = []
    for hierarchy in _mounted(mountinfo):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if ("memory" if hierarchy.version == 1 else "") not in controllers.split(","):
                continue
            group = hierarchy.root / path.lstrip("/")
            name = "memory.max" if hierarchy.version == 2 else "memory.limit_in_bytes"
            for place in (group, *group.parents):  # the tightest of all that it is in
                if place.is_relative_to(hierarchy.root) and (place / name).exists():
                    limits.append((place / name).read_text().strip())
    return min((int(limit) for limit in limits if limit != "max"), default=None)


class PhaseCgroup:
    """The groups of one sandbox, one in each hierarchy; raises OSError if they cannot be made.

    memory_bytes counts everything the sandbox's processes keep in memory, /out, /tmp and /dev/shm included, without
    swap. They may run on the processors that the harness may run on; without a group they could ask for all."""

    def __init__(self, memory_bytes: int, processes: int) -> None:
        pid = os.getpid()
        name = f"{pid}-{start_time(pid)}-{next(_numbers)}"
        self._groups: list[tuple[Hierarchy, Path]] = []
        try:
            for hierarchy in hierarchies():
                group = _make(hierarchy, name)
                self._groups.append((hierarchy, group))
                _limit(hierarchy, group, memory_bytes, processes)
        except BaseException:
            self.remove()
            raise

    @property
    def join_files(self) -> list[str]:
        """Files into which a process writes its id to enter the groups."""
        return [str(group / "cgroup.procs") for _, group in self._groups]

    @property
    def limited(self) -> frozenset[str]:
        """Which of CONTROLLERS limit it."""
        return frozenset().union(*(hierarchy.controllers for hierarchy, _ in self._groups))

    def peak_memory_bytes(self) -> int | None:
        """The most memory that was in use at once, if a hierarchy tells."""
        for hierarchy, group in self._groups:
            name = "memory.peak" if hierarchy.version == 2 else "memory.max_usage_in_bytes"
            if "memory" in hierarchy.controllers and (group / name).exists():
                return int((group / name).read_text())
        return None

    def kill(self) -> None:
        for _, group in self._groups:
            _kill(group)

    def remove(self) -> bool:
        """Kill what is left in the groups and remove them; False if one could not be emptied in time."""
        return all([_remove(group) for _, group in self._groups])


def _make(hierarchy: Hierarchy, name: str) -> Path:
    """A new group in the harness's folder of `hierarchy`, which another run may be removing just now."""
    parent = hierarchy.root / FOLDER
    for attempt in range(10):
        try:
            parent.mkdir(exist_ok=True)
            if hierarchy.version == 2 and hierarchy.controllers:
                enable = " ".join(f"+{controller}" for controller in sorted(hierarchy.controllers))
                (hierarchy.root / "cgroup.subtree_control").write_text(enable)
                (parent / "cgroup.subtree_control").write_text(enable)
            elif "cpuset" in hierarchy.controllers:  # of version 1, whose groups begin with no processor at all
                _allow(parent, processors=(hierarchy.root / "cpuset.cpus").read_text(), like=hierarchy.root)
            (parent / name).mkdir()
        except OSError as error:
            if error.errno not in REMOVED_MEANWHILE or attempt == 9:
                raise
        else:
            break
    for group in (parent, parent / name):  # where version 2 shares processors out by group: see `processes.favour`
        if (group / "cpu.weight").exists():
            (group / "cpu.weight").write_text(str(CPU_WEIGHT))
    return parent / name


def _allow(group: Path, processors: str, like: Path) -> None:
    """Let `group` run on `processors` (as the kernel lists them), with the memory that the group `like` may use."""
    (group / "cpuset.cpus").write_text(processors)
    (group / "cpuset.mems").write_text((like / "cpuset.mems").read_text())


def _limit(hierarchy: Hierarchy, group: Path, memory_bytes: int, processes: int) -> None:
    if "memory" in hierarchy.controllers and hierarchy.version == 2:
        (group / "memory.max").write_text(str(memory_bytes))
        if (group / "memory.swap.max").exists():
            (group / "memory.swap.max").write_text("0")
        (group / "memory.oom.group").write_text("1")
    elif "memory" in hierarchy.controllers:
        (group / "memory.limit_in_bytes").write_text(str(memory_bytes))
        if (group / "memory.memsw.limit_in_bytes").exists():  # memory and swap together
            (group / "memory.memsw.limit_in_bytes").write_text(str(memory_bytes))
    if "cpuset" in hierarchy.controllers:
        _allow(group, ",".join(map(str, sorted(os.sched_getaffinity(0)))), like=group.parent)
    if "pids" in hierarchy.controllers:
        (group / "pids.max").write_text(str(processes))


def _processes(group: Path) -> list[int]:
    try:
        return [int(line) for line in (group / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def _kill(group: Path) -> None:
    try:
        (group / "cgroup.kill").write_text("1")
    except OSError:  # version 1, or before Linux 5.14
        for pid in _processes(group):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def _remove(group: Path) -> bool:
    deadline = time.monotonic() + REMOVE_SECONDS
    while True:
        _kill(group)
        try:
            group.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.005)
        else:
            with contextlib.suppress(OSError):  # other runs still have groups there
                group.parent.rmdir()
            return True


def remove_orphans() -> int:
    """Kill and remove the groups whose harness is gone; returns how many there were."""
    removed = 0
    for hierarchy in hierarchies():
        for group in (hierarchy.root / FOLDER).glob("*-*-*"):
            pid, started, _ = group.name.split("-")
            if not is_running(int(pid), int(started)):
                removed += _remove(group)
    return removed
