"""A marked file is opened by nobody who was not asked for, under whatever name; and the monitor's loss opens nothing.

Real fanotify marks on single files in temporary directories, never on a mount or a file system."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from support import TESTS, Disk

from harness.access import AccessMonitor, Open, identity
from harness.errors import RefereeError
from harness.fanotify import (
    FAN_ALLOW,
    FAN_DENY,
    FAN_EPIDFD,
    FAN_OPEN_PERM,
    FAN_Q_OVERFLOW,
    EventsLost,
    PermissionGroup,
)
from harness.listener import Listener
from harness.policy import Grant, Identity, Opener
from harness.processes import start_time
from harness.registry import Registration
from harness.sandbox import SMALL, Mount, SandboxSpec
from harness.sandbox.bubblewrap import BubblewrapSandbox

pytestmark = [
    pytest.mark.privileged,
    pytest.mark.skipif(os.geteuid() != 0, reason="fanotify permission marks need root"),
]

REPOSITORY = TESTS.parent
PATIENCE = 20.0


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.01)


def outsider(*command: str | Path) -> str | None:
    """What another process of the machine prints, None if it fails."""
    ended = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=PATIENCE)
    return ended.stdout if ended.returncode == 0 else None


@pytest.fixture
def secret(tmp_path) -> Path:
    path = tmp_path / "shard.bin"
    path.write_text("secret")
    return path


@pytest.fixture
def registration(tmp_path):
    with Registration("this-run", tmp_path / "registry") as found:
        yield found


@pytest.fixture
def monitor(registration, tmp_path):
    found = AccessMonitor(registration, tmp_path)
    try:
        yield found
    finally:
        for process in found._processes:  # a stopped listener could not end
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGCONT)
        found.close()


def reports(monitor: AccessMonitor) -> list[Open]:
    monitor.sync()
    return monitor.events()


def test_an_outsider_is_denied_and_every_denier_reports_it(monitor, secret: Path) -> None:
    assert outsider("cat", secret) == "secret"
    file = monitor.mark(secret, "shard")
    assert file == identity(secret)
    assert monitor.names[file] == "shard"
    process = subprocess.Popen(["cat", str(secret)], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    said, complaint = process.communicate(timeout=PATIENCE)
    assert said == b""
    assert b"not permitted" in complaint
    found = reports(monitor)
    assert found, "somebody denied"
    assert {(event.file, event.pid, event.allowed, event.opener) for event in found} == {
        (file, process.pid, False, Opener.OUTSIDER)
    }


@pytest.mark.parametrize(
    "alias",
    [
        "cat {link}",
        "cat {symlink}",
        "mv {shard} {shard}.moved; cat {shard}.moved",
        "echo more >> {shard}",
        "exec 3<> {shard}",
        "unshare --mount sh -c 'mount --bind {shard} {other} && cat {other}'",
        "unshare --user --map-root-user --mount sh -c 'mount --bind {shard} {other} && cat {other}'",
        "dd if={shard} iflag=direct",
        "python3 -c 'import mmap, os; mmap.mmap(os.open(\"{shard}\", os.O_RDONLY), 0, prot=1)'",
        'python3 -c \'import os; print(os.open("/proc/self/fd/%d" % os.open("{shard}", os.O_PATH), 0))\'',
    ],
)
def test_no_other_name_or_way_opens_it(monitor, secret: Path, alias: str) -> None:
    """Attacks X01 to X04: the mark is on the inode."""
    places = {name: secret.with_name(name) for name in ("link", "symlink", "other")}
    os.link(secret, places["link"])
    places["symlink"].symlink_to(secret)
    places["other"].touch()
    monitor.mark(secret, "shard")
    assert outsider("sh", "-c", alias.format(shard=secret, **places)) is None
    found = reports(monitor)
    assert found
    assert not any(event.allowed for event in found)
    assert {event.file for event in found} == {identity(places["link"])}


def test_the_harness_itself_may_open_from_any_thread(monitor, secret: Path) -> None:
    file = monitor.mark(secret, "shard")
    seen: list[str] = []
    thread = threading.Thread(target=lambda: seen.append(secret.read_text()))
    thread.start()
    thread.join()
    assert secret.read_text() == seen[0] == "secret"
    found = reports(monitor)
    assert len(found) == 4, "each of two listeners saw both"
    assert {(event.file, event.allowed, event.opener) for event in found} == {(file, True, Opener.HARNESS)}
    assert {event.listener for event in found} == {0, 1}


def test_a_child_of_the_harness_is_not_the_harness(monitor, secret: Path) -> None:
    monitor.mark(secret, "shard")
    child = os.fork()
    if child == 0:
        try:
            os.open(secret, os.O_RDONLY)
        except PermissionError:
            os._exit(7)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_a_hundred_opens_of_the_harness_while_nobody_reads_the_reports(monitor, secret: Path) -> None:
    """A listener never waits for the harness, which may itself be waiting in an open()."""
    monitor.mark(secret, "shard")
    for _ in range(2000):
        os.close(os.open(secret, os.O_RDONLY))
    assert len(reports(monitor)) == 4000


def test_what_is_not_marked_stays_open(monitor, secret: Path) -> None:
    neighbour = secret.with_name("neighbour")
    neighbour.write_text("free")
    monitor.mark(secret, "shard")
    assert outsider("cat", neighbour) == "free"
    secret.rename(secret.with_name("moved"))
    secret.write_text("another inode")
    assert outsider("cat", secret) == "another inode", "a name is nobody"


def test_after_the_end_the_file_opens_again_and_no_listener_lives(registration, secret: Path, tmp_path) -> None:
    monitor = AccessMonitor(registration, tmp_path)
    monitor.mark(secret, "shard")
    assert outsider("cat", secret) is None
    listeners = [process.pid for process in monitor._processes]
    monitor.close()
    assert outsider("cat", secret) == "secret"
    assert not any(Path(f"/proc/{pid}").exists() for pid in listeners)


def test_a_file_replaced_before_its_mark_is_refused(secret: Path) -> None:
    group = PermissionGroup()
    before = identity(secret)
    secret.rename(secret.with_name("old"))
    secret.write_text("another inode")
    with pytest.raises(OSError, match="replaced"):
        group.mark(str(secret), before)
    group.close()
    assert outsider("cat", secret) == "another inode"


def test_a_file_that_cannot_be_marked_is_the_referee_s_fault(monitor) -> None:
    with pytest.raises((RefereeError, OSError)):
        monitor.mark(Path("/nowhere/shard.bin"), "shard")


def test_listeners_are_two_processes_of_another_kind_than_the_harness(monitor) -> None:
    assert len({process.pid for process in monitor._processes} | {os.getpid()}) == 3
    for process in monitor._processes:
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert "TracerPid:\t0" in status


# --- when a listener is lost


@pytest.mark.parametrize("victim", [0, 1])
def test_one_listener_killed_opens_nothing_and_is_noticed(monitor, secret: Path, victim: int) -> None:
    monitor.mark(secret, "shard")
    os.kill(monitor._processes[victim].pid, signal.SIGKILL)
    monitor._processes[victim].wait(PATIENCE)
    assert outsider("cat", secret) is None, "the survivor denies"
    with pytest.raises(RefereeError, match="lost"):
        reports(monitor)


@pytest.mark.parametrize("victim", [0, 1])
def test_a_listener_killed_while_an_open_waits_for_it_opens_nothing(monitor, secret: Path, victim: int) -> None:
    """Attack X13: with one listener the waiting open would be let through."""
    monitor.mark(secret, "shard")
    os.kill(monitor._processes[victim].pid, signal.SIGSTOP)
    waiting = subprocess.Popen(["cat", str(secret)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    wchan = Path(f"/proc/{waiting.pid}/wchan")
    wait_until(lambda: waiting.poll() is not None or "fanotify" in wchan.read_text(), "the open waits")
    os.kill(monitor._processes[victim].pid, signal.SIGKILL)
    said, _ = waiting.communicate(timeout=PATIENCE)
    assert said == b""
    assert waiting.returncode != 0


def test_events_notice_a_lost_listener_without_an_order(monitor) -> None:
    monitor._processes[1].kill()
    monitor._processes[1].wait(PATIENCE)
    with pytest.raises(RefereeError, match="lost"):
        monitor.events()


# --- when the kernel cannot report an open


def event(mask: int = FAN_OPEN_PERM, descriptor: int = -1, pid: int = 1, pidfd: int = -1) -> bytes:
    """An event as the kernel writes it (fanotify(7)): metadata, then an information record with a pidfd."""
    record = struct.pack("=BBHi", 4, 0, 8, pidfd)
    return struct.pack("=IBBHQii", 24 + len(record), 3, 0, 24, mask, descriptor, pid) + record


def own_open(path: Path) -> bytes:
    return event(descriptor=os.open(path, os.O_RDONLY), pid=os.getpid(), pidfd=os.pidfd_open(os.getpid()))


class Kernel:
    """Stands in for the kernel's end of a permission group: writes events, reads answers."""

    def __init__(self) -> None:
        self.end, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.group = PermissionGroup()
        os.dup2(self.theirs.fileno(), self.group.fileno())
        self.end.settimeout(PATIENCE)

    def answer(self) -> tuple[int, int]:
        """Descriptor and FAN_ALLOW or FAN_DENY."""
        return struct.unpack("=iI", self.end.recv(8))


LOST = {
    "queue of opens overflowed": event(mask=FAN_Q_OVERFLOW),
    "process 77 without the file": event(pid=77),
}


@pytest.mark.parametrize("text", LOST)
@pytest.mark.parametrize("first", [True, False])
def test_an_event_that_was_lost_denies_those_beside_it(secret: Path, text: str, first: bool) -> None:
    kernel = Kernel()
    descriptor = os.open(secret, os.O_RDONLY)
    parts = [LOST[text], event(descriptor=descriptor)]
    kernel.end.send(b"".join(parts if first else reversed(parts)))
    with pytest.raises(EventsLost, match=text):
        kernel.group.requests()
    assert kernel.answer() == (descriptor, FAN_DENY)
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(descriptor)
    kernel.group.close()


def test_an_opener_that_the_kernel_cannot_name_is_denied_and_told(secret: Path) -> None:
    kernel = Kernel()
    descriptor = os.open(secret, os.O_RDONLY)
    kernel.end.send(event(descriptor=descriptor, pid=77, pidfd=FAN_EPIDFD))
    with pytest.raises(EventsLost, match="which process 77 is"):
        kernel.group.requests()
    assert kernel.answer() == (descriptor, FAN_DENY)
    kernel.group.close()


@pytest.mark.parametrize("text", LOST)
def test_a_lost_event_ends_at_the_harness_and_the_listener_denies_from_then_on(
    monitor, registration, secret: Path, text: str
) -> None:
    """Attack X15. The events are made up, because an unlimited queue does not overflow."""
    kernel = Kernel()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listener = Listener(theirs, os.getpid(), registration.directory)
    listener.group = kernel.group
    running = threading.Thread(target=listener.run)
    running.start()
    real, monitor._channels[0] = monitor._channels[0], ours
    try:
        kernel.end.send(own_open(secret))
        assert kernel.answer()[1] == FAN_ALLOW
        kernel.end.send(LOST[text])
        kernel.end.send(own_open(secret))
        assert kernel.answer()[1] == FAN_DENY
        with pytest.raises(RefereeError, match=f"access listener 0: .*{text}"):
            monitor.events()
        with pytest.raises(RefereeError, match=text):
            monitor.sync()
    finally:
        monitor._channels[0] = real
        ours.close()
        running.join(PATIENCE)
    assert not running.is_alive()


def test_more_opens_at_once_than_a_listener_has_descriptors(monitor, secret: Path) -> None:
    """Attack D17: it takes some at a time, so many processes cannot exhaust it."""
    monitor.mark(secret, "shard")
    for process in monitor._processes:
        resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (200, 200))
        process.send_signal(signal.SIGSTOP)
    openers = [
        subprocess.Popen(["cat", str(secret)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(150)
    ]
    for opener in openers:
        wchan = Path(f"/proc/{opener.pid}/wchan")
        wait_until(lambda wchan=wchan: "fanotify" in wchan.read_text(), "every open waits")
    for process in monitor._processes:
        process.send_signal(signal.SIGCONT)
    assert {opener.wait(PATIENCE) for opener in openers} == {1}
    assert {event.pid for event in reports(monitor)} == {opener.pid for opener in openers}


# --- when a mark is lost


def test_proving_the_gates_takes_no_report_away_and_adds_none(monitor, secret: Path) -> None:
    file = monitor.mark(secret, "shard")
    monitor.prove_gates()
    assert reports(monitor) == []
    assert outsider("cat", secret) is None
    monitor.prove_gates()
    found = reports(monitor)
    assert found
    assert {(event.file, event.opener) for event in found} == {(file, Opener.OUTSIDER)}


def test_a_file_system_that_was_mounted_anew_has_lost_its_gates(monitor, tmp_path) -> None:
    """Attack X11: device, inode, name and content are as before, and nobody is asked any more."""
    with Disk(tmp_path / "image", tmp_path / "disk") as disk:
        shard = disk.folder / "shard.bin"
        shard.write_text("secret")
        file = monitor.mark(shard, "shard")
        monitor.prove_gates()
        disk.mount_anew()
        assert identity(shard) == file
        assert outsider("cat", shard) == "secret", "the mark is gone"
        monitor.prove_alive()
        with pytest.raises(RefereeError, match=f"the gate on {shard} is gone"):
            monitor.prove_gates()


@pytest.mark.parametrize("listener", [0, 1])
def test_a_gate_that_one_listener_has_lost_is_gone(monitor, secret: Path, listener: int) -> None:
    monitor.mark(secret, "shard")
    monitor.prove_gates()
    other = secret.with_name("other.bin")
    other.write_text("other")
    monitor._paths[identity(other)] = other
    monitor._order({"order": "mark", "path": str(other), "file": identity(other)}, [listener])
    with pytest.raises(RefereeError, match=f"the gate on {other} is gone: listener {1 - listener}"):
        monitor.prove_gates()


@pytest.mark.parametrize("fault", ["removed", "exchanged"])
def test_a_gated_file_that_is_not_there_any_more_cannot_be_proved(monitor, secret: Path, fault: str) -> None:
    monitor.mark(secret, "shard")
    secret.rename(secret.with_name("old"))
    if fault == "exchanged":
        secret.write_text("another inode")
    with pytest.raises(RefereeError, match=str(secret)):
        monitor.prove_gates()


def test_proving_the_gates_does_not_wait_for_ever(monitor, secret: Path, monkeypatch) -> None:
    """The proof is an open itself, and would wait for a listener that stops in between."""
    monkeypatch.setattr(monitor._canaries, "_patience", 1.0)
    monitor.mark(secret, "shard")
    monitor._processes[1].send_signal(signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(RefereeError, match="access listener 1 does not answer"):
        monitor.prove_gates()
    assert time.monotonic() - began < 8


# --- sandboxes


def sandboxed(code: str, mounts: dict[Path, str]):
    """A started sandbox that will run `code` when it is launched."""
    return BubblewrapSandbox().start(
        SandboxSpec(
            label="test",
            command=("python", "-c", textwrap.dedent(code)),
            mounts=tuple(Mount(source=source, target=target) for source, target in mounts.items()),
            limits=SMALL,
        )
    )


def until_empty(running) -> int | None:
    exit_code = None

    def is_empty() -> bool:
        nonlocal exit_code
        while event := running.event():
            if event.kind == "empty":
                return True
            exit_code = event.exit_code
        return False

    running.launch()
    wait_until(is_empty, "the sandbox is empty")
    return exit_code


ATTEMPTS = """
    import json, os, pathlib
    def attempt(path):
        try:
            return os.read(os.open(path, os.O_RDONLY), 100).decode()
        except OSError as error:
            return error.strerror
    def by_reopening(path):
        return attempt("/proc/self/fd/%d" % os.open(path, os.O_PATH))
    os.symlink("/in/forbidden", "/tmp/symlink")
    print(json.dumps([attempt("/in/granted"), attempt("/in/forbidden"), attempt("/in/alias"), attempt("/tmp/symlink"),
        by_reopening("/in/forbidden"), attempt("/in/folder/shard.bin")]))
"""


@pytest.mark.sandbox
def test_a_sandbox_opens_what_it_was_granted_and_nothing_else(monitor, secret: Path) -> None:
    granted = secret.with_name("granted.bin")
    granted.write_text("granted")
    alias = secret.with_name("alias.bin")
    os.link(secret, alias)
    folder = secret.with_name("folder")
    folder.mkdir()
    os.link(secret, folder / "shard.bin")
    files = {path: monitor.mark(path, path.name) for path in (secret, granted)}
    mounts = {granted: "/in/granted", secret: "/in/forbidden", alias: "/in/alias", folder: "/in/folder"}
    running = sandboxed(ATTEMPTS, mounts)
    try:
        monitor.grant("train, seed 1", running.walls, frozenset([files[granted]]))
        assert until_empty(running) == 0
        said = json.loads(os.read(running.log_descriptor, 10000))
        assert said == ["granted", *["Operation not permitted"] * 5]
        found = [event for event in reports(monitor) if event.opener is not Opener.HARNESS]
        assert {(event.opener, event.label) for event in found} == {(Opener.PHASE, "train, seed 1")}
        assert {event.listener for event in found if event.allowed} == {0, 1}
        assert {event.file for event in found if event.allowed} == {files[granted]}
        denied = [event for event in found if not event.allowed]
        assert {event.file for event in denied} == {files[secret]}
        assert len([event for event in denied if event.listener == denied[0].listener]) == 5
        monitor.revoke(running.walls)
    finally:
        running.close()


@pytest.mark.sandbox
@pytest.mark.parametrize("revoked", [False, True])
def test_a_sandbox_without_a_grant_is_an_outsider(monitor, secret: Path, revoked: bool) -> None:
    file = monitor.mark(secret, "shard")
    running = sandboxed("open('/in/shard')", {secret: "/in/shard"})
    try:
        if revoked:
            monitor.grant("train, seed 1", running.walls, frozenset([file]))
            monitor.revoke(running.walls)
        assert until_empty(running) == 1
        assert {event.opener for event in reports(monitor)} == {Opener.OUTSIDER}
    finally:
        running.close()


@pytest.mark.sandbox
def test_the_gate_time_lies_between_launch_and_end(monitor, secret: Path) -> None:
    file = monitor.mark(secret, "shard")
    running = sandboxed("open('/in/shard').read()", {secret: "/in/shard"})
    try:
        monitor.grant("train, seed 1", running.walls, frozenset([file]))
        before = time.monotonic()
        assert until_empty(running) == 0
        (first, second) = [event.at for event in reports(monitor)]
        assert before < first < time.monotonic()
        assert before < second < time.monotonic()
        monitor.revoke(running.walls)
    finally:
        running.close()


# --- several runs on one machine


OPEN_AS_ANOTHER_RUN = """
import sys
from pathlib import Path
from harness.policy import Grant
from harness.processes import start_time
from harness.registry import Registration
with Registration(sys.argv[1], Path(sys.argv[2])):
    print(open(sys.argv[3]).read(), end="")
"""


def as_another_run(registry: Path, secret: Path, run_id: str = "another-run") -> str | None:
    ended = subprocess.run(
        [sys.executable, "-c", OPEN_AS_ANOTHER_RUN, run_id, str(registry), str(secret)],
        capture_output=True,
        text=True,
        cwd=REPOSITORY,
        timeout=PATIENCE,
    )
    return ended.stdout if ended.returncode == 0 else None


def test_another_run_s_harness_is_let_through_if_it_is_registered(monitor, registration, secret: Path) -> None:
    monitor.mark(secret, "shard")
    assert as_another_run(registration.directory, secret) == "secret"
    assert {event.opener for event in reports(monitor)} == {Opener.OTHER_RUN}
    elsewhere = secret.with_name("other-registry")
    assert as_another_run(elsewhere, secret) is None


@pytest.mark.parametrize(
    "forgery",
    [
        {"start_time": 1},  # a process of that number that started at another time
        {"owner": 65534},  # not root's entry
        {"harness_pid": 2**22 + 5},
    ],
)
def test_a_registry_entry_of_nobody_counts_for_nothing(monitor, registration, secret: Path, forgery: dict) -> None:
    monitor.mark(secret, "shard")
    opener = subprocess.Popen(
        ["sh", "-c", f"read line; cat {secret}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    from harness.registry import start_time

    entry = {"harness_pid": opener.pid, "start_time": start_time(opener.pid), "grants": []}
    own = os.stat("/proc/self/ns/pid").st_ino
    entry["grants"] = [[own, "forged", [list(identity(secret))]]]
    entry.update({key: value for key, value in forgery.items() if key != "owner"})
    path = registration.directory / "forged.json"
    path.write_text(json.dumps(entry))
    os.chown(path, forgery.get("owner", 0), 0)
    said, _ = opener.communicate(b"go\n", timeout=PATIENCE)
    assert said == b""


@pytest.mark.sandbox
def test_another_run_s_sandbox_is_let_through_to_its_own_files_only(monitor, registration, secret: Path) -> None:
    shared, unshared = secret, secret.with_name("unshared.bin")
    unshared.write_text("secret")
    files = [monitor.mark(path, path.name) for path in (shared, unshared)]
    running = sandboxed(
        "open('/in/shared').read()\ntry:\n    open('/in/unshared')\nexcept PermissionError:\n    print('denied')",
        {shared: "/in/shared", unshared: "/in/unshared"},
    )
    try:
        with Registration("another-run", registration.directory) as other:
            other.add_grant(Grant(running.walls.pid_namespace, "theirs", frozenset([files[0]])))
            entry = json.loads((registration.directory / "another-run.json").read_text())
            bystander = subprocess.Popen(["sleep", "60"])
            try:  # in this test both runs live in one process, so the entry is made to name another
                entry.update(harness_pid=bystander.pid, start_time=start_time(bystander.pid))
                (registration.directory / "another-run.json").write_text(json.dumps(entry))
                assert until_empty(running) == 0
            finally:
                bystander.kill()
                bystander.wait()
        assert os.read(running.log_descriptor, 1000) == b"denied\n"
        found = reports(monitor)
        assert {event.opener for event in found if event.file == files[0]} == {Opener.OTHER_RUN}
        assert {event.opener for event in found if event.file == files[1]} == {Opener.OUTSIDER}
    finally:
        running.close()


def test_an_identity_is_device_and_inode(secret: Path) -> None:
    facts = secret.stat()
    link = secret.with_name("symlink")
    link.symlink_to(secret)
    assert identity(secret) == Identity(facts.st_dev, facts.st_ino)
    assert identity(link) != identity(secret), "a symbolic link is not followed"
