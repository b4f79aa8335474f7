"""Processes by what the kernel says of them. A process id alone may be reused; with its start time it names one
process.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from pathlib import Path

PR_SET_DUMPABLE = 4
PRIORITY = -10  # nice value of who should not wait for a model
PHASE_PRIORITY = -10  # of a phase's session, before whatever else the machine does
HARNESS_PRIORITY = -20  # of the sessions that a phase waits for
# A container has the first read-only; there compose.yaml mounts it as the second.
DROP_CACHES = ("/proc/sys/vm/drop_caches", "/run/drop_caches")


def start_time(pid: int) -> int | None:
    """When process `pid` started, in clock ticks since boot; None if there is none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(stat.rpartition(")")[2].split()[19])


def is_running(pid: int, started: int) -> bool:
    """Whether the process that had `pid` and `started` is still there (a zombie is)."""
    return start_time(pid) == started


def pid_namespace(pid: int) -> int | None:
    """Inode of the pid namespace that process `pid` lives in; None if it is gone or may not be looked at."""
    try:
        return os.stat(f"/proc/{pid}/ns/pid").st_ino
    except OSError:
        return None


def become_undumpable() -> None:
    """Let no other process of this uid trace this one, read its memory, or find its descriptors; and leave no core.

    Only as root: for others it would also close /proc/self to the harness itself, and a sandbox cannot see it anyway.
    """
    if os.geteuid() == 0:
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def go_first() -> None:
    """Let this thread go before a model's on the same processors, where that is permitted: its work is short, and the
    model's threads, who wait for each other, all wait for one that has been pushed aside.
    """
    with contextlib.suppress(PermissionError):
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), PRIORITY)


def favour(pid: int | str, nice: int) -> None:
    """Let the whole session of process `pid` go before other sessions, by a nice value of the session, where that is
    permitted.

    The kernel shares processors out between sessions (sched(7), autogroup), whatever the nice values in them: a busy
    process of another session takes four fifths of a processor from a model that works on four, and its threads, who
    wait for each other at every step, become some sixty times slower (bench/busy_neighbour.py)."""
    with contextlib.suppress(OSError):
        Path(f"/proc/{pid}/autogroup").write_text(str(nice))


def drop_page_cache() -> bool:
    """Forget which files have been read, so that a phase cannot tell the next one anything by reading chosen pages of
    a shared file (attack catalogue, X29). False where that is not permitted.
    """
    for place in DROP_CACHES:
        with contextlib.suppress(OSError):
            descriptor = os.open(place, os.O_WRONLY)  # and never makes a file of that name
            try:
                os.write(descriptor, b"1")
            finally:
                os.close(descriptor)
            return True
    return False
