"""A file is read as a shard only if every byte of it is accounted for."""

from __future__ import annotations

import io
import os
import stat
import struct
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.data.shards import MAGIC, map_shard, read_header, read_shard, shard_bytes, write_shard
from harness.errors import InputError

SHARED_DATA = Path(__file__).resolve().parents[3] / ".." / "shared" / "data" / "prose_sp1024"
READERS = [read_header, read_shard, map_shard]


def raw_shard(tokens: list[int], *, magic: int = MAGIC, version: int = 1, count: int | None = None) -> bytearray:
    """The bytes of a shard, spelled out independently of the writer."""
    header = struct.pack("<3i", magic, version, len(tokens) if count is None else count)
    return bytearray(header.ljust(1024, b"\0") + struct.pack(f"<{len(tokens)}H", *tokens))


@given(tokens=st.lists(st.integers(0, 65535), min_size=1, max_size=300))
def test_what_is_written_is_read(tokens: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "shard.bin")
        write_shard(path, tokens)
        assert path.read_bytes() == raw_shard(tokens)
        assert read_header(path) == len(tokens)
        for array in (read_shard(path), map_shard(path), read_shard(str(path))):
            assert array.dtype == np.uint16
            assert array.tolist() == tokens


def test_an_open_file_is_read_from_its_start_and_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "shard.bin"
    write_shard(path, range(1000))
    with open(path, "rb") as file:
        file.seek(77)
        for source in (file, file.fileno()):
            assert read_header(source) == 1000
            assert read_shard(source).tolist() == map_shard(source).tolist() == list(range(1000))
        assert file.tell() == 77
        mapped = map_shard(file)
    assert int(mapped.sum()) == sum(range(1000)), "a map outlives the file object"
    assert not mapped.flags.writeable


def test_written_shards_can_be_read_by_another_user_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        write_shard(tmp_path / "shard.bin", [1])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "shard.bin").stat().st_mode) == 0o644


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "shard.bin"
    write_shard(path, [1, 2, 3])

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        write_shard(path, [4])
    assert read_shard(path).tolist() == [1, 2, 3]
    assert os.listdir(tmp_path) == ["shard.bin"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "0 bytes are too few for a shard"),
        (b"\0" * 1023, "1023 bytes are too few"),
        (raw_shard([1, 2], magic=20240521), "begins with 20240521, not with the magic number 20240520"),
        (raw_shard([1, 2], version=2), "shard version 2; only version 1"),
        (raw_shard([]), "counts 0 tokens"),
        (raw_shard([1, 2], count=-2), "counts -2 tokens"),
        (raw_shard([1, 2, 3])[:-1], "3 tokens need 1030 bytes, the file has 1029: 1 bytes missing"),
        (raw_shard([1, 2, 3], count=2), "2 tokens need 1028 bytes, the file has 1030: 2 bytes too many"),
        (raw_shard([1, 2], count=2**31 - 1), "bytes missing"),
        (raw_shard([1, 2])[:1020] + b"\1\0\0\0" + raw_shard([1, 2])[1024:], "header words 3 to 255 must be zero"),
    ],
)
@pytest.mark.parametrize("reader", READERS)
def test_each_fault_is_named(reader, content: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "shard.bin"
    path.write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        reader(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("reader", READERS)
def test_what_is_no_file_is_refused(reader, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="No such file"):
        reader(tmp_path / "absent.bin")
    with pytest.raises(InputError, match="Is a directory"):
        reader(tmp_path)
    end, other_end = os.pipe()
    try:
        with pytest.raises(InputError, match="cannot read the shard"):
            reader(end)
    finally:
        os.close(end)
        os.close(other_end)


@pytest.mark.parametrize("reader", [read_shard, map_shard])
def test_a_token_outside_the_vocabulary_is_named(reader, tmp_path: Path) -> None:
    path = tmp_path / "shard.bin"
    write_shard(path, [0, 1023, 1024, 5000])
    with pytest.raises(InputError, match="token 1024 at position 2 is outside the vocabulary of 1024"):
        reader(path, vocab_size=1024)
    assert len(reader(path, vocab_size=5001)) == 4


@pytest.mark.parametrize("tokens", [[], [[1, 2]], [1.0], [-1], [65536], ["a"]])
def test_what_is_no_token_is_not_written(tokens: list, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="token"):
        write_shard(tmp_path / "shard.bin", tokens)
    assert os.listdir(tmp_path) == []


def test_a_source_without_descriptor_is_a_programming_error() -> None:
    with pytest.raises(io.UnsupportedOperation):
        read_shard(io.BytesIO(raw_shard([1])))


@pytest.mark.parametrize(
    ("name", "tokens", "documents"),
    [
        ("prose_train_000000.bin", 8_759_605, 4555),
        ("prose_train_000001.bin", 8_659_808, 4554),
        ("prose_val_000000.bin", 1_052_687, 479),
    ],
)
def test_shards_made_elsewhere_in_the_contest_format(name: str, tokens: int, documents: int) -> None:
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip("the shards for tests (../shared/data/prose_sp1024) are not on this machine")
    assert path.stat().st_size == shard_bytes(tokens)
    shard = read_shard(path, vocab_size=1024)
    assert read_header(path) == len(shard) == tokens
    assert shard[0] == 1
    assert int((shard == 1).sum()) == documents
    assert np.array_equal(shard, map_shard(path, vocab_size=1024))
