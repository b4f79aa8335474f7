"""What every sandbox back-end promises, as data and a protocol. Back-ends: `bubblewrap` here; Docker will be a peer.

A phase is data: a `SandboxSpec` says what is mounted where, what runs, and within which limits. A back-end turns it
into a `RunningSandbox`, whose life is told by three events, stamped on the harness's monotonic clock:

    launched   the walls stand, their mount table has been checked, and the command is about to be executed
    exited     the command itself has ended (others of its processes may still run)
    empty      the last process of the sandbox is gone
"""

from __future__ import annotations

from collections.abc import Mapping
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
    writable: bool = False
    device: bool = False  # a device node (GPUs); implies writable


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Resource limits of one sandbox. Bytes and counts; the clock is not here because the referee keeps it."""

    processes: int
    open_files: int
    output_file_bytes: int  # no single file may grow beyond this
    scratch_bytes: int  # /tmp
    shared_memory_bytes: int  # /dev/shm


@dataclass(frozen=True, kw_only=True)
class SandboxSpec:
    """A phase as the back-end sees it. `command[0] == "python"` means the sandbox's own interpreter."""

    label: str
    command: tuple[str, ...]
    mounts: tuple[Mount, ...]
    limits: Limits
    working_directory: str = "/in/submission"
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Walls:
    """What the harness read from the kernel about a sandbox before its command was executed. Part of the evidence.

    init_pid: process id (harness's view) of the sandbox's init. pid_namespace: inode of its pid namespace, the id by
    which opens are attributed. uid: host uid of its processes. mounts: (target, "ro" or "rw") for each mount in its
    table."""

    init_pid: int
    pid_namespace: int
    uid: int
    mounts: tuple[tuple[str, str], ...]


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

    def launch(self) -> float:
        """Let the command start; returns the monotonic time of launch."""

    def fileno(self) -> int:
        """A descriptor that becomes readable when `event()` has something to say."""

    def event(self) -> SandboxEvent | None:
        """The next event; None if there is none yet. Raises RefereeError if the guard is lost."""

    def kill(self) -> None:
        """Kill every process in the sandbox at once; the "empty" event follows."""

    def network_attempts(self) -> int:
        """Packets or connections that found no route out of the sandbox, counted by the kernel of its network
        namespace.
        """

    def close(self) -> None:
        """Kill whatever is left and release everything. Safe to call twice."""


class Sandbox(Protocol):
    """A back-end."""

    name: str

    def start(self, spec: SandboxSpec) -> RunningSandbox:
        """Build the walls, check them, and stop short of the first instruction of the command.

        Raises RefereeError when the walls are not what was asked for.
        """
