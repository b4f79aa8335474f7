"""The guard gives each sandbox a system on inodes of its own, says where it could not, and leaves nothing behind."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support import TESTS

from harness.sandbox import SMALL, SandboxSpec, bubblewrap
from harness.sandbox.bubblewrap import BubblewrapSandbox
from harness.sandbox.guard import DEVICES, mounts_below

pytestmark = [pytest.mark.sandbox, pytest.mark.privileged]
REPOSITORY = TESTS.parent
PATIENCE = 20.0

# In a mount namespace of its own, so that the host's /usr stays as it is.
LOOK = """
import json, os, sys
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from harness.sandbox import SMALL, SandboxSpec
from harness.sandbox.bubblewrap import BubblewrapSandbox
command = ("/bin/sh", "-c", sys.argv[3])
running = BubblewrapSandbox().start(SandboxSpec(label="test", command=command, mounts=(), limits=SMALL))
running.launch()
said = open(running.log_descriptor, closefd=False).read()
running.close()
print(json.dumps([said.split(), dict(running.walls.mounts), running.walls.shared]))
"""


def sandbox_after(preparation: str, command: str) -> tuple[list[str], dict[str, str], list[str]]:
    """What `command` says in a sandbox that is started when the shell lines `preparation` have changed the mounts, its
    mount table, and which of its mounts are shared.
    """
    script = f'set -e; {preparation}; exec "$0" "$@"'
    arguments = [sys.executable, "-c", LOOK, str(REPOSITORY), str(TESTS), command]
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-c", script, *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return tuple(json.loads(done.stdout))


def test_every_inode_of_the_system_is_the_sandboxs_own():
    said, _, shared = sandbox_after(
        "true", f"stat -c %d {' '.join(f'/dev/{name}' for name in DEVICES)} /usr /etc/hosts"
    )
    assert shared == []
    host = {os.stat(path).st_dev for path in ("/usr", "/dev", "/")}
    assert len(said) == len(DEVICES) + 2
    assert not host & {int(device) for device in said}


def test_what_is_mounted_inside_a_tree_is_there():
    """As in containers that are given the driver of a GPU: a directory and a file, one with an odd name."""
    preparation = """
        mount -t tmpfs none /usr/local/share
        mkdir '/usr/local/share/a b' && echo inner >'/usr/local/share/a b/file'
        mount --bind '/usr/local/share/a b' /usr/local/src
        echo other >/usr/local/share/other && mount --bind /usr/local/share/other /usr/bin/env
    """
    command = "cat '/usr/local/share/a b/file' /usr/local/src/file /usr/bin/env; touch /usr/local/src/new 2>&1"
    said, mounts, shared = sandbox_after(preparation.strip().replace("\n", ";"), command)
    assert said[:3] == ["inner", "inner", "other"]
    assert "Read-only" in said
    assert {mounts[target] for target in ("/usr/local/share", "/usr/local/src", "/usr/bin/env")} == {"ro"}
    assert shared == ["/usr/bin/env"], "a single file cannot have an overlay"


def test_a_tree_on_one_overlay_gets_its_own_and_on_two_is_shared():
    """The kernel stacks two. One is what a container has."""
    over = "mount -t overlay overlay -o lowerdir=/usr:/srv /usr"
    for preparation, expected in ((over, []), (f"{over}; {over}", ["/usr"])):
        said, mounts, shared = sandbox_after(preparation, "echo fine")
        assert said == ["fine"]
        assert (mounts["/usr"], shared) == ("ro", expected)


def test_where_nothing_of_its_own_can_be_made_the_walls_say_so(monkeypatch, tmp_path):
    guard = bubblewrap.GUARD.read_text()
    guard = guard.replace('"overlay", MS_RDONLY', '"no such file system", MS_RDONLY')
    (tmp_path / "guard.py").write_text(guard.replace("    os.mknod(", "    raise PermissionError\n    os.mknod("))
    monkeypatch.setattr(bubblewrap, "GUARD", tmp_path / "guard.py")
    running = BubblewrapSandbox().start(SandboxSpec(label="test", command=("true",), mounts=(), limits=SMALL))
    running.close()
    assert {"/usr", "/dev/null"} <= set(running.walls.shared)
    assert "/etc/passwd" not in running.walls.shared, "copies of files can always be made"


def test_mount_points_are_found_whatever_their_names(tmp_path):
    lines = [
        f"{number} 1 0:1 / {point} rw - tmpfs none rw\n"
        for number, point in enumerate(("/a/b/c", "/a", "/ab", "/a/b", r"/a/sp\040ace", "/a/b"))
    ]
    (tmp_path / "mountinfo").write_text("".join(lines))
    assert mounts_below("/a", str(tmp_path / "mountinfo")) == ["/a/b", "/a/b/c", "/a/sp ace"]


@pytest.mark.parametrize("launched", [False, True])
def test_nothing_of_it_is_left_when_the_guard_is_killed(launched):
    """Mounts, overlays among them, live in the mount namespaces of the guard and of the sandbox, and end with them."""
    spec = SandboxSpec(label="test", command=("sleep", "1000"), mounts=(), limits=SMALL)
    running = BubblewrapSandbox().start(spec)
    if launched:
        running.launch()
    assert mounted_for(running.walls.uid), "the sandbox is there, so this test can see it"
    running._guard.kill()
    running._guard.wait()
    running.close()
    deadline = time.monotonic() + PATIENCE
    while mounted_for(running.walls.uid):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def mounted_for(uid: int) -> set[int]:
    """The processes in whose mount namespace file systems of a phase's uid are: guard, bwrap and sandbox."""
    found = set()
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            if entry.name.isdigit() and f"uid={uid}" in (entry / "mountinfo").read_text():
                found.add(int(entry.name))
    return found
