"""compose.yaml gives its containers what docs/docker.md lists, and nothing else."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess

import pytest
import yaml
from support import TESTS

REPOSITORY = TESTS.parent
COMPOSE = REPOSITORY / "compose.yaml"
HARNESS = ("demo", "doctor", "record")
HARNESS_CAPABILITIES = {"SYS_ADMIN", "SYS_PTRACE", "SYS_NICE", "DAC_OVERRIDE", "CHOWN", "KILL", "LEASE"}
SOMEBODY = 54321


@pytest.fixture(scope="module")
def services() -> dict[str, dict]:
    return yaml.safe_load(COMPOSE.read_text())["services"]


def compose(*arguments: str) -> str:
    done = subprocess.run(("docker", "compose", *arguments), capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def check_rights(services: dict[str, dict]) -> None:
    """What each service may do, in the file as in what Docker makes of it."""
    assert set(services) == {*HARNESS, "data", "test", "check"}
    for name, service in services.items():
        assert "privileged" not in service and "devices" not in service and "env_file" not in service, name
        assert service["cap_drop"] == ["ALL"] and service["read_only"] is True, name
        assert "no-new-privileges:true" in service["security_opt"], name
        assert "seccomp:unconfined" not in service["security_opt"], name
    for name in HARNESS:
        service = services[name]
        assert set(service["cap_add"]) == HARNESS_CAPABILITIES, name
        assert service["network_mode"] == "none" and service["pid"] == service["cgroup"] == "host", name
        assert "environment" not in service, name
    assert set(services["data"]["cap_add"]) == {"SETGID", "SETUID"}
    for name in ("test", "check"):
        assert services[name].get("cap_add", []) == [] and services[name]["network_mode"] == "none"
    (workspace,) = services["check"]["volumes"]
    assert workspace == ".:/workspace:ro" or workspace["read_only"]
    for name in ("data", "test", "check"):
        assert "docker.sock" not in str(services[name]) and "pid" not in services[name], name
    assert not [name for name, service in services.items() if "deploy" in service], "a machine without GPUs is told so"


def test_services_may_do_what_is_listed(services) -> None:
    check_rights(services)
    assert [name for name, service in services.items() if service.get("network_mode") != "none"] == ["data"]


def test_images_are_of_pinned_bases_and_locks(services) -> None:
    bases = {}
    for name, service in services.items():
        arguments = {
            key: re.sub(r"^\$\{\w+:-(.*)\}$", r"\1", str(value)) if key.startswith("LOCK") else value
            for key, value in service["build"]["args"].items()
        }
        lock = (REPOSITORY / "requirements" / f"{arguments['LOCK']}.lock").read_bytes()
        assert arguments["LOCK_SHA256"] == hashlib.sha256(lock).hexdigest(), "after a change of a lock: make locks"
        base = re.fullmatch(r"\$\{\w+:-(\S+:\S+@sha256:[0-9a-f]{64})\}", arguments["BASE_IMAGE"])
        assert base, name
        bases[arguments["LOCK"]] = base[1]
        images = {"default": "parameter-golf:cpu", "record": "parameter-golf:record"}
        assert service["image"] == images[arguments["LOCK"]]
        assert service["pull_policy"] == "build", "an image of another checkout must not run"
    assert f"ARG BASE_IMAGE={bases['record']}\n" in (REPOSITORY / "Dockerfile").read_text()
    assert services["record"]["image"] == "parameter-golf:record"


def test_every_capability_has_its_reason() -> None:
    added = re.findall(r"^ +- ([A-Z_]+)( # .+)?$", COMPOSE.read_text(), re.MULTILINE)
    assert {name for name, _ in added} == HARNESS_CAPABILITIES
    assert all(reason for _, reason in added)


@pytest.mark.docker
def test_docker_reads_it_the_same_way() -> None:
    found = json.loads(compose("-f", str(COMPOSE), "config", "--format", "json"))["services"]
    for service in found.values():  # where it says in words of its own what the file leaves out
        for key in [key for key, value in service.items() if value is None]:
            del service[key]
    check_rights(found)


@pytest.mark.docker
def test_data_are_fetched_by_the_owner_of_the_checkout(tmp_path) -> None:
    """Also where nobody else may look in; and without a right left."""
    checkout = tmp_path / "checkout"
    checkout.mkdir(mode=0o700)
    changes = tmp_path / "changes.json"
    changes.write_text(json.dumps({"services": {"data": {"pull_policy": "never", "network_mode": "none"}}}))
    os.chown(checkout, SOMEBODY, SOMEBODY + 1)
    files = ("--project-directory", str(checkout), "-f", str(COMPOSE), "-f", str(changes))
    script = "touch made && id -u && id -g && grep CapEff /proc/self/status"
    printed = compose(*files, "run", "--rm", "-T", "data", "sh", "-c", script)
    assert printed.split() == [str(SOMEBODY), str(SOMEBODY + 1), "CapEff:", "0" * 16]
    made = (checkout / "made").stat()
    assert (made.st_uid, made.st_gid) == (SOMEBODY, SOMEBODY + 1)
