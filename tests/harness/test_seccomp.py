"""What the filter denies is denied inside a real sandbox, and what a training stack needs is not."""

from __future__ import annotations

import errno
import json
import platform
import re
from pathlib import Path

import pytest

from harness.sandbox.seccomp import _NUMBERS, NOT_IMPLEMENTED, SOCKET_FAMILIES, filter_program

HEADERS = {
    0: Path(f"/usr/include/{platform.machine()}-linux-gnu/asm/unistd_64.h"),
    1: Path("/usr/include/asm-generic/unistd.h"),
}
PROBE = """
import ctypes, fcntl, json, os, socket, subprocess, threading
libc = ctypes.CDLL(None, use_errno=True)
numbers = {numbers}
answers = {{}}
for name, number in numbers.items():
    ctypes.set_errno(0)
    answers[name] = ctypes.get_errno() if libc.syscall(number, 0, 0, 0, 0, 0) == -1 else 0
answers["x32"] = ctypes.get_errno() if libc.syscall(0x40000000 | 39) == -1 else 0
answers["clone(CLONE_NEWUSER)"] = ctypes.get_errno() if libc.syscall({clone}, 0x10000000 | 17, 0) == -1 else 0
families = {{}}
for family in range(46):
    try:
        socket.socket(family, socket.SOCK_DGRAM).close()
        families[family] = 0
    except OSError as error:
        families[family] = error.errno
netlink = {{}}
for protocol in range(23):
    try:
        socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol).close()
        netlink[protocol] = 0
    except OSError as error:
        netlink[protocol] = error.errno
locks = {{command: libc.fcntl(1, command, None) for command in range(36, 39)}}
locks = {{command: ctypes.get_errno() if answer == -1 else 0 for command, answer in locks.items()}}
with open("/tmp/lock", "w") as file:
    fcntl.flock(file, fcntl.LOCK_EX)
    fcntl.lockf(file, fcntl.LOCK_EX)
thread = threading.Thread(target=len, args=("",))
thread.start()
thread.join()
subprocess.run(["true"], check=True)
print(json.dumps([answers, families, netlink, locks]))
"""


@pytest.mark.parametrize("column", HEADERS)
def test_numbers_are_the_kernels(column):
    if not HEADERS[column].exists() or (column == 0 and platform.machine() != "x86_64"):
        pytest.skip(f"{HEADERS[column]} is not on this machine")
    text = HEADERS[column].read_text()
    known = {name: int(number) for name, number in re.findall(r"#define __NR(?:3264)?_(\w+)\s+(\d+)", text)}
    checked = [name for name in _NUMBERS if name in known and _NUMBERS[name][column] is not None]
    assert len(checked) > 40
    assert {name: _NUMBERS[name][column] for name in checked} == {name: known[name] for name in checked}


def test_unknown_machine_is_an_error():
    with pytest.raises(KeyError):
        filter_program("vax")


@pytest.mark.sandbox
def test_denied_calls_fail_and_needed_ones_work(run_command):
    column = 0 if platform.machine() == "x86_64" else 1
    by_argument = {"socket", "clone", "fcntl"}
    numbers = {name: entry[column] for name, entry in _NUMBERS.items() if entry[column] and name not in by_argument}
    probe = PROBE.format(numbers=numbers, clone=_NUMBERS["clone"][column])
    answers, families, netlink, locks = json.loads(run_command("python", "-c", probe))
    expected = {name: errno.ENOSYS if name in NOT_IMPLEMENTED else errno.EPERM for name in numbers}
    assert {name: answers[name] for name in numbers} == expected
    assert answers["clone(CLONE_NEWUSER)"] == errno.EPERM
    if platform.machine() == "x86_64":
        assert answers["x32"] == errno.ENOSYS
    allowed = set(SOCKET_FAMILIES.values())
    refused = {int(family) for family, answer in families.items() if answer == errno.EAFNOSUPPORT}
    assert refused == set(range(46)) - allowed
    assert set(locks.values()) == {errno.EINVAL}
    assert netlink.pop("0") == 0
    assert set(netlink.values()) == {errno.EPROTONOSUPPORT}
