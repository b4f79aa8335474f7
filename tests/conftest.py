"""Options, skips and fixtures of all tests; what they are made of is in support.py."""

from __future__ import annotations

import select
from collections.abc import Callable
from pathlib import Path

import hypothesis
import pytest
from support import TESTS, Referee, make_toy_data

from harness import doctor
from harness.errors import EnvironmentMissing
from harness.rules import LoadedRules, load_rules
from harness.sandbox import SMALL, SandboxSpec
from harness.sandbox.backends import find_backend
from harness.sandbox.bubblewrap import BubblewrapSandbox

# No test is timed: one example that takes long says that the machine is busy.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

collect_ignore = ["cheats", "honest"]  # submissions: nothing of theirs is imported, not even a conftest.py


def pytest_addoption(parser):
    parser.addoption("--forbid-skips", action="store_true", help="run what this machine cannot do, and fail (for CI)")


def pytest_collection_modifyitems(config, items):
    """Skip what this machine cannot do, with the doctor's own words; in CI such a test runs, and fails."""
    if config.getoption("--forbid-skips"):
        return
    in_docker = [item for item in items if item.get_closest_marker("docker")]
    if in_docker and (missing := _missing_docker()):
        for item in in_docker:
            item.add_marker(pytest.mark.skip(reason=missing))
    marked = [item for item in items if item.get_closest_marker("sandbox") or item.get_closest_marker("privileged")]
    if not marked:
        return
    missing = {check.cost: check for check in doctor.inspect() if not check.ok}
    for item in marked:
        costs = [doctor.Cost.NO_RUN] if item.get_closest_marker("sandbox") else []
        costs += [doctor.Cost.NO_PASS] if item.get_closest_marker("privileged") else []
        for cost in costs:
            if cost in missing:
                item.add_marker(pytest.mark.skip(reason=f"{missing[cost].name}: {missing[cost].detail}"))


def _missing_docker() -> str:
    """Why nothing can run in Docker here; empty if it can."""
    try:
        find_backend("docker").make()
    except EnvironmentMissing as error:
        return str(error)
    return ""


@pytest.fixture(scope="session")
def toy_data(tmp_path_factory) -> Path:
    return make_toy_data(tmp_path_factory.mktemp("data") / "toy")


@pytest.fixture(scope="session")
def toy_rules() -> LoadedRules:
    return load_rules(str(TESTS / "toy.toml"))


@pytest.fixture(scope="session")
def machine() -> list[doctor.Check]:
    """The doctor's findings: tests use the same checks as `harness record`."""
    return doctor.inspect()


@pytest.fixture
def referee(toy_rules, toy_data, tmp_path, machine) -> Referee:
    return Referee(toy_rules, toy_data, tmp_path / "runs", machine)


@pytest.fixture(scope="session")
def run_command() -> Callable[..., str]:
    """Run a command in a bare sandbox and return what it printed; fails if it does not end with 0."""

    def run(*command: str) -> str:
        running = BubblewrapSandbox().start(SandboxSpec(label="test", command=command, mounts=(), limits=SMALL))
        try:
            running.launch()
            with open(running.log_descriptor, closefd=False) as log:
                printed = log.read()
            select.select([running], [], [])
            assert running.event().exit_code == 0, printed
            return printed
        finally:
            running.close()

    return run
