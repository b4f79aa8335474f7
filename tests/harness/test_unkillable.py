"""A process that SIGKILL does not end leaves no verdict about its submission, and no next phase.

Attack F05. The process is real: it sleeps uninterruptibly in an open() that a FUSE file system of the test's, read by
the thread below, never answers. `release` lets it die."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import TESTS, Referee, assemble

from harness import access, registry
from harness.evidence.record import Verdict
from harness.processes import is_running
from harness.sandbox import Mount, SandboxSpec, bubblewrap, cgroup
from harness.sandbox.bubblewrap import BubblewrapRun, BubblewrapSandbox

pytestmark = [pytest.mark.sandbox, pytest.mark.privileged]
PATIENCE = 20.0
LOOKUP, FORGET, GETATTR, OPEN, INIT, INTERRUPT, BATCH_FORGET = 1, 2, 3, 14, 26, 36, 42  # linux/fuse.h
ROOT, FILE = 1, 2  # its two inodes
libc = ctypes.CDLL(None, use_errno=True)


def attributes(node: int) -> bytes:
    mode = 0o040755 if node == ROOT else 0o100444
    return struct.pack("6Q10I", node, 0, 0, 0, 0, 0, 0, 0, 0, mode, 1, 0, 0, 0, 4096, 0)


def serve(device: int, opened: threading.Event) -> None:
    """Answer the kernel, except when it wants to open the file."""
    with contextlib.suppress(OSError):  # the mount is gone
        while True:
            request = os.read(device, 1 << 20)
            _, operation, unique, node = struct.unpack_from("IIQQ", request)
            error, answer = 0, b""
            if operation == INIT:
                answer = struct.pack("IIIIHHIIHH8I", 7, 31, 4096, 0, 1, 1, 4096, 1, 0, 0, *[0] * 8)
            elif operation == GETATTR:
                answer = struct.pack("QII", 60, 0, 0) + attributes(node)
            elif operation == LOOKUP:
                answer = struct.pack("4QII", FILE, 0, 60, 60, 0, 0) + attributes(FILE)
            elif operation == OPEN:
                opened.set()
                continue
            elif operation in (FORGET, BATCH_FORGET, INTERRUPT):
                continue
            else:
                error = -38  # ENOSYS
            os.write(device, struct.pack("IiQ", 16 + len(answer), error, unique) + answer)


@pytest.fixture
def stuck(tmp_path) -> Iterator[tuple[Path, threading.Event, Callable[[], None]]]:
    """A directory whose file cannot be opened; when somebody began to; and what ends that."""
    folder = tmp_path / "stuck"
    folder.mkdir()
    device = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={device},rootmode=40755,user_id=0,group_id=0,allow_other"
    assert libc.mount(b"test", os.fsencode(folder), b"fuse", 0, options.encode()) == 0, os.strerror(ctypes.get_errno())
    opened = threading.Event()
    thread = threading.Thread(target=serve, args=(device, opened), daemon=True)
    thread.start()

    def release() -> None:
        libc.umount2(os.fsencode(folder), 3)  # MNT_FORCE and MNT_DETACH: every request fails

    yield folder, opened, release
    release()
    thread.join(PATIENCE)
    os.close(device)


class WithMount(BubblewrapSandbox):
    """Every sandbox sees `folder` at /in/stuck, as it might see a device whose driver hangs."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.labels: list[str] = []

    def start(self, spec: SandboxSpec) -> BubblewrapRun:
        self.labels.append(spec.label)
        mounts = (*spec.mounts, Mount(source=self.folder, target="/in/stuck"))
        return super().start(SandboxSpec(label=spec.label, command=spec.command, mounts=mounts, limits=spec.limits))


def wait_until(condition: Callable[[], bool], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited in vain until {what}"
        time.sleep(0.01)


def test_no_verdict_no_next_phase_and_the_next_start_cleans_up(stuck, referee: Referee, tmp_path, monkeypatch):
    folder, opened, release = stuck
    monkeypatch.setattr(bubblewrap, "EMPTY_SECONDS", 1.5)
    monkeypatch.setattr(access, "ANSWER_SECONDS", 2.0)  # listeners stay as long as a sandbox of theirs is there
    submission = assemble(TESTS / "honest" / "minimal", tmp_path / "submission")
    leave_a_stuck_child = (
        "import os, sys, time\nif os.fork() == 0:\n    open('/in/stuck/file')\ntime.sleep(1)\nsys.exit(3)\n"
    )
    (submission / "train.py").write_text(leave_a_stuck_child)
    sandbox = WithMount(folder)
    started = time.monotonic()
    record, _ = referee.run(submission, sandbox=sandbox)
    assert time.monotonic() - started < PATIENCE
    assert opened.is_set()

    assert record.verdict is Verdict.ERROR, "and not FAIL, although the command ended with 3"
    (reason,) = record.reasons
    found = re.search(r"not clean: process (\d+) \(state D\) did not die", reason.text)
    assert found, reason.text
    assert sandbox.labels == ["train, seed 1"]
    pid = int(found[1])
    assert Path(f"/proc/{pid}").exists(), "it is still there, so the words are true"

    groups = [path for tree in cgroup.hierarchies() for path in (tree.root / cgroup.FOLDER).glob(f"{os.getpid()}-*")]
    assert groups
    release()
    wait_until(lambda: not Path(f"/proc/{pid}").exists(), "it dies of the kill that was pending")
    for module in (registry, cgroup):  # as if this harness had ended, which the next start waits for
        monkeypatch.setattr(module, "is_running", lambda pid, at: pid != os.getpid() and is_running(pid, at))
    assert any("control groups" in text for text in registry.reap())
    assert not any(path.exists() for path in groups)
    assert not (registry.default_directory() / f"{record.run}.json").exists()
