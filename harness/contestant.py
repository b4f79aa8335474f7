"""The contestant's folder: read, checked, copied and measured, never imported.

The copy in the run directory is what the sandboxes see: plain files of the harness's own with fixed modes, so that
nothing that the author does to the folder afterwards, and no link in it, matters."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from harness.errors import InputError
from harness.rules import Table, parse_toml, read_input

MANIFEST = "submission.toml"
MAX_FILES, MAX_BYTES = 10_000, 100_000_000  # of the folder; what counts toward the size limit is decided by the rules
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


def load_contestant(source: Path, rules_name: str, destination: Path) -> Contestant:
    """Copy the submission at `source` into the new directories `destination` and `destination`-eval, and check it for
    the rules `rules_name`.

    Raises InputError with one line on anything that is not as docs/writing-a-submission.md says.
    """
    if not (source / MANIFEST).is_file():
        raise InputError(f"{source} is no submission: it has no {MANIFEST}; see docs/writing-a-submission.md")
    files = tuple(sorted(_copy_tree(source, destination), key=lambda file: file.path))
    manifest = parse_toml(read_input(destination / MANIFEST, "submission"), SubmissionManifest, source / MANIFEST)
    commands = manifest.rules.get(rules_name)
    if commands is None:
        raise InputError(
            f"{source / MANIFEST}: has no table [rules.{rules_name}]; it was made for {', '.join(manifest.rules)}"
        )
    known = {file.path for file in files}
    for path in (commands.checkpoint, *(commands.eval_files or ())):
        if path not in known:
            raise InputError(
                f"{source / MANIFEST}: rules.{rules_name} names {path!r}, which is not a file of the submission"
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


def _copy_tree(source: Path, destination: Path) -> list[SubmissionFile]:
    destination.mkdir(mode=0o755)
    files: list[SubmissionFile] = []
    total = 0
    pending = [PurePosixPath()]
    while pending:
        folder = pending.pop()
        with os.scandir(source / folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                path = folder / entry.name
                if entry.name in IGNORED:
                    continue
                if not entry.name.isprintable():  # neither line breaks nor bytes that are not UTF-8
                    raise InputError(
                        f"{source}: the name {os.fsencode(entry.name)[:80]!r} holds a character not for names"
                    )
                if entry.is_dir(follow_symlinks=False):
                    (destination / path).mkdir(mode=0o755)
                    pending.append(path)
                    continue
                copied = _copy_file(source / path, destination / path, MAX_BYTES - total)
                total += copied.bytes
                files.append(SubmissionFile(str(path), copied.bytes, copied.sha256))
                if len(files) > MAX_FILES:
                    raise InputError(f"{source}: more than {MAX_FILES} files; a submission is code, not data")
    return files


def _copy_file(source: Path, destination: Path, limit: int) -> SubmissionFile:
    """Copy one regular file, following nothing: its contents, and whether it is a program."""
    try:
        descriptor = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        raise InputError(f"{source!s:.200}: not a regular file; a submission has no links or special files") from None
    with open(descriptor, "rb") as file:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise InputError(f"{source}: not a regular file; a submission has no links or special files")
        data = file.read(limit + 1)
    if len(data) > limit:
        raise InputError(f"{source}: the submission holds more than {MAX_BYTES} bytes; a submission is code, not data")
    destination.write_bytes(data)
    destination.chmod(0o755 if mode & stat.S_IXUSR else 0o644)
    return SubmissionFile("", len(data), hashlib.sha256(data).hexdigest())
