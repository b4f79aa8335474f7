"""A ledger cannot be changed without its chain or its head showing it, and never loses half a line silently."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from pathlib import Path

import pytest

from harness.errors import RefereeError
from harness.evidence import ledger as ledger_module
from harness.evidence.ledger import START, Ledger, read_ledger


@pytest.fixture
def written(tmp_path) -> tuple[Path, str]:
    """A ledger of six events, and its head."""
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    for number in range(6):
        ledger.append("event", number=number, text="naïve\n\u2028 line", nested={"a": [1, 2.5, None, True]})
    ledger.close()
    return path, ledger.head


def tampered(path: Path, head: str) -> bool:
    """Whether reading shows a fault, by itself or by the head that the record holds."""
    try:
        _, found = read_ledger(path)
    except (ValueError, KeyError, TypeError):
        return True
    return found != head


def test_events_are_read_as_they_were_written(written) -> None:
    path, head = written
    events, found = read_ledger(path)
    assert found == head
    assert [event["number"] for event in events] == list(range(6))
    assert events[0]["previous"] == START
    assert events[0]["nested"] == {"a": [1, 2.5, None, True]}
    assert not tampered(path, head)


def test_the_chain_is_the_documented_one(written) -> None:
    path, head = written
    previous = "0" * 64
    for line in path.read_bytes().splitlines(keepends=True):
        assert json.loads(line)["previous"] == previous
        previous = hashlib.sha256(line).hexdigest()
    assert head == previous


def test_flipping_any_byte_shows(written) -> None:
    path, head = written
    content = path.read_bytes()
    for place in range(len(content)):
        for flipped in (content[place] ^ 1, content[place] ^ 0x20):
            path.write_bytes(content[:place] + bytes([flipped]) + content[place + 1 :])
            assert tampered(path, head), place


@pytest.mark.parametrize("number", range(6))
def test_dropping_or_repeating_any_line_shows(written, number: int) -> None:
    path, head = written
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:number] + lines[number + 1 :]))
    assert tampered(path, head)
    path.write_bytes(b"".join(lines[: number + 1] + lines[number:]))
    assert tampered(path, head)


@pytest.mark.parametrize("number", range(5))
def test_exchanging_two_lines_shows(written, number: int) -> None:
    path, _ = written
    lines = path.read_bytes().splitlines(keepends=True)
    lines[number], lines[number + 1] = lines[number + 1], lines[number]
    path.write_bytes(b"".join(lines))
    with pytest.raises(ValueError, match=f"line {number + 1}"):
        read_ledger(path)


def test_cutting_it_short_anywhere_shows(written) -> None:
    path, head = written
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        assert tampered(path, head), length


def test_a_last_line_without_its_end_is_no_line(written) -> None:
    path, _ = written
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ValueError, match="line 6"):
        read_ledger(path)


def test_each_way_of_rewriting_it_is_told(written, tmp_path) -> None:
    """Attack F08: a byte flipped, the end cut off, an older copy put back, another ledger put in its place."""
    path, head = written
    assert read_ledger(path, head)[1] == head
    lines = path.read_bytes().splitlines(keepends=True)
    flipped = lines[2].replace(b'"number":2', b'"number":3')
    other = Ledger(tmp_path / "other.jsonl")
    other.append("event", number=0)
    for content, told in (
        ([*lines[:2], flipped, *lines[3:]], "line 4 does not follow from line 3"),
        (
            [*lines[:5], lines[5].replace(b"number", b"numbef")],
            "its last line, 6, is not the one that the record names",
        ),
        (lines[:4], "its last line, 4, is not the one that the record names"),
        ([*lines[:5], lines[5][:-3]], "line 6 is not JSON"),
        ([*lines[:2], b"[]\n", *lines[3:]], "line 3 does not follow from line 2"),
        ([*lines[:2], b"{}\n", *lines[3:]], "line 3 does not follow from line 2"),
        ([(tmp_path / "other.jsonl").read_bytes()], "its last line, 1, is not the one that the record names"),
        ([], "its last line, 0, is not the one that the record names"),
    ):
        path.write_bytes(b"".join(content))
        with pytest.raises(ValueError, match=told):
            read_ledger(path, head)


def test_adding_a_line_shows(written) -> None:
    path, head = written
    with path.open("ab") as file:
        file.write(json.dumps({"previous": head, "event": "verdict"}).encode() + b"\n")
    events, found = read_ledger(path)
    assert (len(events), found != head) == (7, True)


def test_an_existing_ledger_is_never_continued(written) -> None:
    with pytest.raises(FileExistsError):
        Ledger(written[0])


def test_a_full_device_is_an_error_of_the_referee(tmp_path, monkeypatch) -> None:
    real = os.open
    monkeypatch.setattr(os, "open", lambda path, flags, mode=0o777: real("/dev/full", os.O_WRONLY))
    ledger = Ledger(tmp_path / "ledger.jsonl")
    monkeypatch.undo()
    with pytest.raises(RefereeError, match="No space left"):
        ledger.append("event")
    assert ledger.head == START
    ledger.close()


class FakeOs:
    """The os module with another write or fsync."""

    def __init__(self, **functions) -> None:
        self.functions = functions

    def __getattr__(self, name: str):
        return self.functions.get(name) or getattr(os, name)


def test_a_short_write_is_an_error_of_the_referee(tmp_path, monkeypatch) -> None:
    """Attack X43: a full file system takes part of a line and raises nothing."""
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append("first")
    head = ledger.head
    monkeypatch.setattr(ledger_module, "os", FakeOs(write=lambda descriptor, data: os.write(descriptor, data[:-1])))
    with pytest.raises(RefereeError, match="short write"):
        ledger.append("second")
    assert ledger.head == head
    assert not tampered(tmp_path / "ledger.jsonl", head), "nothing of the line stays"
    monkeypatch.undo()
    ledger.append("second, again")
    assert not tampered(tmp_path / "ledger.jsonl", ledger.head)


def test_nothing_follows_half_a_line_that_stays(tmp_path, monkeypatch) -> None:
    def refuse(descriptor: int, length: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append("first")
    half = FakeOs(write=lambda descriptor, data: os.write(descriptor, data[:-1]), ftruncate=refuse)
    monkeypatch.setattr(ledger_module, "os", half)
    with pytest.raises(RefereeError, match="short write"):
        ledger.append("second")
    monkeypatch.undo()
    content = (tmp_path / "ledger.jsonl").read_bytes()
    with pytest.raises(RefereeError, match="cannot be continued"):
        ledger.append("third")
    assert (tmp_path / "ledger.jsonl").read_bytes() == content


def test_a_ledger_that_somebody_else_writes_to_is_not_continued(tmp_path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append("first")
    with (tmp_path / "ledger.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(RefereeError, match="cannot be continued"):
        ledger.append("second")


def test_a_failed_fsync_is_an_error_of_the_referee(tmp_path, monkeypatch) -> None:
    def fail(descriptor: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    ledger = Ledger(tmp_path / "ledger.jsonl")
    monkeypatch.setattr(ledger_module, "os", FakeOs(fsync=fail))
    with pytest.raises(RefereeError, match="Input/output"):
        ledger.append("event")


def test_every_line_is_on_disk_before_the_run_goes_on(tmp_path, monkeypatch) -> None:
    synced = []
    monkeypatch.setattr(ledger_module, "os", FakeOs(fsync=synced.append))
    ledger = Ledger(tmp_path / "ledger.jsonl")
    ledger.append("first")
    ledger.append("second")
    assert len(synced) == 2


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_what_is_no_json_is_not_written(tmp_path, number: float) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    with pytest.raises((ValueError, RefereeError)):
        ledger.append("score", val_loss=number)
    assert (tmp_path / "ledger.jsonl").read_bytes() == b""
