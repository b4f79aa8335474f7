"""Shared memory, semaphores, messages, and an abstract socket."""

import ctypes
import socket

KEY, NAME = 4711, b"/mark"
CREATE = 0o1000 | 0o666
libc = ctypes.CDLL(None)
kept = []


def leave():
    made = [libc.shmget(KEY, 4096, CREATE), libc.semget(KEY, 1, CREATE), libc.msgget(KEY, CREATE)]
    assert min(*made, libc.mq_open(NAME, 0o102, 0o666, None)) >= 0  # O_CREAT | O_RDWR
    kept.append(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
    kept[-1].bind("\0mark")
    kept[-1].listen()


def found():
    objects = [libc.shmget(KEY, 0, 0), libc.semget(KEY, 0, 0), libc.msgget(KEY, 0), libc.mq_open(NAME, 0)]
    answer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).connect_ex("\0mark")
    return max(objects) >= 0 or answer == 0
