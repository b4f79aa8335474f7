"""Contest shards, read and written, and the training batches cut from them.

A shard is 256 little-endian int32 of header (magic, version, token count), then the tokens as little-endian uint16.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

import numpy as np

MAGIC = 20240520
VERSION = 1
HEADER_INTS = 256
HEADER_BYTES = HEADER_INTS * 4


def read_shard(path: Path) -> np.ndarray:
    """The tokens of a shard, uint16 [count], memory-mapped, read-only. Raises ValueError when it is no whole shard."""
    with path.open("rb") as file:
        if path.stat().st_size < HEADER_BYTES:
            raise ValueError(f"{path.name}: shorter than a shard's header")
        mapping = mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ)
    magic, version, count = np.frombuffer(mapping, "<i4", 3).tolist()
    if (magic, version) != (MAGIC, VERSION):
        raise ValueError(f"{path.name}: magic {magic} and version {version}, not those of a shard")
    if len(mapping) != HEADER_BYTES + 2 * count:
        raise ValueError(f"{path.name}: {len(mapping)} bytes do not hold {count} tokens")
    mapping.madvise(mmap.MADV_WILLNEED)  # the batches jump about in the file
    return np.frombuffer(mapping, "<u2", count, HEADER_BYTES)


def write_shard(path: Path, tokens: np.ndarray) -> None:
    """Write tokens, any integer dtype and shape, in order, as one shard. Raises ValueError when one does not fit."""
    tokens = tokens.reshape(-1)
    if tokens.size and not 0 <= tokens.min() <= tokens.max() < 2**16:
        raise ValueError("tokens must lie in [0, 65536)")
    header = np.zeros(HEADER_INTS, "<i4")
    header[:3] = MAGIC, VERSION, tokens.size
    path.write_bytes(header.tobytes() + tokens.astype("<u2").tobytes())


def batches(paths: list[Path], sequences: int, length: int, seed: int) -> Iterator[np.ndarray]:
    """Training windows for ever: int64 [sequences, length + 1], inputs and targets overlapping by one token.

    Every epoch visits the shards in a new order and cuts each at a new offset into windows in a new order; all of it
    follows from the seed. A shard is opened when its turn comes and not before: the first open starts the clock.
    What is left over of a shard after its last whole batch is skipped. Raises ValueError when no shard holds one.
    """
    random = np.random.Generator(np.random.Philox(seed))
    while True:
        found = False
        for index in random.permutation(len(paths)):
            tokens = read_shard(paths[index])
            start = int(random.integers(length))
            windows = max(0, (len(tokens) - start - 1) // length)
            starts = start + length * random.permutation(windows)
            for first in range(0, windows - sequences + 1, sequences):
                found = True
                picked = starts[first : first + sequences]
                yield np.stack([tokens[s : s + length + 1] for s in picked]).astype(np.int64)
        if not found:
            raise ValueError(f"no train shard holds {sequences} sequences of {length} tokens")
