"""The contestant's folder: read, checked, copied and measured, never imported.

The copy in the run directory is what the sandboxes see: plain files of the harness's own with fixed modes, so that
nothing that the author does to the folder meanwhile or afterwards, and no link in it, matters."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from harness.errors import InputError
from harness.rules import Rules, Table, parse_toml, read_input

MANIFEST = "submission.toml"
MAX_NAMES = 10_000  # files and directories of the folder; how many bytes it may have is decided by the rules
MAX_DEPTH = 64  # directories inside each other; one descriptor each is open at a time
IGNORED = frozenset(
    {".git", "__pycache__", ".venv", ".ruff_cache", ".pytest_cache"}
)  # not copied, so not visible to any phase

Command = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]


class Commands(Table):
    """One [rules.NAME] table of submission.toml."""

    train: Command
    quantize: Command
    eval: Command
    checkpoint: str
    eval_files: tuple[str, ...] | None = None


class SubmissionManifest(Table):
    """submission.toml."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    rules: dict[str, Commands]


class TensorType(BaseModel):
    """What one tensor of the checkpoint must be. `dtype` is safetensors' name for it."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    dtype: Literal["F32", "F16", "BF16"]
    shape: tuple[Annotated[int, Field(gt=0)], ...]


CheckpointSchema = dict[str, TensorType]
_SCHEMA = TypeAdapter(CheckpointSchema)


@dataclass(frozen=True)
class SubmissionFile:
    path: str  # relative, with forward slashes
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Contestant:
    """A submission, ready to run. `directory`: the harness's copy of it; `eval_directory`: of what eval may read."""

    name: str
    directory: Path
    eval_directory: Path
    commands: Commands
    checkpoint: CheckpointSchema
    files: tuple[SubmissionFile, ...]

    @property
    def tree_sha256(self) -> str:
        """sha256 over a line "<sha256>  <path>" per file, sorted by path."""
        lines = "".join(f"{file.sha256}  {file.path}\n" for file in self.files)
        return hashlib.sha256(lines.encode()).hexdigest()

    @property
    def eval_files(self) -> tuple[SubmissionFile, ...]:
        """The files that the eval sandbox can read."""
        if self.commands.eval_files is None:
            return self.files
        named = set(self.commands.eval_files)
        return tuple(file for file in self.files if file.path in named)

    @property
    def code_bytes(self) -> int:
        """Bytes that count as code: of every file eval can read its contents and its name, and the eval command line
        as JSON.

        Leaves out what is the same for everybody: the system, Python and its packages, and the wire module.
        """
        command = len(json.dumps(self.commands.eval, ensure_ascii=False).encode())
        return command + sum(file.bytes + len(file.path.encode()) for file in self.eval_files)


def load_contestant(source: Path, rules: Rules, destination: Path) -> Contestant:
    """Copy the submission at `source` into the new directories `destination` and `destination`-eval, and check it for
    the rules.

    Raises InputError with one line on anything that is not as docs/writing-a-submission.md says.
    """
    files = _copy_submission(source, destination, rules.size.submission_bytes)
    manifest = parse_toml(read_input(destination / MANIFEST, "submission"), SubmissionManifest, source / MANIFEST)
    commands = manifest.rules.get(rules.name)
    if commands is None:
        raise InputError(
            f"{source / MANIFEST}: has no table [rules.{rules.name}]; it was made for {', '.join(manifest.rules)}"
        )
    known = {file.path for file in files}
    for path in (commands.checkpoint, *(commands.eval_files or ())):
        if path not in known:
            raise InputError(
                f"{source / MANIFEST}: rules.{rules.name} names {path!r}, which is not a file of the submission"
            )
    schema_path = destination / commands.checkpoint
    try:
        checkpoint = _SCHEMA.validate_json(read_input(schema_path, "checkpoint schema"))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise InputError(f"{source / commands.checkpoint}: {where} {first['msg'].lower()}") from None
    if not checkpoint:
        raise InputError(f"{source / commands.checkpoint}: declares no tensor")
    eval_directory = destination.with_name(destination.name + "-eval")
    contestant = Contestant(manifest.name, destination, eval_directory, commands, checkpoint, files)
    eval_directory.mkdir(mode=0o755)
    for file in contestant.eval_files:
        (eval_directory / file.path).parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        shutil.copy(destination / file.path, eval_directory / file.path)
    return contestant


def _copy_submission(source: Path, destination: Path, most_bytes: int) -> tuple[SubmissionFile, ...]:
    """Copy a folder's files into the new directory `destination`; returns them sorted by path.

    The path `source` is the user's word and is looked up once. From there everything is opened by its name in an open
    directory, following nothing, so that an exchange of names meanwhile leads nowhere else.
    """
    try:
        root = os.open(source, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise InputError(f"{source} is no submission, a folder with a {MANIFEST}: {error.strerror}") from None
    try:
        if MANIFEST not in os.listdir(root):
            raise InputError(f"{source} is no submission: it has no {MANIFEST}; see docs/writing-a-submission.md")
        destination.mkdir(mode=0o755)
        return tuple(
            sorted(_Copy(source, destination, most_bytes).tree(root, PurePosixPath()), key=lambda file: file.path)
        )
    finally:
        os.close(root)


class _Copy:
    """The copying of one folder, and what it has met so far."""

    def __init__(self, source: Path, destination: Path, most_bytes: int) -> None:
        self.source = source  # for messages only
        self.destination = destination
        self.most_bytes = most_bytes
        self.names = 0
        self.bytes = 0

    def tree(self, directory: int, folder: PurePosixPath) -> Iterator[SubmissionFile]:
        """Copy what is in the open directory, which the folder `folder` of the submission is, and below."""
        for name in self._list(directory):
            path = folder / name
            with self._opened(name, directory, path) as (descriptor, mode):
                if stat.S_ISREG(mode):
                    yield self._file(descriptor, mode, path)
                elif stat.S_ISDIR(mode):
                    if len(path.parts) > MAX_DEPTH:
                        raise InputError(f"{self.source}: more than {MAX_DEPTH} folders inside each other")
                    yield from self.tree(descriptor, path)
                else:
                    raise self._not_regular(path)

    def _list(self, directory: int) -> list[str]:
        """The names in a directory that are not ignored, sorted."""
        names = []
        with os.scandir(directory) as entries:
            for entry in entries:
                if entry.name in IGNORED:
                    continue
                if not entry.name.isprintable():  # neither line breaks nor bytes that are not UTF-8
                    raise InputError(
                        f"{self.source}: the name {os.fsencode(entry.name)[:80]!r} holds a character not for names"
                    )
                self.names += 1
                if self.names > MAX_NAMES:
                    raise InputError(
                        f"{self.source}: more than {MAX_NAMES:,} files and folders; a submission is code, not data"
                    )
                names.append(entry.name)
        return sorted(names)

    @contextmanager
    def _opened(self, name: str, directory: int, path: PurePosixPath) -> Iterator[tuple[int, int]]:
        """A descriptor of what has that name at this moment, and its mode."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        try:
            descriptor = os.open(name, flags, dir_fd=directory)
        except OSError:
            raise self._not_regular(path) from None
        try:
            yield descriptor, os.fstat(descriptor).st_mode
        finally:
            os.close(descriptor)

    def _file(self, source: int, mode: int, path: PurePosixPath) -> SubmissionFile:
        """Copy one regular file: its contents, and whether it is a program. Directories come with their first file, so
        that none is there but for a file.
        """
        self.bytes += len(str(path).encode())
        with open(source, "rb", closefd=False) as file:
            data = file.read(max(0, self.most_bytes - self.bytes) + 1)
        self.bytes += len(data)
        if self.bytes > self.most_bytes:
            raise InputError(
                f"{self.source}: its files have more than {self.most_bytes:,} bytes, names included (the last one "
                f"looked at is {str(path)[:200]!r}); a submission is code, not data (size.submission_bytes)"
            )
        target = self.destination / path
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        target.write_bytes(data)
        target.chmod(0o755 if mode & stat.S_IXUSR else 0o644)
        return SubmissionFile(str(path), len(data), hashlib.sha256(data).hexdigest())

    def _not_regular(self, path: PurePosixPath) -> InputError:
        return InputError(
            f"{str(self.source / path)[:200]}: not a regular file; a submission has no links or special files"
        )
