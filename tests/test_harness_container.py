"""The harness in a container of its own, as compose.yaml starts it: a run, a kill in the middle of one, and what the
next start finds."""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from support import TESTS, assemble

from harness.sandbox.docker import LABEL

pytestmark = [pytest.mark.docker, pytest.mark.privileged, pytest.mark.slow]
REPOSITORY = TESTS.parent
OWNER = 12_345  # of the project directory; nobody here
PATIENCE = 60.0


@pytest.fixture
def engine() -> docker.DockerClient:
    return docker.from_env()


@pytest.fixture
def workspace(toy_data: Path, tmp_path: Path) -> Path:
    """A project directory of somebody who is not root."""
    folder = tmp_path / "workspace"
    shutil.copytree(toy_data, folder / "data")
    shutil.copy(TESTS / "toy.toml", folder)
    assemble(TESTS / "honest" / "minimal", folder / "submission")
    slow = assemble(TESTS / "honest" / "minimal", folder / "slow")
    (slow / "train.py").write_text("import time\n" + (slow / "train.py").read_text() + "time.sleep(100)\n")
    for path in (folder, *folder.rglob("*")):
        os.chown(path, OWNER, OWNER)
    return folder


@pytest.fixture
def project(engine) -> Iterator[str]:
    """Name of a compose project whose containers are removed in the end."""
    name = f"golf-test-{os.getpid()}"
    yield name
    in_project = {"label": f"com.docker.compose.project={name}"}
    for container in engine.containers.list(all=True, filters=in_project, ignore_removed=True):
        container.remove(force=True)
    for network in engine.networks.list(filters=in_project):
        network.remove()


def compose_run(
    project: str, workspace: Path, *options: str, submission: str, rules: str = "toy.toml", out: str = "runs"
) -> subprocess.CompletedProcess:
    command = ["docker", "compose", "--project-name", project, "run", "--no-deps", "--rm", "-T"]
    command += ["--volume", f"{workspace}:/golf", "--workdir", "/golf", *options, "demo"]
    command += ["harness", "record", "--rules", rules, "--submission", submission, "--data", "data", "--out", out]
    environment = {**os.environ, "COMPOSE_PROGRESS": "quiet"}
    host = os.environ.get("DOCKER_HOST", "")
    if host.startswith("unix://"):
        environment["DOCKER_SOCKET"] = host.removeprefix("unix://")
    return subprocess.run(command, cwd=REPOSITORY, env=environment, capture_output=True, text=True, timeout=300)


def phases(engine: docker.DockerClient) -> list[dict]:
    """The phase containers of harnesses that run in containers; those of other tests belong to a process of pytest."""
    found = engine.api.containers(all=True, filters={"label": LABEL})
    pytest_pids = {str(os.getpid()), str(os.getppid())}
    return [one for one in found if one["Labels"][LABEL].split("-")[0] not in pytest_pids]


def test_a_run_belongs_to_who_started_it(project: str, workspace: Path) -> None:
    done = compose_run(project, workspace, submission="submission")
    assert done.returncode == 0, done.stdout + done.stderr
    (record,) = (json.loads(path.read_text()) for path in workspace.glob("runs/*/record.json"))
    assert record["verdict"] == "PASS"
    assert record["environment"]["sandbox"] == "docker"
    assert record["environment"]["sandbox_image"].startswith("sha256:")
    others = [path for path in workspace.rglob("*") if (path.lstat().st_uid, path.lstat().st_gid) != (OWNER, OWNER)]
    assert not others


def refusal(done: subprocess.CompletedProcess) -> str:
    """The one line that says why nothing was run."""
    assert done.returncode == 69, done.stdout + done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("harness: "))
    return line


def test_a_machine_without_the_record_s_gpus_is_told_in_one_line(project: str, workspace: Path) -> None:
    line = refusal(compose_run(project, workspace, submission="submission", rules="record"))
    assert "8x H100 are needed" in line
    assert "`harness demo` runs on a CPU" in line
    assert not (workspace / "runs").exists()


def test_a_path_that_no_phase_could_see_ends_the_run_before_it_begins(project: str, workspace: Path) -> None:
    done = compose_run(project, workspace, submission="submission", out="/srv/runs")
    line = refusal(done)
    assert "/srv/runs lies inside the harness's own container" in line
    assert "put it on a volume (there are: /golf, /workspace)" in line
    assert "rules toy" not in done.stdout


@pytest.mark.alone  # any other harness that starts meanwhile would remove it first
def test_what_a_killed_harness_leaves_is_removed_and_told_at_the_next_start(engine, project, workspace) -> None:
    name = f"{project}-killed"
    started = compose_run(project, workspace, "--detach", "--name", name, submission="slow")
    assert started.returncode == 0, started.stderr
    harness = engine.api.inspect_container(name)["State"]["Pid"]
    deadline = time.monotonic() + PATIENCE
    label = last = ""
    running = 0  # the phase's first process; none while its container is created and not yet started
    while not (label.startswith("train") and running):  # not one of the doctor's, which may take their time here
        assert time.monotonic() < deadline, f"the last phase that was started: {last or None}"
        time.sleep(0.1)
        found = [one for one in phases(engine) if one["Labels"][LABEL].startswith(f"{harness}-")]
        label = found[0]["Labels"].get("parameter-golf.phase", "") if found else ""  # without: it asks for GPUs
        if label.startswith("train"):
            running = engine.api.inspect_container(found[0]["Id"])["State"]["Pid"]
        if label not in ("", last):
            last, deadline = label, time.monotonic() + PATIENCE
    init = os.pidfd_open(running)
    engine.api.kill(name, "KILL")
    assert select.select([init], [], [], PATIENCE)[0], "a phase outlives its harness"
    os.close(init)
    (interrupted,) = workspace.glob("runs/*")
    assert (interrupted / "INCOMPLETE").exists()

    done = compose_run(project, workspace, submission="submission")
    assert done.returncode == 0, done.stdout + done.stderr
    said = " ".join(done.stdout.split())
    assert f"left behind by harness process {harness}" in said
    assert not [one for one in phases(engine) if one["Labels"][LABEL].startswith(f"{harness}-")]
    assert not (interrupted / "record.json").exists(), "a run that was cut off has no verdict"
