"""Shards are read whole or refused, and training windows are reproducible, complete and lazily opened."""

import struct

import numpy as np
import pytest

from submission.data import HEADER_BYTES, batches, read_shard, write_shard


def test_shard_round_trip_is_the_contest_format(tmp_path):
    path = tmp_path / "shard.bin"
    write_shard(path, np.array([[1, 2], [65535, 0]]))
    data = path.read_bytes()
    assert struct.unpack_from("<3i", data) == (20240520, 1, 4)
    assert not any(data[12:1024])
    assert struct.unpack("<4H", data[1024:]) == (1, 2, 65535, 0)
    assert read_shard(path).tolist() == [1, 2, 65535, 0]


def test_an_empty_shard_is_a_shard(tmp_path):
    write_shard(tmp_path / "empty.bin", np.array([], np.int64))
    assert read_shard(tmp_path / "empty.bin").tolist() == []


@pytest.mark.parametrize("tokens", [[-1], [65536]])
def test_tokens_that_do_not_fit_are_refused(tmp_path, tokens):
    with pytest.raises(ValueError):
        write_shard(tmp_path / "shard.bin", np.array(tokens))


def damaged(data: bytes, offset: int, value: int) -> bytes:
    return data[:offset] + struct.pack("<i", value) + data[offset + 4 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:100],
        lambda data: data[:-1],
        lambda data: data + b"\0\0",
        lambda data: damaged(data, 0, 1),
        lambda data: damaged(data, 4, 2),
        lambda data: damaged(data, 8, -1),
    ],
)
def test_damaged_shards_are_refused(tmp_path, damage):
    path = tmp_path / "shard.bin"
    write_shard(path, np.arange(10))
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(ValueError, match=r"shard\.bin"):
        read_shard(path)


@pytest.fixture
def shards(tmp_path):
    """Two shards whose tokens tell where they are from: 0..999 and 1000..1999."""
    paths = [tmp_path / "a.bin", tmp_path / "b.bin"]
    for start, path in enumerate(paths):
        write_shard(path, np.arange(1000 * start, 1000 * start + 1000))
    return paths


def take(shards, count, seed=0):
    stream = batches(shards, 4, 10, seed)
    return np.stack([next(stream) for _ in range(count)])


def test_batches_follow_from_the_seed(shards):
    assert np.array_equal(take(shards, 60), take(shards, 60))
    assert not np.array_equal(take(shards, 60), take(shards, 60, seed=1))


def test_windows_are_runs_of_the_text(shards):
    windows = take(shards, 60).reshape(-1, 11)
    assert windows.dtype == np.int64
    assert (np.diff(windows, axis=1) == 1).all()


def test_an_epoch_uses_no_input_twice_and_nearly_all_once(shards):
    inputs = take(shards, 48)[:, :, :-1].reshape(-1)  # 24 batches of 40 inputs from each shard
    assert len(set(inputs.tolist())) == len(inputs) == 1920


def test_epochs_differ(shards):
    windows = take(shards, 96)
    assert not np.array_equal(windows[:48], windows[48:])


def test_shards_are_opened_one_by_one_and_only_when_needed(shards, monkeypatch):
    opened = []
    real = read_shard
    monkeypatch.setattr("submission.data.read_shard", lambda path: opened.append(path) or real(path))
    stream = batches(shards, 4, 10, 0)
    assert opened == []
    next(stream)
    assert len(opened) == 1
    for _ in range(24):
        next(stream)
    assert len(opened) == 2


def test_too_little_data_is_an_error_and_not_an_endless_loop(tmp_path):
    write_shard(tmp_path / "short.bin", np.arange(40))
    with pytest.raises(ValueError, match="no train shard"):
        next(batches([tmp_path / "short.bin"], 4, 10, 0))
    with pytest.raises(ValueError, match="no train shard"):
        next(batches([], 4, 10, 0))


def test_header_is_as_long_as_the_format_says():
    assert HEADER_BYTES == 1024
