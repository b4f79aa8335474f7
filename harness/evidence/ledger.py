"""The ledger: one JSON line per event of a run, each naming the sha256 of the line before it, each on disk before the
run goes on.

Dropping, changing or reordering a line breaks the chain from there on. What the chain cannot show alone is a ledger
rewritten as a whole or cut short at the end; record.json therefore holds the last line's hash."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from datetime import UTC, datetime
from pathlib import Path

from harness.errors import RefereeError

START = "0" * 64  # "previous" of the first line


class Ledger:
    """An append-only ledger in a new file. `head` is the sha256 of the last line."""

    def __init__(self, path: Path) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o644)
        self._bytes = 0
        self.head = START

    def append(self, event: str, **facts) -> None:
        """Add a line; it is on disk when this returns. Raises RefereeError when the disk does not take all of it (then
        nothing of it stays), or when the file is not as this ledger has left it.
        """
        line = {
            "previous": self.head,
            "event": event,
            "utc": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "monotonic": round(time.monotonic(), 6),
            **facts,
        }
        data = json.dumps(line, separators=(",", ":"), allow_nan=False).encode() + b"\n"
        if os.fstat(self._descriptor).st_size != self._bytes:
            raise RefereeError("the ledger cannot be continued: its file is not as the last line has left it")
        try:
            if os.write(self._descriptor, data) != len(data):
                raise OSError("short write")
            os.fsync(self._descriptor)
        except OSError as error:
            with contextlib.suppress(OSError):  # if it stays, nothing follows it
                os.ftruncate(self._descriptor, self._bytes)
            raise RefereeError(f"the ledger cannot be written: {error}") from None
        self._bytes += len(data)
        self.head = hashlib.sha256(data).hexdigest()

    def close(self) -> None:
        os.close(self._descriptor)


def read_ledger(path: Path, head_in_record: str | None = None) -> tuple[list[dict], str]:
    """The events of a ledger and its head.

    Raises ValueError naming the first line that breaks the chain, or saying that the ledger is whole but not the one
    whose head the record holds (`ledger_head`): lines are missing at its end, or it is another one.
    """
    events, head = [], START
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                event = json.loads(line)
            except ValueError:
                raise ValueError(f"{path}: line {number} is not JSON") from None
            if not isinstance(event, dict) or event.get("previous") != head or not line.endswith(b"\n"):
                raise ValueError(f"{path}: line {number} does not follow from line {number - 1}")
            events.append(event)
            head = hashlib.sha256(line).hexdigest()
    if head_in_record not in (None, head):
        raise ValueError(
            f"{path}: its last line, {len(events)}, is not the one that the record names; lines are missing at the "
            "end, or it was rewritten"
        )
    return events, head
