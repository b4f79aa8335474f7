"""What a phase left in /out, taken over after its last process is gone: copied into files of the harness's own, then
hashed.

Only declared names, only regular files, only contents: names, times, modes, attributes and links of the originals go
no further. Nothing is followed, nothing is read beyond its limit, and the listing stops at the first surprise, so a
hostile /out costs little time."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.errors import Reason, RefereeError, Violation

CHUNK = 1 << 20


@dataclass(frozen=True)
class Output:
    """The harness's own read-only copy of an output. `bytes` and `sha256` are of the copy."""

    path: Path
    bytes: int
    sha256: str


def remove_tree(path: Path) -> None:
    """Remove a directory with whatever a phase has put into it, however deep; what is not there is no error.

    By rm, because Python's own removal gives up on deep trees.
    """
    subprocess.run(["rm", "-rf", "--one-file-system", "--", str(path)], check=False)


def collect(directory: int, declared: Mapping[str, int], destination: Path) -> dict[str, Output]:
    """Take the `declared` files (name -> most bytes) from an open directory over into `destination`.

    Raises Violation if one is missing, is not a regular file, is larger than declared, or if anything else lies there.
    The sandbox must be empty; if a violation is raised the files copied before it stay in `destination`, as evidence.
    Raises RefereeError if a file changes meanwhile: then somebody is still alive.
    """
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.name not in declared:
                name = os.fsencode(entry.name)[:80]
                raise Violation(Reason.OUTPUT_UNDECLARED, f"/out holds {name!r}, which was not declared")
    return {name: _take_over(directory, name, most, destination / name) for name, most in declared.items()}


def _take_over(directory: int, name: str, most: int, target: Path) -> Output:
    try:
        # O_NONBLOCK: opening a FIFO must not wait for its other end
        source = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=directory)
    except FileNotFoundError:
        raise Violation(Reason.OUTPUT_MISSING, f"/out/{name} is missing") from None
    except OSError as error:
        kind = "is a symbolic link" if error.errno == errno.ELOOP else f"cannot be opened ({error.strerror})"
        raise Violation(Reason.OUTPUT_NOT_REGULAR, f"/out/{name} {kind}; it must be a regular file") from None
    try:
        facts = os.fstat(source)
        if not stat.S_ISREG(facts.st_mode) or facts.st_nlink != 1 or facts.st_dev != os.fstat(directory).st_dev:
            raise Violation(Reason.OUTPUT_NOT_REGULAR, f"/out/{name} must be a regular file with one name")
        if facts.st_size > most:
            raise Violation(
                Reason.OUTPUT_TOO_LARGE, f"/out/{name} has {facts.st_size:,} bytes; at most {most:,} are allowed"
            )
        copied = _copy(source, target, most)
        now = os.fstat(source)
        if (copied, now.st_mtime_ns, now.st_ctime_ns) != (facts.st_size, facts.st_mtime_ns, facts.st_ctime_ns):
            raise RefereeError(f"/out/{name} was written to while it was collected, after its phase had ended")
    finally:
        os.close(source)
    with target.open("rb") as file:
        return Output(target, copied, hashlib.file_digest(file, "sha256").hexdigest())


def _copy(source: int, target: Path, most: int) -> int:
    """Copy at most `most` bytes into a new file; returns how many. The target appears under its name only when it is
    complete.
    """
    partial = target.with_name(target.name + ".partial")
    copied = 0
    with partial.open("xb") as file:
        while chunk := os.read(source, min(CHUNK, most - copied)):
            file.write(chunk)
            copied += len(chunk)
        file.flush()
        os.fsync(file.fileno())
    partial.chmod(0o444)
    partial.rename(target)
    return copied


def give_away(directory: Path, like: Path) -> None:
    """Make the owner of `like` the owner of `directory`, of all that is in it, and of the folders between the two."""
    owner = like.stat()
    between = [parent for parent in directory.absolute().parents if parent.is_relative_to(like.absolute())]
    places = [directory, *(parent for parent in between if parent != like.absolute())]
    for folder, folders, files in os.walk(directory):
        places += [Path(folder) / name for name in (*folders, *files)]
    for place in places:
        with contextlib.suppress(FileNotFoundError):
            os.chown(place, owner.st_uid, owner.st_gid, follow_symlinks=False)
