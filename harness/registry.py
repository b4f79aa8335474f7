"""What runs on one machine tell each other, so that two at once do not take each other for outsiders.

Every run marks the shards it uses, and a mark asks about every process of the machine. A run therefore registers its
harness process and its sandboxes' rights in a directory that only root can write; the listeners of other runs look
there before they deny."""

from __future__ import annotations

import json
import os
from pathlib import Path

from harness.policy import Grant, Identity

DIRECTORY = Path("/run/parameter-golf-harness")


def start_time(pid: int) -> int | None:
    """When process `pid` started, in clock ticks since boot; with the pid it names a process for good. None if there
    is none.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])


class Registration:
    """This run's entry: made before it opens a shard, replaced atomically on every change, removed at the end."""

    def __init__(self, run_id: str, directory: Path = DIRECTORY) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        self.directory = directory
        self._path = directory / f"{run_id}.json"
        self._grants: list[Grant] = []
        self._write()

    def add(self, grant: Grant) -> None:
        self._grants.append(grant)
        self._write()

    def remove(self, pid_namespace: int) -> None:
        self._grants = [grant for grant in self._grants if grant.pid_namespace != pid_namespace]
        self._write()

    def __enter__(self) -> Registration:
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def close(self) -> None:
        self._path.unlink(missing_ok=True)

    def _write(self) -> None:
        pid = os.getpid()
        entry = {
            "harness_pid": pid,
            "start_time": start_time(pid),
            "grants": [[grant.pid_namespace, grant.label, sorted(grant.files)] for grant in self._grants],
        }
        temporary = self._path.with_suffix(".new")
        temporary.write_text(json.dumps(entry))
        temporary.rename(self._path)


def other_runs(directory: Path, own_harness_pid: int) -> tuple[tuple[Grant, ...], frozenset[int]]:
    """Grants and harness processes of the other live runs. Entries of dead processes count for nothing."""
    grants: list[Grant] = []
    harness_pids: set[int] = set()
    for path in directory.glob("*.json"):
        try:
            facts = path.stat()
            entry = json.loads(path.read_text())
        except (OSError, ValueError):
            continue  # removed just now
        pid = entry["harness_pid"]
        if facts.st_uid != 0 or pid == own_harness_pid or start_time(pid) != entry["start_time"]:
            continue
        harness_pids.add(pid)
        for pid_namespace, label, files in entry["grants"]:
            grants.append(Grant(pid_namespace, label, frozenset(Identity(*file) for file in files)))
    return tuple(grants), frozenset(harness_pids)
