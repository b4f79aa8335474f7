"""The access monitor as the referee sees it: two listener processes, the files they guard, and what they report.

Why two: when a listener dies the kernel lets the opens through that wait for its answer. With two independent groups
on every inode the survivor still decides (attack catalogue, X13)."""

from __future__ import annotations

import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from harness.canary import Canaries
from harness.errors import RefereeError
from harness.policy import Grant, Identity, Opener
from harness.registry import Registration
from harness.sandbox import Walls

LISTENERS = 2
ANSWER_SECONDS = 10.0  # patience with a listener, which answers in well under a millisecond
LOST_SECONDS = 1.0  # and with the others when one is lost
LOOK_SECONDS = 0.1  # how often the listeners are looked at while something is opened

Result = TypeVar("Result")


@dataclass(frozen=True)
class Open:
    """One attempt to open a gated file, as one listener decided it. `at` is monotonic seconds, just before the kernel
    was answered.
    """

    listener: int
    at: float
    file: Identity
    pid: int
    allowed: bool
    opener: Opener
    label: str


def identity(path: Path) -> Identity:
    """Device and inode of the file at `path`, not following a symbolic link in its last part."""
    facts = os.stat(path, follow_symlinks=False)
    return Identity(facts.st_dev, facts.st_ino)


class AccessMonitor:
    """Starts the listeners; raises RefereeError if they cannot listen. Needs CAP_SYS_ADMIN.

    `registration` tells the listeners of other runs about this one; it stays the caller's to close. Canaries are made
    in the directory `scratch`.
    """

    def __init__(self, registration: Registration, scratch: Path) -> None:
        self._channels: list[socket.socket] = []
        self._processes: list[subprocess.Popen] = []
        self._events: list[Open] = []
        self._canaries: Canaries | None = None
        self._registration = registration
        self._paths: dict[Identity, Path] = {}
        self._fault: str | None = None  # the first; nothing is expected of the listeners after it
        self.names: dict[Identity, str] = {}
        try:
            for _ in range(LISTENERS):
                self._start_listener()
            for number in range(LISTENERS):
                self._wait_for(number, "listening")
            self._canaries = Canaries(
                [self._make_canary(number, scratch) for number in range(LISTENERS)], ANSWER_SECONDS
            )
            self._canaries.start()
            self._canaries.prove()
        except BaseException:
            self.close()
            raise

    def _start_listener(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [
            sys.executable,
            "-m",
            "harness.listener",
            str(theirs.fileno()),
            str(os.getpid()),
            str(self._registration.directory),
        ]
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            pass_fds=(theirs.fileno(),),
            start_new_session=True,
            cwd=Path(__file__).parents[1],
        )
        theirs.close()
        self._channels.append(ours)
        self._processes.append(process)

    def _make_canary(self, number: int, scratch: Path) -> Path:
        path = scratch / f"canary-{number}"
        path.write_text("A canary: nobody can open this file while a run lasts.\n")
        self._order({"order": "canary", "path": str(path.absolute()), "file": identity(path)}, [number])
        return path

    def check_alive(self) -> None:
        """Raise RefereeError if a listener has stopped denying, or answering."""
        try:
            self._canaries.check()
        except RefereeError as error:
            raise self._broken(str(error)) from None

    def prove_alive(self) -> None:
        """Return when each listener has denied its canary since this call; raises RefereeError if one does not."""
        try:
            self._canaries.prove()
        except RefereeError as error:
            raise self._broken(str(error)) from None

    def prove_gates(self) -> None:
        """Return when each listener has been asked about each gated file once more, because the harness has opened it.

        A mark vanishes without a word when its file system is unmounted (attack catalogue, X11). Raises RefereeError
        that names the file whose gate is gone. No sandbox may be running: who else opens a file meanwhile is reported
        as ever, but nobody looks.
        """
        began = time.monotonic()
        self.watch(self._open_gated_files)
        self.sync()
        reported = self.events()
        own = {event for event in reported if event.at >= began and event.pid == os.getpid() and event.allowed}
        self._events = [event for event in reported if event not in own]
        seen = {(event.listener, event.file) for event in own}
        for file, path in self._paths.items():
            for number in range(len(self._channels)):
                if (number, file) not in seen:
                    raise self._broken(
                        f"the gate on {path} is gone: listener {number} was not asked about an open of it; "
                        "was its file system mounted anew?"
                    )

    def watch(self, work: Callable[[], Result]) -> Result:
        """What `work` returns, which opens gated files and so would wait for ever for a listener that has stopped.

        Raises RefereeError if one stops answering meanwhile; `work` then ends when the monitor is closed.
        """
        pool = ThreadPoolExecutor(1, "opens")
        try:
            running = pool.submit(work)
            while not wait([running], LOOK_SECONDS).done:
                self.check_alive()
            return running.result()
        finally:
            pool.shutdown(wait=False)

    def _open_gated_files(self) -> None:
        for file, path in self._paths.items():
            try:
                descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError as error:
                raise RefereeError(f"{path}, which is gated, cannot be opened any more: {error.strerror}") from None
            try:
                facts = os.fstat(descriptor)
            finally:
                os.close(descriptor)
            if file != (facts.st_dev, facts.st_ino):
                raise RefereeError(f"the gate on {path} is gone: another file has its place")

    def mark(self, path: Path, name: str) -> Identity:
        """Gate the file at `path`: from now on nobody opens it unasked. `name` stands for it in the evidence."""
        file = identity(path)
        self.names[file] = name
        self._paths[file] = path.absolute()
        self._order({"order": "mark", "path": str(path.absolute()), "file": file})
        return file

    def grant(self, label: str, walls: Walls, files: frozenset[Identity]) -> None:
        """Let the sandbox behind `walls` open `files`; every other gated file stays denied to it, and is denied as
        this phase's doing.
        """
        grant = Grant(walls.pid_namespace, label, files)
        self._registration.add_grant(grant)
        self._order(
            {
                "order": "grant",
                "pid_namespace": walls.pid_namespace,
                "init_pid": walls.init_pid,
                "label": label,
                "files": sorted(files),
            }
        )

    def revoke(self, walls: Walls) -> None:
        """Take every right from a sandbox that is empty."""
        self._order({"order": "revoke", "pid_namespace": walls.pid_namespace})

    def filenos(self) -> list[int]:
        """Descriptors that become readable when `events()` may have something to return."""
        return [channel.fileno() for channel in self._channels]

    def events(self) -> list[Open]:
        """What the listeners have reported since the last call, in each listener's order. Raises RefereeError if one
        is lost.
        """
        for number, channel in enumerate(self._channels):
            while select.select([channel], [], [], 0)[0]:
                self._receive(number)
        events, self._events = self._events, []
        return events

    def sync(self) -> None:
        """Return when every open that was decided before this call is among the events."""
        self._order({"order": "sync"})

    def close(self) -> None:
        """Remove all marks. Only when no sandbox is alive."""
        if self._canaries:
            self._canaries.stop()
        for channel in self._channels:
            channel.close()
        for process in self._processes:
            try:
                process.wait(LOST_SECONDS if self._fault else ANSWER_SECONDS)
            except subprocess.TimeoutExpired:  # it was stopped, and would leave opens waiting for ever
                process.kill()
                process.wait()

    def _order(self, order: dict, listeners: Sequence[int] | None = None) -> None:
        """Have the order carried out by `listeners` (default: all); returns when it is done."""
        if self._fault:
            raise RefereeError(self._fault)
        listeners = range(len(self._channels)) if listeners is None else listeners
        data = json.dumps(order).encode()
        for number in listeners:
            try:
                self._channels[number].send(data)
            except OSError as error:
                raise self._broken(
                    f"access listener {number} was lost ({error.strerror}); no statement about opens can be made"
                ) from None
        for number in listeners:
            self._wait_for(number, "done")

    def _wait_for(self, number: int, event: str) -> None:
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            if not select.select([self._channels[number]], [], [], max(0.0, deadline - time.monotonic()))[0]:
                raise self._broken(f"access listener {number} does not answer")
            if self._receive(number) == event:
                return

    def _receive(self, number: int) -> str:
        try:
            data = self._channels[number].recv(1 << 16)
        except OSError:
            data = b""
        if not data:
            raise self._broken(f"access listener {number} was lost; no statement about opens can be made")
        message = json.loads(data)
        if message["event"] == "failed":
            raise self._broken(f"access listener {number}: {message['text']}")
        if message["event"] == "open":
            self._events.append(
                Open(
                    listener=number,
                    at=message["at"],
                    file=Identity(*message["file"]),
                    pid=message["pid"],
                    allowed=message["allowed"],
                    opener=Opener(message["opener"]),
                    label=message["label"],
                )
            )
        return message["event"]

    def _broken(self, text: str) -> RefereeError:
        """The first fault, which is the cause of those after it."""
        self._fault = self._fault or text
        return RefereeError(self._fault)
