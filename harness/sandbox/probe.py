"""The probe: attacks on a sandbox, tried from inside it. A script; standard library only, nothing of the harness.

`harness/attack.py` mounts it at /in/probe.py and what it needs to know about the outside (`FACTS`) at /in/probe.json.
It prints one JSON object, {attack: "denied: why" or "HOLE: what happened"}. An attack is a function: it raises when it
is denied, and what it returns is what it got. Each runs in a process of its own. None does harm where it succeeds: the
tests let it succeed, as root, on a machine that others use.

`probe.py attack` tries everything, leaves marks wherever something could outlive a sandbox, and waits to be killed.
`probe.py look` looks for the marks of another sandbox, `probe.py memory` takes too much memory,
`probe.py processors` asks for all processors."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import json
import mmap
import os
import platform
import resource
import select
import shutil
import signal
import socket
import stat
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

FACTS_PATH = "/in/probe.json"
OPEN_AT_START = sorted(int(name) for name in os.listdir("/proc/self/fd"))  # the last one is the listing's own
ATTACK_SECONDS = 10  # an attack that takes longer was not denied; a busy disk is no reason to take one for a hole

# What the kernel says when a wall stands. Any other error means that a call went further than it should.
REFUSALS = frozenset(
    {errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EROFS, errno.EAFNOSUPPORT, errno.ENOENT, errno.ENXIO, errno.ENODEV}
)

X86 = platform.machine() == "x86_64"
# name: (x86-64, arm64 and every newer architecture). Not taken from the filter's own table, which is on trial here.
NUMBERS = {
    "acct": (163, 89),
    "add_key": (248, 217),
    "adjtimex": (159, 171),
    "bpf": (321, 280),
    "cachestat": (451, 451),
    "capset": (126, 91),
    "chroot": (161, 51),
    "clock_adjtime": (305, 266),
    "clock_settime": (227, 112),
    "clone": (56, 220),
    "clone3": (435, 435),
    "delete_module": (176, 106),
    "fanotify_init": (300, 262),
    "finit_module": (313, 273),
    "fsopen": (430, 430),
    "fspick": (433, 433),
    "init_module": (175, 105),
    "io_setup": (206, 0),
    "io_uring_setup": (425, 425),
    "ioperm": (173, None),
    "iopl": (172, None),
    "kcmp": (312, 272),
    "kexec_load": (246, 104),
    "keyctl": (250, 219),
    "listmount": (458, 458),
    "listns": (470, 470),
    "memfd_secret": (447, 447),
    "mincore": (27, 232),
    "modify_ldt": (154, None),
    "mount": (165, 40),
    "mount_setattr": (442, 442),
    "move_mount": (429, 429),
    "name_to_handle_at": (303, 264),
    "open_by_handle_at": (304, 265),
    "open_tree": (428, 428),
    "open_tree_attr": (467, 467),
    "perf_event_open": (298, 241),
    "pidfd_getfd": (438, 438),
    "pidfd_open": (434, 434),
    "pivot_root": (155, 41),
    "process_madvise": (440, 440),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "ptrace": (101, 117),
    "quotactl": (179, 60),
    "reboot": (169, 142),
    "request_key": (249, 218),
    "setns": (308, 268),
    "settimeofday": (164, 170),
    "statmount": (457, 457),
    "swapoff": (168, 225),
    "swapon": (167, 224),
    "syslog": (103, 116),
    "umount2": (166, 39),
    "unshare": (272, 97),
    "userfaultfd": (323, 282),
}
NAMESPACES = {
    "mnt": 0x00020000,
    "cgroup": 0x02000000,
    "uts": 0x04000000,
    "ipc": 0x08000000,
    "user": 0x10000000,
    "pid": 0x20000000,
    "net": 0x40000000,
    "time": 0x00000080,
}
DEVICES = frozenset({"null", "zero", "full", "random", "urandom", "tty", "ptmx", "console"})
DEVICE_DIRECTORIES = frozenset({"/dev/pts", "/dev/shm"})
# Settings of the sandbox's own pid and ipc namespaces, which its processes own. They change nothing outside.
OWN_SETTINGS = ("fs/mqueue/", "kernel/msg", "kernel/sem", "kernel/shm", "kernel/auto_msgmni", "kernel/pid_max")
OWN_SETTINGS += ("kernel/ns_last_pid",)
SCRATCH = ("/out", "/tmp", "/dev/shm")  # the places where a phase may write
MS_REMOUNT, MS_BIND, MNT_DETACH = 0x20, 0x1000, 2
AT_FDCWD, AT_EMPTY_PATH = -100, 0x1000
PTRACE_SEIZE = 0x4206
NS_GET_USERNS, NS_GET_PARENT = 0xB701, 0xB702
F_OFD_GETLK, F_OFD_SETLK = 36, 37

libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
FACTS: dict = {}
ATTACKS: dict[str, Callable[[], object]] = {}
LAST_ATTACKS: dict[str, Callable[[], object]] = {}


class Denied(Exception):
    """The attack was denied, and not by an error of a system call."""


def attack(function: Callable[[], object]) -> Callable[[], object]:
    ATTACKS[function.__name__.replace("_", " ")] = function
    return function


def last_attack(function: Callable[[], object]) -> Callable[[], object]:
    LAST_ATTACKS[function.__name__.replace("_", " ")] = function
    return function


def call(name: str, *arguments: object) -> int:
    """A system call by its number; raises OSError."""
    number = NUMBERS[name][0 if X86 else 1]
    if number is None:
        raise Denied(f"{name} does not exist on {platform.machine()}")
    wide = [ctypes.c_long(argument) if isinstance(argument, int) else argument for argument in arguments]
    result = libc.syscall(ctypes.c_long(number), *wide)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), name)
    return result


def checked(function: str, *arguments: object) -> int:
    """A function of the C library that returns a negative number and sets errno when it fails."""
    result = getattr(libc, function)(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), function)
    return result


def each(attempts: dict[str, Callable[[], object]], also: tuple[int, ...] = ()) -> str:
    """Try several; raises Denied if every one was refused, else returns what was not. `also`: further errors that are
    refusals here.
    """
    got, refused = [], ""
    for name, attempt in attempts.items():
        try:
            got.append(f"{name}: {attempt()!r:.80}")
        except Denied as denied:
            refused = str(denied)
        except OSError as error:
            if error.errno not in REFUSALS and error.errno not in also:
                got.append(f"{name}: {error.strerror}, so the call was not stopped")
            refused = error.strerror or str(error)
    if got:
        return "; ".join(got[:5]) + (f"; and {len(got) - 5} more" if len(got) > 5 else "")
    raise Denied(f"{refused} ({len(attempts)} tried)" if attempts else "there is nothing of the kind")


def mount_points() -> list[str]:
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
        return [line.split(" ")[4].encode().decode("unicode_escape") for line in file]


def read(path: str, most: int = 64) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, most)
    finally:
        os.close(descriptor)


def open_to_write(path: str) -> str:
    descriptor = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if os.fstat(descriptor).st_rdev == os.stat(os.devnull).st_rdev:
            raise Denied("it is covered by the null device")
    finally:
        os.close(descriptor)
    return "opened for writing"


def create(path: str) -> str:
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
    os.unlink(path)
    return "made a file"


def status(pid: int | str = "self") -> dict[str, str]:
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        return dict(line.rstrip("\n").split(":\t", 1) for line in file if ":\t" in line)


def start_time(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return int(file.read().rpartition(")")[2].split()[19])
    except OSError:
        return None


def foreign_processes() -> list[int]:
    """Every visible process but this one, its ancestors up to the probe, and the sandbox's init."""
    with open("/proc/self/stat", encoding="ascii", errors="replace") as file:
        here = int(file.read().split()[0])  # under the name that this /proc has for it
    ours, pid = {1}, here
    while pid > 1:
        ours.add(pid)
        pid = int(status(pid)["PPid"])
    if os.getpid() != here and start_time(1) is not None:
        ours.discard(1)  # a /proc of another pid namespace: its process 1 is not our init
    return [int(name) for name in os.listdir("/proc") if name.isdigit() and int(name) not in ours]


def has_no_memory(pid: int) -> bool:
    """Whether a process is a thread of the kernel, or has ended: neither has a command."""
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return not file.read(1)
    except OSError as error:
        return error.errno in (errno.ENOENT, errno.ESRCH)


@contextlib.contextmanager
def victim() -> Iterator[tuple[int, ctypes.Array]]:
    """A child that sleeps, and a buffer at the same address in both."""
    secret = ctypes.create_string_buffer(b"the memory of another process")
    pid = os.fork()
    if pid == 0:
        time.sleep(60)
        os._exit(0)
    try:
        yield pid, secret
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


# --- Files and mounts


@attack
def read_files_of_the_host() -> str:
    """The harness, its scratch, the user's home, passwords; also by way of other processes' roots."""
    roots = ["", *(f"/proc/{pid}/{link}" for pid in (1, "self") for link in ("root", "cwd"))]
    roots += ["/oldroot", "/newroot", "/.oldroot", "/host", "/mnt"]
    seen = []
    for path, inode, changed in ((root + path, *facts) for root in roots for path, *facts in FACTS["hidden"]):
        with contextlib.suppress(OSError):
            found = os.lstat(path)
            if (found.st_ino, found.st_mtime_ns) == (inode, changed):
                seen.append(path)
    if seen:
        return f"{len(seen)} visible, such as {seen[0]}"
    raise Denied(f"none of {len(FACTS['hidden'])} paths exists here")


@attack
def control_the_host_through_sockets() -> str:
    names = "docker.sock containerd/containerd.sock dbus/system_bus_socket systemd/private podman/podman.sock"
    places = [f"{run}/{name}" for run in ("/run", "/var/run") for name in names.split()] + ["/tmp/.X11-unix/X0"]
    found = [path for path in places if os.path.lexists(path)]
    if found:
        return ", ".join(found)
    raise Denied("none is mounted")


@attack
def write_outside_the_scratch_directories() -> str:
    """In every mount, and in the usual directories."""
    usual = "/ /bin /boot /dev /etc /home /in /in/submission /lib /media /mnt /opt /proc /root /run /sys /usr"
    usual += " /usr/bin /usr/lib /usr/local/bin /var /var/tmp /wire"
    attempts: dict[str, Callable[[], object]] = {}
    for path in dict.fromkeys([*usual.split(), *mount_points()]):
        if path in SCRATCH or (os.path.dirname(path) == "/dev" and os.path.basename(path) in DEVICES):
            continue
        if os.path.isdir(path):
            attempts[path] = lambda path=path: create(f"{path}/golf-probe-{os.getpid()}")
        else:
            attempts[path] = lambda path=path: open_to_write(path)
    return each(attempts, also=(errno.ENOTDIR, errno.EINVAL))


@attack
def leave_bytes_in_a_cache() -> str:
    """Wherever programs keep what they have computed: bytecode beside every module, the user's and the system's caches;
    and anywhere else in Python's own directories.
    """
    home = os.path.expanduser("~")
    caches = [f"{home}/.cache", f"{home}/.triton", f"{home}/.nv", "/root/.cache", "/var/cache", "/var/lib", "/var/tmp"]
    folders = [path for path in caches if os.path.isdir(path) and not path.startswith("/tmp/")]  # /tmp is the sandbox's
    for prefix in {sys.prefix, sys.base_prefix}:
        for folder, _, _ in os.walk(prefix):
            if os.access(folder, os.W_OK) or os.path.basename(folder) == "__pycache__":
                folders.append(folder)
    return each({folder: lambda folder=folder: create(f"{folder}/golf-probe-{os.getpid()}") for folder in folders})


@attack
def change_an_input() -> str:
    """Everything that changes a file or its directory entry without opening it first."""
    path, folder = "/in/granted", "/in/folder"
    return each(
        {
            "open": lambda: open_to_write(path),
            "truncate": lambda: os.truncate(path, 0),
            "chmod": lambda: os.chmod(path, 0o666),
            "utime": lambda: os.utime(path, (0, 0)),
            "setxattr": lambda: os.setxattr(path, "user.golf", b"x"),
            "rename": lambda: os.rename(f"{folder}/file", f"{folder}/renamed"),
            "unlink": lambda: os.unlink(f"{folder}/file"),
            "add": lambda: create(f"{folder}/added"),
            "make a directory": lambda: os.mkdir(f"{folder}/directory"),
            "symlink": lambda: os.symlink("/etc/passwd", f"{folder}/link"),
        },
        also=(errno.EBUSY, errno.ENOTSUP),
    )


@attack
def link_an_input_into_out() -> str:
    def by_descriptor() -> None:
        descriptor = os.open("/in/granted", os.O_RDONLY)
        checked("linkat", AT_FDCWD, f"/proc/self/fd/{descriptor}".encode(), AT_FDCWD, b"/out/linked", 0x400)

    return each(
        {
            "link": lambda: os.link("/in/granted", "/out/linked"),
            "link within a directory": lambda: os.link("/in/folder/file", "/out/linked"),
            "link by descriptor": by_descriptor,
            "rename": lambda: os.rename("/in/folder/file", "/out/linked"),
        },
        also=(errno.EXDEV,),
    )


@attack
def open_a_file_by_its_handle() -> str:
    """CAP_DAC_READ_SEARCH's way around every path: the root of the file system, and guessed inode numbers."""
    attempts: dict[str, Callable[[], object]] = {
        "name_to_handle_at": lambda: call(
            "name_to_handle_at",
            AT_FDCWD,
            b"/in/granted",
            ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128)),
            ctypes.create_string_buffer(8),
            0,
        )
    }
    for name, (kind, handle) in FACTS["handles"].items():
        data = bytes.fromhex(handle)
        packed = ctypes.create_string_buffer(struct.pack("Ii", len(data), kind) + data)
        for place in ("/out", "/in/granted", "/usr"):

            def open_handle(place=place, packed=packed) -> int:
                return call("open_by_handle_at", os.open(place, os.O_RDONLY), packed, os.O_RDONLY)

            attempts[f"{name} on {place}"] = open_handle
    return each(attempts)


@attack
def leave_a_device_node() -> str:
    disk = FACTS["disk"]
    return each(
        {
            place: lambda place=place: (
                os.mknod(f"{place}/golf-disk", stat.S_IFBLK | 0o666, disk) or os.unlink(f"{place}/golf-disk")
            )
            for place in SCRATCH
        }
    )


@attack
def find_devices() -> str:
    """Of any kind, beyond the few harmless ones. Character devices are not opened: that can have effects."""
    found = []
    for folder, names, files in os.walk("/dev"):
        names[:] = [name for name in names if os.path.join(folder, name) not in DEVICE_DIRECTORIES]
        for name in files:
            kind = os.lstat(os.path.join(folder, name)).st_mode
            if (stat.S_ISBLK(kind) or stat.S_ISCHR(kind)) and (folder != "/dev" or name not in DEVICES):
                found.append(name)
    allowed = set(FACTS["devices"])
    found = [name for name in found if name not in allowed]
    if found:
        return f"{len(found)}: {' '.join(sorted(found)[:10])}"
    raise Denied("/dev holds the harmless few")


@attack
def read_the_raw_disk() -> str:
    found = []
    for folder, _, files in os.walk("/dev"):
        found += [os.path.join(folder, name) for name in files]
    disks = [path for path in found if stat.S_ISBLK(os.lstat(path).st_mode)]
    return each(
        {path: lambda path=path: len(read(path, 512)) for path in (*disks, "/dev/vda", "/dev/sda", "/dev/nvme0n1")}
    )


@attack
def read_kernel_memory() -> str:
    return each(
        {path: lambda path=path: len(read(path)) for path in ("/proc/kcore", "/dev/mem", "/dev/kmem", "/dev/port")}
    )


@attack
def read_the_kernel_log() -> str:
    return each(
        {
            "/dev/kmsg": lambda: len(read("/dev/kmsg", 8192)),
            "/proc/kmsg": lambda: open("/proc/kmsg", "rb", buffering=0).close(),  # reading would take lines from others
            "syslog": lambda: call("syslog", 10, 0, 0),
        }
    )


@attack
def write_kernel_settings() -> str:
    """Every file of /proc/sys, and what else of /proc changes the machine. Opened for writing, nothing is written."""
    paths = ["/proc/sysrq-trigger", "/proc/irq", "/proc/mtrr", "/proc/acpi"]
    for folder, _, files in os.walk("/proc/sys"):
        paths += [os.path.join(folder, name) for name in files]
    paths = [path for path in paths if not path.removeprefix("/proc/sys/").startswith(OWN_SETTINGS)]
    return each({path: lambda path=path: open_to_write(path) for path in paths}, also=(errno.EISDIR,))


@attack
def use_sysfs() -> str:
    found = [path for path in ("/sys/kernel", "/sys/fs/cgroup", "/sys/block") if os.path.exists(path)]
    if found:
        return ", ".join(found)
    raise Denied("it is not mounted")


@attack
def move_to_another_cgroup() -> str:
    """Into any cgroup that is visible, as whose process the next open might count."""
    found = []
    for top in ("/sys/fs/cgroup", "/cgroup", "/proc/cgroup"):
        for folder, names, files in os.walk(top):
            found += [os.path.join(folder, name) for name in files if name in ("cgroup.procs", "tasks")]
            if len(found) > 100:
                names.clear()

    def move(path: str) -> str:
        with open(path, "w", encoding="ascii") as file:
            file.write(str(os.getpid()))
        return "moved there"

    return each({path: lambda path=path: move(path) for path in found[:20]})


# --- Privileges and namespaces


@attack
def have_a_capability() -> str:
    facts = status()
    held = {name: facts[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb") if int(facts[name], 16)}
    if held:
        return str(held)
    raise Denied("all five sets are empty")


@attack
def take_a_capability() -> str:
    header = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0))
    every = ctypes.create_string_buffer(struct.pack("6I", *([1 << 21] * 2 + [0]), 0, 0, 0))  # CAP_SYS_ADMIN
    return each(
        {
            "capset": lambda: call("capset", header, every),
            "ambient": lambda: checked("prctl", 47, 2, 21, 0, 0),
        }
    )


@attack
def become_another_user() -> str:
    """Any id but one's own; a sandbox maps no other."""
    return each(
        {
            "setuid": lambda: os.setresuid(0, 0, 0),
            "setgid": lambda: os.setresgid(0, 0, 0),
            "setgroups": lambda: os.setgroups([0]),
            "chown": lambda: os.chown(_fresh("/tmp/owned"), 0, 0),
        },
        also=(errno.EINVAL,),  # there is no such id in this user namespace
    )


def _fresh(path: str) -> str:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    return path


@attack
def gain_by_a_setuid_program() -> str:
    """`su` and `mount` are in every system; where they can gain something they succeed."""
    os.makedirs("/tmp/mounted", exist_ok=True)
    programs = {
        "su": ["su", "-c", "true"],
        "mount": ["mount", "-t", "tmpfs", "none", "/tmp/mounted"],
        "unshare": ["unshare", "--mount", "true"],
    }

    def run(command: list[str]) -> str:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=ATTACK_SECONDS)
        if done.returncode != 0:
            raise Denied(f"{command[0]} gained nothing")
        return "succeeded"

    found = {name: lambda command=command: run(command) for name, command in programs.items()}
    if status()["NoNewPrivs"] != "1":
        return "no_new_privs is not set"
    return each(found)


@attack
def make_a_user_namespace() -> str:
    clone3 = ctypes.create_string_buffer(struct.pack("8Q", NAMESPACES["user"], 0, 0, 0, signal.SIGCHLD, 0, 0, 0))

    def cloned(pid: int) -> str:
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)
        return "a child in a new user namespace"

    return each(
        {
            "clone": lambda: cloned(call("clone", NAMESPACES["user"] | signal.SIGCHLD, 0, 0, 0, 0)),
            "clone3": lambda: cloned(call("clone3", clone3, 64)),
            "unshare": lambda: call("unshare", NAMESPACES["user"]),
        },
        also=(errno.ENOSPC,),  # the limit on user namespaces is 0 here
    )


@attack
def make_any_other_namespace() -> str:
    return each(
        {
            name: lambda flag=flag: call("unshare", flag)
            for name, flag in NAMESPACES.items()
            if name not in ("user", "time")
        }
    )


@attack
def make_a_time_namespace() -> str:
    return each({"unshare": lambda: call("unshare", NAMESPACES["time"])})


@attack
def join_a_namespace() -> str:
    def join(path: str) -> int:
        return call("setns", os.open(path, os.O_RDONLY), 0)

    paths = [f"/proc/{pid}/ns/{name}" for pid in (1, "self") for name in NAMESPACES]
    return each({path: lambda path=path: join(path) for path in paths})


@attack
def reach_the_owner_of_a_namespace() -> str:
    """Namespaces know their parents and owners, and give descriptors of them to whoever may have them."""

    def related(name: str, request: int) -> str:
        descriptor = os.open(f"/proc/self/ns/{name}", os.O_RDONLY)
        return os.readlink(f"/proc/self/fd/{checked('ioctl', descriptor, request)}")

    attempts: dict[str, Callable[[], object]] = {
        f"the owner of {name}": lambda name=name: related(name, NS_GET_USERNS)
        for name in ("mnt", "net", "ipc", "uts", "cgroup", "pid", "time")
        if os.path.exists(f"/proc/self/ns/{name}")
    }
    attempts["the parent of pid"] = lambda: related("pid", NS_GET_PARENT)
    attempts["the parent of user"] = lambda: related("user", NS_GET_PARENT)
    attempts["listns"] = lambda: call("listns", 0, 0, 0, 0)
    if "user" in FACTS["shared_namespaces"]:  # the owner is the host's own; having it opens nothing without setns
        attempts = {name: lambda: call("setns", os.open("/proc/self/ns/user", os.O_RDONLY), 0) for name in attempts}
    return each(attempts)


# --- Other processes


@attack
def see_other_processes() -> str:
    found = foreign_processes()
    if found:
        return f"{len(found)}, such as {found[0]}"
    raise Denied("only the sandbox's own are visible")


@attack
def signal_a_process_of_the_host() -> str:
    """Signal 0 only. The number may also be that of a process in here, which then started at another time."""

    def send(pid: int, started: int) -> str:
        os.kill(pid, 0)
        if start_time(pid) not in (None, started):
            raise Denied("that number is a process of the sandbox")
        return "it can be signalled"

    return each(
        {f"process {pid}": lambda pid=pid, started=started: send(pid, started) for pid, started in FACTS["processes"]},
        also=(errno.ESRCH,),
    )


@attack
def read_the_memory_of_a_process_of_the_host() -> str:
    """Through /proc. Init's can be read: it is the phase's own process, as confined as the rest."""
    pids = [pid for pid in foreign_processes() if not has_no_memory(pid)][-20:]
    return each({f"process {pid}": lambda pid=pid: read(f"/proc/{pid}/mem") for pid in pids}, also=(errno.ESRCH,))


@attack
def overwrite_the_program_of_init() -> str:
    return each({"exe": lambda: open_to_write("/proc/1/exe")})


@attack
def trace_a_process() -> str:
    with victim() as (pid, _):
        return each(
            {
                name: lambda pid=pid: call("ptrace", PTRACE_SEIZE, pid, 0, 0)
                for name, pid in {"init": 1, "child": pid}.items()
            }
        )


@attack
def reach_into_the_memory_of_a_process() -> str:
    with victim() as (pid, secret):
        size = ctypes.sizeof(secret)
        here = ctypes.create_string_buffer(struct.pack("PN", ctypes.addressof(secret), size))
        return each(
            {
                "read": lambda: call("process_vm_readv", pid, here, 1, here, 1, 0),
                "write": lambda: call("process_vm_writev", pid, here, 1, here, 1, 0),
                "compare": lambda: call("kcmp", pid, os.getpid(), 1, 0, 0),
                "advise": lambda: call("process_madvise", -1, here, 1, 20, 0),
            }
        )


@attack
def take_a_descriptor_of_a_process() -> str:
    with victim() as (pid, _):
        return each(
            {
                name: lambda pid=pid: call("pidfd_getfd", call("pidfd_open", pid, 0), 1, 0)
                for name, pid in {"init": 1, "child": pid}.items()
            }
        )


@attack
def inherit_a_descriptor() -> str:
    found = {}
    for number in OPEN_AT_START[:-1]:
        if number > 2:
            found[number] = (
                os.readlink(f"/proc/self/fd/{number}") if os.path.lexists(f"/proc/self/fd/{number}") else "?"
            )
    if os.path.exists("/proc/self/fd/0") and os.readlink("/proc/self/fd/0") != "/dev/null":
        found[0] = os.readlink("/proc/self/fd/0")
    if found:
        return str(found)
    raise Denied("only 0, 1 and 2 are open, and 0 is /dev/null")


@attack
def read_the_environment_of_the_host() -> str:
    extra = {name for name in os.environ if os.environ[name] != FACTS["environment"].get(name)} - {"PWD", "LC_CTYPE"}
    if extra:
        return ", ".join(sorted(extra))
    raise Denied("it holds what the harness set, and nothing else")


@attack
def read_the_environment_of_init() -> str:
    """Init is bwrap, which the harness started."""

    def of(pid: int) -> str:
        with open(f"/proc/{pid}/environ", "rb") as file:
            found = [entry.partition(b"=")[0].decode(errors="replace") for entry in file.read().split(b"\0") if entry]
        if not found:
            raise Denied("it is empty")
        return " ".join(found)

    return each({"init": lambda: of(1)})


@attack
def reach_a_terminal() -> str:
    """Of whoever started the harness, to type into it."""
    return each({path: lambda path=path: open_to_write(path) for path in ("/dev/tty", "/dev/console", "/dev/tty0")})


# --- The kernel's more remote interfaces


@attack
def use_a_keyring() -> str:
    """What outlives a sandbox: the user's and the session's keyring."""
    rings = {"process": -2, "session": -3, "user": -4}
    attempts: dict[str, Callable[[], object]] = {
        name: lambda ring=ring: call("add_key", b"user", FACTS["mark"].encode(), b"mark", 4, ring)
        for name, ring in rings.items()
    }
    attempts["request_key"] = lambda: call("request_key", b"user", FACTS["mark"].encode(), None, -3)
    attempts["keyctl"] = lambda: call("keyctl", 0, -4, 0)
    attempts["persistent"] = lambda: call("keyctl", 22, -1, -3)
    return each(attempts)


@attack
def set_up_io_uring() -> str:
    return each({"io_uring_setup": lambda: call("io_uring_setup", 4, ctypes.create_string_buffer(120))})


@attack
def use_bpf() -> str:
    array = ctypes.create_string_buffer(struct.pack("5I", 2, 4, 4, 1, 0) + bytes(108))  # an array of one number
    return each({"map": lambda: call("bpf", 0, array, 128)})


@attack
def take_all_asynchronous_io() -> str:
    """The number of requests is limited for the whole machine, and shown to everybody in /proc/sys/fs/aio-nr."""
    return each({"io_setup": lambda: call("io_setup", 1, ctypes.create_string_buffer(8))})


@attack
def hide_memory_from_the_kernel() -> str:
    return each({"memfd_secret": lambda: call("memfd_secret", 0)})


@attack
def use_userfaultfd() -> str:
    return each({"userfaultfd": lambda: call("userfaultfd", 1)})


@attack
def watch_performance_counters() -> str:
    clock = ctypes.create_string_buffer(
        struct.pack("IIQ", 1, 128, 0) + bytes(24) + struct.pack("Q", 0b1100000) + bytes(80)
    )
    return each({"own clock": lambda: call("perf_event_open", clock, 0, -1, -1, 0)})


@attack
def listen_to_opens() -> str:
    return each({"fanotify_init": lambda: call("fanotify_init", 0x200, 0)})


@attack
def ask_what_is_in_the_page_cache() -> str:
    """A store that outlives a phase: which pages of a shared file are resident."""
    with open(sys.executable, "rb") as file:
        pages = mmap.mmap(file.fileno(), mmap.PAGESIZE, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_WRITE)
        address = ctypes.addressof(ctypes.c_char.from_buffer(pages))
        return each(
            {
                "mincore": lambda: call("mincore", address, mmap.PAGESIZE, ctypes.create_string_buffer(8)),
                "cachestat": lambda: call(
                    "cachestat",
                    file.fileno(),
                    ctypes.create_string_buffer(struct.pack("QQ", 0, 1 << 20)),
                    ctypes.create_string_buffer(40),
                    0,
                ),
            }
        )


@attack
def call_the_kernel_as_a_32_bit_program() -> str:
    """int 0x80, which a filter for the native calls alone would not see: getpid."""
    if not X86:
        raise Denied(f"{platform.machine()} has no such calls")
    code = b"\xb8\x14\x00\x00\x00\xcd\x80\xc3"  # mov eax, 20; int 0x80; ret
    page = mmap.mmap(
        -1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    )
    page.write(code)
    answer = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(page)))()
    if answer < 0:
        raise OSError(-answer, os.strerror(-answer))
    return f"getpid said {answer}"


@attack
def call_the_kernel_as_an_x32_program() -> str:
    if not X86:
        raise Denied(f"{platform.machine()} has no such calls")
    answer = libc.syscall(ctypes.c_long(0x40000000 | 39))
    if answer < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return f"getpid said {answer}"


@attack
def set_the_clock() -> str:
    """With values that no clock takes, so that nothing happens where the call is let through."""
    never = ctypes.create_string_buffer(struct.pack("qq", 0, 1 << 40))
    return each(
        {
            "clock_settime": lambda: call("clock_settime", 0, never),
            "settimeofday": lambda: call("settimeofday", 0, 0),
            "adjtimex": lambda: call("adjtimex", ctypes.create_string_buffer(256)),
            "clock_adjtime": lambda: call("clock_adjtime", 0, ctypes.create_string_buffer(256)),
        }
    )


@attack
def rename_the_machine() -> str:
    name = socket.gethostname().encode()
    return each({"sethostname": lambda: checked("sethostname", name, len(name))})


@attack
def load_code_into_the_kernel() -> str:
    """And other calls for administrators, all with arguments that make them fail after the permission check."""
    wrong = 0x7FFFFFFF
    return each(
        {
            "init_module": lambda: call("init_module", 0, 0, 0),
            "finit_module": lambda: call("finit_module", -1, 0, 0),
            "delete_module": lambda: call("delete_module", 0, 0),
            "kexec_load": lambda: call("kexec_load", 0, wrong, 0, wrong),
            "reboot": lambda: call("reboot", 0, 0, wrong, 0),
            "swapon": lambda: call("swapon", 0, 0),
            "swapoff": lambda: call("swapoff", 0),
            "acct": lambda: call("acct", 1),
            "quotactl": lambda: call("quotactl", wrong, 0, 0, 0),
            "iopl": lambda: call("iopl", 0),
            "ioperm": lambda: call("ioperm", 0, 1, 1),
            "modify_ldt": lambda: call("modify_ldt", 0, 0, 0),
        }
    )


# --- Network and local communication


@attack
def open_a_socket_of_an_odd_family() -> str:
    """Those that lead around an empty network namespace, or into rarely used parts of the kernel."""
    families = {"AF_VSOCK": 40, "AF_PACKET": 17, "AF_ALG": 38, "AF_KEY": 15, "AF_BLUETOOTH": 31, "AF_CAN": 29}
    families |= {"AF_RDS": 21, "AF_TIPC": 30, "AF_NFC": 39, "AF_XDP": 44, "AF_QIPCRTR": 42, "AF_SMC": 43, "AF_X25": 9}
    kinds = (socket.SOCK_DGRAM, socket.SOCK_STREAM, socket.SOCK_RAW, socket.SOCK_SEQPACKET)
    attempts = {
        f"{name} {kind}": lambda family=family, kind=kind: socket.socket(family, kind)
        for name, family in families.items()
        for kind in kinds
    }
    refused_by_family = (errno.ESOCKTNOSUPPORT, errno.EPROTONOSUPPORT, errno.EPROTOTYPE)  # the family has no such type
    return each(attempts, also=refused_by_family)


@attack
def open_an_odd_netlink_socket() -> str:
    """All of netlink but the routes, which libraries ask for the list of interfaces."""
    return each(
        {f"protocol {n}": lambda n=n: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, n) for n in range(1, 23)},
        also=(errno.EPROTONOSUPPORT,),
    )


@attack
def open_a_raw_socket() -> str:
    families = {"IPv4": (socket.AF_INET, 1), "IPv6": (socket.AF_INET6, 58)}
    return each(
        {
            name: lambda family=family: socket.socket(family[0], socket.SOCK_RAW, family[1])
            for name, family in families.items()
        }
    )


@attack
def change_the_network() -> str:
    """By netlink, which takes CAP_NET_ADMIN: give the loopback interface the address that it has. With the capability
    the answer is "exists already".
    """
    address = struct.pack("=BBBBi", 2, 8, 0, 0, socket.if_nametoindex("lo"))
    address += struct.pack("=HH4sHH4s", 8, 2, bytes([127, 0, 0, 1]), 8, 1, bytes([127, 0, 0, 1]))
    message = struct.pack("=IHHII", 16 + len(address), 20, 0x605, 1, 0) + address  # RTM_NEWADDR, exclusive
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as route:
        route.send(message)
        (answer,) = struct.unpack_from("=i", route.recv(4096), 16)
    if answer < 0:
        raise OSError(-answer, os.strerror(-answer))
    return "gave the loopback interface an address"


@attack
def find_an_interface() -> str:
    found = [name for _, name in socket.if_nameindex() if name != "lo"]
    if found:
        return ", ".join(found)
    raise Denied("only the loopback of its own")


@attack
def reach_the_network() -> str:
    """Addresses that are nobody's: an error other than "no route" means that a packet was sent."""
    targets = {"IPv4": (socket.AF_INET, "192.0.2.1"), "IPv6": (socket.AF_INET6, "2001:db8::1")}

    def connect(family: int, address: str) -> None:
        with socket.socket(family, socket.SOCK_STREAM) as outward:
            outward.settimeout(0.3)
            outward.connect((address, 9))

    def send(family: int, address: str) -> int:
        with socket.socket(family, socket.SOCK_DGRAM) as outward:
            return outward.sendto(b"golf", (address, 9))

    attempts: dict[str, Callable[[], object]] = {}
    for name, (family, address) in targets.items():
        attempts[f"TCP over {name}"] = lambda family=family, address=address: connect(family, address)
        attempts[f"UDP over {name}"] = lambda family=family, address=address: send(family, address)
    return each(attempts, also=(errno.ENETUNREACH, errno.EADDRNOTAVAIL))


@attack
def reach_a_port_of_the_host() -> str:
    return each(
        {
            host: lambda host=host: socket.create_connection((host, FACTS["port"]), 0.3)
            for host in ("127.0.0.1", "localhost")
        },
        also=(errno.ECONNREFUSED,),
    )


@attack
def reach_an_abstract_socket_of_the_host() -> str:
    def connect() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as outward:
            outward.connect("\0" + FACTS["abstract"])

    return each({"connect": connect}, also=(errno.ECONNREFUSED,))


@attack
def find_shared_memory_of_the_host() -> str:
    key = FACTS["shared_memory_key"]

    def listed(kind: str) -> str:
        with open(f"/proc/sysvipc/{kind}", encoding="ascii") as file:
            rows = file.read().splitlines()[1:]
        if not rows:
            raise Denied("none is listed")
        return f"{len(rows)} listed"

    return each(
        {
            "shmget": lambda: checked("shmget", key, 0, 0),
            **{kind: lambda kind=kind: listed(kind) for kind in ("shm", "sem", "msg")},
        }
    )


# --- Limits


@attack
def raise_a_limit() -> str:
    names = ("RLIMIT_CORE", "RLIMIT_NOFILE", "RLIMIT_FSIZE", *(["RLIMIT_NPROC"] if FACTS["process_limit"] else []))

    def higher(kind: int) -> str:
        _, most = resource.getrlimit(kind)
        if most == resource.RLIM_INFINITY:
            return "there is no limit"
        resource.setrlimit(kind, (most + 1, most + 1))
        return "raised"

    def raising(name: str) -> str:
        try:
            return higher(getattr(resource, name))
        except ValueError as error:  # what the resource module makes of EPERM
            raise Denied(str(error)) from None

    return each({name: lambda name=name: raising(name) for name in names})


@attack
def take_priority() -> str:
    return each(
        {
            "nice": lambda: os.setpriority(os.PRIO_PROCESS, 0, -10),
            "realtime": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
            "never killed for memory": lambda: _write("/proc/self/oom_score_adj", b"-1000"),
        }
    )


def _write(path: str, data: bytes) -> int:
    descriptor = os.open(path, os.O_WRONLY)
    try:
        return os.write(descriptor, data)
    finally:
        os.close(descriptor)


@attack
def dump_core() -> str:
    """A crash must leave nothing: 0 forbids files, 1 also forbids pipes to a program of the host."""
    if set(resource.getrlimit(resource.RLIMIT_CORE)) - {0, 1}:
        return f"cores of {resource.getrlimit(resource.RLIMIT_CORE)} bytes are allowed"
    pid = os.fork()
    if pid == 0:
        os.chdir("/tmp")
        os.abort()
    _, how = os.waitpid(pid, 0)
    if os.WCOREDUMP(how):
        return "a core was dumped"
    raise Denied("a crash left none")


@attack
def start_more_processes_than_allowed() -> str:
    most = FACTS["process_limit"]
    if not most:
        raise Denied("not limited here: without root the limit would count all of the user's processes")
    children: list[int] = []
    try:
        while len(children) <= most:
            children.append(os.fork())
            if children[-1] == 0:
                time.sleep(60)
                os._exit(0)
    except BlockingIOError:
        raise Denied(f"after {len(children)} more") from None
    finally:
        for pid in children:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return f"{len(children)} were started"


@attack
def open_more_files_than_allowed() -> str:
    descriptors = []
    try:
        while len(descriptors) <= FACTS["file_limit"]:
            descriptors.append(os.open("/dev/null", os.O_RDONLY))
    except OSError as error:
        if error.errno == errno.EMFILE:
            raise Denied(f"after {len(descriptors)} more") from None
        raise
    return f"{len(descriptors)} were opened"


@attack
def write_more_than_allowed() -> str:
    """One file of /out beyond its limit, /tmp and /dev/shm beyond theirs."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    def fill(place: str) -> str:
        most, written = FACTS["byte_limits"][place], 0
        path = f"{place}/golf-fill"
        descriptor = os.open(path, os.O_CREAT | os.O_WRONLY, 0o600)
        try:
            while written <= most:
                written += os.write(descriptor, bytes(1 << 16))
            return f"{written} bytes"
        finally:
            os.close(descriptor)
            os.unlink(path)

    return each(
        {place: lambda place=place: fill(place) for place in FACTS["byte_limits"]},
        also=(errno.ENOSPC, errno.EFBIG, errno.EDQUOT),
    )


@attack
def leave_more_files_than_allowed() -> str:
    most = FACTS["output_files"]
    if not most:
        raise Denied("not limited here: without root /out is a directory of the host")
    os.mkdir("/out/many")
    try:
        for number in range(most):
            os.close(os.open(f"/out/many/{number}", os.O_CREAT | os.O_WRONLY))
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise Denied(f"after {number}") from None
        raise
    finally:
        shutil.rmtree("/out/many")
    return f"{most + 1} were made"


# --- Gated files: the kernel is asked before each of these opens


def _secret(path: str) -> Callable[[], object]:
    return lambda: read(path)


def gated_attacks() -> dict[str, Callable[[], object]]:
    """One attack for each way to a file that is mounted but not granted."""

    def reopen() -> bytes:
        return read(f"/proc/self/fd/{os.open('/in/secret', os.O_PATH)}")

    def as_a_program() -> bytes:
        """The dynamic linker opens it, so it is another program that opens."""
        done = subprocess.run(["cat", "/in/secret"], stdin=subprocess.DEVNULL, capture_output=True)
        if done.returncode != 0:
            raise Denied("cat could not open it")
        return done.stdout

    def execute() -> None:
        os.execv("/in/secret", ["secret"])  # what the kernel says of its contents, it has read

    ways = {
        "by its name": _secret("/in/secret"),
        "by a hard link": _secret("/in/folder/hard-link"),
        "by a symbolic link": _secret("/in/folder/symbolic-link"),
        "by a second mount": _secret("/in/alias"),
        "by reopening a descriptor": reopen,
        "by another program": as_a_program,
        "by executing it": execute,
    }
    return {
        f"open a gated file {way}": lambda open_it=open_it: each({"open": open_it}) for way, open_it in ways.items()
    }


# --- Attacks on the mounts. They come last: where they succeed, nothing is where it was


@last_attack
def remount_writable() -> str:
    return each(
        {
            path: lambda path=path: call("mount", None, path.encode(), None, MS_REMOUNT | MS_BIND, None)
            for path in mount_points()
        }
    )


@last_attack
def mount_something() -> str:
    place = b"/tmp/mounted"
    os.makedirs(place, exist_ok=True)
    kinds = ("tmpfs", "proc", "sysfs", "devtmpfs", "cgroup2", "mqueue", "debugfs", "overlay")
    attempts: dict[str, Callable[[], object]] = {
        kind: lambda kind=kind: call("mount", b"none", place, kind.encode(), 0, None) for kind in kinds
    }
    attempts["bind"] = lambda: call("mount", b"/in", place, None, MS_BIND, None)
    attempts["fsopen"] = lambda: call("fsopen", b"tmpfs", 0)
    attempts["fspick"] = lambda: call("fspick", AT_FDCWD, b"/tmp", 0)
    attempts["open_tree"] = lambda: call("open_tree", AT_FDCWD, b"/usr", 1)
    attempts["open_tree_attr"] = lambda: call("open_tree_attr", AT_FDCWD, b"/usr", 1, bytes(32), 32)
    attempts["move_mount"] = lambda: call("move_mount", AT_FDCWD, b"/in", AT_FDCWD, place, 0)
    attempts["mount_setattr"] = lambda: call("mount_setattr", AT_FDCWD, b"/usr", 0, bytes(32), 32)
    attempts["statmount"] = lambda: call("statmount", 0, 0, 0, 0)
    attempts["listmount"] = lambda: call("listmount", 0, 0, 0, 0)
    return each(attempts)


@last_attack
def uncover_what_a_mount_hides() -> str:
    attempts: dict[str, Callable[[], object]] = {
        path: lambda path=path: call("umount2", path.encode(), MNT_DETACH)
        for path in mount_points()
        if path not in ("/", "/proc", "/in/probe.py", "/in/probe.json")
    }
    attempts["chroot"] = lambda: call("chroot", b"/")
    attempts["pivot_root"] = lambda: call("pivot_root", b".", b".")
    return each(attempts)


# --- Controls: if these do not work, "denied" means nothing


def controls() -> list[str]:
    """What should work here and does not."""
    faults = []

    def expect(what: str, works: Callable[[], object]) -> None:
        try:
            if works() is False:
                faults.append(what)
        except Exception as error:
            faults.append(f"{what} ({type(error).__name__}: {error})")

    def loopback() -> bool:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), 1) as client,
        ):
            return client.send(b"x") == 1

    expect("read a granted input", lambda: read("/in/granted") == FACTS["granted"].encode())
    for place in SCRATCH:
        expect(f"find {place} empty", lambda place=place: os.listdir(place) == [])
        expect(f"write to {place}", lambda place=place: create(f"{place}/control"))
    expect("use the loopback interface", loopback)
    expect("start a program", lambda: subprocess.run(["true"], check=True))
    expect("see itself in /proc", lambda: status()["Pid"] == str(os.getpid()))
    return faults


# --- What could outlive a sandbox


def marks() -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """Place: (leave a mark there, find one there). Both raise when they cannot."""
    mark, key, port = FACTS["mark"], FACTS["mark_key"], FACTS["mark_port"]

    def write(path: str) -> Callable[[], object]:
        return lambda: _write(_fresh(path), b"mark")

    def queue(flags: int) -> int:
        return checked("mq_open", b"/" + mark.encode(), flags, 0o666, None)

    def bind() -> socket.socket:
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        bound.bind("\0" + mark)
        bound.listen()
        return bound

    def connect() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as outward:
            outward.connect("\0" + mark)

    def listen() -> socket.socket:
        return socket.create_server(("127.0.0.1", port))

    create_flags = 0o1000 | 0o666  # IPC_CREAT and the mode
    pairs: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        place: (write(f"{place}/mark"), lambda place=place: read(f"{place}/mark"))
        for place in ("/tmp", "/dev/shm", "/out")
    }
    pairs["SysV shared memory"] = (
        lambda: checked("shmget", key, 4096, create_flags),
        lambda: checked("shmget", key, 0, 0),
    )
    pairs["SysV semaphores"] = (
        lambda: checked("semget", key, 1, create_flags),
        lambda: checked("semget", key, 0, 0),
    )
    pairs["SysV messages"] = (lambda: checked("msgget", key, create_flags), lambda: checked("msgget", key, 0))
    pairs["POSIX messages"] = (lambda: queue(os.O_CREAT | os.O_RDWR), lambda: queue(os.O_RDONLY))
    pairs["an abstract socket"] = (bind, connect)
    pairs["a port"] = (listen, lambda: socket.create_connection(("127.0.0.1", port), 0.3))
    for name, ring in {"the user's keyring": -4, "the session's keyring": -3}.items():
        pairs[name] = (
            lambda ring=ring: call("add_key", b"user", mark.encode(), b"mark", 4, ring),
            lambda ring=ring: call("keyctl", 10, ring, b"user", mark.encode(), 0),
        )
    return pairs


def look() -> dict[str, str]:
    also = (errno.ECONNREFUSED, getattr(errno, "ENOKEY", 126))
    found = {
        f"find the mark of another sandbox in {place}": outcome(lambda find=find: each({"found": find}, also))
        for place, (_, find) in marks().items()
    }
    return found | {f"see {what} of another sandbox": outcome(see) for what, (_, see) in signals().items()}


# --- What could tell one sandbox something of another that is alive at the same time


def shared_files() -> dict[str, str]:
    """One file of each part of the system that every sandbox has, by the name of the part."""
    files = {
        "/usr": "/usr/bin/env",
        "Python": os.path.realpath(os.__file__),
        "Python's environment": f"{sys.prefix}/pyvenv.cfg",
        "/etc": "/etc/passwd",
        "the harness's part": "/wire/harness/scoring/wire.py",
        "/dev": "/dev/null",
        "/proc": "/proc/version",
        **{f"namespace {name}": f"/proc/self/ns/{name}" for name in {*NAMESPACES} - {*FACTS["shared_namespaces"]}},
    }
    return {part: path for part, path in files.items() if os.path.exists(path)}


def signals() -> dict[str, tuple[Callable[[], object], Callable[[], object]]]:
    """What: (do it, for as long as what is returned is kept; see whether another sandbox does it)."""
    files, number = shared_files(), FACTS["mark_key"]
    record = "hhqqi4x"  # struct flock

    def describe(kind: int) -> bytes:
        return struct.pack(record, kind, os.SEEK_SET, number, 1, 0)

    def hold(lock: Callable[[int], object]) -> list[int]:
        kept = []
        for path in files.values():
            with contextlib.suppress(OSError):
                kept.append(os.open(path, os.O_RDONLY))
                lock(kept[-1])
        return kept

    def see(locked: Callable[[int], bool]) -> str:
        def look_at(path: str) -> str:
            if not locked(os.open(path, os.O_RDONLY)):
                raise Denied("no lock is seen")
            return "locked"

        return each({part: lambda path=path: look_at(path) for part, path in files.items()})

    def flocked(descriptor: int) -> bool:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False

    def locked_by(command: int) -> Callable[[int], bool]:
        def ask(descriptor: int) -> bool:
            try:
                answer = fcntl.fcntl(descriptor, command, describe(fcntl.F_WRLCK))
            except OSError as error:
                if error.errno == errno.EINVAL:
                    raise Denied("there are no such locks here") from None
                raise
            return struct.unpack(record, answer)[0] != fcntl.F_UNLCK

        return ask

    def lock_own_file() -> int:
        descriptor = os.open(_fresh("/tmp/locked"), os.O_RDWR)
        fcntl.fcntl(descriptor, F_OFD_SETLK, describe(fcntl.F_WRLCK))
        return descriptor

    def listed() -> str:
        with open("/proc/locks", encoding="ascii") as file:
            lines = [line for line in file if str(number) in line.split()]
        if not lines:
            raise Denied("it is not listed")
        return lines[0].strip()

    def touch() -> int:
        """Open, read and close the files again and again, in a process that lives as long as the sandbox."""
        pid = os.fork()
        if pid:
            return pid
        while True:
            for path in files.values():
                with contextlib.suppress(OSError):
                    read(path)
            time.sleep(0.01)

    def watch() -> str:
        watcher = libc.inotify_init1(os.O_NONBLOCK)
        watched = {
            libc.inotify_add_watch(watcher, path.encode(), 0x3B): part  # read, closed, opened; not written
            for part, path in files.items()
        }
        watched.pop(-1, None)
        seen = set()
        deadline = time.monotonic() + 0.5
        while select.select([watcher], [], [], max(0.0, deadline - time.monotonic()))[0]:
            data = os.read(watcher, 1 << 16)
            while data:
                watch, _, _, size = struct.unpack_from("iIII", data)
                seen.add(watched.get(watch, "?"))
                data = data[16 + size :]
        if seen:
            return f"saw it open {', '.join(sorted(seen))}"
        raise Denied(f"no event from {len(watched)} watches")

    return {
        "a lock (flock)": (lambda: hold(lambda file: fcntl.flock(file, fcntl.LOCK_EX)), lambda: see(flocked)),
        "a lock (POSIX)": (
            lambda: hold(lambda file: fcntl.fcntl(file, fcntl.F_SETLK, describe(fcntl.F_RDLCK))),
            lambda: see(locked_by(fcntl.F_GETLK)),
        ),
        "a lock (of an open file)": (
            lambda: hold(lambda file: fcntl.fcntl(file, F_OFD_SETLK, describe(fcntl.F_RDLCK))),
            lambda: see(locked_by(F_OFD_GETLK)),
        ),
        "a lock (in /proc/locks)": (lock_own_file, listed),
        "an open (inotify)": (touch, watch),
    }


# --- Running them


def outcome(attempt: Callable[[], object]) -> str:
    """What became of an attack, tried in a process of its own; one that does not end in time is tried once more."""
    said, how, late = _tried(attempt)
    if late and not said:
        said, how, late = _tried(attempt)
    if said:
        return said
    if os.WIFSIGNALED(how) and os.WTERMSIG(how) in (signal.SIGSYS, signal.SIGSEGV):  # SIGSEGV: there is no such gate
        return f"denied: killed by {signal.Signals(os.WTERMSIG(how)).name}"
    if late:
        return f"HOLE: it was neither denied nor did it end in {ATTACK_SECONDS} s, twice"
    return f"HOLE: it said nothing, and its process ended with status {how:#x}"


def _tried(attempt: Callable[[], object]) -> tuple[str, int, bool]:
    """What the process of one try said, its status as waitpid gives it, and whether it ran out of time."""
    readable, writable = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(ATTACK_SECONDS)
        os.write(writable, _verdict(attempt).encode(errors="replace")[:4000])
        os._exit(0)
    os.close(writable)
    said, late = b"", False
    deadline = time.monotonic() + ATTACK_SECONDS + 1
    while select.select([readable], [], [], max(0.0, deadline - time.monotonic()))[0]:
        piece = os.read(readable, 4096)
        if not piece:
            break
        said += piece
    else:
        late = True
        os.kill(pid, signal.SIGKILL)
    os.close(readable)
    _, how = os.waitpid(pid, 0)
    return said.decode(), how, late or (os.WIFSIGNALED(how) and os.WTERMSIG(how) == signal.SIGALRM)


def _verdict(attempt: Callable[[], object]) -> str:
    try:
        return f"HOLE: {attempt()}"
    except Denied as denied:
        return f"denied: {denied}"
    except OSError as error:
        if error.errno in REFUSALS:
            return f"denied: {error.strerror}"
        return f"HOLE: {error}, so the call was not stopped"
    except BaseException as error:
        return f"HOLE: the probe failed: {type(error).__name__}: {error}"


def leave_marks() -> list[object]:
    """Wherever it is possible; returns what must be kept open."""
    kept = []
    for leave, _ in (*marks().values(), *signals().values()):
        with contextlib.suppress(OSError, Denied):
            kept.append(leave())
    return kept


def stay(kept: list[object]) -> None:
    """Start a daemon that no signal ends, and wait; `kept` stays open meanwhile."""
    for number in set(range(1, signal.NSIG)) - {signal.SIGCHLD}:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)
    child = os.fork()
    if child == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(3600)
        os._exit(0)
    os.waitpid(child, 0)
    print(json.dumps({}), flush=True)
    time.sleep(3600)


def main() -> None:
    with open(FACTS_PATH, encoding="utf-8") as file:
        FACTS.update(json.load(file))
    if sys.argv[1] == "look":
        print(json.dumps(look()), flush=True)
        return
    if sys.argv[1] == "memory":
        taken = b"x" * (2 * FACTS["memory_bytes"])
        print(f"{len(taken)} bytes were taken", flush=True)
        return
    if sys.argv[1] == "processors":
        os.sched_setaffinity(0, range(os.sysconf("SC_NPROCESSORS_CONF") + 1024))
        print(json.dumps(sorted(os.sched_getaffinity(0))), flush=True)
        return
    faults = controls()
    results = {"the probe works": f"HOLE: it cannot {', '.join(faults)}" if faults else "denied: nothing that it needs"}
    for name, attempt in {**ATTACKS, **(gated_attacks() if FACTS["gated"] else {})}.items():
        results[name] = outcome(attempt)
    kept = leave_marks()
    for name, attempt in LAST_ATTACKS.items():
        results[name] = outcome(attempt)
    print(json.dumps(results), flush=True)
    stay(kept)


if __name__ == "__main__":
    main()
