"""What the kernel says of a sandbox: its mounts, its processes, how they are confined, what they tried. Read from /proc
by every back-end, and never from what runs inside."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
from pathlib import Path

from harness.processes import pid_namespace
from harness.sandbox import Confinement, Walls

PHASE_UIDS = range(1 << 30, 1 << 31)  # host uids of phases; far from any that a system hands out


def unused_uid() -> int:
    """A host uid from PHASE_UIDS that no process has. Chosen at random, so two runs at once do not meet."""
    taken = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                taken.add(entry.stat().st_uid)
            except FileNotFoundError:
                continue
    while (uid := secrets.choice(PHASE_UIDS)) in taken:
        pass
    return uid


def children_of(pid: int) -> list[int]:
    """Child processes of a process's main thread; raises OSError if it is gone."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def program_of(pid: int) -> tuple[int, int]:
    """Which file a process executes, as device and inode; raises OSError if it is gone."""
    facts = os.stat(f"/proc/{pid}/exe")
    return facts.st_dev, facts.st_ino


def namespace_of(pid: int, kind: str) -> int:
    """Inode of a namespace (its name in /proc/PID/ns) of process `pid`; raises OSError if it is gone."""
    return os.stat(f"/proc/{pid}/ns/{kind}").st_ino


def read_mounts(pid: int) -> list[tuple[str, str, str]]:
    """The mounts of process `pid` as (mount point, "ro" or "rw", device number of the file system), from the kernel.
    Empty when the process is gone, and for an instant while bwrap exchanges the root.
    """
    try:
        lines = Path(f"/proc/{pid}/mountinfo").read_bytes().split(b"\n")
    except OSError:
        return []
    mounts = []
    for line in filter(None, lines):
        fields = line.split(b" ")
        target = re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), fields[4])  # space is \040 there
        mounts.append((os.fsdecode(target), fields[5].split(b",")[0].decode(), fields[2].decode()))
    return mounts


def read_mount_table(pid: int) -> dict[str, str]:
    """Mount points of process `pid` and whether each is "ro" or "rw"; empty as `read_mounts` is."""
    return {target: mode for target, mode, _ in read_mounts(pid)}


def confinement_of(pid: int) -> Confinement | None:
    """How process `pid` is confined; None if it is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
        uid_map = " ".join(Path(f"/proc/{pid}/uid_map").read_text().split())
    except OSError:
        return None
    status = dict(line.split(":", 1) for line in text.splitlines())
    if not uid_map:  # it ends just now
        return None
    capabilities = 0
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        capabilities |= int(status[name], 16)
    return Confinement(f"{capabilities:x}", int(status["Seccomp"]), status["NoNewPrivs"].strip() == "1", uid_map)


def not_clean(walls: Walls, seconds: float) -> str:
    """What to say of a sandbox whose processes do not die: nothing can be said about its phase, and whoever is in there
    may go on one day.
    """
    left = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            pid = int(entry.name)  # init only waits for the others
            if pid != walls.init_pid and pid_namespace(pid) == walls.pid_namespace:
                state = (entry / "stat").read_text(errors="replace").rpartition(")")[2].split()[0]
                left.append(f"process {entry.name} (state {state})")
    who = ", ".join(left[:5]) or f"its init, process {walls.init_pid},"
    return (
        f"the sandbox is not clean: {who} did not die within {seconds:g} s of being killed; no further phase may start"
    )


def out_no_routes(counters: str) -> int:
    """OutNoRoutes of a /proc/net/snmp (a line of names, a line of values) or snmp6 (name and value per line) text."""
    names: list[str] = []
    for line in counters.splitlines():
        fields = line.split()
        if fields[0] == "Ip:":
            if not names:
                names = fields
            else:
                return int(fields[names.index("OutNoRoutes")])
        elif fields[0] == "Ip6OutNoRoutes":
            return int(fields[1])
    return 0
