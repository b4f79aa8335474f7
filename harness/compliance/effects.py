"""What a script leaves behind before it executes something: files that it writes, environment variables that it sets.

`unpack` tells it what it sees happen and asks what is certain; nothing is written or set for real."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

TEMPORARY = "temporary-folder-"  # how the folders that tempfile makes are called here


@dataclass(frozen=True)
class Unsure:
    """Why it is not certain what a file or a variable holds."""

    reason: str


class State(NamedTuple):
    """`Effects` at one time."""

    files: dict[str, object]
    variables: dict[str, object]
    doubted: dict[str, str]


@dataclass
class Effects:
    """files: what is in them, by path. variables: what they hold, by name. doubted: files in which something else may
    have been written since, and why. folders: how many temporary ones were made."""

    files: dict[str, object] = field(default_factory=dict)
    variables: dict[str, object] = field(default_factory=dict)
    doubted: dict[str, str] = field(default_factory=dict)
    folders: int = 0

    def folder(self) -> str:
        """A new temporary folder."""
        self.folders += 1
        return f"/{TEMPORARY}{self.folders}"

    def file(self, path: str) -> object | None:
        """What is in a file that was written, as bytes, text or Unsure; nothing if it was not written."""
        held = self.files.get(path)
        if held is None or isinstance(held, Unsure):
            return held
        if path in self.doubted:
            return Unsure(self.doubted[path])
        return held if len(held) else Unsure("nothing is seen to be written to it")  # type: ignore[arg-type]

    def opened(self, path: str, *, binary: bool, keep: bool) -> None:
        """A file is opened to write; what was in it is gone unless it is kept."""
        if keep and path not in self.files:
            self.files[path] = Unsure("it is appended to a file")
        elif not keep:
            self.files[path] = b"" if binary else ""
            self.doubted.pop(path, None)

    def write(self, path: str, content: object) -> None:
        """A whole file is written at once."""
        self.files[path] = content
        self.doubted.pop(path, None)

    def doubt(self, reason: str) -> None:
        """Something is written somewhere that is not known."""
        self.doubted |= dict.fromkeys(self.files, reason)

    def state(self) -> State:
        """What to go back to with `back_to`."""
        return State(dict(self.files), dict(self.variables), dict(self.doubted))

    def back_to(self, state: State) -> None:
        """Forget what has happened since."""
        self.files, self.variables, self.doubted = map(dict, state)

    def merge(self, states: list[State]) -> None:
        """One of several states is the case. A file that only some of them have is one that is made unless it is there
        already; else what differs is unsure, and what one of them doubts is doubted."""
        self.files = _merged([state.files for state in states], in_all=False)
        self.variables = _merged([state.variables for state in states], in_all=True)
        self.doubted = {path: why for state in states for path, why in state.doubted.items()}

    def unsure_since(self, before: State, reason: str) -> None:
        """What has changed since then is unsure."""
        for now, then in ((self.files, before.files), (self.variables, before.variables)):
            for name, held in now.items():
                if held is not then.get(name):
                    now[name] = Unsure(reason)


def _merged(states: list[dict[str, object]], *, in_all: bool) -> dict[str, object]:
    """What several states have in common. in_all: what only some of them have is unsure."""
    found = {}
    for name in dict.fromkeys(name for state in states for name in state):
        having = [state[name] for state in states if name in state]
        same = all(one is having[0] or one == having[0] for one in having)
        if same and (len(having) == len(states) or not in_all):
            found[name] = having[0]
        else:
            found[name] = Unsure("it depends on a condition")
    return found


def written_path(path: str, script: str) -> str:
    """A path as the key of a written file: relative to the folder of the script, if it is in there."""
    path = posixpath.normpath(path.lstrip("/")) if path else ""
    here = posixpath.dirname(script)
    return path.removeprefix(f"{here}/") if here else path


def shown_path(path: str) -> str:
    """A written file's path for people and for imports: without the temporary folder that it is in."""
    first, _, rest = path.partition("/")
    return rest if first.startswith(TEMPORARY) and rest else path


def modules(files: Mapping[str, object]) -> Iterator[str]:
    """The paths of what may be imported."""
    return (path for path in files if path.endswith((".py", ".pyw")))
