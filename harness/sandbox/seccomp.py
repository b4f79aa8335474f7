"""The system calls that no sandboxed process may make, as a classic BPF program for bwrap's --seccomp.

A list of what is denied, not of what is allowed: a training stack uses too much of the kernel for the other way round.
Denied is what reaches around the walls or the witness (handles, mounts, namespaces, other processes' memory and
descriptors, the page cache's state), what outlives a sandbox (keyrings), what hides calls from a filter (io_uring,
foreign ABIs), what uses up a limit of the whole machine (io_setup), and kernel surface with no use here."""

from __future__ import annotations

import errno
import platform
import struct
from dataclasses import dataclass

# linux/filter.h, linux/seccomp.h
_LOAD, _AND, _JUMP_EQUAL, _JUMP_GREATER_EQUAL, _JUMP_SET, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x45, 0x06
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000
_NUMBER, _ARCHITECTURE, _ARGUMENTS = 0, 4, 16  # offsets in struct seccomp_data
_X32_BIT = 0x40000000

_NAMESPACE_FLAGS = 0x7E020000 | 0x00000080  # CLONE_NEWNS, CGROUP, UTS, IPC, USER, PID, NET and TIME
SOCKET_FAMILIES = {"AF_UNIX": 1, "AF_INET": 2, "AF_INET6": 10, "AF_NETLINK": 16}  # all others are refused

# Locks of open file descriptions: F_OFD_GETLK, F_OFD_SETLK, F_OFD_SETLKW. /proc/locks shows them, with numbers that
# their owner chose, to every sandbox alive. Refused as by a kernel that does not know them; flock and F_SETLK remain.
OFD_LOCK_COMMANDS = (36, 37, 38)
NETLINK_ROUTE = 0  # the only netlink protocol that libraries ask (for the list of interfaces)


@dataclass(frozen=True)
class Architecture:
    """Of one machine: the kernel's audit number, and the numbers of the denied system calls by name."""

    audit: int
    numbers: dict[str, int]


# name: (x86-64, arm64 and every newer architecture); None: does not exist there
_NUMBERS: dict[str, tuple[int, int | None]] = {
    "socket": (41, 198),
    "clone": (56, 220),
    "fcntl": (72, 25),
    "clone3": (435, 435),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "keyctl": (250, 219),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "bpf": (321, 280),
    "userfaultfd": (323, 282),
    "memfd_secret": (447, 447),
    "io_setup": (206, 0),
    "perf_event_open": (298, 241),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "fanotify_init": (300, 262),
    "fanotify_mark": (301, 263),
    "cachestat": (451, 451),
    "mincore": (27, 232),
    "unshare": (272, 97),
    "setns": (308, 268),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "open_tree_attr": (467, 467),
    "listns": (470, 470),
    "statmount": (457, 457),
    "listmount": (458, 458),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "reboot": (169, 142),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "syslog": (103, 116),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "adjtimex": (159, 171),
    "clock_adjtime": (305, 266),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
}
# Libraries try these first and fall back when the kernel does not know them.
NOT_IMPLEMENTED = frozenset({"clone3", "io_setup", "io_uring_setup", "io_uring_enter", "io_uring_register"})
_BY_ARGUMENT = frozenset({"socket", "clone", "fcntl"})  # denied only with some arguments

_ARCHITECTURES = {
    "x86_64": Architecture(0xC000003E, {name: numbers[0] for name, numbers in _NUMBERS.items()}),
    "aarch64": Architecture(0xC00000B7, {name: new for name, (_, new) in _NUMBERS.items() if new is not None}),
}


def _instruction(code: int, value: int, if_true: int = 0, if_false: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_true, if_false, value)


def _deny(number: int) -> bytes:
    return _instruction(_RETURN, _ERRNO | number)


def filter_program(machine: str | None = None) -> bytes:
    """The BPF program for `machine` (default: this one's `platform.machine()`); raises KeyError for one not in the
    table.

    Every denied call fails with EPERM; with ENOSYS where libraries know how to do without; with EAFNOSUPPORT for a
    socket family that is not in SOCKET_FAMILIES, EPROTONOSUPPORT for netlink other than NETLINK_ROUTE, and EINVAL for
    OFD_LOCK_COMMANDS. Calls of a foreign ABI (32-bit, x32) fail with ENOSYS."""
    architecture = _ARCHITECTURES[machine or platform.machine()]
    low_word = _ARGUMENTS  # of the first argument; both architectures are little-endian
    program = [
        _instruction(_LOAD, _ARCHITECTURE),
        _instruction(_JUMP_EQUAL, architecture.audit, 1, 0),
        _deny(errno.ENOSYS),
        _instruction(_LOAD, _NUMBER),
        _instruction(_JUMP_GREATER_EQUAL, _X32_BIT, 0, 1),
        _deny(errno.ENOSYS),
    ]
    for name, number in architecture.numbers.items():
        if name not in _BY_ARGUMENT:
            program += [
                _instruction(_JUMP_EQUAL, number, 0, 1),
                _deny(errno.ENOSYS if name in NOT_IMPLEMENTED else errno.EPERM),
            ]
    program += [
        _instruction(_JUMP_EQUAL, architecture.numbers["clone"], 0, 4),
        _instruction(_LOAD, low_word),
        _instruction(_JUMP_SET, _NAMESPACE_FLAGS, 0, 1),
        _deny(errno.EPERM),
        _instruction(_RETURN, _ALLOW),
    ]
    commands = OFD_LOCK_COMMANDS
    program += [
        _instruction(_JUMP_EQUAL, architecture.numbers["fcntl"], 0, len(commands) + 3),
        _instruction(_LOAD, low_word + 8),  # of the second argument
        *(_instruction(_JUMP_EQUAL, command, len(commands) - place, 0) for place, command in enumerate(commands)),
        _instruction(_RETURN, _ALLOW),
        _deny(errno.EINVAL),
    ]
    families = list(SOCKET_FAMILIES.values())
    program += [
        _instruction(_JUMP_EQUAL, architecture.numbers["socket"], 0, len(families) + 6),
        _instruction(_LOAD, low_word),
        *(_instruction(_JUMP_EQUAL, family, len(families) - place, 0) for place, family in enumerate(families)),
        _deny(errno.EAFNOSUPPORT),
        _instruction(_JUMP_EQUAL, SOCKET_FAMILIES["AF_NETLINK"], 0, 3),
        _instruction(_LOAD, low_word + 16),  # of the third argument, the protocol
        _instruction(_JUMP_EQUAL, NETLINK_ROUTE, 1, 0),
        _deny(errno.EPROTONOSUPPORT),
        _instruction(_RETURN, _ALLOW),
    ]
    return b"".join(program)
