"""The guard: the trusted process between the harness and one bubblewrap sandbox. A script; standard library only.

Its life:
1. read the plan (JSON on stdin, see `bubblewrap.py`); as root, enter a mount namespace of its own and bring every
   source under one directory, so that an unprivileged uid can reach what lies in private places; nothing shows on the
   host. The system's trees, files and devices come as inodes of this sandbox's own: a lock or a watch on an inode that
   two sandboxes share would be a signal from one to the other (attack catalogue, P04 and X30)
2. fork; the child drops to the phase's uid, sets limits and executes bwrap, which builds the walls and then waits
3. hand the harness the pid file descriptor of the sandbox's init and the network counters; wait for its word to launch
4. tell it when the command has exited and when init, and with it the whole pid namespace, is gone
5. kill the sandbox when told to, and when the harness disappears

The guard is the subreaper of all that, so init's pid cannot be reused before the guard has seen it end.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import resource
import select
import shutil
import signal
import socket
import stat
import sys
import time
from typing import NoReturn

CLONE_NEWNS, CLONE_NEWTIME = 0x00020000, 0x00000080
MS_RDONLY, MS_REC, MS_PRIVATE, MS_BIND = 1, 0x4000, 1 << 18, 0x1000
PR_SET_CHILD_SUBREAPER, PR_SET_NO_NEW_PRIVS, PR_SET_DUMPABLE = 36, 38, 4
NOT_EXECUTABLE = 127  # as a shell reports it
COLLECT_SECONDS = 5.0  # killed processes are gone in milliseconds, unless one sits in an uninterruptible sleep
DEVICES = ("null", "zero", "full", "random", "urandom", "tty")  # those that bwrap's --dev binds
STAGE = "/mnt"  # any directory that everybody may search; covered by a tmpfs in the guard's own mount namespace

libc = ctypes.CDLL(None, use_errno=True)


def check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str | None, flags: int, data: str | None = None) -> None:
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind, data)]
    check(
        libc.mount(encoded[0], encoded[1], encoded[2], ctypes.c_ulong(flags), encoded[3]), f"mount {source} on {target}"
    )


def mounts_below(directory: str, mountinfo: str = "/proc/self/mountinfo") -> list[str]:
    """The mount points inside `directory`, outer ones first."""
    found = []
    with open(mountinfo, "rb") as lines:
        for line in lines:
            escaped = line.split(b" ")[4]
            path = os.fsdecode(re.sub(rb"\\([0-7]{3})", lambda octal: bytes([int(octal[1], 8)]), escaped))
            if path.startswith(directory + "/"):
                found.append(path)
    return sorted(set(found))


def bind(source: str, target: str) -> None:
    """Bind the file or directory `source`, with all that is mounted in it, on a new `target`."""
    if os.path.isdir(source):
        os.makedirs(target, exist_ok=True)
    elif not os.path.exists(target):
        os.close(os.open(target, os.O_CREAT | os.O_WRONLY, 0o644))
    mount(source, target, None, MS_BIND | MS_REC)


def stage_own(number: int, source: str, target: str) -> None:
    """Put what `source` holds at the new path `target`, on inodes that no other sandbox has: a copy of a file, a
    read-only overlay over a directory and over each directory that is mounted in it.

    Where the kernel can make no overlay (it has none, or the tree lies on two of them already) the tree itself is
    bound, and so is a file that is mounted inside a tree. `bubblewrap.shared_mounts` sees that in the mount table."""
    if not os.path.isdir(source):
        shutil.copyfile(source, target)
        os.chmod(target, 0o755 if os.stat(source).st_mode & 0o111 else 0o644)
        return
    lower = f"{STAGE}/lower-{number}"  # a name without the commas and colons that mean something in options
    bind(source, lower)
    os.mkdir(target)
    for tree in (lower, *mounts_below(lower)):  # an overlay does not show what is mounted in the tree below it
        place = target + tree.removeprefix(lower)
        try:
            if not os.path.isdir(tree):
                raise NotADirectoryError
            mount("overlay", place, "overlay", MS_RDONLY, f"lowerdir={tree}:{STAGE}/empty")
        except OSError:
            mount(tree, place, None, MS_BIND)


def stage_devices() -> None:
    """Cover /dev, in this mount namespace, with nodes of one's own, which bwrap binds into the sandbox's /dev. Where
    no nodes can be made (a container without CAP_MKNOD) the host's stay.
    """
    own = f"{STAGE}/dev"
    os.mkdir(own)
    try:
        for name in DEVICES:
            make_node(f"/dev/{name}", f"{own}/{name}")
            os.close(os.open(f"{own}/{name}", os.O_PATH))
        os.close(os.open(f"{own}/null", os.O_RDWR))  # making a node can be allowed, and opening it not
    except OSError:
        return
    mount(own, "/dev", None, MS_BIND)


def make_node(source: str, target: str) -> None:
    """A device node like `source`, which is another inode to locks and watches and the same device to the driver."""
    facts = os.stat(source)
    os.mknod(target, facts.st_mode, facts.st_rdev)
    os.chmod(target, stat.S_IMODE(facts.st_mode))  # whatever the umask


def stage_sources(plan: dict) -> list[str]:
    """Bring the plan's sources (host paths) under STAGE in a private mount namespace, and make a file system for /out
    there; returns the path of each, /out last. Needs root.
    """
    check(libc.unshare(CLONE_NEWNS), "unshare the mount namespace")
    mount("none", "/", None, MS_REC | MS_PRIVATE)
    opened = [os.open(source, os.O_PATH) for source in plan["sources"]]  # before the tmpfs may cover them
    mount("tmpfs", STAGE, "tmpfs", 0, "mode=0755,size=64m,nr_inodes=10000")
    os.mkdir(f"{STAGE}/empty")
    staged = []
    for number, (source, descriptor) in enumerate(zip(plan["sources"], opened, strict=True)):
        target = f"{STAGE}/{number}"
        here = f"/proc/self/fd/{descriptor}"
        if source in plan["own"]:
            stage_own(number, here, target)
        elif stat.S_ISCHR(os.stat(here).st_mode):
            try:
                make_node(here, target)
            except PermissionError:
                bind(here, target)
        else:
            bind(here, target)
        os.close(descriptor)
        staged.append(target)
    stage_devices()
    target = f"{STAGE}/out"
    os.mkdir(target)
    out, uid = plan["out"], plan["uid"]
    options = f"mode=0755,uid={uid},gid={uid},size={out['bytes']},nr_inodes={out['files']}"
    mount("tmpfs", target, "tmpfs", 0, options)
    return [*staged, target]


def become_bwrap(plan: dict, arguments: list[str], log_descriptor: int, keep: list[int]) -> None:
    """In the child: drop everything that is not the phase's, then execute bwrap."""
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log_descriptor, 1)
    os.dup2(log_descriptor, 2)
    for descriptor in keep:
        os.set_inheritable(descriptor, True)
    for file in plan["join"]:  # its control groups
        with open(file, "w") as procs:
            procs.write(str(os.getpid()))
    for name, value in plan["limits"].items():
        resource.setrlimit(getattr(resource, name), (value, value))
    if plan["uid"] is not None:
        os.setgroups([])
        os.setresgid(plan["uid"], plan["uid"], plan["uid"])
        os.setresuid(plan["uid"], plan["uid"], plan["uid"])
    check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "set no_new_privs")
    # bwrap is also the sandbox's init, whose environment everybody inside can read.
    os.execve(arguments[0], arguments, {})


class Guard:
    """The guard's own state and event loop, steps 2 to 5."""

    def __init__(self, plan: dict, control: socket.socket) -> None:
        self.plan = plan
        self.control = control
        self.bwrap_pid = 0
        self.init_descriptor = -1
        self.status_descriptor = -1
        self.launched = False

    def tell(self, event: str, descriptors: list[int] | None = None, at: float | None = None, **facts) -> None:
        message = {"event": event, "at": time.monotonic() if at is None else at, **facts}
        try:
            socket.send_fds(self.control, [json.dumps(message).encode()], descriptors or [])
        except OSError:
            self.leave()  # nobody is listening any more

    def run(self) -> None:
        self.status_descriptor, status_write = os.pipe()
        block_read, block_write = os.pipe()
        filter_read, filter_write = os.pipe()
        os.write(filter_write, bytes.fromhex(self.plan["seccomp"]))  # about 1 kB: fits a pipe
        os.close(filter_write)
        sources = self.plan["sources"]
        if self.plan["uid"] is not None:
            sources = stage_sources(self.plan)
            # For the sandbox, not for the guard. What a kernel without time namespaces makes of it does not matter.
            libc.unshare(CLONE_NEWTIME)
        arguments = [sources[part] if isinstance(part, int) else part for part in self.plan["arguments"]]
        inherited = {"--json-status-fd": status_write, "--block-fd": block_read, "--seccomp": filter_read}
        arguments[1:1] = [part for option, descriptor in inherited.items() for part in (option, str(descriptor))]
        self.bwrap_pid = os.fork()
        if self.bwrap_pid == 0:
            try:
                become_bwrap(self.plan, arguments, self.plan["log_descriptor"], list(inherited.values()))
            finally:
                os._exit(127)
        for descriptor in (*inherited.values(), self.plan["log_descriptor"]):
            os.close(descriptor)
        line = b""
        while not line.endswith(b"\n"):  # bwrap writes the line in pieces
            if self.control in select.select([self.status_descriptor, self.control], [], [])[0]:
                self.leave()  # the harness is gone, or has lost patience with a bwrap that says nothing
            piece = os.read(self.status_descriptor, 4096)
            if not piece:
                raise ChildProcessError("bwrap could not start; its message is in the log")
            line += piece
        started = json.loads(line)
        init_pid = started["child-pid"]
        descriptor = os.pidfd_open(init_pid)
        if not self.is_init(init_pid):  # and so nothing that may be killed
            raise ChildProcessError(f"bwrap names process {init_pid}, which is no sandbox of its making")
        self.init_descriptor = descriptor
        out = os.open(sources[-1], os.O_RDONLY | os.O_DIRECTORY)  # keeps the file system when all namespaces are gone
        # These files belong to the network namespace and can still be read after its last process is gone.
        counters = [os.open(f"/proc/{init_pid}/net/{name}", os.O_RDONLY) for name in ("snmp", "snmp6")]
        descriptors = [self.init_descriptor, out, *counters]
        self.tell("built", descriptors, init_pid=init_pid, pid_namespace=started["pid-namespace"])
        self.watch(os.pidfd_open(self.bwrap_pid), block_write)

    def is_init(self, pid: int) -> bool:
        """Whether process `pid` is a child of bwrap and the first process of a pid namespace."""
        with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
            facts = dict(line.split(":", 1) for line in file)
        return int(facts["PPid"]) == self.bwrap_pid and facts["NSpid"].split()[-1] == "1" and pid != 1

    def watch(self, bwrap_descriptor: int, block_write: int) -> None:
        """Report the end of the command and of the sandbox, and obey the harness, until the sandbox is empty."""
        poll = select.poll()
        for descriptor in (self.init_descriptor, bwrap_descriptor, self.control.fileno()):
            poll.register(descriptor, select.POLLIN)
        bwrap_running = True
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            now = time.monotonic()
            empty = self.init_descriptor in ready
            if bwrap_running and (empty or bwrap_descriptor in ready):
                bwrap_running = False
                poll.unregister(bwrap_descriptor)
                self.report_exit(now)  # with init gone bwrap is about to end, so waiting for it is short
            if empty:
                self.tell("empty", at=now)
                return
            if self.control.fileno() in ready:
                try:
                    command = self.control.recv(64)
                except ConnectionResetError:
                    command = b""
                if command == b"launch":
                    self.launched = True
                    os.write(block_write, b"x")
                    self.tell("launched")
                elif command == b"kill":
                    self.kill()
                else:  # the harness is gone
                    self.leave()

    def report_exit(self, at: float) -> None:
        _, wait_status = os.waitpid(self.bwrap_pid, 0)
        os.set_blocking(self.status_descriptor, False)  # bwrap is gone, so whatever it wrote is there
        try:
            line = os.read(self.status_descriptor, 4096)
        except BlockingIOError:
            line = b""
        if line:  # bwrap writes it only when it executed the command
            self.tell("exited", at=at, exit_code=json.loads(line)["exit-code"])
        elif os.WIFSIGNALED(wait_status) or os.waitstatus_to_exitcode(wait_status) > 128:
            self.tell("exited", at=at, exit_code=abs(os.waitstatus_to_exitcode(wait_status)) % 128 + 128)
        elif self.launched:  # the walls stood, but the command does not exist or is no program
            self.tell("exited", at=at, exit_code=NOT_EXECUTABLE)
        else:
            self.tell("failed", at=at, text="bwrap could not build the sandbox; its message is in the log")

    def kill(self) -> None:
        """Kill init, and with it, by the kernel's rule, every process of its pid namespace."""
        if self.init_descriptor >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.init_descriptor, signal.SIGKILL)
        elif self.bwrap_pid:
            os.kill(self.bwrap_pid, signal.SIGKILL)

    def leave(self) -> NoReturn:
        """Kill the sandbox, collect what is left of it, and exit."""
        self.kill()
        deadline = time.monotonic() + COLLECT_SECONDS
        with contextlib.suppress(ChildProcessError):  # no child is left
            while time.monotonic() < deadline:
                with open(f"/proc/self/task/{os.getpid()}/children") as children:  # what lost its parent, too
                    for pid in children.read().split():
                        os.kill(int(pid), signal.SIGKILL)
                if os.waitpid(-1, os.WNOHANG) == (0, 0):
                    time.sleep(0.005)
        os._exit(0)


def main() -> None:
    plan = json.load(sys.stdin)
    for descriptor in (plan["control_descriptor"], plan["log_descriptor"]):
        os.set_inheritable(descriptor, False)  # nothing of the harness reaches the sandbox
    control = socket.socket(fileno=plan["control_descriptor"])
    check(libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0), "become subreaper")
    check(libc.prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "become undumpable")
    guard = Guard(plan, control)
    try:
        guard.run()
    except Exception as error:  # the harness turns this into a RefereeError
        guard.tell("failed", text=f"{type(error).__name__}: {error}")
        guard.leave()


if __name__ == "__main__":
    main()
