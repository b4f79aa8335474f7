"""The image holds what its lock says, the harness where it can be covered, and nothing that its build used up."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from support import TESTS

from harness.sandbox.backends import DEFAULT_IMAGE

REPOSITORY = TESTS.parent
LOCKS = REPOSITORY / "requirements"
COVERED = ("--tmpfs", "/opt/parameter-golf:ro", "--env", "PYTHONPATH=/in:/wire")

# Printed as JSON by the image's own Python.
DISTRIBUTIONS = """
import importlib.metadata, json
from packaging.markers import default_environment
installed = [(found.metadata["Name"], found.version) for found in importlib.metadata.distributions()]
print(json.dumps([installed, default_environment()]))
"""
# sha256 of each file of the harness but the wire module; files too short to tell whose they are do not count.
HARNESS_FILES = """
import hashlib, json, pathlib
files = [path for path in pathlib.Path("/opt/parameter-golf/harness").rglob("*.py") if path.name != "wire.py"]
contents = [path.read_bytes() for path in files]
print(json.dumps([hashlib.sha256(content).hexdigest() for content in contents if len(content) > 200]))
"""
PYTHON_FILES = """
import hashlib, json, os
found = {}
for folder, folders, files in os.walk("/"):
    folders[:] = [name for name in folders if folder != "/" or name not in ("proc", "sys")]
    for name in files:
        path = os.path.join(folder, name)
        if name.endswith(".py") and not os.path.islink(path):
            found[path] = hashlib.sha256(open(path, "rb").read()).hexdigest()
print(json.dumps(found))
"""


def docker(*arguments: str, **options) -> str:
    """What a docker command printed; fails with its words if it does not end with 0."""
    done = subprocess.run(("docker", *arguments), capture_output=True, text=True, timeout=300, **options)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def in_image(*command: str, options: tuple[str, ...] = ("--user", "0")) -> str:
    return docker("run", "--rm", "--network", "none", "--read-only", *options, DEFAULT_IMAGE, *command)


def sha256(name: str) -> str:
    return hashlib.sha256((LOCKS / name).read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def config() -> dict:
    return json.loads(docker("image", "inspect", DEFAULT_IMAGE))[0]["Config"]


@pytest.fixture(scope="module")
def lock(config) -> str:
    """Which lock the image was built from: cpu.lock where PyTorch's CPU build could be had, otherwise default.lock."""
    said = config["Labels"]["parameter-golf.lock-sha256"]
    (name,) = (name for name in ("cpu.lock", "default.lock") if sha256(name) == said)
    return name


@pytest.mark.docker
def test_installed_is_what_the_lock_says(lock: str) -> None:
    """In both directions, so every build from one lock has the same packages."""
    installed, environment = json.loads(in_image("python", "-c", DISTRIBUTIONS))
    text = re.sub(r"\\\n", " ", (LOCKS / lock).read_text())
    locked = [Requirement(line.partition(" --hash")[0]) for line in text.splitlines()]
    expected = {
        (canonicalize_name(requirement.name), str(requirement.specifier).removeprefix("=="))
        for requirement in locked
        if requirement.marker is None or requirement.marker.evaluate(environment)
    }
    assert len(expected) > 40
    ours = ("parameter-golf-harness", "0.1.0")
    assert {(canonicalize_name(name), version) for name, version in installed} == expected | {ours}


@pytest.mark.docker
def test_image_says_what_it_was_built_from(config, lock: str) -> None:
    facts = json.loads(in_image("cat", "/etc/parameter-golf-image.json"))
    assert facts["lock_sha256"] == config["Labels"]["parameter-golf.lock-sha256"] == sha256(lock)
    assert re.fullmatch(r"[0-9a-f]{40}", facts["revision"])
    assert config["Labels"]["org.opencontainers.image.revision"] in (facts["revision"], "unknown")


@pytest.mark.docker
def test_default_user_is_nobody(config) -> None:
    assert config["User"] == "1000:1000"
    assert in_image("id", options=()).strip() == "uid=1000(phase) gid=1000(phase) groups=1000(phase)"


@pytest.mark.docker
def test_no_cache_no_secret_and_no_tool_of_the_build_is_left(config) -> None:
    places = (
        "/root/.cache /run/secrets /wheels /tmp /var/lib/apt/lists /var/cache/apt/archives /opt/parameter-golf/.git"
    )
    wheels = "find / -xdev -name '*.whl' -not -path '/usr/*'"
    assert in_image("sh", "-c", f"find {places} -type f 2>/dev/null; {wheels}; true") == ""
    assert {entry.partition("=")[0] for entry in config["Env"]} == {"PATH"}
    in_image("sh", "-c", "! ls /opt/venv/bin/pip && ! /opt/venv/bin/python -m pip --version")


@pytest.mark.docker
def test_harness_can_be_covered_but_for_the_wire() -> None:
    """As phases have it: no code of the harness elsewhere than in the one place that the back-end covers."""
    harness = set(json.loads(in_image("python", "-c", HARNESS_FILES)))
    assert len(harness) > 40
    seen = json.loads(in_image("python", "-c", PYTHON_FILES, options=("--user", "0", *COVERED)))
    assert len(seen) > 5000
    assert [path for path, digest in seen.items() if digest in harness] == []
    assert [path for path in seen if path.startswith("/wire/")] == ["/wire/harness/scoring/wire.py"]
    wire = hashlib.sha256((REPOSITORY / "harness" / "scoring" / "wire.py").read_bytes()).hexdigest()
    assert seen["/wire/harness/scoring/wire.py"] == wire, "the image is of another checkout"
    imports = "import harness.scoring.wire as w, importlib.util as u; print(w.__file__, u.find_spec('harness.referee'))"
    assert in_image("python", "-c", imports, options=COVERED).strip() == "/wire/harness/scoring/wire.py None"


def test_dockerfile_fetches_nothing_that_is_not_pinned() -> None:
    text = re.sub(r"\\\n", " ", (REPOSITORY / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    stages = re.findall(r"^FROM \S+ AS (\S+)$", text, re.MULTILINE)
    defaults = dict(re.findall(r"^ARG (BASE_IMAGE|WHEELS)=(\S+)$", text, re.MULTILINE))
    assert re.search(r"^\S+:\S+@sha256:[0-9a-f]{64}$", defaults["BASE_IMAGE"])
    assert defaults["WHEELS"] in stages
    sources = {line.split()[1] for line in lines if line.startswith("FROM ")}
    assert sources <= {"scratch", "${BASE_IMAGE}", "${WHEELS}", *stages}
    installs = [line for line in lines if re.search(r"\bpip\b.* install\b", line)]
    assert len(installs) == 2
    assert all("--no-deps" in line and ("--require-hashes" in line or "--no-index" in line) for line in installs)
    assert not re.search(r"^ADD |\bcurl\b|\bwget\b|\bgit\b clone|^# *syntax", text, re.MULTILINE | re.IGNORECASE)
    assert not re.search(r"^(ARG|ENV) \S*(TOKEN|SECRET|PASSWORD|KEY)", text, re.MULTILINE)


def test_build_context_is_a_list_of_what_goes_in() -> None:
    lines = [line for line in (REPOSITORY / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    named = [line[1:] for line in lines if line.startswith("!")]
    assert "harness" in named and not {"data", "runs", ".git/objects", ".git/config", ".venv"} & set(named)
    assert {name for name in named if not name.startswith(".git")} <= {path.name for path in REPOSITORY.iterdir()}


@pytest.mark.parametrize("lock", ["cpu.lock", "record.lock"])
def test_locks_are_whole(lock) -> None:
    """Every package is pinned to one version, and has a hash."""
    text = re.sub(r"\\\n", " ", (LOCKS / lock).read_text())
    assert len(text.splitlines()) > 40
    for line in text.splitlines():
        assert re.match(r"[a-z0-9-]+==[^ ;]+ ( ?;[^#]*?)? *(--hash=sha256:[0-9a-f]{64} *)+$", line), line[:80]


def test_record_lock_has_the_cuda_build_of_the_torch_that_records_use() -> None:
    text = (LOCKS / "record.lock").read_text()
    version = (LOCKS / "torch-version-record.txt").read_text().strip()
    assert f"\n{version} \\\n" in text
    assert {"nvidia-cudnn-cu13", "nvidia-nccl-cu13", "triton"} <= set(
        re.findall(r"^([a-z0-9-]+)==", text, re.MULTILINE)
    )
