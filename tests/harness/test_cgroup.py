"""A sandbox's control groups limit what they say they limit, on either version of control groups."""

from __future__ import annotations

import errno
import json
import os

import pytest

from harness.sandbox import cgroup
from harness.sandbox.cgroup import FOLDER, Hierarchy, PhaseCgroup

WIDEN = """
import json, os
os.sched_setaffinity(0, range(2048))
os.sched_setaffinity(1, range(2048))
print(json.dumps([sorted(os.sched_getaffinity(pid)) for pid in (0, 1)]))
"""


@pytest.mark.sandbox
@pytest.mark.privileged
def test_a_sandbox_stays_on_the_processors_of_its_harness(run_command):
    """Attack C09. Without the group the command would get every processor of the machine."""
    before = os.sched_getaffinity(0)
    allowed = [max(before)]
    os.sched_setaffinity(0, allowed)
    try:
        said = json.loads(run_command("python", "-c", WIDEN))
    finally:
        os.sched_setaffinity(0, before)
    assert said == [allowed, allowed]


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("controllers", [{"cpuset", "memory", "pids"}, {"pids"}, set()])
def test_what_is_limited_is_what_is_offered(version, controllers, monkeypatch, tmp_path):
    """On a directory that stands for a hierarchy."""
    for name, text in {"cpuset.cpus": "0-63\n", "cpuset.mems": "0\n" if version == 1 else "\n"}.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(cgroup, "hierarchies", lambda: [Hierarchy(tmp_path, version, frozenset(controllers))])
    if version == 2:  # in a real one it is there from the beginning
        (tmp_path / FOLDER).mkdir()
        (tmp_path / FOLDER / "cpuset.mems").write_text("\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 1, 62})
    group = PhaseCgroup(memory_bytes=1 << 20, processes=7)
    assert group.limited == controllers
    (made,) = (path for path in (tmp_path / FOLDER).iterdir() if path.is_dir())
    written = {path.name: path.read_text() for path in made.iterdir()}
    assert written.get("cpuset.cpus") == ("1,3,62" if "cpuset" in controllers else None)
    assert written.get("cpuset.mems") == (("0\n" if version == 1 else "\n") if "cpuset" in controllers else None)
    assert written.get("pids.max") == ("7" if "pids" in controllers else None)
    if version == 2 and controllers:
        enabled = (tmp_path / FOLDER / "cgroup.subtree_control").read_text()
        assert enabled == " ".join(f"+{controller}" for controller in sorted(controllers))


def test_where_groups_share_the_processors_out_a_run_s_have_ten_times_the_weight(monkeypatch, tmp_path):
    """On a directory that stands for a hierarchy of version 2 whose root lets groups below it have weights."""
    monkeypatch.setattr(cgroup, "hierarchies", lambda: [Hierarchy(tmp_path, 2, frozenset())])
    PhaseCgroup(memory_bytes=1 << 20, processes=7)
    assert not list(tmp_path.rglob("cpu.weight")), "the kernel offers none here"
    (tmp_path / FOLDER / "cpu.weight").write_text("100\n")
    PhaseCgroup(memory_bytes=1 << 20, processes=7)
    assert (tmp_path / FOLDER / "cpu.weight").read_text() == "1000"


@pytest.mark.parametrize("where", ["there and then gone", "gone before the group is made", "there and unwritable"])
def test_a_folder_that_another_run_removes_meanwhile_is_made_again(where, monkeypatch, tmp_path):
    """On a directory that stands for a hierarchy. The first happened about once in 6,000 groups of four processes."""
    monkeypatch.setattr(cgroup, "hierarchies", lambda: [Hierarchy(tmp_path, 2, frozenset())])
    mkdir, asked = os.mkdir, []

    def interrupted(path, mode=0o777):
        asked.append(path)
        if where == "there and unwritable":
            raise PermissionError(errno.EACCES, "no", str(path))
        if where == "there and then gone" and len(asked) == 1:
            raise FileExistsError(errno.EEXIST, "it was there when it was to be made", str(path))
        mkdir(path, mode)
        if where == "gone before the group is made" and len(asked) == 1:
            os.rmdir(path)

    monkeypatch.setattr(os, "mkdir", interrupted)
    if where == "there and unwritable":
        with pytest.raises(PermissionError):
            PhaseCgroup(memory_bytes=1 << 20, processes=7)
        assert len(asked) == 1
        return
    PhaseCgroup(memory_bytes=1 << 20, processes=7)
    assert len([path for path in (tmp_path / FOLDER).iterdir() if path.is_dir()]) == 1


@pytest.mark.parametrize(("version", "name"), [(1, "memory.limit_in_bytes"), (2, "memory.max")])
def test_the_tightest_memory_limit_around_the_harness_counts(version, name, tmp_path):
    """On a directory that stands for a hierarchy: the harness is in a group inside a container's."""
    inner = tmp_path / "container" / "inner"
    inner.mkdir(parents=True)
    (tmp_path / "cgroup.controllers").write_text("memory\n")
    kind, options = ("cgroup2", "rw") if version == 2 else ("cgroup", "rw,memory")
    mountinfo, own = tmp_path / "mountinfo", tmp_path / "own"
    mountinfo.write_text(f"30 25 0:27 / {tmp_path} rw,nosuid - {kind} cgroup {options}\n")
    own.write_text(f"7:pids:/elsewhere\n{'0:' if version == 2 else '4:memory'}:/container/inner\n")
    assert cgroup.memory_limit_bytes(mountinfo, own) is None
    (inner / name).write_text("max\n" if version == 2 else "9223372036854771712\n")
    (inner.parent / name).write_text("5000\n")
    (tmp_path / name).write_text("70000\n")
    assert cgroup.memory_limit_bytes(mountinfo, own) == 5000
    own.write_text(f"{'0:' if version == 2 else '4:memory'}:/\n")
    assert cgroup.memory_limit_bytes(mountinfo, own) == 70000
