"""A data directory made of what the contest publishes (`harness.data.published`).

The published tree is an *origin*: a repository on a hub (`harness.data.hub`) or a folder on this machine
(`FolderOrigin`). `collect` brings what one variant needs, checks all of it, and writes a manifest in our format.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np
from pydantic import BaseModel, ValidationError

from harness.data.manifest import MANIFEST_NAME, Manifest, PlainFile, ShardFile, Text, TextStatistics, sha256_of
from harness.data.published import Pinned, Plan, WantedFile, make_plan
from harness.data.shards import BOS, HEADER_BYTES, map_shard, read_header, read_shard, shard_bytes
from harness.errors import EnvironmentMissing, InputError
from harness.scoring.bpb import load_tokenizer, prove_text

SPARE_BYTES = 16_000_000  # of the disk, for the manifest and whatever else is written meanwhile

_SHARD_NAME = re.compile(r"fineweb_(train|val)_[0-9]{6}\.bin")
_PIECE_TOKENS = 1 << 21  # of a shard, looked at together
_COPY_BYTES = 1 << 22

Result = TypeVar("Result")


@dataclass(frozen=True, kw_only=True)
class Found:
    """What an origin says of one of its files."""

    size: int  # bytes
    sha256: str | None = None


class Origin(Protocol):
    """A published tree. Its methods raise InputError or EnvironmentMissing."""

    description: str  # for the manifest
    can_resume: bool

    def manifest(self) -> bytes:
        """The published manifest."""

    def look_up(self, files: Sequence[WantedFile]) -> list[Found]:
        """What is there, in the same order, after every check that does not read the files."""

    def bring(self, file: WantedFile, found: Found, to: Path, at: Callable[[int], None]) -> None:
        """Write the file to `to`, and tell `at` how many bytes are there. If `to` exists, it is the file's beginning,
        and the origin `can_resume`."""


class FolderOrigin:
    """A folder on this machine that is laid out like the published tree. It is read, and never written to."""

    description = "files that were on this machine"
    can_resume = False

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def manifest(self) -> bytes:
        """The published manifest."""
        path = self._folder / MANIFEST_NAME
        try:
            return path.read_bytes()
        except OSError as error:
            raise InputError(
                f"{path}: {error.strerror}; name the folder with the published {MANIFEST_NAME}, datasets/ and "
                "tokenizers/ in it"
            ) from error

    def look_up(self, files: Sequence[WantedFile]) -> list[Found]:
        """Sizes, after a look at the headers of all shards."""
        found = []
        for file in files:
            path = self._folder / file.path
            if not path.is_file():
                fewer = ", or ask for fewer with --train-shards" if file.role == "train" else ""
                raise InputError(f"{path}: missing; download it{fewer}")
            if file.role != "tokenizer":
                read_header(path)
            found.append(Found(size=path.stat().st_size))
        return found

    def bring(self, file: WantedFile, found: Found, to: Path, at: Callable[[int], None]) -> None:
        """Copy the file."""
        with (self._folder / file.path).open("rb") as source, to.open("wb") as target:
            while piece := source.read(_COPY_BYTES):
                target.write(piece)
                at(target.tell())


class Watcher(Protocol):
    """Shows the work to people."""

    def begin(self, files: int, size: int) -> None:
        """So many files will be brought, with so many bytes together."""

    def at(self, position: int) -> None:
        """So many of these bytes are there."""

    def done(self, name: str) -> None:
        """One of these files is there and has been checked."""

    def note(self, text: str) -> None:
        """A line for people."""


def collect(
    origin: Origin,
    directory: Path,
    *,
    variant: str,
    train_shards: int,
    watcher: Watcher,
    pinned: Pinned | None = None,
) -> Manifest:
    """Make `directory` a data directory with one variant of what the origin has.

    A file appears under its name when it is complete and checked, and the manifest when all are. What is there already
    is checked and not brought again, if its hash is known beforehand. `pinned`: what is known of the data, unless it is
    what `pinned.toml` says.

    Raises InputError that names the file which is missing or not what it should be, or if the directory holds anything
    else; EnvironmentMissing if the disk is too small.
    """
    plan = make_plan(origin.manifest(), variant, train_shards, pinned)
    found = dict(zip(plan.files, origin.look_up(plan.files), strict=True))
    for file, facts in found.items():
        _check_found(file, facts, plan.sha256.get(file.name))
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with _alone(directory):
            _check_directory(directory, plan)
            return _Collection(origin, directory, plan, found, watcher).run()
    except OSError as error:
        raise InputError(f"{directory}: cannot make the data there: {error}") from error


class _Collection:
    """One `collect` at work."""

    def __init__(
        self, origin: Origin, directory: Path, plan: Plan, found: dict[WantedFile, Found], watcher: Watcher
    ) -> None:
        self._origin = origin
        self._directory = directory
        self._plan = plan
        self._found = found
        self._watcher = watcher
        self._missing = [
            file for file in plan.files if self._known_hash(file) is None or not (directory / file.name).exists()
        ]
        self._before = 0  # bytes of the files that were missing, so far

    def run(self) -> Manifest:
        """Bring, check, and write the manifest, unless that very manifest is there."""
        self._check_space()
        if self._missing:
            self._watcher.begin(len(self._missing), sum(self._found[file].size for file in self._missing))
        else:
            self._watcher.note(f"all {len(self._plan.files)} files are there: checking them")
        tokenizer, vocab_size = self._take(self._plan.tokenizer, self._check_tokenizer)
        val, documents = self._take_shards("val", vocab_size)
        self._check_val(sum(shard.tokens for shard in val), documents)
        text = self._text(tokenizer, val, documents)
        train, _ = self._take_shards("train", vocab_size)
        try:
            manifest = Manifest(
                version=1,
                name=self._plan.dataset,
                vocab_size=vocab_size,
                tokenizer=tokenizer,
                train=train,
                val=val,
                text=TextStatistics(val=text),
                provenance=self._provenance(),
            )
        except ValidationError as error:
            message = error.errors(include_url=False)[0]["msg"].removeprefix("Value error, ")
            raise InputError(f"{self._directory}: {message}") from error
        path = self._directory / MANIFEST_NAME
        if not path.exists() or path.read_bytes() != manifest.to_json():
            manifest.write(self._directory)
        return Manifest.load(self._directory)

    def _known_hash(self, file: WantedFile) -> str | None:
        """sha256 that the file must have, if anybody says so beforehand."""
        return self._plan.sha256.get(file.name) or self._found[file].sha256

    def _partial(self, file: WantedFile) -> Path:
        """Where the file grows: hidden, and another place for other content."""
        return self._directory / f".{file.name}.{(self._known_hash(file) or 'unknown')[:16]}.partial"

    def _can_resume(self, file: WantedFile) -> bool:
        return self._origin.can_resume and self._known_hash(file) is not None

    def _check_space(self) -> None:
        needed = SPARE_BYTES if self._missing else 0
        for file in self._missing:
            partial = self._partial(file)
            needed += self._found[file].size - (partial.stat().st_size if partial.exists() else 0)
        free = shutil.disk_usage(self._directory).free
        if free < needed:
            raise EnvironmentMissing(
                f"{self._directory}: needs {needed:,} bytes more, the disk has {free:,} free; make room, name another "
                "directory with --out, or ask for fewer --train-shards"
            )

    def _take_shards(self, role: str, vocab_size: int) -> tuple[tuple[ShardFile, ...], int]:
        """All shards of a split, and the number of documents that begin in them."""
        files = [file for file in self._plan.shards if file.role == role]
        taken = [self._take(file, lambda *found: self._check_shard(*found, vocab_size)) for file in files]
        return tuple(entry for entry, _ in taken), sum(documents for _, documents in taken)

    def _take(self, file: WantedFile, check: Callable[[WantedFile, Path], Result]) -> Result:
        """What `check` finds in the file, which is brought before if it is missing; a wrong one is not kept then."""
        final = self._directory / file.name
        if file not in self._missing:
            try:
                return check(file, final)
            except InputError as error:
                raise InputError(f"{error}; delete it and run this again") from error
        partial = self._partial(file)
        if not self._can_resume(file):
            partial.unlink(missing_ok=True)
        self._origin.bring(file, self._found[file], partial, lambda done: self._watcher.at(self._before + done))
        try:
            result = check(file, partial)
        except InputError as error:
            partial.unlink()
            named = str(error).replace(str(partial), str(final))
            raise InputError(
                f"{named}; it was not kept: run this again, and if that does not help get it anew"
            ) from error
        with partial.open("rb") as file_on_disk:
            os.fchmod(file_on_disk.fileno(), 0o644)
            os.fsync(file_on_disk.fileno())
        partial.replace(final)
        for outdated in self._directory.glob(f".{file.name}.*.partial"):
            outdated.unlink()
        self._before += self._found[file].size
        self._watcher.done(file.name)
        return result

    def _check_tokenizer(self, file: WantedFile, path: Path) -> tuple[PlainFile, int]:
        """The tokenizer's entry, and the size of its vocabulary."""
        digest = sha256_of(path)
        self._check_content(file, path, digest)
        tokenizer = load_tokenizer(path)
        if self._plan.vocab_size not in (None, tokenizer.vocab_size()):
            raise InputError(
                f"{path}: has {tokenizer.vocab_size()} tokens, the published {MANIFEST_NAME} says "
                f"{self._plan.vocab_size}"
            )
        if tokenizer.bos_id() != BOS:
            raise InputError(f"{path}: begins documents with token {tokenizer.bos_id()}; the shards have {BOS}")
        return PlainFile(file=file.name, bytes=path.stat().st_size, sha256=digest), tokenizer.vocab_size()

    def _check_shard(self, file: WantedFile, path: Path, vocab_size: int) -> tuple[ShardFile, int]:
        """A shard's entry, and the number of documents that begin in it. It is read once."""
        tokens = map_shard(path)
        with path.open("rb") as opened:
            digest = hashlib.sha256(opened.read(HEADER_BYTES))
        largest = documents = 0
        for begin in range(0, len(tokens), _PIECE_TOKENS):
            piece = tokens[begin : begin + _PIECE_TOKENS]
            digest.update(piece)
            largest = max(largest, int(piece.max()))
            documents += int(np.count_nonzero(piece == BOS))
        self._check_content(file, path, digest.hexdigest())
        if largest >= vocab_size:
            map_shard(path, vocab_size=vocab_size)  # raises, and says where
        entry = ShardFile(file=file.name, tokens=len(tokens), bytes=path.stat().st_size, sha256=digest.hexdigest())
        return entry, documents

    def _check_content(self, file: WantedFile, path: Path, sha256: str) -> None:
        size, wanted = path.stat().st_size, self._found[file].size
        if size != wanted:
            raise InputError(f"{path}: has {size:,} bytes and should have {wanted:,}")
        known = self._known_hash(file)
        if known not in (None, sha256):
            raise InputError(f"{path}: sha256 is {sha256} and should be {known}")

    def _check_val(self, tokens: int, documents: int) -> None:
        plan = self._plan
        for what, there, wanted in (
            ("tokens", tokens, plan.val_tokens),
            ("documents", documents, plan.val_documents),
        ):
            if wanted not in (None, there):
                raise InputError(
                    f"{self._directory}: its val split has {there:,} {what} and should have {wanted:,}: other data"
                )

    def _text(self, tokenizer: PlainFile, val: tuple[ShardFile, ...], documents: int) -> Text:
        """The text of val: counted, unless the manifest that is there did so for the same files."""
        try:
            before = Manifest.load(self._directory)
        except InputError:
            before = None
        if before is not None and (before.tokenizer, before.val) == (tokenizer, val):
            return before.text.val
        self._watcher.note("counting the text behind the tokens of val")
        tokens = np.concatenate([read_shard(self._directory / shard.file) for shard in val])
        return Text(documents=documents, bytes=int(prove_text(tokens, self._directory / tokenizer.file).sum()))

    def _provenance(self) -> dict[str, str]:
        """Where it is from, and who said the hash of each file beforehand."""
        said: dict[str, list[str]] = {"pinned": [], "origin": [], "nobody": []}
        for file in self._plan.files:
            by = "pinned" if file.name in self._plan.sha256 else "origin" if self._found[file].sha256 else "nobody"
            said[by].append(file.name)
        if unknown := said["nobody"]:
            others = f" and {len(unknown) - 1} more" if unknown[1:] else ""
            self._watcher.note(
                f"nobody says what the sha256 of {unknown[0]}{others} should be: the manifest has what was computed "
                "from the files as they are"
            )
        return {
            "made_by": "harness.data.collect",
            "origin": self._origin.description,
            "text": "val: counted from its tokens, not from the documents as they were before they became tokens",
            **{f"sha256_said_by_{by}": " ".join(names) for by, names in said.items() if names},
        }


def _check_found(file: WantedFile, found: Found, pinned: str | None) -> None:
    """Refuse what is known to be wrong before it is brought."""
    if file.tokens is not None and found.size != shard_bytes(file.tokens):
        raise InputError(
            f"{file.path}: has {found.size:,} bytes where it is published, but {file.tokens:,} tokens make "
            f"{shard_bytes(file.tokens):,}; the published {MANIFEST_NAME} is of other data"
        )
    if pinned is not None and found.sha256 not in (None, pinned):
        raise InputError(
            f"{file.path}: its sha256 is {found.sha256} where it is published, but is known to be {pinned}; this is "
            "other data under that name"
        )


class _Named(BaseModel):
    name: str


def _check_directory(directory: Path, plan: Plan) -> None:
    """Refuse a directory that holds anything but this data, whole or in part; hidden files do not count."""
    names = {path.name for path in directory.iterdir() if not path.name.startswith(".")}
    if MANIFEST_NAME in names:
        try:
            name = _Named.model_validate_json((directory / MANIFEST_NAME).read_bytes()).name
        except ValidationError:
            name = f"a {MANIFEST_NAME} that is not ours"
        if name != plan.dataset:
            raise InputError(f"{directory}: holds {name}, not {plan.dataset}; name another directory")
    expected = {MANIFEST_NAME, plan.tokenizer.name}
    for name in sorted(names - expected):
        if not _SHARD_NAME.fullmatch(name):
            raise InputError(f"{directory}: holds {name}, which is no part of {plan.dataset}; name another directory")


@contextmanager
def _alone(directory: Path) -> Iterator[None]:
    """Hold the lock on a directory. Raises InputError if somebody else has it."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(f"{directory}: another fetch or import is at work there; wait until it ends") from error
        yield
    finally:
        os.close(descriptor)
