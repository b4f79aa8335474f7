"""Runs on one machine recognise each other by what only root can write, and only while they live."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from harness.errors import EnvironmentMissing
from harness.policy import Grant, Identity
from harness.processes import start_time
from harness.registry import Registration, other_runs, reap
from harness.sandbox import Walls

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="entries count only if they are root's")
GRANT = Grant(77, "train, seed 1", frozenset({Identity(1, 2), Identity(1, 3)}))
WALLS = Walls(init_pid=os.getpid(), pid_namespace=77, uid=0, mounts=(), limited=(), shared=())


@pytest.fixture
def directory(tmp_path) -> Path:
    return tmp_path / "registry"


def test_start_times_name_a_process_for_good() -> None:
    child = subprocess.Popen(["sleep", "60"])
    try:
        assert start_time(child.pid) == start_time(child.pid) is not None
        assert start_time(child.pid) >= start_time(os.getpid())
    finally:
        child.kill()
        child.wait()
    assert start_time(child.pid) is None
    assert start_time(2**22 + 5) is None


def test_a_process_named_like_a_line_of_stat_is_read_right(tmp_path) -> None:
    odd = tmp_path / ") R 1 2 3"
    odd.symlink_to("/bin/sleep")
    child = subprocess.Popen([str(odd), "60"])
    try:
        assert start_time(child.pid) >= start_time(os.getpid())
    finally:
        child.kill()
        child.wait()


def test_rights_are_told_and_taken_back(directory: Path) -> None:
    with Registration("run", directory) as registration:
        registration.add_grant(GRANT)
        registration.add_grant(Grant(78, "eval, seed 1", frozenset()))
        assert other_runs(directory, own_harness_pid=1) == (
            (GRANT, Grant(78, "eval, seed 1", frozenset())),
            frozenset({os.getpid()}),
        )
        registration.add_sandbox(WALLS)
        registration.remove_sandbox(WALLS)
        grants, _ = other_runs(directory, own_harness_pid=1)
        assert [grant.pid_namespace for grant in grants] == [78]
    assert other_runs(directory, own_harness_pid=1) == ((), frozenset())
    assert list(directory.iterdir()) == []


def test_a_run_is_no_other_run_to_itself(directory: Path) -> None:
    with Registration("run", directory) as registration:
        registration.add_grant(GRANT)
        assert other_runs(directory, own_harness_pid=os.getpid()) == ((), frozenset())


def test_nobody_but_root_can_write_there(directory: Path) -> None:
    with Registration("run", directory):
        assert directory.stat().st_mode & 0o777 == 0o700
        assert directory.stat().st_uid == 0


@pytest.mark.parametrize("content", ["", "{", "half of a li", "\xff"])
def test_an_entry_that_is_being_written_is_passed_over(directory: Path, content: str) -> None:
    with Registration("run", directory):
        (directory / "broken.json").write_text(content)
        assert other_runs(directory, own_harness_pid=1)[1] == frozenset({os.getpid()})


def test_the_dead_and_the_reborn_count_for_nothing(directory: Path) -> None:
    child = subprocess.Popen(["sleep", "60"])
    entry = {"harness_pid": child.pid, "start_time": start_time(child.pid), "grants": [[77, "x", [[1, 2]]]]}
    with Registration("run", directory):
        path = directory / "child.json"
        path.write_text(json.dumps(entry))
        assert child.pid in other_runs(directory, own_harness_pid=1)[1]
        path.write_text(json.dumps({**entry, "start_time": entry["start_time"] - 1}))
        assert child.pid not in other_runs(directory, own_harness_pid=1)[1]
        path.write_text(json.dumps(entry))
        os.chown(path, 65534, 65534)
        assert child.pid not in other_runs(directory, own_harness_pid=1)[1]
        os.chown(path, 0, 0)
        child.kill()
        child.wait()
        assert other_runs(directory, own_harness_pid=1) == ((), frozenset({os.getpid()}))


def test_a_directory_that_is_not_there_holds_no_run(tmp_path) -> None:
    assert other_runs(tmp_path / "nothing", own_harness_pid=1) == ((), frozenset())


def reaped(directory: Path) -> list[str]:
    """What was reaped by way of the directory; control groups of other tests' killed runs may be reaped beside it."""
    return [sentence for sentence in reap(directory) if "control groups" not in sentence]


def test_what_a_dead_run_left_is_removed_and_told(directory: Path, tmp_path) -> None:
    """The recorded process must be the same one: a reused process id, or another namespace, is left alone."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    bystander = subprocess.Popen(["sleep", "60"])
    started = start_time(bystander.pid)
    namespace = os.stat("/proc/self/ns/pid").st_ino
    sandboxes = [[bystander.pid, started - 1, namespace], [bystander.pid, started, namespace + 1]]
    entry = {"harness_pid": 2**22 + 5, "start_time": 1, "grants": [], "sandboxes": sandboxes, "scratch": str(scratch)}
    try:
        with Registration("alive", directory):
            (directory / "dead.json").write_text(json.dumps(entry))
            assert reaped(directory) == [f"removed {scratch}, left behind by run dead"]
            assert bystander.poll() is None
            assert [path.name for path in directory.iterdir()] == ["alive.json"]
            (directory / "dead.json").write_text(
                json.dumps({**entry, "sandboxes": [[bystander.pid, started, namespace]]})
            )
            (sentence,) = reaped(directory)
            assert f"init {bystander.pid}" in sentence
    finally:
        bystander.kill()
        assert bystander.wait() != 0
    assert not scratch.exists()


def test_a_directory_of_somebody_else_is_refused(directory: Path) -> None:
    directory.mkdir(mode=0o777)
    directory.chmod(0o777)
    with pytest.raises(EnvironmentMissing, match="nobody else"):
        Registration("run", directory)
