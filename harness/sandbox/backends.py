"""Which back-end a command uses. A module of its own, so that only who wants Docker loads its library."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from harness.sandbox import Sandbox

NAMES = ("auto", "bubblewrap", "docker")
DEFAULT_IMAGE = "parameter-golf:cpu"


@dataclass(frozen=True)
class Backend:
    """`make` raises EnvironmentMissing, in words for the user, if it does not work here."""

    name: str
    make: Callable[[], Sandbox]


def own_container(mountinfo: Path = Path("/proc/self/mountinfo")) -> str | None:
    """Id of the container that this process runs in, by where its /etc/hostname comes from; None on a host."""
    for line in mountinfo.read_text().splitlines():
        fields = line.split()
        if fields[4] == "/etc/hostname" and (found := re.search(r"/containers/([0-9a-f]{64})/hostname$", fields[3])):
            return found[1]
    return None


def find_backend(name: str = "auto", image: str = DEFAULT_IMAGE) -> Backend:
    """The back-end of one of NAMES: "auto" is Docker inside a container and bubblewrap elsewhere. image: what Docker's
    phases run in if the harness itself runs on the host.
    """
    if name == "auto":
        name = "docker" if own_container() else "bubblewrap"
    return Backend(name, {"docker": lambda: _docker(image), "bubblewrap": _bubblewrap}[name])


def _bubblewrap() -> Sandbox:
    from harness.sandbox.bubblewrap import BubblewrapSandbox

    return BubblewrapSandbox()


def _docker(image: str) -> Sandbox:
    from harness.sandbox.docker import DockerSandbox

    return DockerSandbox(image)
