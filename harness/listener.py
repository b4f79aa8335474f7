"""A listener: the process that answers the kernel whenever something on the machine opens a gated file.

The harness starts two; an open succeeds only if both allow it, so the loss of one opens nothing. A listener obeys the
harness over a socket (SEQPACKET, JSON): "mark" files, "grant" a sandbox its inputs, "revoke", "sync". It reports every
decision. When the harness disappears it forgets all grants and goes on denying until the sandboxes it knew are gone;
only then do its marks vanish.

Standard library only, so that it starts in milliseconds: `python -m harness.listener DESCRIPTOR HARNESS_PID REGISTRY`.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import socket
import sys
import time
from collections import deque
from pathlib import Path

from harness.fanotify import EventsLost, OpenRequest, PermissionGroup
from harness.policy import Grant, Identity, Opener, Rights, decide
from harness.processes import HARNESS_PRIORITY, favour, pid_namespace
from harness.registry import other_runs

PR_SET_DUMPABLE = 4
ORPHAN_SECONDS = (
    60.0  # guards kill their sandboxes at once when the harness dies; this is the patience with a stuck one
)


def pid_namespace_of(request: OpenRequest) -> int | None:
    """Inode of the pid namespace of the waiting process, or None if it cannot be told for certain.

    The process sleeps in open(), so /proc speaks of it and of no other; a process killed meanwhile is found out by its
    pidfd."""
    inode = pid_namespace(request.pid)
    if request.pidfd < 0 or select.select([request.pidfd], [], [], 0)[0]:
        return None
    return inode


class Listener:
    def __init__(self, control: socket.socket, harness_pid: int, registry: Path) -> None:
        self.control = control
        self.registry = registry
        self.rights = Rights(harness_pid)
        self.group = PermissionGroup()
        self.canaries: set[Identity] = set()  # denied to everybody, the harness included
        self.sandboxes: dict[int, int] = {}  # pid namespace -> process id of its init
        self.orphaned_at: float | None = None
        self.failed = False  # from then on every open is denied
        # Reports wait here when the harness is slow to read them, so that answering the kernel never waits for the
        # harness, which may itself be waiting in an open() of its own.
        self.reports: deque[bytes] = deque()

    def run(self) -> None:
        poll = select.poll()
        poll.register(self.group.fileno(), select.POLLIN)
        self.tell({"event": "listening"})
        while self.orphaned_at is None or self.must_stay():
            if self.orphaned_at is None:
                poll.register(self.control.fileno(), select.POLLIN | (select.POLLOUT if self.reports else 0))
            for descriptor, ready in poll.poll(None if self.orphaned_at is None else 100):
                if descriptor == self.group.fileno():
                    self.answer()
                elif ready & select.POLLOUT:
                    self.flush()
                elif not self.obey():
                    poll.unregister(self.control.fileno())
                    self.orphaned_at = time.monotonic()
                    self.rights = Rights(0)

    def answer(self) -> None:
        """Answer what is waiting. Whatever goes wrong, nobody is let through and nobody is left waiting."""
        try:
            requests = self.group.requests()
        except EventsLost as error:
            self.fail(str(error))
            return
        for request in requests:
            allowed = False
            try:
                allowed = not self.failed and self.decide(request)
            except Exception as error:
                self.fail(f"{type(error).__name__}: {error}")
            finally:
                self.group.answer(request, allowed)

    def decide(self, request: OpenRequest) -> bool:
        """Decide about an open and report it."""
        if request.file in self.canaries:
            return False
        namespace = pid_namespace_of(request)
        decision = decide(request.file, request.pid, namespace, self.rights)
        if decision.opener is Opener.OUTSIDER:  # read the registry only for those whom this run does not know
            others, harness_pids = other_runs(self.registry, self.rights.harness_pid)
            wider = Rights(self.rights.harness_pid, self.rights.grants, others, harness_pids)
            decision = decide(request.file, request.pid, namespace, wider)
        at = time.monotonic()
        self.tell(
            {
                "event": "open",
                "at": at,
                "file": request.file,
                "pid": request.pid,
                "allowed": decision.allowed,
                "opener": decision.opener,
                "label": decision.label,
            }
        )
        return decision.allowed

    def fail(self, text: str) -> None:
        """Tell the harness that this listener can be relied on no longer, and deny until the harness has drawn the
        consequences.
        """
        if not self.failed:
            self.failed = True
            self.tell({"event": "failed", "text": text})

    def obey(self) -> bool:
        """Carry out one order of the harness; False when the harness is gone."""
        try:
            data = self.control.recv(1 << 20)
        except ConnectionResetError:  # it left without reading the last reports
            data = b""
        if not data:
            return False
        try:
            self.carry_out(json.loads(data))
        except OSError as error:
            self.fail(str(error))
        return True

    def carry_out(self, order: dict) -> None:
        if order["order"] == "mark":
            self.group.mark(order["path"], Identity(*order["file"]))
        elif order["order"] == "canary":
            self.canaries.add(Identity(*order["file"]))
            self.group.mark(order["path"], Identity(*order["file"]))
        elif order["order"] == "grant":
            files = frozenset(Identity(*file) for file in order["files"])
            grant = Grant(order["pid_namespace"], order["label"], files)
            self.rights = Rights(self.rights.harness_pid, (*self.rights.grants, grant))
            self.sandboxes[grant.pid_namespace] = order["init_pid"]
        elif order["order"] == "revoke":
            kept = tuple(grant for grant in self.rights.grants if grant.pid_namespace != order["pid_namespace"])
            self.rights = Rights(self.rights.harness_pid, kept)
            self.sandboxes.pop(order["pid_namespace"], None)
        self.tell({"event": "done", "order": order["order"]})

    def must_stay(self) -> bool:
        """Whether a sandbox of the dead harness still has processes."""
        if time.monotonic() - self.orphaned_at > ORPHAN_SECONDS:
            return False
        return any(pid_namespace(init_pid) == namespace for namespace, init_pid in self.sandboxes.items())

    def tell(self, message: dict) -> None:
        self.reports.append(json.dumps(message).encode())
        self.flush()

    def flush(self) -> None:
        while self.reports:
            try:
                self.control.send(self.reports[0], socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:  # the harness is gone; `obey` will see it
                self.reports.clear()
                return
            self.reports.popleft()


def main() -> None:
    descriptor, harness_pid, registry = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    favour("self", HARNESS_PRIORITY)  # whoever opens a gated file waits for this process
    control = socket.socket(fileno=descriptor)
    os.set_inheritable(descriptor, False)
    try:
        Listener(control, harness_pid, registry).run()
    except OSError as error:
        control.send(json.dumps({"event": "failed", "text": f"{type(error).__name__}: {error}"}).encode())
        raise SystemExit(1) from None


if __name__ == "__main__":
    main()
