"""A thin adapter to the kernel's fanotify permission events (fanotify(7)). Nothing here decides anything."""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from harness.policy import Identity

FAN_CLOEXEC, FAN_CLASS_CONTENT, FAN_UNLIMITED_QUEUE, FAN_UNLIMITED_MARKS = 0x01, 0x04, 0x10, 0x20
FAN_REPORT_PIDFD = 0x80
FAN_MARK_ADD = 0x01
FAN_OPEN_PERM = 0x10000
FAN_Q_OVERFLOW = 0x4000
FAN_ALLOW, FAN_DENY = 1, 2
AT_FDCWD = -100

_METADATA = struct.Struct("=IBBHQii")  # event_len, vers, reserved, metadata_len, mask, fd, pid
_INFO_HEADER = struct.Struct("=BBH")  # info_type, pad, len
_INFO_TYPE_PIDFD = 4
_RESPONSE = struct.Struct("=iI")
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True)
class OpenRequest:
    """A process waits in open() for an answer. `pidfd` is -1 if the kernel could not make one; both descriptors are
    ours to close.
    """

    file: Identity
    pid: int
    pidfd: int
    descriptor: int


class QueueOverflow(Exception):
    """The kernel dropped events, although the queue is unlimited; no statement about opens can be made any more."""


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

    def requests(self) -> Iterator[OpenRequest]:
        """The requests that are waiting now, at least one (blocks). Each must be answered. Raises QueueOverflow."""
        data = os.read(self._descriptor, 1 << 16)
        offset = 0
        while offset < len(data):
            length, _, _, metadata_length, mask, descriptor, pid = _METADATA.unpack_from(data, offset)
            if mask & FAN_Q_OVERFLOW:
                raise QueueOverflow
            pidfd = -1
            where = offset + metadata_length
            while where < offset + length:
                kind, _, size = _INFO_HEADER.unpack_from(data, where)
                if kind == _INFO_TYPE_PIDFD:
                    (pidfd,) = struct.unpack_from("=i", data, where + _INFO_HEADER.size)
                where += size
            facts = os.fstat(descriptor)
            yield OpenRequest(Identity(facts.st_dev, facts.st_ino), pid, pidfd, descriptor)
            offset += length

    def answer(self, request: OpenRequest, allowed: bool) -> None:
        """Let the waiting open go on or fail with EPERM, and close the request's descriptors."""
        os.write(self._descriptor, _RESPONSE.pack(request.descriptor, FAN_ALLOW if allowed else FAN_DENY))
        os.close(request.descriptor)
        if request.pidfd >= 0:
            os.close(request.pidfd)
