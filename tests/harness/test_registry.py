"""Runs on one machine recognise each other by what only root can write, and only while they live."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.errors import EnvironmentMissing, RefereeError
from harness.policy import Grant, Identity
from harness.processes import start_time
from harness.registry import Registration, Use, other_runs, reap
from harness.sandbox import Walls, cgroup

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


def test_a_process_id_that_was_given_to_another_process_is_no_live_run(directory: Path, tmp_path) -> None:
    """Attack F10: the entry of a crash names a process that lives, but started at another time."""
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    directory.mkdir(mode=0o700)
    entry = {"harness_pid": os.getpid(), "start_time": start_time(os.getpid()) - 1, "grants": []}
    (directory / "reborn.json").write_text(json.dumps({**entry, "sandboxes": [], "scratch": str(scratch)}))
    assert reaped(directory) == [f"removed {scratch}, left behind by run reborn"]
    assert list(directory.iterdir()) == []
    assert not scratch.exists()


def test_control_groups_of_a_dead_harness_are_removed_with_what_lives_in_them(directory: Path, monkeypatch) -> None:
    """Attack F10. In a folder of its own, because the runs of other tests reap, too."""
    monkeypatch.setattr(cgroup, "FOLDER", f"parameter-golf-test-{os.getpid()}")
    dead, alive = f"{os.getpid()}-1-0", f"{os.getpid()}-{start_time(os.getpid())}-0"
    left = subprocess.Popen(["sleep", "60"])
    hierarchies = cgroup.hierarchies()
    groups = [(cgroup._make(hierarchy, dead), cgroup._make(hierarchy, alive)) for hierarchy in hierarchies]
    try:
        for hierarchy, (group, _) in zip(hierarchies, groups, strict=True):
            cgroup._limit(hierarchy, group, 1 << 30, 64)  # a group of version 1 begins without a processor
            (group / "cgroup.procs").write_text(str(left.pid))
        threading.Thread(target=left.wait).start()  # a group is empty when its dead have been waited for
        assert reap(directory) == ([f"removed {len(groups)} control groups of runs that were killed"] if groups else [])
        assert [(group.exists(), other.exists()) for group, other in groups] == [(False, True)] * len(groups)
        assert not groups or left.wait(20) == -signal.SIGKILL
    finally:
        left.kill()
        for _, group in groups:
            cgroup._remove(group)


def test_a_directory_of_somebody_else_is_refused(directory: Path) -> None:
    directory.mkdir(mode=0o777)
    directory.chmod(0o777)
    with pytest.raises(EnvironmentMissing, match="nobody else"):
        Registration("run", directory)


# --- who wants the machine to itself


@pytest.fixture
def neighbour(directory: Path) -> Iterator[Callable[[Use], None]]:
    """Registers another process, which lives."""
    process = subprocess.Popen(["sleep", "60"])

    def register(use: Use) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        entry = {"harness_pid": process.pid, "start_time": start_time(process.pid), "use": use, "grants": []}
        (directory / "other.json").write_text(json.dumps(entry))

    yield register
    process.kill()
    process.wait()


CONFLICTS = {(Use.EXCLUSIVE, Use.EXCLUSIVE), (Use.EXCLUSIVE, Use.SHARED), (Use.SHARED, Use.EXCLUSIVE)}


@pytest.mark.parametrize("own", Use)
@pytest.mark.parametrize("others", Use)
def test_a_run_that_should_be_alone_and_another_do_not_start(directory: Path, neighbour, own: Use, others: Use) -> None:
    neighbour(others)
    if (own, others) in CONFLICTS:
        with pytest.raises(EnvironmentMissing, match=r"another run is under way, other \(process \d+\)"):
            Registration("run", directory, own)
        assert [path.name for path in directory.iterdir()] == ["other.json"]
    else:
        with Registration("run", directory, own) as registration:
            registration.look_around()
            assert registration.seen == ({"other"} if own is others is Use.SHARED else set())


@pytest.mark.parametrize(("own", "others"), sorted(CONFLICTS))
def test_who_registers_between_two_looks_is_seen(
    directory: Path, neighbour, monkeypatch, own: Use, others: Use
) -> None:
    real = Registration._write

    def write(self) -> None:
        real(self)
        neighbour(others)

    monkeypatch.setattr(Registration, "_write", write)
    with pytest.raises(EnvironmentMissing, match="other"):
        Registration("run", directory, own)
    assert [path.name for path in directory.iterdir()] == ["other.json"]


@pytest.mark.parametrize(("own", "others"), sorted(CONFLICTS))
def test_who_gets_in_all_the_same_is_the_referee_s_fault(directory: Path, neighbour, own: Use, others: Use) -> None:
    with Registration("run", directory, own) as registration:
        registration.look_around()
        neighbour(others)
        with pytest.raises(RefereeError, match="wants the machine to itself"):
            registration.look_around()
        assert registration.seen == {"other"}


def test_an_entry_of_an_older_harness_is_that_of_a_run(directory: Path, neighbour) -> None:
    neighbour(Use.VISIT)
    entry = json.loads((directory / "other.json").read_text())
    del entry["use"]
    (directory / "other.json").write_text(json.dumps(entry))
    with pytest.raises(EnvironmentMissing, match="other"):
        Registration("run", directory, Use.EXCLUSIVE)
