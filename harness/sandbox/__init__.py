"""What every sandbox back-end promises, as data and a protocol. Back-ends: `bubblewrap` and `docker`.

A phase is data: a `SandboxSpec` says what is mounted where, what runs, and within which limits. A back-end turns it
into a `RunningSandbox`, whose life is told by three events, stamped on the harness's monotonic clock:

    launched   the walls stand, their mount table has been checked, and the command is about to be executed
    exited     the command itself has ended (others of its processes may still run)
    empty      the last process of the sandbox is gone
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class Mount:
    """One path that the sandbox sees. `source` is a file or directory of the host, `target` an absolute path in the
    sandbox.
    """

    source: Path
    target: str
    device: bool = False  # a device node (GPUs): not read-only


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Resource limits of one sandbox. Bytes and counts; the clock is not here because the referee keeps it.

    memory_bytes counts all that its processes keep in memory, /out, /tmp and /dev/shm included. What of this a back-end
    cannot enforce without root it leaves out, and `Walls.limited` says what it did enforce.
    """

    processes: int
    open_files: int
    memory_bytes: int
    output_bytes: int  # all of /out
    output_files: int  # files and directories in /out
    scratch_bytes: int  # /tmp
    shared_memory_bytes: int  # /dev/shm


# Of a sandbox in which next to nothing is done: self-checks, benches, tests.
SMALL = Limits(
    processes=64,
    open_files=256,
    memory_bytes=1 << 30,
    output_bytes=1 << 20,
    output_files=10,
    scratch_bytes=1 << 20,
    shared_memory_bytes=1 << 20,
)


@dataclass(frozen=True, kw_only=True)
class SandboxSpec:
    """A phase as the back-end sees it. `command[0] == "python"` means the sandbox's own interpreter.

    All mounts are read-only; the back-end adds an empty, writable /out. gpus: whether it gets the machine's GPUs, which
    a back-end without device mounts must ask its engine for.
    """

    label: str
    command: tuple[str, ...]
    mounts: tuple[Mount, ...]
    limits: Limits
    working_directory: str = "/in/submission"
    gpus: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)


def base_environment(python: str) -> dict[str, str]:
    """The environment of every sandboxed command. python: path of its interpreter inside."""
    return {
        "PATH": f"{Path(python).parent}:/usr/bin:/bin",
        "HOME": "/tmp",
        "USER": "phase",
        "TMPDIR": "/tmp",
        "LANG": "C.UTF-8",
        "PYTHONPATH": "/in:/wire",
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONUNBUFFERED": "1",
    }


@dataclass(frozen=True)
class Walls:
    """What the harness read from the kernel about a sandbox before its command was executed. Part of the evidence.

    init_pid: process id (harness's view) of the sandbox's init. pid_namespace: inode of its pid namespace, the id by
    which opens are attributed. uid: host uid of its processes. mounts: (target, "ro" or "rw") for each mount in its
    table. limited: what a control group of its own limits, of "cpuset", "memory" and "pids". shared: the mounts of the
    system whose inodes others on the host see as well, so that locks and watches there could signal; and the
    back-end's `shared_namespaces`.
    """

    init_pid: int
    pid_namespace: int
    uid: int
    mounts: tuple[tuple[str, str], ...]
    limited: tuple[str, ...]
    shared: tuple[str, ...]


@dataclass(frozen=True)
class Confinement:
    """What the harness read from the kernel about the running command. capabilities: the union of all five sets, in
    hexadecimal. seccomp: 2 is a filter. uid_map: as in /proc/PID/uid_map.
    """

    capabilities: str
    seccomp: int
    no_new_privileges: bool
    uid_map: str


@dataclass(frozen=True)
class SandboxEvent:
    """`kind` is "exited" or "empty"; `at` is monotonic seconds; `exit_code` (128 + signal if killed) only with
    "exited".
    """

    kind: str
    at: float
    exit_code: int | None = None


class RunningSandbox(Protocol):
    """A started sandbox, waiting for `launch()`. Every method is called from the referee's one thread."""

    walls: Walls
    log_descriptor: int  # readable: stdout and stderr of everything inside, together
    out_descriptor: int  # the directory /out; may be read when the sandbox is empty, and until `close()`

    def launch(self) -> float:
        """Let the command start; returns the monotonic time of launch."""

    def fileno(self) -> int:
        """A descriptor that becomes readable when `event()` has something to say."""

    def event(self) -> SandboxEvent | None:
        """The next event; None if there is none yet. Raises RefereeError if the guard is lost, or if what was killed
        does not end.
        """

    def confinement(self) -> Confinement | None:
        """How the running command is confined; None if it is not running yet or no longer."""

    def peak_memory_bytes(self) -> int | None:
        """The most memory in use at once; None if nothing measures it."""

    def kill(self) -> None:
        """Kill every process in the sandbox at once; the "empty" event follows."""

    def network_attempts(self) -> int:
        """Packets or connections that found no route out of the sandbox, counted by the kernel of its network
        namespace.
        """

    def close(self) -> None:
        """Kill whatever is left and release everything. Safe to call twice."""


class Sandbox(Protocol):
    """A back-end. str() of it says which version of what it is."""

    name: str
    # Kinds of namespaces whose inodes all its sandboxes share, so that locks and watches there could signal between two
    # that are alive at once, which those of one run never are.
    shared_namespaces: tuple[str, ...]

    def environment(self) -> dict[str, str]:
        """The whole environment of a command, but for what its spec adds."""

    def fingerprint(self) -> str:
        """Changes with whatever its walls depend on, but for kernel and harness."""

    def facts(self) -> dict[str, str]:
        """What a record says of it."""

    def visible_paths(self) -> list[Path] | None:
        """What of the host's files every sandbox sees, as directories or files; None if the harness cannot look."""

    def check_paths(self, paths: Sequence[Path]) -> None:
        """Raise EnvironmentMissing if no sandbox could get what lies at one of these."""

    def reap(self) -> list[str]:
        """Remove what harnesses that died have left of it; a sentence for each thing. Safe beside live runs."""

    def start(self, spec: SandboxSpec) -> RunningSandbox:
        """Build the walls, check them, and stop short of the first instruction of the command.

        Raises RefereeError when the walls are not what was asked for.
        """
