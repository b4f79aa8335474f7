"""What the harness needs of the kernel, tried for real, each in a process of its own: `python -m harness.kernel` prints
for each feature nothing, or why it does not work, as JSON.

These are facts for the evidence. Whether a sandbox can be built and opens be seen is decided by building one and by
denying an open (`doctor.py`)."""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from harness.fanotify import PermissionGroup
from harness.policy import Identity
from harness.sandbox.facts import PHASE_UIDS
from harness.sandbox.guard import (
    CLONE_NEWNS,
    CLONE_NEWTIME,
    MS_PRIVATE,
    MS_RDONLY,
    MS_REC,
    PR_SET_NO_NEW_PRIVS,
    STAGE,
    check,
    libc,
    mount,
)

CLONE_NEWUSER = 0x10000000
F_SEAL_FUTURE_WRITE = 0x10  # as in scoring/server.py, which needs numpy and so would take ten times as long
PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 22, 2
RETURN_ALLOW = struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)  # the shortest filter: every call is allowed

# Without these the harness itself does not work; the others make walls or the witness, which have checks of their own.
NEEDED = ("pidfd", "seccomp", "memfd_seals")


def features() -> dict[str, str]:
    """For each feature "" or why it does not work here; takes a fraction of a second."""
    command = [sys.executable, "-m", "harness.kernel"]
    place = Path(__file__).parents[1]
    return json.loads(subprocess.run(command, cwd=place, stdout=subprocess.PIPE, check=True).stdout)


def _fanotify() -> None:
    """A mark of permission events on one file that nobody opens; it goes with the process."""
    with tempfile.NamedTemporaryFile() as file:
        facts = os.fstat(file.fileno())
        PermissionGroup().mark(file.name, Identity(facts.st_dev, facts.st_ino))


def _pidfd() -> None:
    os.close(os.pidfd_open(os.getpid()))


def _user_namespaces() -> None:
    """As a phase asks for one: without root."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setresgid(PHASE_UIDS[0], PHASE_UIDS[0], PHASE_UIDS[0])
        os.setresuid(PHASE_UIDS[0], PHASE_UIDS[0], PHASE_UIDS[0])
    check(libc.unshare(CLONE_NEWUSER), "unshare")


def _overlay() -> None:
    """As the guard makes one: over /usr, in a mount namespace that ends with this process."""
    check(libc.unshare(CLONE_NEWNS), "unshare")
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    mount("tmpfs", STAGE, "tmpfs", 0)
    for name in ("empty", "overlay"):
        os.mkdir(f"{STAGE}/{name}")
    mount("overlay", f"{STAGE}/overlay", "overlay", MS_RDONLY, f"lowerdir=/usr:{STAGE}/empty")


def _seccomp() -> None:
    code = ctypes.create_string_buffer(RETURN_ALLOW, len(RETURN_ALLOW))
    program = struct.pack("=H6xQ", 1, ctypes.addressof(code))
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no_new_privs")
    check(libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0), "seccomp")


def _memfd_seals() -> None:
    descriptor = os.memfd_create("seals", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | F_SEAL_FUTURE_WRITE)


def _time_namespaces() -> None:
    check(libc.unshare(CLONE_NEWTIME), "unshare")


ATTEMPTS: dict[str, Callable[[], None]] = {
    "fanotify": _fanotify,
    "pidfd": _pidfd,
    "user_namespaces": _user_namespaces,
    "overlay": _overlay,
    "seccomp": _seccomp,
    "memfd_seals": _memfd_seals,
    "time_namespaces": _time_namespaces,
}


def attempt(trial: Callable[[], None]) -> str:
    """Why `trial` fails in a child process, or ""."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            trial()
        except Exception as error:
            os.write(write, (str(error) or type(error).__name__).encode())
        else:
            os.write(write, b"\n")  # a child that was killed says nothing at all
        finally:
            os._exit(0)
    os.close(write)
    with open(read, "rb") as pipe:
        said = pipe.read().decode(errors="replace")
    os.waitpid(child, 0)
    return said.strip() if said else "it killed the process that tried"


if __name__ == "__main__":
    print(json.dumps({name: attempt(trial) for name, trial in ATTEMPTS.items()}))
