"""The doctor says what is missing and what it costs, from checks that really try."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from harness import doctor
from harness.attack import UNFINISHED, AttackResult
from harness.doctor import Check, Cost, require
from harness.errors import EnvironmentMissing, InputError, RefereeError
from harness.sandbox.backends import find_backend


@pytest.mark.sandbox
def test_this_machine_was_really_tried(machine: list[Check]) -> None:
    found = {check.name: check for check in machine}
    assert len(found) == len(machine), "no two checks have one name"
    for name in ("Python", "bubblewrap", "sandbox", "disk"):
        assert found[name].ok, found[name].detail
    assert found["phase uids"].ok == found[doctor.ACCESS_MONITOR].ok == (os.geteuid() == 0)
    assert all(check.cost is not Cost.NOTHING for check in machine if not check.ok), "what is missing costs something"


def test_what_stops_everything_is_an_environment_error() -> None:
    checks = [Check("a", True, "fine", Cost.NO_RUN), Check("b", False, "gone; install it", Cost.NO_RUN)]
    with pytest.raises(EnvironmentMissing, match="b: gone; install it"):
        require(checks)


def test_what_makes_a_pass_impossible_is_told_and_the_rest_is_not() -> None:
    checks = [
        Check("fine", True, "here", Cost.NO_PASS),
        Check("witness", False, "gone", Cost.NO_PASS),
        Check("torch", False, "gone", Cost.NO_SUBMISSION),
    ]
    assert require(checks) == ["witness: gone"]


def test_what_stops_one_set_of_rules_or_one_data_directory_has_its_own_error() -> None:
    with pytest.raises(EnvironmentMissing, match="GPUs: none"):
        require([Check("GPUs", False, "none", Cost.NOT_THESE_RULES)])
    with pytest.raises(InputError, match=r"^another vocabulary$"):
        require([Check("data", False, "another vocabulary", Cost.NO_DATA)])


def test_a_missing_bubblewrap_is_noticed_and_says_how_to_get_it(monkeypatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    found = {check.name: check for check in doctor.inspect(backend=find_backend("bubblewrap"))}
    check = found["bubblewrap"]
    assert (check.ok, check.cost) == (False, Cost.NO_RUN)
    assert "install" in check.detail
    assert not {"sandbox", "self-attack"} & set(found), "there is none to try"


def test_a_sandbox_that_does_not_wall_off_is_noticed() -> None:
    """Attack S13: a wrapper that lets everything through must not pass the self-check."""
    import select
    import subprocess
    import sys

    from harness.sandbox import SandboxEvent

    class PassThrough:
        """Runs the command on the host itself."""

        def start(self, spec):
            class Run:
                def __init__(self) -> None:
                    command = [sys.executable, *spec.command[1:]]
                    self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                    self.log_descriptor = self.process.stdout.fileno()
                    self.told = False

                def launch(self) -> float:
                    return 0.0

                def event(self):
                    if self.told:
                        return SandboxEvent("empty", 0.0)
                    self.process.wait(20)
                    self.told = True
                    return SandboxEvent("exited", 0.0, self.process.returncode)

                def network_attempts(self) -> int:
                    return 1

                def close(self) -> None:
                    select.select([], [], [], 0)
                    self.process.stdout.close()

            return Run()

    check = doctor._check_sandbox(PassThrough())
    assert not check.ok
    assert check.cost is Cost.NO_RUN


@pytest.mark.skipif(os.geteuid() != 0, reason="without root there is no monitor to break")
def test_a_monitor_that_denies_nothing_is_noticed(monkeypatch) -> None:
    class Asleep:
        def __init__(self, registration, scratch) -> None:
            pass

        def mark(self, path, name) -> None:
            pass

        def close(self) -> None:
            pass

    monkeypatch.setattr(doctor, "AccessMonitor", Asleep)
    check = doctor._check_fanotify()
    assert (check.ok, check.cost) == (False, Cost.NO_PASS)

    class Broken(Asleep):
        def __init__(self, registration, scratch) -> None:
            raise RefereeError("no permission events in this kernel")

    monkeypatch.setattr(doctor, "AccessMonitor", Broken)
    check = doctor._check_fanotify()
    assert (check.ok, check.cost) == (False, Cost.NO_PASS)
    assert "no permission events" in check.detail


def test_too_little_room_is_noticed(monkeypatch, tmp_path) -> None:
    assert doctor._check_disk(tmp_path / "not" / "there" / "yet").ok
    monkeypatch.setattr(doctor, "MINIMUM_FREE_BYTES", 1 << 60)
    check = doctor._check_disk(tmp_path)
    assert (check.ok, check.cost) == (False, Cost.NO_RUN)


def test_the_environment_is_facts_for_a_record() -> None:
    facts = doctor.environment()
    assert facts["root"] == (os.geteuid() == 0)
    assert facts["cores"] == len(os.sched_getaffinity(0))
    assert facts["memory_bytes"] > 1 << 28
    assert facts["kernel"] == os.uname().release
    assert {"gpus", "gpus_absent", "kernel_fanotify", "cgroup_controllers", "image_revision"} <= set(facts)
    assert facts["python"].startswith("3.")
    assert all(value is None or isinstance(value, (str, int, float, bool)) for value in facts.values())
    assert not any(str(Path.home()) in str(value) for value in facts.values()), "nothing personal"


def test_a_self_test_that_did_not_finish_is_tried_again_and_not_kept(monkeypatch, tmp_path):
    """A machine that was too busy once is not condemned until its next boot."""
    outcomes = [
        [AttackResult("read", True, "no"), AttackResult(UNFINISHED, False, "RefereeError: too slow")],
        [AttackResult("read", True, "no"), AttackResult("write", True, "no")],
    ]
    monkeypatch.setattr(doctor, "run_attacks", lambda sandbox, directory: outcomes.pop(0))
    monkeypatch.setattr(doctor, "_attack_file", lambda sandbox: tmp_path / "attacks")
    assert doctor._check_attacks(None).ok
    assert outcomes == []
    assert "2 attacks" in doctor._check_attacks(None).detail, "the whole one is kept"
    (tmp_path / "attacks").unlink()
    outcomes += [[AttackResult(UNFINISHED, False, "RefereeError: too slow")]] * 2
    check = doctor._check_attacks(None)
    assert not check.ok
    assert "too slow" in check.detail
    assert not (tmp_path / "attacks").exists()


def test_what_was_not_denied_is_kept_with_what_happened(monkeypatch, tmp_path):
    """Only its name would leave nobody able to tell a hole from a machine that stood still."""
    results = [AttackResult("read", True, "no"), AttackResult("write", False, "/a: made a file")]
    monkeypatch.setattr(doctor, "run_attacks", lambda sandbox, directory: results)
    monkeypatch.setattr(doctor, "_attack_file", lambda sandbox: tmp_path / "attacks")
    for _ in range(2):  # as it is tried, and as it was kept
        check = doctor._check_attacks(None)
        assert not check.ok
        assert "write (/a: made a file)" in check.detail
