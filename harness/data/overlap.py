"""How many documents of the val split are in the train split: word for word, or for the most part.

A model that has trained on what it is scored on shows nothing, and no sandbox sees it. Two measures, both on tokens:
a val document is *repeated* if the very same tokens are a document of train; it is *mostly in train* if more than half
of its runs of RUN_TOKENS tokens stand in documents of train, whatever their order there. Documents below
MINIMUM_TOKENS, BOS not counted, are left out, and of what is longer than MAXIMUM_TOKENS each part of that length is a
document.

Runs and documents are compared by 64-bit hashes. An accident is improbable, and makes the overlap larger, not smaller.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from harness.data.manifest import FileFacts, Progress
from harness.data.shards import BOS, HEADER_BYTES, read_shard, write_atomically

RUN_TOKENS = 13
MINIMUM_TOKENS = 32
MAXIMUM_TOKENS = 1 << 20

_PIECE_TOKENS = 1 << 17  # whole documents are looked at together up to about so many tokens: arrays fit the caches
_BASE = 0x9E3779B97F4A7C15  # odd, so that it has an inverse modulo 2^64


class Overlap(BaseModel):
    """What of val is in train. Documents of val: `documents` were compared; of these `repeated` are in train as they
    are, `mostly_in_train` by their runs, `in_train` in either way. `example`: position in the val stream of the first
    token of the first of these, or null.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    documents: int
    repeated: int
    mostly_in_train: int
    in_train: int
    example: int | None

    @property
    def share(self) -> float:
        """Of the compared documents, how many are in train: 0 to 1."""
        return self.in_train / self.documents if self.documents else 0.0


def measure(
    train: Sequence[Path], val: np.ndarray, progress: Progress | None = None, threads: int | None = None
) -> Overlap:
    """Compare the shards `train`, read in this order as one stream, with the val stream, uint16 [tokens].

    The shards have been verified. `threads`: as many as there are cores, unless given; each holds a shard in memory.
    """
    starts, hashes, counts, runs = map(np.concatenate, zip(*map(_facts, _pieces(val)), strict=True))
    known_runs, known_documents = _Table(runs), _Table(hashes)

    def look_through(index: int) -> None:
        for piece in _pieces(_stream(train, index)):
            known_runs.mark(piece.all_runs())
            known_documents.mark(piece.hashes())

    with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
        for done, _ in enumerate(pool.map(look_through, range(len(train))), 1):
            if progress:
                progress(f"compared val with train: {done} of {len(train)} shards")
    repeated = known_documents.marked().holds(hashes)
    runs_in_train = np.add.reduceat(known_runs.marked().holds(runs), np.cumsum(counts) - counts, dtype=np.int64)
    mostly = 2 * runs_in_train > counts
    in_train = repeated | mostly
    return Overlap(
        documents=len(in_train),
        repeated=int(repeated.sum()),
        mostly_in_train=int(mostly.sum()),
        in_train=int(in_train.sum()),
        example=int(starts[in_train][0]) if in_train.any() else None,
    )


def measure_once(files: Sequence[FileFacts], kept: Path, progress: Progress | None = None) -> Overlap:
    """`measure` for the verified files of a data directory, or what it found the last time for files with the same
    hashes, from the directory `kept`, which nobody else can write to.
    """
    shards = [(facts.role, facts.sha256) for facts in files if facts.role != "tokenizer"]
    digest = hashlib.sha256(Path(__file__).read_bytes() + repr(shards).encode()).hexdigest()
    file = kept / f"overlap-{digest[:16]}"
    try:
        return Overlap.model_validate_json(file.read_bytes())
    except (FileNotFoundError, ValidationError):  # a full disk, or an older version's
        paths = {role: [facts.path for facts in files if facts.role == role] for role in ("train", "val")}
        found = measure(paths["train"], np.concatenate([read_shard(path) for path in paths["val"]]), progress)
        write_atomically(file, found.model_dump_json().encode())
        return found


@dataclass(frozen=True)
class _Piece:
    """Some whole documents of a stream, from its token `begin` on. starts, ends: int64 [documents], of those that are
    long enough, in this piece, BOS left out. sums: uint64 [tokens + 1], of the tokens times powers of the base, from
    which the hash of any run follows.
    """

    begin: int
    starts: np.ndarray
    ends: np.ndarray
    sums: np.ndarray

    def hashes(self) -> np.ndarray:
        """uint64 [documents]"""
        return (self.sums[self.ends] - self.sums[self.starts]) * _INVERSES[self.starts]

    def all_runs(self) -> np.ndarray:
        """uint64 [tokens - RUN_TOKENS + 1]: hashes of all runs. Those across documents hold a BOS, and val's do not."""
        count = max(0, len(self.sums) - RUN_TOKENS)
        return (self.sums[RUN_TOKENS:] - self.sums[:count]) * _INVERSES[:count]

    def run_counts(self) -> np.ndarray:
        """int64 [documents]: the number of runs in each."""
        return self.ends - self.starts - RUN_TOKENS + 1

    def runs(self) -> np.ndarray:
        """uint64 [runs]: hashes of the runs inside the documents, one document after another."""
        counts = self.run_counts()
        return self.all_runs()[np.repeat(self.starts, counts) + _ramps(counts)]


def _pieces(tokens: np.ndarray) -> Iterator[_Piece]:
    """A stream, uint16 [tokens], cut between documents."""
    begins = np.union1d([0], np.flatnonzero(tokens == BOS)) if len(tokens) else np.zeros(0, np.int64)
    parts = -(-np.diff(begins, append=len(tokens)) // MAXIMUM_TOKENS)
    bounds = np.append(np.repeat(begins, parts) + MAXIMUM_TOKENS * _ramps(parts), len(tokens)).astype(np.int64)
    first = 0
    while first < len(bounds) - 1:
        begin = int(bounds[first])
        last = max(first + 1, int(np.searchsorted(bounds, begin + _PIECE_TOKENS, "right")) - 1)
        own, inside = tokens[begin : bounds[last]], bounds[first : last + 1] - begin
        sums = np.zeros(len(own) + 1, np.uint64)
        np.cumsum((own + np.uint64(1)) * _POWERS[: len(own)], out=sums[1:])  # + 1, so that zeros at an end count
        starts, ends = inside[:-1] + (own[inside[:-1]] == BOS), inside[1:]
        long = ends - starts >= MINIMUM_TOKENS
        yield _Piece(begin, starts[long], ends[long], sums)
        first = last


def _facts(piece: _Piece) -> tuple[np.ndarray, ...]:
    """What is kept of a piece of val: where in the stream its documents start, their hashes, run counts, and runs."""
    return piece.begin + piece.starts, piece.hashes(), piece.run_counts(), piece.runs()


class _Table:
    """A set of hashes, the keys, of which some can be marked."""

    def __init__(self, hashes: np.ndarray) -> None:
        ordered = np.sort(hashes)  # np.unique hashes, which takes forty times as long
        self._keys = ordered[np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]]
        self._marks = np.zeros(len(self._keys), bool)
        bits = len(self._keys).bit_length()
        self._bucket_shift = np.uint64(64 - bits - 1)  # a bucket holds the keys that begin alike, half a key on average
        sizes = np.bincount((self._keys >> self._bucket_shift).astype(np.intp), minlength=2 << bits)
        self._buckets = np.zeros(len(sizes) + 1, np.uint32)  # where each begins among the keys
        np.cumsum(sizes, out=self._buckets[1:])
        self._slot_shift = np.uint64(64 - bits - 6)
        self._filter = np.zeros(8 << bits, np.uint8)  # a bit for each slot, of which there are 64 for a key
        slots = self._keys >> self._slot_shift
        places, firsts = np.unique(slots >> np.uint64(3), return_index=True)
        if len(places):
            self._filter[places] = np.bitwise_or.reduceat(_bit(slots), firsts)

    def mark(self, hashes: np.ndarray) -> None:
        """Mark the keys that are among the hashes. Threads may do so at the same time."""
        self._marks[self._find(hashes)[1]] = True

    def marked(self) -> _Table:
        """The marked keys alone."""
        return _Table(self._keys[self._marks])

    def holds(self, hashes: np.ndarray) -> np.ndarray:
        """bool [hashes]: which are keys."""
        held = np.zeros(len(hashes), bool)
        for begin in range(0, len(hashes), _PIECE_TOKENS):
            held[begin + self._find(hashes[begin : begin + _PIECE_TOKENS])[0]] = True
        return held

    def _find(self, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of the hashes are keys, and which keys these are."""
        slots = hashes >> self._slot_shift
        left = np.flatnonzero(self._filter[slots >> np.uint64(3)] & _bit(slots))
        buckets = hashes[left] >> self._bucket_shift
        places, ends = self._buckets[buckets], self._buckets[buckets + np.uint64(1)]
        found = [(left[:0], places[:0])]
        while len(left):  # as often as there are keys in the fullest bucket
            equal = self._keys[places] == hashes[left]
            found.append((left[equal], places[equal]))
            more = ~equal & (places + np.uint32(1) < ends)
            left, places, ends = left[more], places[more] + np.uint32(1), ends[more]
        which, keys = zip(*found, strict=True)
        return np.concatenate(which), np.concatenate(keys)


def _stream(shards: Sequence[Path], index: int) -> np.ndarray:
    """The documents that begin in one shard, to their ends in the shards after it: uint16 [tokens]."""
    tokens = read_shard(shards[index])
    parts = [tokens[_head(shards[index]) if index else 0 :]]
    for later in shards[index + 1 :]:
        head = _head(later)
        parts.append(np.fromfile(later, "<u2", head, offset=HEADER_BYTES))
        if HEADER_BYTES + 2 * head < later.stat().st_size:
            break
    return np.concatenate(parts) if len(parts[0]) else parts[0]


def _head(shard: Path) -> int:
    """Tokens of a shard that belong to the document before: those before the first BOS. If that is too far away, the
    shard begins a document.
    """
    tokens = np.fromfile(shard, "<u2", MAXIMUM_TOKENS, offset=HEADER_BYTES)
    found = np.flatnonzero(tokens == BOS)
    if len(found):
        return int(found[0])
    return len(tokens) if len(tokens) < MAXIMUM_TOKENS else 0


def _bit(slots: np.ndarray) -> np.ndarray:
    """uint8: each slot's bit in its byte."""
    return np.uint8(1) << (slots.astype(np.uint8) & np.uint8(7))


def _ramps(counts: np.ndarray) -> np.ndarray:
    """int64: 0 to count - 1, for one count after another."""
    ends = np.cumsum(counts)
    return np.arange(ends[-1] if len(ends) else 0) - np.repeat(ends - counts, counts)


def _powers(base: int) -> np.ndarray:
    """uint64 [MAXIMUM_TOKENS + _PIECE_TOKENS]: the base to the power of 0, 1, 2 and so on, modulo 2^64."""
    factors = np.full(MAXIMUM_TOKENS + _PIECE_TOKENS, base, np.uint64)
    factors[0] = 1
    return np.multiply.accumulate(factors)


_POWERS, _INVERSES = _powers(_BASE), _powers(pow(_BASE, -1, 1 << 64))
