"""`manifest.json`: what a data directory holds, with the size and sha256 of every file.

`Manifest.load` checks what can be known without reading the data; `verify` reads all of it.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO, Literal

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from harness.data.shards import map_shard, read_header, shard_bytes, write_atomically
from harness.errors import InputError
from harness.rules import Rules

MANIFEST_NAME = "manifest.json"
MAXIMUM_MANIFEST_BYTES = 1_000_000

Progress = Callable[[str], None]
Role = Literal["tokenizer", "train", "val", "val_documents"]
PlainName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=128)]
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=1)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class PlainFile(_Part):
    """A file of which only the bytes matter here."""

    file: PlainName
    bytes: Count
    sha256: Sha256

    @classmethod
    def of(cls, path: Path) -> PlainFile:
        """The entry of an existing file."""
        return cls(file=path.name, bytes=path.stat().st_size, sha256=sha256_of(path))


class ShardFile(_Part):
    """A shard of one split."""

    file: PlainName
    tokens: Count
    bytes: Count  # of the file, header included
    sha256: Sha256

    @model_validator(mode="after")
    def _size_fits(self) -> ShardFile:
        if self.bytes != shard_bytes(self.tokens):
            raise ValueError(
                f"{self.file}: {self.tokens} tokens make {shard_bytes(self.tokens)} bytes, not {self.bytes}"
            )
        return self

    @classmethod
    def of(cls, path: Path) -> ShardFile:
        """The entry of an existing shard. Raises InputError if it is not one."""
        return cls(file=path.name, tokens=read_header(path), bytes=path.stat().st_size, sha256=sha256_of(path))


class Text(_Part):
    """The text behind one split's tokens."""

    documents: Count
    bytes: Count  # UTF-8, of the documents alone: nothing is counted between them


class TextStatistics(_Part):
    """The text of the splits; of val it is always known, because the score is counted in its bytes."""

    train: Text | None = None
    val: Text


class Manifest(_Part):
    """The contents of `manifest.json`."""

    version: Literal[1]
    name: str
    vocab_size: Annotated[int, Field(ge=2, le=2**16)]
    tokenizer: PlainFile  # the SentencePiece model that made the tokens
    val_documents: PlainFile | None = None  # the text of val as it was before it became tokens (documents.py)
    train: Annotated[tuple[ShardFile, ...], Field(min_length=1)]
    val: Annotated[tuple[ShardFile, ...], Field(min_length=1)]
    text: TextStatistics
    provenance: dict[str, str]  # free text for people: how it was made, and with what

    _source: bytes | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _files_differ(self) -> Manifest:
        seen: dict[str, str] = {}
        for role, entry in self.entries():
            if entry.file == MANIFEST_NAME or entry.file in seen.values():
                raise ValueError(f"{entry.file}: listed twice, or the manifest itself")
            if entry.sha256 in seen:
                raise ValueError(f"{entry.file} ({role}) is a copy of {seen[entry.sha256]}: same sha256")
            seen[entry.sha256] = entry.file
        return self

    def entries(self) -> list[tuple[Role, PlainFile | ShardFile]]:
        """Every file of the data directory with its role: tokenizer, train shards, val shards, val text."""
        return [
            ("tokenizer", self.tokenizer),
            *(("train", shard) for shard in self.train),
            *(("val", shard) for shard in self.val),
            *([("val_documents", self.val_documents)] if self.val_documents else []),
        ]

    @property
    def val_tokens(self) -> int:
        """Of the whole val stream."""
        return sum(shard.tokens for shard in self.val)

    @property
    def sha256(self) -> str:
        """Of the bytes of the file it was loaded from, or else of the file that `write` would make."""
        return hashlib.sha256(self._source or self.to_json()).hexdigest()

    def to_json(self) -> bytes:
        """The file's content: the same manifest gives the same bytes."""
        return self.model_dump_json(indent=2, exclude_none=True).encode() + b"\n"

    def write(self, directory: str | os.PathLike[str]) -> None:
        """Write `manifest.json` into the directory, whole or not at all."""
        write_atomically(Path(directory, MANIFEST_NAME), self.to_json())

    @classmethod
    def load(cls, directory: str | os.PathLike[str]) -> Manifest:
        """The manifest of a data directory, after every check that does not read the data.

        Raises InputError if it is missing or breaks its schema, if one file is listed twice under whatever name, if
        train and val share a shard, or if a listed file is missing, a link, no regular file or of another size.
        """
        directory = Path(directory)
        path = directory / MANIFEST_NAME
        try:
            with _open_regular(path) as file:
                source = file.read(MAXIMUM_MANIFEST_BYTES + 1)
            if len(source) > MAXIMUM_MANIFEST_BYTES:
                raise InputError(f"{path}: larger than {MAXIMUM_MANIFEST_BYTES:,} bytes; not a manifest")
            manifest = cls.model_validate_json(source)
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(map(str, first["loc"])) or "the whole file"
            raise InputError(f"{path}: {key}: {first['msg'].removeprefix('Value error, ')}") from error
        for _, entry in manifest.entries():
            _check_size(_regular_status(directory / entry.file), entry, directory)
        manifest._source = source
        return manifest


def require_fit(manifest: Manifest, directory: Path, rules: Rules) -> None:
    """Raise InputError if this is not the data that the rules want, by what the manifest says of it."""
    if manifest.vocab_size != rules.data.vocab_size:
        raise InputError(
            f"{directory}: its vocabulary has {manifest.vocab_size} tokens; rules {rules.name} want "
            f"{rules.data.vocab_size}"
        )
    wanted = rules.data.tokenizer_sha256
    if wanted and manifest.tokenizer.sha256 != wanted:
        raise InputError(f"{directory}: its tokenizer is {manifest.tokenizer.sha256}; rules {rules.name} want {wanted}")
    if rules.data.val_tokens not in (0, manifest.val_tokens):
        raise InputError(
            f"{directory}: its val split has {manifest.val_tokens:,} tokens; rules {rules.name} want "
            f"{rules.data.val_tokens:,}"
        )


@dataclass(frozen=True, kw_only=True)
class FileFacts:
    """A file of the data as it was found and read.

    (device, inode) is its identity; the path is only how it was reached.
    """

    role: Role
    path: Path
    device: int
    inode: int
    size: int  # bytes
    sha256: str


def verify(
    directory: str | os.PathLike[str], manifest: Manifest | None = None, progress: Progress | None = None
) -> tuple[FileFacts, ...]:
    """Read every listed file and check it: hash, shard header, token count, every token below vocab_size.

    Returns one FileFacts per file, in the order of `Manifest.entries`. Without `manifest`, the directory's own is
    loaded. Raises InputError that names the first file that is not what the manifest says.
    """
    directory = Path(directory)
    manifest = manifest or Manifest.load(directory)
    facts = []
    for role, entry in manifest.entries():
        if progress:
            progress(f"checking {entry.file} ({entry.bytes:,} bytes)")
        path = directory / entry.file
        with _open_regular(path) as file:
            before = os.fstat(file.fileno())
            _check_size(before, entry, directory)
            found = hashlib.file_digest(file, "sha256").hexdigest()
            if found != entry.sha256:
                raise InputError(f"{path}: sha256 is {found}, the manifest says {entry.sha256}; make or fetch it again")
            if isinstance(entry, ShardFile):
                tokens = map_shard(file, vocab_size=manifest.vocab_size)
                if len(tokens) != entry.tokens:
                    raise InputError(f"{path}: holds {len(tokens)} tokens, the manifest says {entry.tokens}")
            after = os.fstat(file.fileno())
        if (before.st_mtime_ns, before.st_size) != (after.st_mtime_ns, after.st_size):
            raise InputError(f"{path}: changed while it was read; let nothing write to {directory} during a run")
        facts.append(
            FileFacts(role=role, path=path, device=after.st_dev, inode=after.st_ino, size=after.st_size, sha256=found)
        )
    return tuple(facts)


def sha256_of(path: str | os.PathLike[str]) -> str:
    """sha256 of a regular file, in hexadecimal."""
    with _open_regular(Path(path)) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _regular_status(path: Path) -> os.stat_result:
    """Status of a regular file that is no link, without opening it. Raises InputError."""
    try:
        status = os.lstat(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; make or fetch the data again") from error
    if stat.S_ISLNK(status.st_mode):
        raise InputError(f"{path}: is a symbolic link; put the file itself there")
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path}: is not a regular file")
    return status


def _open_regular(path: Path) -> BinaryIO:
    """Open a regular file for reading, never over a link in its last component. Raises InputError."""
    looked_at = _regular_status(path)
    try:
        file = open(  # noqa: SIM115 (the caller closes it)
            path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW | os.O_NONBLOCK)
        )
    except OSError as error:
        raise InputError(f"{path}: cannot open: {error.strerror}") from error
    if not os.path.samestat(looked_at, os.fstat(file.fileno())):
        file.close()
        raise InputError(f"{path}: was exchanged while it was opened; let nothing write to {path.parent} during a run")
    return file


def _check_size(status: os.stat_result, entry: PlainFile | ShardFile, directory: Path) -> None:
    if status.st_size != entry.bytes:
        raise InputError(
            f"{directory / entry.file}: has {status.st_size} bytes, the manifest says {entry.bytes}; "
            "make or fetch it again"
        )
