"""Canaries: files that a listener must deny to everybody, opened about once a second to see that it still does.

Each listener has a canary of its own, which no other listener has marked: so each is shown to be alive and denying,
and not only one of them."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from harness.errors import RefereeError

INTERVAL_SECONDS = 1.0


class Canaries(threading.Thread):
    """Opens every path again and again, in a thread because an open waits for as long as a listener does not answer.

    The path at place N is listener N's. `patience` (seconds) is with a listener that does not answer."""

    def __init__(self, paths: Sequence[Path], patience: float) -> None:
        super().__init__(name="canaries", daemon=True)
        self._paths = paths
        self._patience = patience
        self._asked = 0  # the listener that was asked last
        self._wake = threading.Event()
        self._round = threading.Condition()
        self._rounds = 0
        self._last = time.monotonic()
        self._fault: str | None = None
        self._stopped = False

    def run(self) -> None:
        while not self._stopped:
            for number, path in enumerate(self._paths):
                self._asked = number
                self._try(path)
            with self._round:
                self._rounds += 1
                self._last = time.monotonic()
                self._round.notify_all()
            self._wake.wait(INTERVAL_SECONDS)
            self._wake.clear()

    def _try(self, path: Path) -> None:
        try:
            os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            if error.errno != errno.EPERM:
                self._fault = f"{path.name} could not be tried: {error.strerror}"
        else:
            self._fault = f"{path.name} could be opened: its listener does not deny any more"

    def check(self) -> None:
        """Raise RefereeError if a canary was not denied, or has had no answer for too long."""
        if self._fault:
            raise RefereeError(self._fault)
        if time.monotonic() - self._last > self._patience + INTERVAL_SECONDS:
            raise self._no_answer()

    def prove(self) -> None:
        """Return when every canary has been denied in a round that began after this call; raises RefereeError."""
        with self._round:
            wanted = self._rounds + 2  # the round that is under way may have begun before
            deadline = time.monotonic() + self._patience
            while self._rounds < wanted and self._fault is None and time.monotonic() < deadline:
                self._wake.set()
                self._round.wait(0.05)
        self.check()
        if self._rounds < wanted:
            raise self._no_answer()

    def _no_answer(self) -> RefereeError:
        text = f"its canary has waited {self._patience:g} s"
        return RefereeError(f"access listener {self._asked} does not answer: {text}")

    def stop(self) -> None:
        """End the thread, if it is not stuck in an open; call before the listeners end."""
        self._stopped = True
        self._wake.set()
        self.join(1.0)
