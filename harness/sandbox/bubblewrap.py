"""The bubblewrap back-end: namespaces with nothing in them but what the spec mounts. See `guard.py` for who starts
what.

Inside: read-only /usr and Python, an /etc of five files, /proc of its own, five harmless devices, private /tmp and
/dev/shm, no network but a loopback of its own, no capabilities, no further user namespaces, a seccomp filter, a fixed
environment. As root every sandbox runs under a host uid of its own that no other process has; otherwise under the
user's own (docs/threat-model.md says what that costs)."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from harness.errors import EnvironmentMissing, RefereeError
from harness.outputs import remove_tree
from harness.processes import PHASE_PRIORITY, favour
from harness.sandbox import Confinement, Mount, SandboxEvent, SandboxSpec, Walls, base_environment
from harness.sandbox.cgroup import PhaseCgroup, hierarchies
from harness.sandbox.facts import (
    children_of,
    confinement_of,
    namespace_of,
    not_clean,
    out_no_routes,
    program_of,
    read_mount_table,
    read_mounts,
    unused_uid,
)
from harness.sandbox.guard import mounts_below
from harness.sandbox.seccomp import filter_program

GUARD = Path(__file__).with_name("guard.py")
ETC = Path(__file__).with_name("etc")  # the sandbox's own user, group and host names
WIRE = Path(__file__).parents[1] / "scoring" / "wire.py"
INSIDE_UID = 1000  # what a sandboxed process sees as its own uid
PYTHON_INSIDE = "/venv"
BUILD_SECONDS = 20.0  # bwrap needs a few milliseconds; a machine that needs this long is broken
EMPTY_SECONDS = 20.0  # a killed sandbox is empty within milliseconds unless a process sits in an uninterruptible sleep

NAMESPACES = ("user", "mnt", "pid", "net", "ipc", "uts", "cgroup")

# Mounts that bwrap itself makes, besides those of the spec and of `system_mounts`.
OWN_MOUNTS = {
    "/": "ro",
    "/proc": "rw",
    "/dev": "ro",
    "/dev/pts": "rw",
    "/tmp": "rw",
    "/dev/shm": "rw",
    "/out": "rw",
    **{f"/dev/{name}": "rw" for name in ("null", "zero", "full", "random", "urandom", "tty")},
}


def find_bwrap() -> str:
    """Path of the bwrap program; raises EnvironmentMissing with the command that installs it."""
    path = shutil.which("bwrap")
    if path is None:
        raise EnvironmentMissing(
            "bubblewrap is not installed; `apt-get install bubblewrap` (or `make setup` as root) installs it"
        )
    return path


def system_mounts() -> tuple[list[Mount], list[tuple[str, str]]]:
    """The read-only system and Python of every sandbox: mounts, and symbolic links as (content, path)."""
    mounts, links = [Mount(source=Path("/usr"), target="/usr")], []
    for name in ("/bin", "/sbin", "/lib", "/lib32", "/lib64"):
        path = Path(name)
        if path.is_symlink():
            links.append((os.readlink(name), name))
        elif path.is_dir():
            mounts.append(Mount(source=path, target=name))
    mounts += [Mount(source=file, target=f"/etc/{file.name}") for file in sorted(ETC.iterdir())]
    if Path("/etc/ld.so.cache").exists():
        mounts.append(Mount(source=Path("/etc/ld.so.cache"), target="/etc/ld.so.cache"))
    base = Path(sys.base_prefix).resolve()
    if not base.is_relative_to("/usr"):
        mounts.append(Mount(source=base, target=str(base)))
    if sys.prefix != sys.base_prefix:
        mounts.append(Mount(source=Path(sys.prefix), target=PYTHON_INSIDE))
    mounts.append(Mount(source=WIRE, target="/wire/harness/scoring/wire.py"))
    return mounts, links


def interpreter() -> str:
    """Path of the Python interpreter inside the sandbox."""
    if sys.prefix != sys.base_prefix:
        return f"{PYTHON_INSIDE}/bin/python"
    return str(Path(sys.base_prefix).resolve() / "bin" / f"python{sysconfig.get_python_version()}")


def environment() -> dict[str, str]:
    """The whole environment of a sandboxed command."""
    return base_environment(interpreter())


def bwrap_arguments(bwrap: str, spec: SandboxSpec) -> tuple[list[str | int], list[str]]:
    """bwrap's command line for `spec`. An integer stands for the source of that number, which the guard may have to
    move first.
    """
    system, links = system_mounts()
    sources: list[str] = []
    arguments: list[str | int] = [bwrap]
    arguments += [f"--unshare-{kind}" for kind in ("user", "ipc", "pid", "net", "uts", "cgroup")]
    arguments += ["--disable-userns", "--uid", str(INSIDE_UID), "--gid", str(INSIDE_UID), "--cap-drop", "ALL"]
    arguments += ["--new-session", "--hostname", "sandbox", "--clearenv"]
    for name, value in {**environment(), **spec.environment}.items():
        arguments += ["--setenv", name, value]
    arguments += ["--proc", "/proc", "--dev", "/dev"]
    for target, size in (("/tmp", spec.limits.scratch_bytes), ("/dev/shm", spec.limits.shared_memory_bytes)):
        arguments += ["--perms", "1777", "--size", str(size), "--tmpfs", target]
    for content, path in links:
        arguments += ["--symlink", content, path]
    for mount in (*system, *spec.mounts):
        arguments += ["--dev-bind" if mount.device else "--ro-bind", len(sources), mount.target]
        sources.append(str(mount.source))
    arguments += ["--bind", len(sources), "/out"]  # its source is the last one, added by the caller or the guard
    arguments += ["--dir", spec.working_directory, "--chdir", spec.working_directory]
    arguments += ["--remount-ro", "/dev", "--remount-ro", "/", "--"]
    program = interpreter() if spec.command[0] == "python" else spec.command[0]
    return [*arguments, program, *spec.command[1:]], sources


def expected_mount_table(spec: SandboxSpec) -> dict[str, str]:
    """The mount points that a sandbox of `spec` must have: these and no others."""
    asked = {}
    for mount in (*system_mounts()[0], *spec.mounts):
        asked[mount.target] = "rw" if mount.device else "ro"
        source = os.path.realpath(mount.source)
        for inner in mounts_below(source):
            asked[mount.target + inner.removeprefix(source)] = "ro"
    return {**OWN_MOUNTS, **asked}


def shared_mounts(pid: int, spec: SandboxSpec) -> tuple[str, ...]:
    """The mounts of the sandbox's system that lie on a file system of the host, and so on inodes that other sandboxes
    see, too; none where the guard could stage everything (see `guard.stage_own`).
    """
    host = {device for _, _, device in read_mounts(os.getpid())}
    inputs = {mount.target for mount in spec.mounts if not mount.device}
    return tuple(sorted(target for target, _, device in read_mounts(pid) if device in host and target not in inputs))


class BubblewrapSandbox:
    """The back-end. `separate_uid`: run each sandbox under a host uid of its own, which takes root."""

    name = "bubblewrap"
    shared_namespaces = ()

    def __init__(self) -> None:
        self.bwrap = find_bwrap()
        self.separate_uid = os.geteuid() == 0

    def __str__(self) -> str:
        return subprocess.run([self.bwrap, "--version"], capture_output=True, text=True, check=True).stdout.strip()

    def environment(self) -> dict[str, str]:
        return environment()

    def fingerprint(self) -> str:
        return f"{self.name} {hashlib.sha256(Path(self.bwrap).read_bytes()).hexdigest()}"

    def facts(self) -> dict[str, str]:
        return {"sandbox": self.name, "sandbox_engine": str(self)}

    def visible_paths(self) -> list[Path]:
        return [mount.source for mount in system_mounts()[0]]

    def check_paths(self, paths: Sequence[Path]) -> None:
        """It runs where the harness runs, and finds what that finds."""

    def reap(self) -> list[str]:
        return []  # its guards end with the harness, and `registry.reap` removes its control groups

    def start(self, spec: SandboxSpec) -> BubblewrapRun:
        uid = unused_uid() if self.separate_uid else None
        arguments, sources = bwrap_arguments(self.bwrap, spec)
        out, group = None, None
        if uid is None:
            out = Path(tempfile.mkdtemp(prefix="parameter-golf-out-"))
            sources.append(str(out))
        elif hierarchies():
            group = PhaseCgroup(spec.limits.memory_bytes, spec.limits.processes)
        limits = {
            "RLIMIT_CORE": 1,  # byte: no file, and unlike 0 no pipe to a program of the host either (core(5))
            "RLIMIT_NOFILE": spec.limits.open_files,
            "RLIMIT_FSIZE": spec.limits.output_bytes,
        }
        if uid is not None:  # counted per uid, so only fair where the uid is the phase's own
            limits["RLIMIT_NPROC"] = spec.limits.processes
        harness_end, guard_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        log_read, log_write = os.pipe()
        plan = {
            "arguments": arguments,
            "sources": sources,
            "own": [str(mount.source) for mount in system_mounts()[0]],
            "limits": limits,
            "seccomp": filter_program().hex(),
            "uid": uid,
            "out": {"bytes": spec.limits.output_bytes, "files": spec.limits.output_files},
            "join": group.join_files if group else [],
            "control_descriptor": guard_end.fileno(),
            "log_descriptor": log_write,
        }
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARD)],
            stdin=subprocess.PIPE,
            pass_fds=(guard_end.fileno(), log_write),
            start_new_session=True,  # Ctrl-C is the harness's to handle
        )
        guard_end.close()
        os.close(log_write)
        process.stdin.write(json.dumps(plan).encode())
        process.stdin.close()
        run = BubblewrapRun(process, harness_end, log_read, group, out)
        try:
            run.build(spec, uid)
        except BaseException:
            run.close()
            raise
        return run


class BubblewrapRun:
    """A running sandbox (see `harness.sandbox.RunningSandbox`), spoken to through its guard."""

    walls: Walls

    def __init__(
        self,
        guard: subprocess.Popen,
        control: socket.socket,
        log_descriptor: int,
        group: PhaseCgroup | None,
        out_directory: Path | None,
    ) -> None:
        self._guard = guard
        self._control = control
        self._group = group
        self._out_directory = out_directory  # only where /out is a directory of the host
        self._init_descriptor = -1
        self._counters: list[int] = []
        self._empty = False
        self._killed_at: float | None = None
        self._closed = False
        self.log_descriptor = log_descriptor
        self.out_descriptor = -1

    def fileno(self) -> int:
        return self._control.fileno()

    def build(self, spec: SandboxSpec, uid: int | None) -> None:
        """Wait until the walls stand and compare the mount table with the one asked for; raises RefereeError."""
        deadline = time.monotonic() + BUILD_SECONDS
        message, descriptors = self._receive(deadline)
        if message["event"] != "built":
            raise RefereeError(f"sandbox for {spec.label}: {message.get('text', message)}{self._log_excerpt()}")
        self._init_descriptor, self.out_descriptor, *self._counters = descriptors
        expected = expected_mount_table(spec)
        while (found := read_mount_table(message["init_pid"])) != expected:
            if select.select([self._control], [], [], 0.002)[0]:  # the guard speaks now only if bwrap has failed
                message, _ = self._receive(deadline)
                raise RefereeError(f"sandbox for {spec.label}: {message.get('text', message)}{self._log_excerpt()}")
            if time.monotonic() > deadline:
                wrong = sorted(set(found.items()) ^ set(expected.items()))
                raise RefereeError(
                    f"sandbox for {spec.label}: its mount table is not the one asked for; differing: {wrong}"
                )
        self._check_namespaces(spec, message["init_pid"])
        self.walls = Walls(
            init_pid=message["init_pid"],
            pid_namespace=message["pid_namespace"],
            uid=os.geteuid() if uid is None else uid,
            mounts=tuple(sorted(found.items())),
            limited=tuple(sorted(self._group.limited)) if self._group else (),
            shared=shared_mounts(message["init_pid"], spec),
        )

    def _check_namespaces(self, spec: SandboxSpec, init: int) -> None:
        """Raise RefereeError if a namespace of the sandbox is the harness's own, or if its command runs already: then
        what was executed is not the bwrap that it should be (attack catalogue, S13).
        """
        ours = [kind for kind in NAMESPACES if namespace_of(init, kind) == namespace_of(os.getpid(), kind)]
        if ours:
            raise RefereeError(f"sandbox for {spec.label}: it has the host's {', '.join(ours)} namespace")
        self._check_that_it_waits(init)

    def _check_that_it_waits(self, init: int) -> None:
        if children_of(init):
            raise RefereeError("the command of a sandbox was started before the walls were checked")

    def launch(self) -> float:
        self._check_that_it_waits(self.walls.init_pid)
        self._control.send(b"launch")
        message, _ = self._receive(time.monotonic() + BUILD_SECONDS)
        if message["event"] != "launched":
            raise RefereeError(f"sandbox did not launch: {message}{self._log_excerpt()}")
        return message["at"]

    def event(self) -> SandboxEvent | None:
        if self._empty:
            return None
        if not select.select([self._control], [], [], 0)[0]:
            if self._killed_at and time.monotonic() > self._killed_at + EMPTY_SECONDS:
                raise RefereeError(not_clean(self.walls, EMPTY_SECONDS))
            return None
        message, _ = self._receive(time.monotonic() + BUILD_SECONDS)
        if message["event"] == "failed":
            raise RefereeError(f"sandbox: {message['text']}{self._log_excerpt()}")
        self._empty = message["event"] == "empty"
        return SandboxEvent(message["event"], message["at"], message.get("exit_code"))

    def confinement(self) -> Confinement | None:
        init = self.walls.init_pid
        try:
            children = children_of(init)
            if not children or program_of(children[0]) == program_of(init):  # bwrap, about to become the command
                return None
        except OSError:
            return None
        favour(children[0], PHASE_PRIORITY)
        return confinement_of(children[0])

    def peak_memory_bytes(self) -> int | None:
        return self._group.peak_memory_bytes() if self._group else None

    def kill(self) -> None:
        if self._init_descriptor >= 0 and not self._empty:
            self._killed_at = self._killed_at or time.monotonic()
            with contextlib.suppress(ProcessLookupError):  # it has just ended by itself
                signal.pidfd_send_signal(self._init_descriptor, signal.SIGKILL)

    def network_attempts(self) -> int:
        attempts = 0
        for descriptor in self._counters:
            text = os.pread(descriptor, 1 << 16, 0).decode()
            attempts += out_no_routes(text)
        return attempts

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self.kill()
        patience = (self._killed_at or 0.0) + EMPTY_SECONDS - time.monotonic()
        if self._init_descriptor >= 0 and not select.select([self._init_descriptor], [], [], max(0.0, patience))[0]:
            self._control.close()  # the guard collects what it can, and the next start of the harness the rest
            raise RefereeError(not_clean(self.walls, EMPTY_SECONDS))
        self._control.close()  # the guard takes this as the order to leave
        self._guard.wait()
        for descriptor in (self._init_descriptor, self.out_descriptor, self.log_descriptor, *self._counters):
            if descriptor >= 0:
                os.close(descriptor)
        if self._out_directory:
            remove_tree(self._out_directory)
        if self._group and not self._group.remove():
            raise RefereeError("a control group of the sandbox could not be emptied; no further phase may start")

    def _receive(self, deadline: float) -> tuple[dict, list[int]]:
        if not select.select([self._control], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise RefereeError("the guard of the sandbox does not answer")
        data, descriptors, _, _ = socket.recv_fds(self._control, 1 << 16, 8)
        if not data:
            self.kill()
            raise RefereeError("the guard of the sandbox was lost")
        return json.loads(data), descriptors

    def _log_excerpt(self) -> str:
        """What bwrap said, for the error message: the log holds nothing else before launch."""
        if not select.select([self.log_descriptor], [], [], 0.1)[0]:
            return ""
        return " | " + os.read(self.log_descriptor, 2000).decode(errors="replace").strip().replace("\n", " | ")
