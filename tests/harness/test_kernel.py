"""Features of the kernel are tried, not guessed from its version; and trying leaves nothing behind."""

from __future__ import annotations

import ctypes
import os
import signal

import pytest

from harness import kernel
from harness.kernel import ATTEMPTS, NEEDED, attempt, features


def fail() -> None:
    raise OSError(38, "Function not implemented")


def test_this_kernel_is_tried_and_nothing_of_it_stays() -> None:
    before = os.stat("/proc/self/ns/mnt").st_ino, os.getuid()
    found = features()
    assert list(found) == list(ATTEMPTS)
    assert set(NEEDED) <= set(found)
    assert not any(found[name] for name in NEEDED), found
    assert (os.stat("/proc/self/ns/mnt").st_ino, os.getuid()) == before, "what it mounts is in a namespace of its own"


@pytest.mark.privileged
def test_as_root_every_feature_of_this_kernel_works() -> None:
    """What CI's machines have; a laptop's kernel may lack some, and is skipped like the other tests that need it."""
    assert not any(features().values()), features()


def test_what_fails_says_why_and_what_works_says_nothing() -> None:
    assert attempt(lambda: None) == ""
    assert attempt(fail) == "[Errno 38] Function not implemented"
    assert "killed" in attempt(lambda: os.kill(os.getpid(), signal.SIGKILL))


@pytest.mark.parametrize("name", ["user_namespaces", "overlay", "time_namespaces", "seccomp", "fanotify"])
def test_a_kernel_that_refuses_is_noticed(monkeypatch, name: str) -> None:
    """A C library whose calls fail stands in for a kernel that was built without."""

    class Refuses:
        def __getattr__(self, call):
            def refuse(*_):
                ctypes.set_errno(38)
                return -1

            return refuse

    refuses = Refuses()
    monkeypatch.setattr(kernel, "libc", refuses)
    monkeypatch.setattr("harness.sandbox.guard.libc", refuses)
    monkeypatch.setattr("harness.fanotify._libc", refuses)
    assert "Function not implemented" in attempt(ATTEMPTS[name])
