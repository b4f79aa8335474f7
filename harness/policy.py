"""Who may open which gated file: pure functions over data. The kernel is in `fanotify.py`, the processes in
`listener.py`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple


class Identity(NamedTuple):
    """What a file is to the kernel, whatever it is called: device number and inode number."""

    device: int
    inode: int


class Opener(StrEnum):
    """Who tried to open a gated file."""

    PHASE = "phase"  # the sandbox of this run's current phase
    HARNESS = "harness"  # this run's own harness process
    OTHER_RUN = "other-run"  # a harness, or a sandbox with the right to this file, of another run on this machine
    OUTSIDER = "outsider"  # any other process of the machine
    UNKNOWN = "unknown"  # the kernel or /proc did not say


@dataclass(frozen=True)
class Grant:
    """The right of the processes in one pid namespace to open some files. `label` names the phase in evidence."""

    pid_namespace: int
    label: str
    files: frozenset[Identity]


@dataclass(frozen=True)
class Rights:
    """Everything a decision rests on. `grants` are this run's, `others` what the other runs on the machine have
    registered.
    """

    harness_pid: int
    grants: tuple[Grant, ...] = ()
    others: tuple[Grant, ...] = ()
    other_harness_pids: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Decision:
    allowed: bool
    opener: Opener
    label: str


def decide(file: Identity, pid: int, pid_namespace: int | None, rights: Rights) -> Decision:
    """Whether process `pid`, living in `pid_namespace` (None: could not be found out), may open `file`.

    A sandbox is known by its pid namespace, which was read at its launch and which no process can leave or fake without
    capabilities that a sandbox does not have.
    """
    if pid_namespace is None:
        return Decision(False, Opener.UNKNOWN, "")
    for grant in rights.grants:
        if grant.pid_namespace == pid_namespace:
            return Decision(file in grant.files, Opener.PHASE, grant.label)
    if pid == rights.harness_pid:
        return Decision(True, Opener.HARNESS, "")
    if pid in rights.other_harness_pids or _granted(file, pid_namespace, rights.others):
        return Decision(True, Opener.OTHER_RUN, "")
    return Decision(False, Opener.OUTSIDER, "")


def _granted(file: Identity, pid_namespace: int, grants: Iterable[Grant]) -> bool:
    return any(grant.pid_namespace == pid_namespace and file in grant.files for grant in grants)
