"""What runs on one machine tell each other, so that two at once do not take each other for outsiders.

Every run marks the shards it uses, and a mark asks about every process of the machine. A run therefore registers its
harness process and its sandboxes' rights in a directory that only root can write; the listeners of other runs look
there before they deny."""

from __future__ import annotations

import json
import os
import select
import signal
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from harness.errors import EnvironmentMissing, RefereeError
from harness.outputs import remove_tree
from harness.policy import Grant, Identity
from harness.processes import is_running, start_time
from harness.sandbox.cgroup import remove_orphans

if TYPE_CHECKING:
    from harness.sandbox import Walls

KILL_SECONDS = 20.0


class Use(StrEnum):
    """What who registers does on the machine."""

    VISIT = "visit"  # no run: a self-check, a look at data
    SHARED = "shared"  # a run beside others
    EXCLUSIVE = "exclusive"  # a run that no other may run beside


@dataclass(frozen=True)
class Neighbour:
    """Somebody else who is registered, and alive."""

    name: str
    harness_pid: int
    use: Use
    grants: tuple[Grant, ...]


def default_directory() -> Path:
    """Where the runs of this user on this machine register."""
    uid = os.geteuid()
    return Path("/run/parameter-golf-harness") if uid == 0 else Path(f"/tmp/parameter-golf-harness-{uid}")


class Registration:
    """This run's entry: made before it opens a shard, replaced atomically on every change, removed at the end.

    `seen`: the names of the other runs that were there at the same time, as far as was looked.
    Raises EnvironmentMissing if the directory is not this user's alone, or if this run or one that is under way wants
    the machine to itself.
    """

    def __init__(self, run_id: str, directory: Path | None = None, use: Use = Use.VISIT) -> None:
        self.directory = directory or default_directory()
        self.directory.mkdir(mode=0o700, exist_ok=True)
        facts = self.directory.lstat()
        if not stat.S_ISDIR(facts.st_mode) or facts.st_uid != os.geteuid() or facts.st_mode & 0o022:
            raise EnvironmentMissing(f"{self.directory} must be a directory of yours that nobody else can write to")
        self._path = self.directory / f"{run_id}.json"
        self._grants: list[Grant] = []
        self._sandboxes: list[Walls] = []
        self._scratch: Path | None = None
        self._use = use
        self.seen: set[str] = set()
        self._refuse()  # before anybody can see the entry of a run that will not be
        self._write()
        try:
            self._refuse()  # who registered in between sees this entry, or is seen here
        except EnvironmentMissing:
            self.close()
            raise

    def _refuse(self) -> None:
        if text := self._conflict():
            raise EnvironmentMissing(f"{text}; wait for its end")

    def look_around(self) -> None:
        """Remember which other runs there are. Raises RefereeError if one of them, or this one, should be alone."""
        if text := self._conflict():
            raise RefereeError(f"{text}, and it was there during this run")

    def _conflict(self) -> str | None:
        if self._use is Use.VISIT:
            return None
        runs = [other for other in neighbours(self.directory, os.getpid()) if other.use is not Use.VISIT]
        self.seen.update(other.name for other in runs)
        for other in runs:
            if Use.EXCLUSIVE in (self._use, other.use):
                who = "this run" if self._use is Use.EXCLUSIVE else "that run"
                return (
                    f"another run is under way, {other.name} (process {other.harness_pid}), and {who} wants the "
                    "machine to itself"
                )
        return None

    def add_grant(self, grant: Grant) -> None:
        self._grants.append(grant)
        self._write()

    def add_sandbox(self, walls: Walls) -> None:
        self._sandboxes.append(walls)
        self._write()

    def remove_sandbox(self, walls: Walls) -> None:
        """Forget a sandbox that is empty, and what it was granted."""
        self._sandboxes.remove(walls)
        self._grants = [grant for grant in self._grants if grant.pid_namespace != walls.pid_namespace]
        self._write()

    def set_scratch(self, scratch: Path) -> None:
        """A directory that has no use after the run."""
        self._scratch = scratch
        self._write()

    def __enter__(self) -> Registration:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        """Remove the entry, unless a sandbox is left that could not be killed: whoever starts next must know of it."""
        if not self._sandboxes:
            self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        pid = os.getpid()
        entry = {
            "harness_pid": pid,
            "start_time": start_time(pid),
            "use": self._use,
            "grants": [[grant.pid_namespace, grant.label, sorted(grant.files)] for grant in self._grants],
            "sandboxes": [
                [walls.init_pid, start_time(walls.init_pid), walls.pid_namespace] for walls in self._sandboxes
            ],
            "scratch": str(self._scratch) if self._scratch else None,
        }
        temporary = self._path.with_suffix(".new")
        temporary.write_text(json.dumps(entry))
        temporary.rename(self._path)


def _entries(directory: Path) -> Iterator[tuple[Path, dict]]:
    for path in directory.glob("*.json"):
        try:
            if path.stat().st_uid == os.geteuid():
                yield path, json.loads(path.read_text())
        except (OSError, ValueError):
            continue  # removed just now


def other_runs(directory: Path, own_harness_pid: int) -> tuple[tuple[Grant, ...], frozenset[int]]:
    """Grants and harness processes of the other live runs. Entries of dead processes count for nothing."""
    others = neighbours(directory, own_harness_pid)
    grants = tuple(grant for other in others for grant in other.grants)
    return grants, frozenset(other.harness_pid for other in others)


def neighbours(directory: Path, own_harness_pid: int) -> list[Neighbour]:
    """Everybody else who is registered there and alive."""
    found = []
    for path, entry in _entries(directory):
        pid = entry["harness_pid"]
        if pid == own_harness_pid or not is_running(pid, entry["start_time"]):
            continue
        grants = tuple(
            Grant(pid_namespace, label, frozenset(Identity(*file) for file in files))
            for pid_namespace, label, files in entry["grants"]
        )
        # An entry without it is that of a harness from before there was a choice.
        found.append(Neighbour(path.stem, pid, Use(entry.get("use", Use.SHARED)), grants))
    return found


def reap(directory: Path | None = None) -> list[str]:
    """Kill the sandboxes of harnesses that died without ending them, and remove their control groups and scratch.

    Returns a sentence for each thing found. Called before every run, and safe beside runs that are alive.
    """
    found: list[str] = []
    for path, entry in _entries(directory or default_directory()):
        if is_running(entry["harness_pid"], entry["start_time"]):
            continue
        for init_pid, init_started, pid_namespace in entry.get("sandboxes", ()):
            if kill_sandbox(init_pid, init_started, pid_namespace):
                found.append(f"killed the sandbox with init {init_pid}, left behind by run {path.stem}")
        if entry.get("scratch") and Path(entry["scratch"]).is_dir():
            remove_tree(Path(entry["scratch"]))
            found.append(f"removed {entry['scratch']}, left behind by run {path.stem}")
        path.unlink(missing_ok=True)
    if os.geteuid() == 0 and (groups := remove_orphans()):
        found.append(f"removed {groups} control groups of runs that were killed")
    return found


def kill_sandbox(init_pid: int, init_started: int | None, pid_namespace: int) -> bool:
    """Kill the sandbox of that init, if it is still the same process; returns whether it was. Waits for its end."""
    try:
        descriptor = os.pidfd_open(init_pid)
    except OSError:
        return False
    try:
        same = is_running(init_pid, init_started) and os.stat(f"/proc/{init_pid}/ns/pid").st_ino == pid_namespace
        if same:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            select.select([descriptor], [], [], KILL_SECONDS)
        return same
    except OSError:  # it has just ended
        return False
    finally:
        os.close(descriptor)
