"""The contest's shard format: a header of 256 little-endian int32, then little-endian uint16 tokens, nothing after.

header[0] is the magic number, header[1] the format's version, header[2] the number of tokens; the other 253 words are
zero. That is stricter than the usual readers, which ignore those words: a kilobyte that nobody reads is a place to
hide things in.

Every reader takes a path, an open binary file or a file descriptor. The last two are read from the start wherever
their position is, and stay open: the referee opens data files itself, without following links, and must then read
that very file.
"""

from __future__ import annotations

import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import ArrayLike

from harness.errors import InputError

MAGIC = 20240520
VERSION = 1
HEADER_BYTES = 256 * 4
TOKEN_BYTES = 2
BOS = 1  # the token that begins each document
MAXIMUM_TOKENS = 2**31 - 1  # the count is an int32

Source = str | os.PathLike[str] | int | BinaryIO


def shard_bytes(tokens: int) -> int:
    """Size in bytes of a shard that holds so many tokens."""
    return HEADER_BYTES + TOKEN_BYTES * tokens


def read_header(source: Source) -> int:
    """Number of tokens in a shard. Raises InputError unless header and file size are exactly those of a shard."""
    with _opened(source) as (descriptor, name):
        return _checked_count(descriptor, name)


def read_shard(source: Source, *, vocab_size: int | None = None) -> np.ndarray:
    """The tokens of a shard, uint16 [tokens], in memory.

    With `vocab_size`, every token must be below it. Raises InputError that says what is wrong with the file.
    """
    with _opened(source) as (descriptor, name):
        count = _checked_count(descriptor, name)
        tokens = np.empty(count, dtype="<u2")
        _fill(tokens, descriptor, name)
    _check_vocabulary(tokens, name, vocab_size)
    return tokens.astype(np.uint16, copy=False)


def map_shard(source: Source, *, vocab_size: int | None = None) -> np.ndarray:
    """The tokens of a shard, uint16 [tokens], mapped read-only: nothing is read before it is looked at.

    Checks and errors as `read_shard`. A file that shrinks while it is mapped kills the process that reads it (SIGBUS).
    """
    with _opened(source) as (descriptor, name):
        count = _checked_count(descriptor, name)
        mapping = mmap.mmap(descriptor, shard_bytes(count), access=mmap.ACCESS_READ)
    tokens = np.frombuffer(mapping, dtype="<u2", offset=HEADER_BYTES)
    _check_vocabulary(tokens, name, vocab_size)
    return tokens


def write_shard(path: str | os.PathLike[str], tokens: ArrayLike) -> None:
    """Write `tokens`, integers [tokens] in 0..65535, as a shard: whole or not at all, mode 0644.

    Raises InputError if they are not such integers or there are none, OSError if the file cannot be written.
    """
    tokens = np.asarray(tokens)
    if tokens.ndim != 1 or not 1 <= len(tokens) <= MAXIMUM_TOKENS:
        raise InputError(f"{path}: a shard holds 1 to {MAXIMUM_TOKENS:,} tokens in one dimension, not {tokens.shape}")
    if not np.issubdtype(tokens.dtype, np.integer) or tokens.min() < 0 or tokens.max() > np.iinfo(np.uint16).max:
        raise InputError(f"{path}: tokens are integers from 0 to 65,535; these are {tokens.dtype} and do not fit")
    header = np.zeros(HEADER_BYTES // 4, dtype="<i4")
    header[:3] = MAGIC, VERSION, len(tokens)
    write_atomically(path, header.tobytes() + tokens.astype("<u2").tobytes())


def write_atomically(path: str | os.PathLike[str], content: bytes) -> None:
    """Write a file that appears under its name complete, on disk and with mode 0644, or not at all."""
    path = Path(path)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with open(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(descriptor, 0o644)
            os.fsync(descriptor)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


@contextmanager
def _opened(source: Source) -> Iterator[tuple[int, str]]:
    """A descriptor of the source, and its name for messages; closed afterwards only if it was opened here."""
    if isinstance(source, int):
        yield source, f"file descriptor {source}"
    elif isinstance(source, str | os.PathLike):
        name = os.fspath(source)
        try:
            descriptor = os.open(source, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise InputError(f"{name}: cannot open the shard: {error.strerror}") from error
        try:
            yield descriptor, name
        finally:
            os.close(descriptor)
    else:
        yield source.fileno(), str(source.name)


def _checked_count(descriptor: int, name: str) -> int:
    """The token count, after every check that needs no token."""
    try:
        header = np.frombuffer(os.pread(descriptor, HEADER_BYTES, 0), dtype=np.uint8)
    except OSError as error:
        raise InputError(f"{name}: cannot read the shard: {error.strerror}") from error
    if len(header) < HEADER_BYTES:
        raise InputError(f"{name}: {len(header)} bytes are too few for a shard, whose header alone has {HEADER_BYTES}")
    magic, version, count, *rest = header.view("<i4").tolist()
    if magic != MAGIC:
        raise InputError(f"{name}: not a token shard: it begins with {magic}, not with the magic number {MAGIC}")
    if version != VERSION:
        raise InputError(f"{name}: shard version {version}; only version {VERSION} is known")
    if count < 1:
        raise InputError(f"{name}: the header counts {count} tokens; a shard has at least one")
    if any(rest):
        raise InputError(f"{name}: header words 3 to 255 must be zero; this file hides something in them")
    size = os.fstat(descriptor).st_size
    if size != shard_bytes(count):
        difference = size - shard_bytes(count)
        fault = f"{difference} bytes too many" if difference > 0 else f"{-difference} bytes missing; copy it again"
        raise InputError(f"{name}: {count} tokens need {shard_bytes(count)} bytes, the file has {size}: {fault}")
    return count


def _fill(tokens: np.ndarray, descriptor: int, name: str) -> None:
    """Read the token part of the file into `tokens`, without moving the file's position."""
    buffer = memoryview(tokens).cast("B")
    done = 0
    while done < len(buffer):
        got = os.preadv(descriptor, [buffer[done:]], HEADER_BYTES + done)
        if not got:
            raise InputError(f"{name}: the file shrank while it was read")
        done += got


def _check_vocabulary(tokens: np.ndarray, name: str, vocab_size: int | None) -> None:
    """Raise InputError at the first token outside the vocabulary, if there is one."""
    if vocab_size is None or int(tokens.max()) < vocab_size:
        return
    position = int(np.argmax(tokens >= vocab_size))
    raise InputError(
        f"{name}: token {tokens[position]} at position {position} is outside the vocabulary of {vocab_size}; "
        "the shard was made with another tokenizer"
    )
