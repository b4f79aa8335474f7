"""What there is to check: a submission folder of ours, a contest record folder, a single script, or what a pull request
touches. Everything is read as data, links are not followed, and a file that cannot be read is a finding of its own.

run      one documented way to start the code: its entry, environment and arguments
target   a folder or script as a whole, with its runs
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path, PurePosixPath

from harness.compliance.commands import Command, documented_commands, documented_settings
from harness.compliance.findings import Finding, Place, Source, Status
from harness.compliance.parsing import Unreadable, decode
from harness.errors import InputError

SUBMISSION_TOML = "submission.toml"
METADATA = re.compile(r"submission\w*\.json")  # of a record folder
IGNORED = frozenset({".git", "__pycache__", ".venv", ".ruff_cache", ".pytest_cache"})
MAX_NAMES = 10_000  # files and folders of one target
MAX_DEPTH = 32  # folders inside each other
MAX_TARGETS = 1_000
MAX_FILE_BYTES = 32_000_000  # that are read of one file; the contest's largest log has 1,100,000
MAX_SOURCES = 500
MAX_SOURCES_BYTES = 16_000_000  # of all Python files of a target together
GPUS = 8  # that the contest's rules name; defaults that depend on their number are judged for it
BINARIES = frozenset([".so", ".pyd", ".dll", ".dylib", ".pyc", ".pyo", ".o", ".a", ".exe", ".cubin", ".fatbin"])
ARCHIVES = frozenset((".zip", ".whl", ".egg", ".pyz"))
ENTRY_NAMES = ("train_gpt.py", "train.py", "main.py")


class Kind(StrEnum):
    SUBMISSION = "submission"  # a folder with submission.toml
    RECORD = "record"  # a contest record folder
    SCRIPT = "script"  # one file


@dataclass(frozen=True)
class TargetFile:
    """A regular file. path: relative to the target's root, forward slashes. location: where it lies."""

    path: str
    location: Path
    bytes: int

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.path).suffix.lower()

    def read(self, most: int = MAX_FILE_BYTES) -> bytes:
        """Raises OSError, also if it is no regular file any more or has more than `most` bytes."""
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        descriptor = os.open(self.location, flags)
        with open(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise OSError(0, "is no regular file")
            data = file.read(most + 1)
        if len(data) > most:
            raise OSError(0, f"has more than {most:,} bytes")
        return data

    def text(self) -> str:
        """As UTF-8; what is none becomes a replacement character. Raises OSError."""
        return self.read().decode("utf-8-sig", "replace").replace("\r\n", "\n").replace("\r", "\n")


@dataclass(frozen=True)
class Run:
    """entry: what is started. environment: variables that the command sets, and WORLD_SIZE. unknown: names of variables
    that it sets to something that cannot be read from it. expanded: names of variables that its script itself makes use
    of, or that a program sets before it starts the entry. where: the file that documents it, or nothing. imported: the
    entry is not started, but imported by a path that a program makes."""

    entry: Source
    environment: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()
    unknown: frozenset[str] = frozenset()
    where: str = ""
    imported: bool = False
    expanded: frozenset[str] = frozenset()


@dataclass(frozen=True)
class Target:
    """name: as the user named it, or relative to that. root: the folder that paths are relative to. findings: what
    could not be read."""

    kind: Kind
    name: str
    root: Path
    files: tuple[TargetFile, ...]
    sources: tuple[Source, ...]
    runs: tuple[Run, ...]
    findings: tuple[Finding, ...] = ()

    @property
    def entry(self) -> Source | None:
        return self.runs[0].entry if self.runs else None

    @property
    def environment(self) -> Mapping[str, str]:
        return self.runs[0].environment if self.runs else {}

    @property
    def arguments(self) -> tuple[str, ...]:
        return self.runs[0].arguments if self.runs else ()

    def file(self, path: str) -> TargetFile | None:
        """The file of that path, relative to the root."""
        return next((file for file in self.files if file.path == path), None)


def read_targets(path: Path, base: str | None = None) -> list[Target]:
    """Every target at or below `path`. With `base` a git revision: those that have files that differ between it (where
    the branch left it) and the working tree. Raises InputError."""
    if base is not None:
        return [
            read_target(found, str(found.relative_to(path) if found != path else found))
            for found in _touched(path, base)
        ]
    if not path.is_dir() or _kind(path) is not None:
        return [read_target(path)]
    found = list(_targets_below(path))
    if not found:
        raise InputError(
            f"{path}: has no {SUBMISSION_TOML}, no submission.json and no Python file, here or in a folder below"
        )
    return [read_target(folder, str(folder.relative_to(path))) for folder in found]


def read_target(path: Path, name: str | None = None) -> Target:
    """One folder or script. Raises InputError if there is no such thing."""
    name = str(path) if name is None else name
    if not path.is_dir():
        return _read_script(path, name)
    kind = _kind(path) or Kind.RECORD
    findings: list[Finding] = []
    files = tuple(sorted(_walk(path, findings), key=lambda file: file.path))
    sources = _sources([file for file in files if file.suffix in (".py", ".pyw")], findings)
    for file in files:
        if file.suffix in BINARIES or (not file.suffix and _is_elf(file)):
            findings.append(
                _held("hidden-code", file.path, "is machine or byte code; what it does cannot be read here")
            )
        elif file.suffix in ARCHIVES:
            findings.append(_held("hidden-code", file.path, "is an archive that Python can run or import code from"))
    read = _commands_of_toml if kind is Kind.SUBMISSION else _commands_of_documents
    commands = read(files, findings)
    runs = _runs(commands, sources, files, kind, findings)
    return Target(kind, name, path, files, tuple(sources), runs, tuple(findings))


def _read_script(path: Path, name: str) -> Target:
    try:
        status = path.stat()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if not stat.S_ISREG(status.st_mode):
        raise InputError(f"{path} is neither a folder nor a regular file")
    findings: list[Finding] = []
    # The user's own word may be a link; what is read is what it leads to.
    file = TargetFile(path.name, path.resolve(), status.st_size)
    sources = _sources([file], findings)
    runs = tuple(Run(source, {"WORLD_SIZE": str(GPUS)}) for source in sources)
    return Target(Kind.SCRIPT, name, path.parent, (file,), tuple(sources), runs, tuple(findings))


def _kind(folder: Path) -> Kind | None:
    """What a folder is, by the names in it."""
    try:
        with os.scandir(folder) as entries:
            names = {entry.name for _, entry in zip(range(MAX_NAMES), entries, strict=False)}
    except OSError as error:
        raise InputError(f"cannot read {folder}: {error.strerror}") from None
    if SUBMISSION_TOML in names:
        return Kind.SUBMISSION
    if len(names) == MAX_NAMES:  # what decides may be among those that were not listed: to be looked at, and held
        return Kind.RECORD
    if any(METADATA.fullmatch(name) or name.endswith((".py", ".log")) for name in names):
        return Kind.RECORD
    return None


def _targets_below(folder: Path) -> Iterator[Path]:
    """The topmost targets below a folder."""
    waiting, seen, found = [(folder, 0)], 0, 0
    while waiting:
        current, depth = waiting.pop()
        try:
            entries = sorted(os.scandir(current), key=lambda entry: entry.name, reverse=True)
        except OSError:
            continue
        for entry in entries:
            seen += 1
            if seen > MAX_TARGETS * MAX_NAMES or found > MAX_TARGETS:
                raise InputError(f"{folder}: holds too many files; name the folder that is to be checked")
            if entry.name not in IGNORED and entry.is_dir(follow_symlinks=False) and depth < MAX_DEPTH:
                waiting.append((Path(entry.path), depth + 1))
        if current != folder and _kind(current) is not None:
            found += 1
            yield current
            waiting = [(path, depth) for path, depth in waiting if current not in path.parents]


def _walk(root: Path, findings: list[Finding]) -> Iterator[TargetFile]:
    """Every regular file of a folder; a finding for everything else."""
    waiting = [("", 0)]
    names = 0
    while waiting:
        folder, depth = waiting.pop()
        try:
            entries = os.scandir(root / folder)
        except OSError as error:
            findings.append(_held("unreadable", folder, f"cannot be listed: {error.strerror}"))
            continue
        with entries:
            for entry in entries:
                path = f"{folder}/{entry.name}" if folder else entry.name
                if entry.name in IGNORED:
                    continue
                names += 1
                if names > MAX_NAMES:
                    findings.append(
                        _held("unreadable", "", f"has more than {MAX_NAMES:,} files; the rest was not looked at")
                    )
                    return
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError as error:
                    findings.append(_held("unreadable", path, f"cannot be read: {error.strerror}"))
                    continue
                if stat.S_ISDIR(status.st_mode):
                    if depth >= MAX_DEPTH:
                        findings.append(_held("unreadable", path, f"lies more than {MAX_DEPTH} folders deep"))
                    else:
                        waiting.append((path, depth + 1))
                elif stat.S_ISREG(status.st_mode):
                    yield TargetFile(path, root / path, status.st_size)
                else:
                    what = "a symbolic link" if stat.S_ISLNK(status.st_mode) else "a special file"
                    findings.append(_held("unreadable", path, f"is {what}; it was not followed or opened"))


def _sources(files: list[TargetFile], findings: list[Finding]) -> list[Source]:
    """The text of Python files."""
    sources: list[Source] = []
    total = 0
    for file in files:
        if len(sources) >= MAX_SOURCES or total + file.bytes > MAX_SOURCES_BYTES:
            message = (
                f"and what follows was not analysed: at most {MAX_SOURCES} files of {MAX_SOURCES_BYTES:,} bytes are"
            )
            findings.append(_held("unreadable", file.path, message))
            break
        try:
            source = Source(file.path, decode(file.read()))
        except OSError as error:
            findings.append(_held("unreadable", file.path, f"cannot be read: {error.strerror}"))
        except Unreadable as error:
            place = Place(Source(file.path, ""), error.line, 1, "here")
            findings.append(Finding("unreadable", Status.HOLD, f"{_shown(file.path)} {error}", (place,)))
        else:
            total += file.bytes
            sources.append(source)
    return sources


def _commands_of_toml(files: tuple[TargetFile, ...], findings: list[Finding]) -> list[Command]:
    """The commands of submission.toml: of the rules named "record" if there are such, else of the first ones."""
    file = next(file for file in files if file.path == SUBMISSION_TOML)
    try:
        tables = tomllib.loads(file.text())["rules"]
        commands = tables["record"] if "record" in tables else next(iter(tables.values()))
        phases = [(phase, commands[phase]) for phase in ("train", "quantize", "eval")]
    except (
        OSError,
        tomllib.TOMLDecodeError,
        RecursionError,
        KeyError,
        TypeError,
        AttributeError,
        StopIteration,
    ) as error:
        findings.append(
            _held("unreadable", SUBMISSION_TOML, f"names no commands: {type(error).__name__} {str(error)[:120]}")
        )
        return []
    found = []
    for phase, words in phases:
        if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
            findings.append(_held("unreadable", SUBMISSION_TOML, f"the command of {phase} is no list of words"))
            continue
        rest = list(words[1:])
        while rest and rest[0].startswith("-") and rest[0] != "-m":
            rest.pop(0)
        module = bool(rest) and rest[0] == "-m"
        rest = rest[1:] if module else rest
        if rest:
            found.append(Command(rest[0], tuple(rest[1:]), module=module, where=f"{SUBMISSION_TOML}, {phase}"))
    return found


def _commands_of_documents(files: tuple[TargetFile, ...], findings: list[Finding]) -> list[Command]:
    """The commands of README files and shell scripts; a script's come first, because people copy what they run. Where
    there are none, the settings that they list."""
    texts = []
    for file in files:
        if file.suffix == ".sh" or re.match(r"(?i)readme", file.name):
            try:
                texts.append((file.path, file.text()))
            except OSError as error:
                findings.append(_held("unreadable", file.path, f"cannot be read: {error.strerror}"))
    commands = documented_commands(sorted(texts, key=lambda named: (not named[0].endswith(".sh"), named[0])))
    return commands or documented_settings(texts)


def _runs(
    commands: list[Command], sources: list[Source], files: tuple[TargetFile, ...], kind: Kind, findings: list[Finding]
) -> tuple[Run, ...]:
    """The runs that are to be judged. A submission has one per phase. A record folder has one, as documented for the
    rules' number of GPUs; where the documents give none, the code's defaults are judged."""
    matched = []
    for command in commands:
        source = _source_of(command, sources, files, findings) if command.script else None
        if source is not None:
            matched.append((command, source))
    if kind is Kind.SUBMISSION:
        return tuple(_run(command, source) for command, source in matched)
    entry = _entry(matched, sources)
    if entry is None:
        if sources:
            names = ", ".join(_shown(source.path) for source in sources[:6])
            findings.append(_held("unreadable", "", f"does not say which of its scripts is run: {names}"))
        elif not any(finding.check == "unreadable" for finding in findings):
            findings.append(_held("unreadable", "", "has no Python file"))
        return ()
    fitting = [command for command, source in matched if source == entry]
    if not fitting:
        settings = next((command for command in commands if not command.script), Command(""))
        return (_run(settings, entry),)
    # Several commands may be shown: ablations, other machines, one per seed. The first for eight GPUs is the record's.
    best = max(fitting, key=lambda command: (command.processes == GPUS, command.processes > 1))
    return (_run(best, entry),)


def _run(command: Command, entry: Source) -> Run:
    environment = {**command.environment, "WORLD_SIZE": str(GPUS)}
    return Run(entry, environment, command.arguments, command.unknown, where=command.where, expanded=command.expanded)


def _source_of(
    command: Command, sources: list[Source], files: tuple[TargetFile, ...], findings: list[Finding]
) -> Source | None:
    """The file that a command starts: the folder's file with the longest end of the path that is written."""
    parts = command.script.split(".") if command.module else list(PurePosixPath(command.script).parts)
    if command.module:
        parts[-1] += ".py"
    for start in range(len(parts)):
        path = "/".join(parts[start:])
        for source in sources:
            if source.path == path:
                return source
    name = parts[-1]
    inner = [source for source in sources if source.path.rpartition("/")[2] == name]
    if len(inner) == 1:
        return inner[0]
    file = next((file for file in files if file.path == name), None)  # a script by another suffix
    if file is not None and not command.module:
        more = _sources([file], findings)
        sources.extend(more)
        return more[0] if more else None
    return None


def _entry(matched: list[tuple[Command, Source]], sources: list[Source]) -> Source | None:
    """The script of a record: the contest's name for it, else what the documents run most, else the only one."""
    by_path = {source.path: source for source in sources}
    several = [source for command, source in matched if command.processes > 1]
    trained = several or [source for _, source in matched]
    if trained:
        if "train_gpt.py" in by_path and (not several or by_path["train_gpt.py"] in several):
            return by_path["train_gpt.py"]  # what else is run prepares data, or sums up
        return max(trained, key=lambda source: (trained.count(source), source.path.startswith("train")))
    for name in ENTRY_NAMES:
        if name in by_path:
            return by_path[name]
    for pattern in (r"train_gpt\w*\.py", r"(.*/)?train\w*\.py", r".*"):
        fitting = [source for source in sources if re.fullmatch(pattern, source.path)]
        if len(fitting) == 1:
            return fitting[0]
    return None


def _touched(path: Path, base: str) -> list[Path]:
    """The targets at or below `path` with files that differ from `base`, and scripts outside any folder."""
    if base.startswith("-"):
        raise InputError(f"{base!r} is no revision")
    folder = path if path.is_dir() else path.parent
    root = Path(_git(folder, "rev-parse", "--show-toplevel").strip())
    fork = _git(folder, "merge-base", base, "HEAD").strip()
    listed = _git(folder, "diff", "--name-only", "--no-renames", "--no-ext-diff", "--no-textconv", "-z", fork, "--")
    untracked = _git(folder, "ls-files", "--others", "--exclude-standard", "-z", "--full-name")
    wanted = path.resolve()
    found: dict[Path, None] = {}
    for name in (listed + untracked).split("\0"):
        changed = root.resolve() / name
        if not name or not (changed == wanted or wanted in changed.parents):
            continue
        if wanted.is_file():
            found[path] = None
            continue
        folders = [path / changed.relative_to(wanted).parent]
        while folders[-1] != path:
            folders.append(folders[-1].parent)
        # The topmost submission or record that holds the file, but not the whole repository for a script in it.
        kinds = [(place, _kind(place)) for place in reversed(folders) if place.is_dir() and not place.is_symlink()]
        holds = next((place for place, kind in kinds if kind is not None and _is_folder_of_its_own(place)), None)
        if holds is not None:
            found[holds] = None
        elif changed.suffix == ".py" and changed.is_file():
            found[path / changed.relative_to(wanted)] = None
        if len(found) > MAX_TARGETS:
            raise InputError(f"more than {MAX_TARGETS} folders differ from {base}")
    return sorted(found)


def _is_folder_of_its_own(folder: Path) -> bool:
    """Whether a folder is a submission or a record, and not just one with Python files in it."""
    names = set(os.listdir(folder))
    return SUBMISSION_TOML in names or (
        any(METADATA.fullmatch(name) or re.fullmatch(r"train_gpt\w*\.py", name) for name in names)
        and not ({".git", "records", "pyproject.toml"} & names)
    )


def _git(folder: Path, *words: str) -> str:
    """What git prints, run without hooks or programs of the repository's configuration."""
    command = ["git", "-C", str(folder), "-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null", *words]
    try:
        done = subprocess.run(command, capture_output=True, check=True, timeout=60)
    except FileNotFoundError:
        raise InputError("git is not installed; --base needs it") from None
    except subprocess.TimeoutExpired:
        raise InputError(f"git {words[0]} took more than a minute in {folder}") from None
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode("utf-8", "replace").strip().splitlines()
        raise InputError(f"git {words[0]} failed in {folder}: {lines[-1] if lines else 'it says nothing'}") from None
    return done.stdout.decode("utf-8", "surrogateescape")


def _is_elf(file: TargetFile) -> bool:
    try:
        return file.bytes >= 4 and _head(file) == b"\x7fELF"
    except OSError:
        return False


def _head(file: TargetFile) -> bytes:
    descriptor = os.open(file.location, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4)
    finally:
        os.close(descriptor)


def _shown(path: str) -> str:
    """A path for people, on one line."""
    return path[:200].encode("utf-8", "replace").decode() if path.isprintable() else ascii(path[:200])


def _held(check: str, path: str, message: str) -> Finding:
    """Something that a person must look at, in a file or (path empty) in the folder as a whole."""
    flow = (Place(Source(path, ""), 1, 1, "here"),) if path else ()
    return Finding(check, Status.HOLD, f"{_shown(path) or 'the folder'} {message}", flow)
