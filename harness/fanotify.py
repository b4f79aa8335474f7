"""A thin adapter to the kernel's fanotify permission events (fanotify(7)). Nothing here decides anything."""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass

from harness.policy import Identity

FAN_CLOEXEC, FAN_CLASS_CONTENT, FAN_UNLIMITED_QUEUE, FAN_UNLIMITED_MARKS = 0x01, 0x04, 0x10, 0x20
FAN_REPORT_PIDFD = 0x80
FAN_MARK_ADD = 0x01
FAN_OPEN_PERM = 0x10000
FAN_Q_OVERFLOW = 0x4000
FAN_ALLOW, FAN_DENY = 1, 2
FAN_EPIDFD = -2  # in place of a pidfd: it could not be made; -1: the process is gone
AT_FDCWD = -100

_METADATA = struct.Struct("=IBBHQii")  # event_len, vers, reserved, metadata_len, mask, fd, pid
_INFO_HEADER = struct.Struct("=BBH")  # info_type, pad, len
_INFO_TYPE_PIDFD = 4
_RESPONSE = struct.Struct("=iI")
_libc = ctypes.CDLL(None, use_errno=True)
READ_BYTES = 2048  # 64 requests with two descriptors each: within every limit on open files


@dataclass(frozen=True)
class OpenRequest:
    """A process waits in open() for an answer. `pidfd` is negative if the kernel made none; both descriptors are ours
    to close.
    """

    file: Identity
    pid: int
    pidfd: int
    descriptor: int


class EventsLost(Exception):
    """The kernel could not report an open, so that no statement about opens can be made any more."""


def parse(data: bytes) -> tuple[list[OpenRequest], str | None]:
    """What a read of a permission group returned: the requests in it, and what was lost beside them, if anything."""
    requests: list[OpenRequest] = []
    lost = None
    offset = 0
    while offset < len(data):
        length, _, _, metadata_length, mask, descriptor, pid = _METADATA.unpack_from(data, offset)
        pidfd = -1
        where = offset + metadata_length
        while where < offset + length:
            kind, _, size = _INFO_HEADER.unpack_from(data, where)
            if kind == _INFO_TYPE_PIDFD:
                (pidfd,) = struct.unpack_from("=i", data, where + _INFO_HEADER.size)
            where += size
        if mask & FAN_Q_OVERFLOW:
            lost = "the kernel's queue of opens overflowed"
        elif descriptor < 0:
            lost = f"the kernel reported an open by process {pid} without the file"
        else:
            facts = os.fstat(descriptor)
            requests.append(OpenRequest(Identity(facts.st_dev, facts.st_ino), pid, pidfd, descriptor))
            if pidfd == FAN_EPIDFD:
                lost = f"the kernel could not tell which process {pid} is"
        offset += length
    return requests, lost


class PermissionGroup:
    """A fanotify group of permission events on single inodes. Raises OSError (EPERM without CAP_SYS_ADMIN)."""

    def __init__(self) -> None:
        flags = FAN_CLOEXEC | FAN_CLASS_CONTENT | FAN_UNLIMITED_QUEUE | FAN_UNLIMITED_MARKS | FAN_REPORT_PIDFD
        self._descriptor = _libc.fanotify_init(flags, os.O_RDONLY | os.O_CLOEXEC | os.O_LARGEFILE)
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), f"fanotify_init: {os.strerror(ctypes.get_errno())}")

    def fileno(self) -> int:
        return self._descriptor

    def close(self) -> None:
        """Remove every mark; opens that wait are let through by the kernel, so no sandbox may be alive."""
        os.close(self._descriptor)

    def mark(self, path: str, expected: Identity) -> None:
        """Ask for a permission event on every open of the inode at `path`, after making sure that it is `expected`."""
        descriptor = os.open(path, os.O_PATH | os.O_NOFOLLOW)
        try:
            facts = os.fstat(descriptor)
            if (facts.st_dev, facts.st_ino) != expected:
                raise OSError(f"{path} was replaced by another file while it was about to be marked")
            here = f"/proc/self/fd/{descriptor}".encode()
            mask = ctypes.c_uint64(FAN_OPEN_PERM)
            if _libc.fanotify_mark(self._descriptor, FAN_MARK_ADD, mask, AT_FDCWD, here) != 0:
                raise OSError(ctypes.get_errno(), f"fanotify_mark {path}: {os.strerror(ctypes.get_errno())}")
        finally:
            os.close(descriptor)

    def requests(self) -> list[OpenRequest]:
        """The requests that are waiting now, some of them, at least one (blocks). Each must be answered.

        Raises EventsLost if the kernel could not report an open; the open is denied, and so are those reported with it.
        """
        try:
            data = os.read(self._descriptor, READ_BYTES)
        except OSError as error:  # no descriptor for the file was to be had; the kernel has denied the open
            raise EventsLost(f"the kernel could not report an open: {error.strerror}") from None
        requests, lost = parse(data)
        if lost:
            for request in requests:
                self.answer(request, False)
            raise EventsLost(lost)
        return requests

    def answer(self, request: OpenRequest, allowed: bool) -> None:
        """Let the waiting open go on or fail with EPERM, and close the request's descriptors."""
        os.write(self._descriptor, _RESPONSE.pack(request.descriptor, FAN_ALLOW if allowed else FAN_DENY))
        os.close(request.descriptor)
        if request.pidfd >= 0:
            os.close(request.pidfd)
