"""A sandbox holds nothing but what its spec names, reaches nothing outside, and ends as a whole when it must."""

from __future__ import annotations

import json
import os
import secrets
import select
import signal
import socket
import stat
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from support import TESTS

from harness.errors import RefereeError
from harness.processes import PHASE_PRIORITY
from harness.sandbox import Limits, Mount, SandboxEvent, SandboxSpec
from harness.sandbox.bubblewrap import (
    INSIDE_UID,
    PYTHON_INSIDE,
    BubblewrapRun,
    BubblewrapSandbox,
    bwrap_arguments,
    environment,
    expected_mount_table,
)
from harness.sandbox.facts import PHASE_UIDS, children_of, out_no_routes, read_mount_table, unused_uid

pytestmark = pytest.mark.sandbox
PATIENCE = 20.0
REPOSITORY = TESTS.parent
LIMITS = Limits(
    processes=64,
    open_files=64,
    memory_bytes=1 << 30,
    output_bytes=1 << 20,
    output_files=10,
    scratch_bytes=1 << 20,
    shared_memory_bytes=2 << 20,
)
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.005)


@dataclass
class Ended:
    """What a sandbox did."""

    log: str
    exit_code: int | None
    attempts: int
    events: list[SandboxEvent]
    launched: float
    out: dict[str, tuple[os.stat_result, bytes]]  # what it left in /out


def start(code: str, *mounts: Mount, limits: Limits = LIMITS, command: tuple[str, ...] = ()) -> BubblewrapRun:
    spec = SandboxSpec(
        label="test", command=command or ("python", "-c", textwrap.dedent(code)), mounts=mounts, limits=limits
    )
    return BubblewrapSandbox().start(spec)


def finish(running: BubblewrapRun, kill_when: Callable[[bytes], bool] | None = None) -> Ended:
    """Launch it, and see it end; `kill_when` is asked with the log so far."""
    launched = running.launch()
    log, events = b"", []
    deadline = time.monotonic() + PATIENCE
    try:
        while not events or events[-1].kind != "empty":
            assert time.monotonic() < deadline, f"the sandbox does not end; it said {log!r}"
            select.select([running, running.log_descriptor], [], [], 0.05)
            if select.select([running.log_descriptor], [], [], 0)[0]:
                log += os.read(running.log_descriptor, 1 << 16)
            if kill_when and kill_when(log):
                running.kill()
            while (event := running.event()) is not None:
                events.append(event)
        while piece := os.read(running.log_descriptor, 1 << 16):
            log += piece
        exit_code = next((event.exit_code for event in events if event.kind == "exited"), None)
        return Ended(log.decode(), exit_code, running.network_attempts(), events, launched, left_in_out(running))
    finally:
        running.close()


def left_in_out(running: BubblewrapRun) -> dict[str, tuple[os.stat_result, bytes]]:
    found = {}
    for name in os.listdir(running.out_descriptor):
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW, dir_fd=running.out_descriptor)
        with open(descriptor, "rb") as file:
            found[name] = (os.fstat(descriptor), file.read())
    return found


def run(code: str, *mounts: Mount, **options) -> Ended:
    return finish(start(code, *mounts, **options))


# --- what a sandbox sees, asked by one probe in one sandbox

PROBE = r"""
import ctypes, json, os, socket, stat, sys
descriptors = []
for name in os.listdir("/proc/self/fd"):
    try:
        descriptors.append([int(name), os.readlink("/proc/self/fd/" + name)])
    except OSError:
        pass  # the listing's own
libc = ctypes.CDLL(None, use_errno=True)
facts = {"descriptors": descriptors}
facts["ids"] = [os.getuid(), os.geteuid(), os.getgid(), os.getegid(), os.getgroups()]
facts["status"] = dict(line.split(":\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\t" in line)
facts["uid_map"] = open("/proc/self/uid_map").read().split()
facts["interfaces"] = [name for _, name in socket.if_nameindex()]
facts["environment"] = dict(os.environ)
facts["hostname"] = socket.gethostname()
facts["here"] = os.getcwd()
facts["stdin"] = sys.stdin.read()
facts["processes"] = [int(name) for name in os.listdir("/proc") if name.isdigit()]
facts["mounts"] = {}
for line in open("/proc/self/mountinfo"):
    fields = line.split(" ")
    facts["mounts"][fields[4]] = fields[5].split(",")

def succeeded(action):
    try:
        action()
        return None
    except OSError as error:
        return error.errno

def call(function, *arguments):
    if getattr(libc, function)(*arguments) < 0:
        raise OSError(ctypes.get_errno(), function)

def create(path):
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)); os.unlink(path)

facts["writable"] = []
places = "/ /in /in/submission /usr/bin /etc /dev /proc /proc/sys/kernel /var /run /root /home".split()
for base in sorted({*facts["mounts"], *places}):
    if os.path.isdir(base) and succeeded(lambda: create(base + "/x-" + os.urandom(4).hex())) is None:
        facts["writable"].append(base)
handle = ctypes.create_string_buffer(b"\x08\0\0\0\x01\0\0\0" + b"\0" * 8)
facts["refused"] = {
    "user namespace": succeeded(lambda: call("unshare", 0x10000000)),
    "mount namespace": succeeded(lambda: call("unshare", 0x00020000)),
    "net namespace": succeeded(lambda: call("unshare", 0x40000000)),
    "pid namespace": succeeded(lambda: call("unshare", 0x20000000)),
    "setns": succeeded(lambda: call("setns", os.open("/proc/1/ns/mnt", os.O_RDONLY), 0)),
    "mount tmpfs": succeeded(lambda: call("mount", b"none", b"/tmp", b"tmpfs", 0, None)),
    "remount": succeeded(lambda: call("mount", b"none", b"/", None, 32, None)),
    "umount": succeeded(lambda: call("umount2", b"/usr", 2)),
    "chroot": succeeded(lambda: os.chroot("/tmp")),
    "setuid 0": succeeded(lambda: os.setuid(0)),
    "sethostname": succeeded(lambda: socket.sethostname("x")),
    "device node": succeeded(lambda: os.mknod("/tmp/node", stat.S_IFBLK | 0o600, os.makedev(7, 0))),
    "core_pattern": succeeded(lambda: open("/proc/sys/kernel/core_pattern", "w")),
    "raw socket": succeeded(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1)),
    "packet socket": succeeded(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW)),
    "write an input": succeeded(lambda: open("/in/file", "r+")),
    "truncate an input": succeeded(lambda: os.truncate("/in/file", 0)),
    "chmod an input": succeeded(lambda: os.chmod("/in/file", 0o777)),
    "setxattr on an input": succeeded(lambda: os.setxattr("/in/file", "user.x", b"1")),
    "touch an input": succeeded(lambda: os.utime("/in/file")),
    "unlink an input": succeeded(lambda: os.unlink("/in/folder/inner")),
    "real-time priority": succeeded(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))),
    "negative niceness": succeeded(lambda: os.setpriority(os.PRIO_PROCESS, 0, -5)),
    "clock": succeeded(lambda: __import__("time").clock_settime(0, 0)),
    "open by handle": succeeded(lambda: call("open_by_handle_at", -100, handle, 0)),
}
facts["exists"] = [path for path in HIDDEN if os.path.lexists(path)]
facts["read"] = [open("/in/file").read(), open("/in/folder/inner").read(), open("/in/private").read()]
facts["devices"] = sorted(os.listdir("/dev"))
facts["sizes"] = {path: (lambda s: s.f_blocks * s.f_frsize)(os.statvfs(path)) for path in ("/tmp", "/dev/shm")}
facts["empty"] = [os.listdir("/tmp"), os.listdir("/dev/shm"), os.listdir("/out")]
facts["etc"] = sorted(os.listdir("/etc"))
facts["passwd"] = open("/etc/passwd").read()
facts["keyrings"] = open("/proc/keys").read() if os.path.exists("/proc/keys") else ""
open("/out/result", "w").write("result")
print(json.dumps(facts))
"""


@dataclass
class Room:
    facts: dict
    ended: Ended
    walls: object
    spec_mounts: tuple[Mount, ...]
    host_mounts: dict[str, str]  # the host's, before


@pytest.fixture(scope="module")
def room(tmp_path_factory) -> Room:
    folder = tmp_path_factory.mktemp("room")
    (folder / "file").write_text("input")
    (folder / "folder").mkdir()
    (folder / "folder" / "inner").write_text("inner")
    private = folder / "private"  # nobody but its owner may search this directory
    private.mkdir(mode=0o700)
    (private / "file").write_text("private")
    mounts = (
        Mount(source=folder / "file", target="/in/file"),
        Mount(source=folder / "folder", target="/in/folder"),
        Mount(source=private / "file", target="/in/private"),
    )
    hidden = [str(REPOSITORY), str(folder), "/root/.ssh", "/home", "/var/run/docker.sock", "/run", "/sys", "/boot"]
    hidden += ["/etc/shadow", "/etc/os-release", "/mnt", "/dev/mem", "/dev/kmsg", "/dev/vda", "/dev/fuse", "/srv"]
    before = read_mount_table(os.getpid())
    running = start(f"HIDDEN = {hidden!r}\n{PROBE}", *mounts)
    walls = running.walls
    ended = finish(running)
    assert ended.exit_code == 0, ended.log
    return Room(json.loads(ended.log), ended, walls, mounts, before)


def test_it_is_nobody_without_capabilities_or_a_way_to_get_some(room: Room) -> None:
    status = room.facts["status"]
    assert room.facts["ids"][:4] == [INSIDE_UID] * 4
    assert room.facts["ids"][4] in ([], [65534])
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(status[kind], 16) == 0, kind
    assert status["NoNewPrivs"] == "1"
    assert len(room.facts["uid_map"]) == 3
    assert room.facts["uid_map"][0] == str(INSIDE_UID)
    assert room.facts["uid_map"][2] == "1"


@needs_root
def test_as_root_it_has_a_host_uid_of_its_own(room: Room) -> None:
    assert room.walls.uid in PHASE_UIDS
    assert room.ended.out["result"][0].st_uid == room.walls.uid


@pytest.mark.parametrize(
    "what",
    [
        "user namespace",
        "mount namespace",
        "net namespace",
        "pid namespace",
        "setns",
        "mount tmpfs",
        "remount",
        "umount",
        "chroot",
        "setuid 0",
        "sethostname",
        "device node",
        "core_pattern",
        "raw socket",
        "packet socket",
        "write an input",
        "truncate an input",
        "chmod an input",
        "setxattr on an input",
        "touch an input",
        "unlink an input",
        "real-time priority",
        "negative niceness",
        "clock",
        "open by handle",
    ],
)
def test_it_is_refused(room: Room, what: str) -> None:
    assert room.facts["refused"][what] is not None


def test_no_wall_rests_on_the_system_call_filter_alone() -> None:
    """What the probe cannot tell apart because the filter refuses it first."""
    spec = SandboxSpec(label="", command=("python",), mounts=(), limits=LIMITS)
    arguments = [str(part) for part in bwrap_arguments("bwrap", spec)[0]]
    for namespace in ("user", "ipc", "pid", "net", "uts", "cgroup"):
        assert f"--unshare-{namespace}" in arguments
    for option in ("--disable-userns", "--new-session", "--clearenv"):
        assert option in arguments
    assert arguments[arguments.index("--cap-drop") + 1] == "ALL"
    assert not {option for option in arguments if option.endswith("-try") or option == "--share-net"}


def test_every_refusal_of_the_probe_is_asserted(room: Room) -> None:
    marks = next(mark for mark in test_it_is_refused.pytestmark if mark.name == "parametrize")
    assert set(marks.args[1]) == set(room.facts["refused"])


def test_nothing_can_be_created_but_in_its_three_places(room: Room) -> None:
    assert room.facts["writable"] == ["/dev/shm", "/out", "/tmp"]


def test_its_mount_table_is_the_expected_one_and_is_evidence(room: Room) -> None:
    spec = SandboxSpec(label="", command=("python",), mounts=room.spec_mounts, limits=LIMITS)
    expected = expected_mount_table(spec)
    assert dict(room.walls.mounts) == expected
    assert {target: options[0] for target, options in room.facts["mounts"].items()} == expected
    for target, options in room.facts["mounts"].items():
        assert "nosuid" in options, f"{target} would honour setuid bits"
    assert expected["/in/file"] == expected["/usr"] == expected["/"] == "ro"
    assert expected["/out"] == "rw"


def test_descriptors_environment_and_surroundings_are_exactly_these(room: Room) -> None:
    facts = room.facts
    assert [number for number, _ in sorted(facts["descriptors"])] == [0, 1, 2]
    assert dict(facts["descriptors"])[0] == "/dev/null"
    assert facts["stdin"] == ""
    assert {
        key: value for key, value in facts["environment"].items() if key not in ("PWD", "LC_CTYPE")
    } == environment()
    assert facts["hostname"] == "sandbox"
    assert facts["here"] == "/in/submission"
    assert facts["interfaces"] == ["lo"]
    assert facts["keyrings"] == ""
    assert facts["empty"] == [[], [], []]


def test_it_sees_its_own_processes_only(room: Room) -> None:
    assert room.facts["processes"][0] == 1
    assert len(room.facts["processes"]) == 2, "bwrap's init and the command"


def test_it_sees_nothing_of_the_host(room: Room) -> None:
    assert room.facts["exists"] == []
    assert set(room.facts["etc"]) == {"group", "hosts", "nsswitch.conf", "passwd", "ld.so.cache"}
    assert [line.split(":")[0] for line in room.facts["passwd"].splitlines()] == ["phase"], "not the host's"
    harmless = {"console", "core", "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout"}
    assert set(room.facts["devices"]) <= harmless | {"tty", "urandom", "zero"}


def test_inputs_are_readable_even_from_a_private_directory(room: Room) -> None:
    assert room.facts["read"] == ["input", "inner", "private"]


def test_scratch_space_is_limited(room: Room) -> None:
    assert room.facts["sizes"] == {"/tmp": LIMITS.scratch_bytes, "/dev/shm": LIMITS.shared_memory_bytes}


def test_events_come_in_order_with_their_times(room: Room) -> None:
    assert [event.kind for event in room.ended.events] == ["exited", "empty"]
    exited, empty = room.ended.events
    assert room.ended.launched < exited.at <= empty.at < time.monotonic()
    assert room.ended.attempts == 0


def test_the_output_is_there_afterwards_and_nothing_on_the_host_was_mounted(room: Room) -> None:
    assert room.ended.out["result"][1] == b"result"
    added = read_mount_table(os.getpid()).keys() - room.host_mounts.keys()
    assert not {target for target in added if "docker" not in target}, "a Docker engine mounts what its tests run"


# --- Python inside


def test_the_wire_module_is_all_that_it_has_of_the_harness() -> None:
    ended = run(
        """
        import harness.scoring.wire, importlib.util, sys
        print(harness.scoring.wire.VERSION, sys.prefix)
        for name in ("harness.errors", "harness.referee", "harness.policy", "conftest"):
            print(name, importlib.util.find_spec(name))
        """
    )
    assert ended.exit_code == 0, ended.log
    first, *rest = ended.log.splitlines()
    assert first.startswith("2 ")
    assert PYTHON_INSIDE in first or sys.prefix == sys.base_prefix
    assert all(line.endswith(" None") for line in rest), rest


# --- how it ends


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("pass", 0),
        ("raise SystemExit(3)", 3),
        ("raise SystemExit(255)", 255),
        ("1 / 0", 1),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 128 + signal.SIGKILL),
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", 128 + signal.SIGSEGV),
        ("import os; os.abort()", 128 + signal.SIGABRT),
    ],
)
def test_the_exit_code_is_the_command_s(code: str, expected: int) -> None:
    ended = run(code)
    assert ended.exit_code == expected
    assert [event.kind for event in ended.events] == ["exited", "empty"]


def test_a_command_that_does_not_exist_is_told_apart_from_a_broken_sandbox() -> None:
    """The contestant named it, so it is an exit code, not an error of the referee."""
    try:
        ended = finish(start("", command=("/in/submission/nothing",)))
    except RefereeError as error:
        pytest.fail(f"a wrong command of the contestant became an error of the referee: {error}")
    assert ended.exit_code not in (0, None)


DAEMON = """
    import os, sys, time
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            time.sleep(3600)
        os._exit(0)
    print("daemon is up", flush=True)
"""


def test_a_daemon_keeps_the_sandbox_from_being_empty_until_it_is_killed() -> None:
    """Attack X27: setsid and a double fork do not leave the sandbox."""
    running = start(DAEMON)
    init = running.walls.init_pid
    seen: list[float] = []

    def kill_when(log: bytes) -> bool:
        if b"up" in log and len(seen) < 5 and running_children(init):
            seen.append(time.monotonic())
        return len(seen) == 5

    ended = finish(running, kill_when)
    exited, empty = ended.events
    assert (exited.kind, exited.exit_code, empty.kind) == ("exited", 0, "empty")
    assert seen[-1] < empty.at
    assert exited.at < empty.at
    assert is_gone(init)


def is_gone(pid: int) -> bool:
    """Whether the process has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def running_children(init: int) -> list[int]:
    """Processes in the pid namespace of `init`."""
    found = []
    namespace = os.stat(f"/proc/{init}/ns/pid").st_ino
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.stat(entry / "ns/pid").st_ino == namespace:
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_kill_ends_every_process_at_once() -> None:
    running = start(
        """
        import os, signal, time
        for number in range(20):
            if os.fork() == 0:
                for ignored in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                    signal.signal(ignored, signal.SIG_IGN)
                time.sleep(3600)
        print("up", flush=True)
        time.sleep(3600)
        """
    )
    init = running.walls.init_pid
    inside: list[int] = []

    def kill_when(log: bytes) -> bool:
        if b"up" in log and not inside:
            inside.extend(running_children(init))
        return bool(inside)

    ended = finish(running, kill_when)
    assert len(inside) >= 22
    assert ended.exit_code == 128 + signal.SIGKILL
    assert all(is_gone(pid) for pid in inside)


def test_it_can_be_closed_before_its_launch_and_twice() -> None:
    running = start("print('never')")
    init = running.walls.init_pid
    running.close()
    running.close()
    assert is_gone(init)


def test_nothing_of_the_command_runs_before_launch() -> None:
    running = start("open('/out/early', 'w')")
    try:
        assert not select.select([running], [], [], 0.2)[0]
        assert os.listdir(running.out_descriptor) == []
    finally:
        running.close()


def test_a_lost_guard_is_an_error_of_the_referee_and_the_sandbox_dies() -> None:
    running = start("import time; time.sleep(3600)")
    running.launch()
    init = running.walls.init_pid
    running._guard.send_signal(signal.SIGKILL)
    wait_until(lambda: bool(select.select([running], [], [], 0)[0]), "the loss shows")
    with pytest.raises(RefereeError, match="lost"):
        running.event()
    running.close()
    wait_until(lambda: is_gone(init), "init is gone")


START_AND_WAIT = """
import sys, time
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from test_bubblewrap import start
running = start("import time; time.sleep(3600)")
if sys.argv[3] == "launched":
    running.launch()
print(running.walls.init_pid, running._guard.pid, flush=True)
time.sleep(3600)
"""


@pytest.mark.parametrize("state", ["built", "launched"])
def test_the_death_of_the_harness_ends_the_sandbox(state: str) -> None:
    """Attacks X33 and F06: kill -9 leaves no process behind."""
    harness = subprocess.Popen(
        [sys.executable, "-c", START_AND_WAIT, str(TESTS), str(Path(__file__).parent), state],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
    )
    try:
        init, guard = (int(part) for part in harness.stdout.readline().split())
        assert Path(f"/proc/{init}").exists()
    finally:
        harness.kill()
        harness.wait()
        harness.stdout.close()
    wait_until(lambda: is_gone(init), "the sandbox is gone")
    wait_until(lambda: is_gone(guard), "the guard is gone")


# --- the network


@pytest.mark.parametrize(
    ("code", "counted"),
    [
        ("socket.create_connection(('192.0.2.1', 80), 1)", True),
        ("socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))", True),
        ("socket.socket(socket.AF_INET6).connect(('2001:db8::1', 80))", True),
        ("socket.socket(socket.AF_INET6, socket.SOCK_DGRAM).sendto(b'x', ('2001:db8::1', 53))", True),
        ("socket.socket(socket.AF_INET, socket.SOCK_DGRAM).connect(('192.0.2.1', 53))", True),
        ("socket.socket().connect(('127.0.0.1', 9))", False),
        ("socket.socket(socket.AF_INET6).connect(('::1', 9))", False),
        (
            "s = socket.socket(); s.bind(('127.0.0.1', 0)); s.listen(); "
            "c = socket.create_connection(s.getsockname(), 5); c.send(b'x'); print(s.accept()[0].recv(1))",
            False,
        ),
        ("socket.socketpair()", False),
        ("socket.gethostname()", False),
    ],
)
def test_attempts_to_leave_are_counted_and_loopback_is_not(code: str, counted: bool) -> None:
    ended = run(f"import socket\ntry:\n    {code}\nexcept OSError as error:\n    print(error)")
    assert ended.exit_code == 0, ended.log
    assert (ended.attempts > 0) == counted, ended.log


def test_an_attempt_by_a_process_that_is_killed_still_counts() -> None:
    ended = run(
        """
        import os, socket
        try: socket.create_connection(("192.0.2.1", 80), 1)
        except OSError: os.kill(os.getpid(), 9)
        """
    )
    assert ended.attempts > 0


def test_abstract_sockets_of_the_host_are_out_of_reach() -> None:
    name = f"\0harness-test-{secrets.token_hex(8)}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        ended = run(f"import socket; socket.socket(socket.AF_UNIX).connect({name!r})")
    assert "refused" in ended.log
    assert ended.exit_code == 1


def test_the_counter_is_read_from_both_formats() -> None:
    lines = Path("/proc/net/snmp").read_text().splitlines()
    names, values = (line.split() for line in lines if line.startswith("Ip:"))
    values[names.index("OutNoRoutes")] = "12345"
    assert out_no_routes(" ".join(names) + "\n" + " ".join(values) + "\nIcmp: x\nIcmp: 1\n") == 12345
    assert out_no_routes("Ip6InReceives\t7\nIp6OutNoRoutes                  \t31\n") == 31
    assert out_no_routes("Ip6InReceives 7\n") == 0


# --- limits


def test_limits_hold() -> None:
    ended = run(
        """
        import os, resource
        for name in ("CORE", "NOFILE", "FSIZE", "NPROC"):
            print(name, *resource.getrlimit(getattr(resource, "RLIMIT_" + name)))
        def most(path):
            done = 0
            try:
                with open(path, "wb", 0) as file:
                    while done < 8 << 20:
                        done += file.write(bytes(1 << 16))
            except OSError:
                pass
            return done
        import signal; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        print(most("/tmp/large"), most("/dev/shm/large"))
        """
    )
    *limits, sizes = ended.log.splitlines()
    assert limits[:3] == ["CORE 1 1", "NOFILE 64 64", f"FSIZE {1 << 20} {1 << 20}"]
    if os.geteuid() == 0:
        assert limits[3] == "NPROC 64 64"
    assert sizes == f"{1 << 20} {1 << 20}"


@needs_root
def test_a_fork_bomb_stays_within_its_limit() -> None:
    ended = finish(
        start(
            """
            import os, time
            made = 0
            try:
                while made < 500:
                    if os.fork() == 0:
                        time.sleep(3600)
                    made += 1
            except OSError as error:
                print(error.strerror, made, "done", flush=True)
            """
        ),
        kill_when=lambda log: b"done" in log,
    )
    reason, made = ended.log.split(" done")[0].rsplit(" ", 1)
    assert reason == "Resource temporarily unavailable"
    assert int(made) <= 64


# --- walls that cannot be built


def test_a_source_that_does_not_exist_is_an_error_of_the_referee(tmp_path: Path) -> None:
    with pytest.raises((RefereeError, OSError)):
        start("pass", Mount(source=tmp_path / "nothing", target="/in/file"))


def test_walls_that_are_not_the_expected_ones_are_refused(monkeypatch) -> None:
    """Attack S13: a launcher that builds something else is noticed before the command runs."""
    from harness.sandbox import bubblewrap

    monkeypatch.setattr(bubblewrap, "BUILD_SECONDS", 5.0)
    real = bubblewrap.bwrap_arguments

    def with_a_door(*arguments):
        made, sources = real(*arguments)
        return [*made[: made.index("--remount-ro")], "--tmpfs", "/door", *made[made.index("--remount-ro") :]], sources

    monkeypatch.setattr(bubblewrap, "bwrap_arguments", with_a_door)
    with pytest.raises(RefereeError, match="/door"):
        start("pass")


@pytest.mark.parametrize("name", ["a file", "tab\tname", "back\\slash", "ünïcode", "line\u2028break", "x" * 200])
def test_odd_names_of_inputs_are_mounted_and_recognised(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("odd")
    running = start("import sys; print(open(sys.argv[1]).read())", Mount(source=tmp_path / name, target=f"/in/{name}"))
    assert (f"/in/{name}", "ro") in running.walls.mounts
    running.close()


def test_the_mount_table_speaks_of_the_sandbox_not_of_the_harness() -> None:
    assert "/in/submission" not in read_mount_table(os.getpid())


def test_uids_of_phases_are_unused_and_far_away() -> None:
    found = {unused_uid() for _ in range(20)}
    assert len(found) > 15
    assert all(uid >= 1 << 30 for uid in found)
    assert not found & {entry.stat().st_uid for entry in Path("/proc").iterdir() if entry.name == "self"}


@needs_root
def test_what_it_leaves_cannot_harm_the_host() -> None:
    """Attack X24: no setuid file of root's, no device node."""
    ended = run(
        """
        import os, shutil
        shutil.copy("/bin/true", "/out/tool"); os.chmod("/out/tool", 0o6777)
        try: os.chown("/out/tool", 0, 0)
        except OSError as error: print(error.strerror)
        """
    )
    assert ended.exit_code == 0, ended.log
    facts, _ = ended.out["tool"]
    assert facts.st_uid in PHASE_UIDS
    assert not stat.S_ISBLK(facts.st_mode)


@pytest.mark.privileged
def test_a_phase_goes_before_other_sessions() -> None:
    """Otherwise one busy process of somebody else makes it many times slower (`processes.favour`)."""
    running = start("import time; time.sleep(60)")
    try:
        running.launch()
        deadline = time.monotonic() + PATIENCE
        while running.confinement() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        (command,) = children_of(running.walls.init_pid)
        assert Path(f"/proc/{command}/autogroup").read_text().split()[-1] == str(PHASE_PRIORITY)
    finally:
        running.close()
