"""The sandbox's self-test: attacks, run inside a real sandbox on the user's own machine, and looked at from outside.

Inside runs `sandbox/probe.py`, in a sandbox that is started as a phase is, beside bait: files, sockets and shared
memory of the host that it must not find, a gated file that it was granted, and one that it was not. Outside, the kernel
must have counted and reported what the probe tried, a stranger must be refused, a second sandbox must find no trace of
the first, and a kill must leave nothing. Takes about two seconds.

An attack that is not denied means that a PASS on this machine would prove nothing."""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import secrets
import select
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.access import AccessMonitor, Open, identity
from harness.errors import RefereeError
from harness.policy import Opener
from harness.processes import pid_namespace, start_time
from harness.registry import Registration
from harness.sandbox import Limits, Mount, RunningSandbox, Sandbox, SandboxSpec
from harness.sandbox.bubblewrap import BubblewrapSandbox

PROBE = Path(__file__).parent / "sandbox" / "probe.py"
PROBE_SECONDS = 60.0  # it takes one or two; every attack has a limit of its own
KILL_SECONDS = 5.0
GATED_WAYS = 7  # attacks of the probe that end in an open of the gated file
# Attempts of the probe that the kernel's counters must show: TCP and UDP, over IPv4 and, where there is one, IPv6.
NETWORK_TRIES = 4 if Path("/proc/net/if_inet6").exists() else 2
NAMESPACES = ("mnt", "cgroup", "uts", "ipc", "user", "pid", "net")
LIMITS = Limits(
    processes=40,
    open_files=128,
    memory_bytes=1 << 27,
    output_bytes=1 << 20,
    output_files=100,
    scratch_bytes=1 << 20,
    shared_memory_bytes=1 << 20,
)
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class AttackResult:
    """`name` says what was tried; `detail`, what stopped it, or what happened."""

    name: str
    denied: bool
    detail: str


@dataclass
class Bait:
    """What lies outside and beside the sandbox for the probe to find. `facts` is what the probe is told."""

    directory: Path
    registration: Registration
    monitor: AccessMonitor | None
    facts: dict[str, object] = field(default_factory=dict)

    @property
    def granted(self) -> Path:
        return self.directory / "granted"

    @property
    def secret(self) -> Path:
        return self.directory / "secret"

    def spec(self, mode: str) -> SandboxSpec:
        """A sandbox like a phase's, with the probe instead of a submission."""
        gated = {"/in/secret": self.secret, "/in/alias": self.secret} if self.monitor else {}
        inputs = {
            "/in/probe.py": self.directory / "probe.py",
            "/in/probe.json": self.directory / "probe.json",
            "/in/granted": self.granted,
            "/in/folder": self.directory / "folder",
            **gated,
        }
        return SandboxSpec(
            label=f"self-test, {mode}",
            command=("python", "/in/probe.py", mode),
            mounts=tuple(Mount(source=source, target=target) for target, source in inputs.items()),
            limits=LIMITS,
        )


def run_attacks(
    sandbox: Sandbox | None = None,
    progress: Callable[[AttackResult], None] | None = None,
    directory: Path | None = None,
) -> list[AttackResult]:
    """Every attack and what became of it. `sandbox`: the back-end to try, by default bubblewrap; `progress` is told
    each result when it is known. directory: where bait is laid out, by default where temporary files go.

    Raises EnvironmentMissing if there is nothing to try. As root the access monitor is on trial, too; without root its
    absence is a result."""
    results: list[AttackResult] = []

    def add(name: str, denied: bool, detail: str) -> None:
        results.append(AttackResult(name, denied, detail))
        if progress:
            progress(results[-1])

    sandbox = sandbox or BubblewrapSandbox()
    try:
        with _bait(sandbox, directory) as bait:
            _attack(sandbox, bait, add)
    except (RefereeError, OSError) as error:
        add(UNFINISHED, False, f"{type(error).__name__}: {error}")
    return results


Add = Callable[[str, bool, str], None]
UNFINISHED = "finish the self-test"  # the name of what is no attack, but the end of trying


def _attack(sandbox: Sandbox, bait: Bait, add: Add) -> None:
    spec = bait.spec("attack")
    with _started(sandbox, spec, bait) as running:
        if bait.monitor:
            bait.monitor.grant(spec.label, running.walls, frozenset({identity(bait.granted)}))
        running.launch()
        _add_lines(_lines(running, 2), add)  # the second says that it waits to be killed
        _look_from_outside(running, add, frozenset(sandbox.shared_namespaces))
        if bait.monitor:
            _ask_the_monitor(bait, bait.monitor, spec.label, add)
        else:
            add("open a gated file unseen", False, "not root: the kernel does not report opens")
        with _started(sandbox, bait.spec("look"), bait) as second:  # beside the first, which has left marks
            second.launch()
            _add_lines(_lines(second, 1), add)
        _kill(running, add)
        attempts = running.network_attempts()
        text = f"the kernel counted {attempts} of {NETWORK_TRIES} attempts"
        add("reach the network unseen", attempts >= NETWORK_TRIES, text)
    with _started(sandbox, bait.spec("memory"), bait) as third:
        if "memory" in third.walls.limited:
            third.launch()
            lines = _lines(third, 1)
            add("use more memory than allowed", not lines, lines[0] if lines else "it was killed")
    with _one_processor() as allowed, _started(sandbox, bait.spec("processors"), bait) as fourth:
        if "cpuset" in fourth.walls.limited:
            fourth.launch()
            (line,) = _lines(fourth, 1)
            text = f"got processors {line}, the harness was allowed {sorted(allowed)}"
            add("use more processors than allowed", set(json.loads(line)) <= allowed, text)


@contextlib.contextmanager
def _one_processor() -> Iterator[set[int]]:
    """Meanwhile this thread, and what it starts, may run on one processor only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(before)})
    try:
        yield os.sched_getaffinity(0)
    finally:
        os.sched_setaffinity(0, before)


@contextlib.contextmanager
def _started(sandbox: Sandbox, spec: SandboxSpec, bait: Bait) -> Iterator[RunningSandbox]:
    """A sandbox, registered as a phase's is, so that the next start of the harness finds it if this one is killed."""
    running = sandbox.start(spec)
    try:
        bait.registration.add_sandbox(running.walls)
        yield running
    finally:
        running.close()
        bait.registration.remove_sandbox(running.walls)
        if bait.monitor:
            bait.monitor.revoke(running.walls)


def _lines(running: RunningSandbox, count: int) -> list[str]:
    """The first `count` lines that the sandbox prints; fewer if it ends before."""
    text, deadline = b"", time.monotonic() + PROBE_SECONDS
    while text.count(b"\n") < count:
        if not select.select([running.log_descriptor], [], [], max(0.0, deadline - time.monotonic()))[0]:
            raise RefereeError(f"the probe does not end; it said {text[-500:]!r}")
        piece = os.read(running.log_descriptor, 1 << 16)
        if not piece:
            break
        text += piece
    return text.decode(errors="replace").splitlines()


def _add_lines(lines: list[str], add: Add) -> None:
    """Results as the probe prints them; anything else it says is a failure of the probe."""
    for line in lines:
        try:
            said = json.loads(line).items()
        except (ValueError, AttributeError):
            raise RefereeError(f"the probe failed: {' | '.join(lines)[-1000:]}") from None
        for name, text in said:
            verdict, _, detail = text.partition(": ")
            add(name, verdict == "denied", detail)
    if not lines:
        raise RefereeError("the probe printed nothing")


def _look_from_outside(running: RunningSandbox, add: Add, may_share: frozenset[str]) -> None:
    """What the kernel says about every process of the sandbox, now that its command runs. may_share: namespaces."""
    pids = _processes_of(running)  # they wait, so none of them ends meanwhile
    facts = [_status(pid) for pid in pids]
    ours = {name: os.stat(f"/proc/self/ns/{name}").st_ino for name in NAMESPACES}
    shared = {name for pid in pids for name in NAMESPACES if os.stat(f"/proc/{pid}/ns/{name}").st_ino == ours[name]}
    shared -= may_share
    add("share a namespace with the host", bool(pids) and not shared, ", ".join(sorted(shared)) or f"{len(pids)} seen")
    for name, key, wanted in (
        ("run without a system call filter", "Seccomp", "2"),
        ("run without no_new_privs", "NoNewPrivs", "1"),
        ("run with capabilities", "CapEff", f"{0:016x}"),
        ("run under another uid", "Uid", "\t".join([str(running.walls.uid)] * 4)),
    ):
        found = {fact[key] for fact in facts}
        add(name, found == {wanted}, f"{key} of {len(pids)} processes: {' and '.join(sorted(found)) or 'none'}")
    if os.geteuid() == 0:
        starters = _ancestors(running.walls.init_pid)  # bwrap itself
        sharing = [pid for pid in _pids() if _uid(pid) == running.walls.uid and pid not in (*pids, *starters)]
        text = f"processes {sharing[:5]} have it, too" if sharing else f"uid {running.walls.uid} is its own"
        add("share a uid with the host", running.walls.uid != 0 and not sharing, text)


def _pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _processes_of(running: RunningSandbox) -> list[int]:
    return [pid for pid in _pids() if pid_namespace(pid) == running.walls.pid_namespace]


def _ancestors(pid: int) -> list[int]:
    found = []
    while pid > 1:
        pid = int(_status(pid)["PPid"])
        found.append(pid)
    return found


def _uid(pid: int) -> int | None:
    try:
        return os.stat(f"/proc/{pid}").st_uid
    except OSError:
        return None


def _status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


def _ask_the_monitor(bait: Bait, monitor: AccessMonitor, label: str, add: Add) -> None:
    """Whether the kernel reported what the probe opened, as that sandbox's doing, and refuses a stranger."""
    secret, granted = identity(bait.secret), identity(bait.granted)

    def events() -> list[Open]:
        monitor.sync()
        return monitor.events()

    seen = events()
    denied = [event for event in seen if event.file == secret]
    add(
        "open a gated file unseen",
        len(denied) >= GATED_WAYS and not any(event.allowed for event in denied),
        f"{len(denied)} denied opens were reported, {GATED_WAYS} tried",
    )
    strange = {(event.opener, event.label) for event in denied} - {(Opener.PHASE, label)}
    add(
        "open a gated file as somebody else",
        bool(denied) and not strange,
        f"taken for {sorted(strange)}" if strange else f"all were attributed to {label!r}",
    )
    add(
        "open an input before its gate is seen",
        any(event.file == granted and event.allowed and event.label == label for event in seen),
        f"{sum(event.file == granted for event in seen)} opens of the granted file were reported",
    )
    paths = {"by its name": bait.secret, "by a hard link": bait.directory / "folder" / "hard-link"}
    for way, path in {**paths, "that a phase was granted": bait.granted}.items():
        opened = subprocess.run(["cat", str(path)], capture_output=True, stdin=subprocess.DEVNULL).returncode == 0
        reported = any(event.opener is Opener.OUTSIDER and not event.allowed for event in events())
        add(
            f"open a gated file {way} from outside",
            not opened and reported,
            "opened" if opened else "denied and reported" if reported else "denied, but not reported",
        )


def _kill(running: RunningSandbox, add: Add) -> None:
    """The sandbox holds daemons that ignore every signal; after a kill nothing of it may be there."""
    before = len(_processes_of(running))
    killed = time.monotonic()
    running.kill()
    while (event := running.event()) is None or event.kind != "empty":
        if time.monotonic() > killed + KILL_SECONDS:
            add("survive a kill", False, f"not empty {KILL_SECONDS:g} s after it was killed")
            return
        time.sleep(0.001)
    left = _processes_of(running)
    if running.walls.uid != os.geteuid():
        left += [pid for pid in _pids() if _uid(pid) == running.walls.uid]
    took = f"{before} processes were gone after {1000 * (time.monotonic() - killed):.0f} ms"
    add("survive a kill", before > 1 and not left, f"{len(left)} processes are left" if left else took)


# --- Bait


@contextlib.contextmanager
def _bait(sandbox: Sandbox, place: Path | None) -> Iterator[Bait]:
    """Lay it out, and take everything away again."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="harness-attack-", dir=place)))
        registration = stack.enter_context(Registration(f"attack-{os.getpid()}"))
        registration.set_scratch(directory)
        monitor = None
        if os.geteuid() == 0:
            monitor = AccessMonitor(registration, directory)
            stack.callback(monitor.close)
        bait = Bait(directory, registration, monitor)
        directory.chmod(0o755)
        shutil.copyfile(PROBE, directory / "probe.py")  # the engine may not find the harness's own
        for path in (bait.granted, bait.secret):
            path.write_text(f"{path.name} {secrets.token_hex(8)}\n")
            path.chmod(0o555)  # executing is a way of opening
        folder = directory / "folder"
        folder.mkdir(mode=0o755)
        (folder / "file").write_text("a file\n")
        os.link(bait.secret, folder / "hard-link")
        (folder / "symbolic-link").symlink_to("/in/secret")
        bait.facts.update(
            granted=bait.granted.read_text(),
            gated=monitor is not None,
            handles=_handles(bait.secret),
            **_local_bait(stack),
            **_marks(),
            hidden=_hidden_paths(directory, registration.directory, seen=sandbox.visible_paths() or []),
            processes=[(pid, start_time(pid)) for pid in (os.getpid(), os.getppid()) if pid > 1],
            disk=os.stat("/").st_dev,
            devices=[],
            environment=sandbox.environment(),
            shared_namespaces=sandbox.shared_namespaces,
            process_limit=LIMITS.processes if os.geteuid() == 0 else 0,
            file_limit=LIMITS.open_files,
            output_files=LIMITS.output_files if os.geteuid() == 0 else 0,
            memory_bytes=LIMITS.memory_bytes,
            byte_limits={
                "/out": LIMITS.output_bytes,
                "/tmp": LIMITS.scratch_bytes,
                "/dev/shm": LIMITS.shared_memory_bytes,
            },
        )
        (directory / "probe.json").write_text(json.dumps(bait.facts))
        if monitor:
            for path in (bait.secret, bait.granted):
                monitor.mark(path, path.name)
        yield bait


def _local_bait(stack: contextlib.ExitStack) -> dict[str, object]:
    """A port, an abstract socket and a SysV segment of the host, which no sandbox may reach."""
    port = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
    name = f"harness-attack-{secrets.token_hex(8)}"
    abstract = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    abstract.bind(f"\0{name}")
    abstract.listen()
    key = secrets.randbelow(1 << 30) + 1
    segment = _libc.shmget(key, 4096, 0o1000 | 0o666)  # IPC_CREAT
    if segment < 0:
        raise OSError(ctypes.get_errno(), "shmget")
    stack.callback(_libc.shmctl, segment, 0, None)  # IPC_RMID
    return {"port": port.getsockname()[1], "abstract": name, "shared_memory_key": key}


def _marks() -> dict[str, object]:
    """Names of what the probe leaves behind, if it can, in the hope that a second sandbox finds it."""
    key = secrets.randbelow(1 << 30) + 1
    return {"mark": f"harness-mark-{key:x}", "mark_key": key, "mark_port": 20_000 + key % 10_000}


def _hidden_paths(*own: Path, seen: Sequence[Path]) -> list[tuple[str, int, int]]:
    """Paths of the host that no sandbox may see, with inode and time of change, as an image has its own of that name:
    the harness, secrets, and what lies in the user's home, except what leads to the Python that every sandbox has and
    to what is `seen` by every one.
    """
    hidden = [Path(__file__), *own, *map(Path, ("/etc/shadow", "/var/log", "/var/lib", "/boot"))]
    with contextlib.suppress(OSError):
        hidden += list(Path.home().iterdir())[:50]
    python = Path(sys.base_prefix).resolve()
    found = []
    for path in hidden:
        if python.is_relative_to(path.resolve()) or any(path.resolve().is_relative_to(tree) for tree in seen):
            continue
        with contextlib.suppress(FileNotFoundError):
            facts = path.lstat()
            found.append((str(path), facts.st_ino, facts.st_mtime_ns))
    return found


def _handles(secret: Path) -> dict[str, tuple[int, str]]:
    """File handles for open_by_handle_at, (type, hexadecimal): real ones where the file system gives them, and guesses
    from an inode number alone, as an attacker would make them.
    """
    handles = {}
    for name, path in {"the root directory": Path("/"), "the gated file": secret}.items():
        buffer = ctypes.create_string_buffer(struct.pack("Ii", 128, 0) + bytes(128))
        if _libc.name_to_handle_at(-100, os.fsencode(path), buffer, ctypes.byref(ctypes.c_int()), 0) == 0:
            size, kind = struct.unpack_from("Ii", buffer)
            handles[name] = (kind, buffer.raw[8 : 8 + size].hex())
    for name, inode in {"inode 2": 2, "the gated file's inode": identity(secret).inode}.items():
        handles[name] = (1, struct.pack("II", inode & 0xFFFFFFFF, 0).hex())  # FILEID_INO32_GEN, any generation
    return handles
