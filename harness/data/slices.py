"""Slices of token shards inside other files: every run of MINIMUM_RUN or more bytes of a shard's tokens is found, at
whatever offset of whatever file, with or without the shard's header.

The tokens of the shards are cut into blocks; each run of two blocks less one byte holds a whole one. A block is hashed
as 64-bit words, a polynomial modulo 2^64, and so is every window of a block's length in the files, from prefix sums.
Who knows the polynomial can make any number of windows with the hash of a block, so hashes only tell where to look: all
windows with a block's hash are compared with it byte by byte.

Not found: what is not the tokens' own bytes, such as text, base64, compressed or reordered bytes, and runs with
a change in every block."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from harness.data.shards import HEADER_BYTES

BLOCK_BYTES = 256
MINIMUM_RUN = 2 * BLOCK_BYTES - 1  # bytes
MINIMUM_VARIETY = 8  # different byte values; a block with fewer says nothing about where it comes from

_WORD_BYTES = 8
_WORDS = BLOCK_BYTES // _WORD_BYTES
_PIECE_BLOCKS = 1 << 14  # of a shard, read and hashed at once
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64
_FILTER_BITS = 26


@dataclass(frozen=True, order=True)
class Slice:
    """BLOCK_BYTES of the file at `offset` are those of the shard at `shard_offset`, both in bytes from the start."""

    path: Path
    offset: int
    shard: Path
    shard_offset: int


def find_slice(files: Iterable[Path], shards: Sequence[Path]) -> Slice | None:
    """One place where a file holds a block of a shard, if there is any: in the first shard of those that have one.

    The files are held in memory, with about 40 bytes for each of theirs; the shards are read once, in pieces. Raises
    OSError if one cannot be read."""
    known = _Windows(files)
    if not known:
        return None
    pieces = ((shard, offset) for shard in shards for offset in _offsets(shard))
    workers = len(os.sched_getaffinity(0))
    with ThreadPoolExecutor(workers) as pool:  # hashing does not hold the interpreter's lock
        pending = []
        try:
            for piece in pieces:
                pending.append(pool.submit(known.look_at, *piece))
                if len(pending) > 2 * workers and (found := pending.pop(0).result()):
                    return found
            return next((found for each in pending if (found := each.result())), None)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


class _Windows:
    """Every window of BLOCK_BYTES in the files, by its hash."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._files = [(path, data) for path in files if len(data := path.read_bytes()) >= BLOCK_BYTES]
        self._starts = np.cumsum([0, *(len(data) - BLOCK_BYTES + 1 for _, data in self._files)])
        if not self._files:
            return
        hashes = np.concatenate([_rolling(data) for _, data in self._files])
        self._order = np.argsort(hashes)
        self._hashes = hashes[self._order]
        self._filter = np.zeros(1 << _FILTER_BITS, bool)  # most blocks are sorted out here, at one look each
        self._filter[self._hashes >> np.uint64(64 - _FILTER_BITS)] = True

    def __bool__(self) -> bool:
        return bool(self._files)

    def look_at(self, shard: Path, offset: int) -> Slice | None:
        """The first block of a piece of a shard, from the byte `offset`, that is a window of the files."""
        with shard.open("rb", buffering=0) as file:
            piece = os.pread(file.fileno(), _PIECE_BLOCKS * BLOCK_BYTES, offset)
        blocks = len(piece) // BLOCK_BYTES
        words = np.frombuffer(piece, "<u8", blocks * _WORDS).reshape(blocks, _WORDS)
        hashes = np.einsum("bw,w->b", words, _powers(_WORDS))
        for block in self._known(hashes):
            content = piece[block * BLOCK_BYTES : (block + 1) * BLOCK_BYTES]
            if len(set(content)) < MINIMUM_VARIETY:
                continue
            for path, at in self._equal(hashes[block], content):
                return Slice(path, at, shard, offset + block * BLOCK_BYTES)
        return None

    def _known(self, hashes: np.ndarray) -> list[int]:
        """Which of the hashes are those of windows."""
        likely = np.flatnonzero(self._filter[hashes >> np.uint64(64 - _FILTER_BITS)])
        places = np.searchsorted(self._hashes, hashes[likely]).clip(max=len(self._hashes) - 1)
        return likely[self._hashes[places] == hashes[likely]].tolist()

    def _equal(self, block_hash: np.uint64, content: bytes) -> Iterator[tuple[Path, int]]:
        """File and offset of each window with that hash and those very bytes."""
        first, last = (int(np.searchsorted(self._hashes, block_hash, side)) for side in ("left", "right"))
        for index in map(int, self._order[first:last]):
            number = int(np.searchsorted(self._starts, index, side="right")) - 1
            path, data = self._files[number]
            at = index - int(self._starts[number])
            if data[at : at + BLOCK_BYTES] == content:
                yield path, at


def _offsets(shard: Path) -> Iterator[int]:
    return iter(range(HEADER_BYTES, shard.stat().st_size, _PIECE_BLOCKS * BLOCK_BYTES))


def _powers(count: int) -> np.ndarray:
    """uint64 [count]: the base to the power of 0, 1, 2 and so on, modulo 2^64."""
    factors = np.full(count, _BASE, np.uint64)
    factors[:1] = 1
    return np.multiply.accumulate(factors)


def _rolling(data: bytes) -> np.ndarray:
    """uint64 [len(data) - BLOCK_BYTES + 1]: the hash of the block that begins at each byte."""
    hashes = np.empty(len(data) - BLOCK_BYTES + 1, np.uint64)
    inverse = np.uint64(pow(_BASE, -1, 1 << 64))
    for phase in range(min(_WORD_BYTES, len(hashes))):
        words = np.frombuffer(data, "<u8", (len(data) - phase) // _WORD_BYTES, phase)
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(words * _powers(len(words)), dtype=np.uint64)])
        count = len(words) - _WORDS + 1
        shifts = np.full(count, inverse)
        shifts[0] = 1
        hashes[phase::_WORD_BYTES] = (sums[_WORDS:] - sums[:count]) * np.multiply.accumulate(shifts)
    return hashes
