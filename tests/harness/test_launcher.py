"""A sandbox that never fires is noticed: a program in bwrap's place that does less than it is told cannot end in PASS.

Attack S13. Each launcher below lies first on PATH, looks like bwrap, and leaves out a part of the walls. The doctor,
who would have refused most of them before a run, is not asked here."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import TESTS, Referee, assemble

from harness.evidence.record import Record, Verdict
from harness.sandbox import bubblewrap
from harness.sandbox.bubblewrap import BubblewrapSandbox

pytestmark = [pytest.mark.sandbox, pytest.mark.privileged]
WITHOUT = """#!/bin/bash
kept=()
while (($#)); do
    case "$1" in
        {option}) shift {shift} ;;
        *) kept+=("$1"); shift ;;
    esac
done
exec {bwrap} "${{kept[@]}}"
"""
TO_THE_COMMAND = """#!/bin/bash
status=2
while [ "$1" != -- ]; do [ "$1" = --json-status-fd ] && status=$2; shift; done
shift
"""


@pytest.fixture
def launch(monkeypatch, referee: Referee, tmp_path) -> Iterator[Callable[[str], Record]]:
    """Run an honest submission with the script `text` in bwrap's place."""
    folder = Path(tempfile.mkdtemp(prefix="launcher-"))  # where every uid may look
    folder.chmod(0o755)

    def run(text: str) -> Record:
        script = folder / "bwrap"
        script.write_text(text)
        script.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
        sandbox = BubblewrapSandbox()
        assert sandbox.bwrap == str(script)
        submission = assemble(TESTS / "honest" / "minimal", tmp_path / "submission")
        record, _ = referee.run(submission, sandbox=sandbox)
        return record

    yield run
    shutil.rmtree(folder)


def without(option: str, values: int = 0) -> str:
    return WITHOUT.format(option=option, shift=values + 1, bwrap=shutil.which("bwrap"))


@pytest.mark.parametrize(
    ("option", "values", "message"),
    [
        ("--unshare-net", 0, "it has the host's net namespace"),
        ("--unshare-ipc", 0, "it has the host's ipc namespace"),
        ("--unshare-cgroup", 0, "it has the host's cgroup namespace"),
        ("--unshare-pid", 0, "no sandbox of its making"),
        ("--seccomp", 1, "is not confined"),
        ("--block-fd", 1, "was started before the walls were checked"),
        ("--remount-ro", 1, "its mount table is not the one asked for"),
        ("--json-status-fd", 1, "the guard of the sandbox does not answer"),
    ],
)
def test_a_launcher_that_leaves_out_a_wall(option, values, message, launch, monkeypatch):
    if option in ("--remount-ro", "--json-status-fd"):  # seen when nothing else has come for that long
        monkeypatch.setattr(bubblewrap, "BUILD_SECONDS", 2.0)
    refused(launch(without(option, values)), message, may_have_phases=option == "--block-fd")


def test_a_launcher_that_gives_capabilities(launch):
    bwrap = shutil.which("bwrap")
    refused(launch(without("--cap-drop", 1).replace(bwrap, f"{bwrap} --cap-add ALL")), "is not confined")


def test_a_launcher_that_does_not_drop_capabilities(launch):
    """bwrap drops them without being told when it is not started by root, and a phase's never is."""
    record = launch(without("--cap-drop", 1))
    assert {phase.sandbox.capabilities for phase in record.seeds[0].phases.values()} == {"0"}


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ('exec "$@"', "bwrap could not start"),
        ("exec sleep 12345", "the guard of the sandbox does not answer"),
        ("""echo '{"child-pid":'$$', "pid-namespace":1}' >&$status; exec sleep 12345""", "no sandbox of its making"),
        ("""echo '{"child-pid":1, "pid-namespace":1}' >&$status; exec sleep 12345""", "process 1, which is no sandbox"),
    ],
    ids=["runs the command", "stays", "says that it is the sandbox", "says that init is the sandbox"],
)
def test_a_launcher_that_builds_nothing(ends, message, launch, monkeypatch):
    """Also one that lies about it; nothing that it has started is left."""
    if message == "the guard of the sandbox does not answer":  # seen when nothing else has come for that long
        monkeypatch.setattr(bubblewrap, "BUILD_SECONDS", 1.0)
    refused(launch(TO_THE_COMMAND + ends), message)
    deadline = time.monotonic() + 20
    while subprocess.run(["pgrep", "-f", "sleep 12345"], stdout=subprocess.DEVNULL).returncode == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def refused(record: Record, message: str, may_have_phases: bool = False) -> None:
    """may_have_phases: where it is seen only when the machine lets the command run before it was told to."""
    assert record.verdict is Verdict.ERROR
    (reason,) = record.reasons
    assert message in reason.text
    assert may_have_phases or not record.seeds or record.seeds[0].phases == {}, "no phase is in the record"
