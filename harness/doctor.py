"""The self-check that any host can run: what is here, what is missing, and what that costs. `record` and the tests use
the same checks. What particular rules ask of the machine is in `preflight.py`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from harness.access import AccessMonitor
from harness.attack import UNFINISHED, run_attacks
from harness.data.shards import write_atomically
from harness.errors import EnvironmentMissing, InputError, RefereeError
from harness.machine import Facts, Machine, free_bytes, survey
from harness.registry import Registration, default_directory
from harness.sandbox import SMALL, Sandbox, SandboxSpec
from harness.sandbox.backends import Backend, find_backend, own_container

ACCESS_MONITOR = "access monitor"  # the name of the check that decides whether a run is watched by the kernel
MINIMUM_FREE_BYTES = 2_000_000_000
SELF_CHECK_SECONDS = 20.0


class Cost(StrEnum):
    """What a missing thing costs."""

    NOTHING = ""
    NO_RUN = "nothing can be run"
    NOT_THESE_RULES = "these rules cannot be run here"
    NO_DATA = "no run with this data"
    NO_LIMIT = "nothing enforces these limits; the evidence says so"
    NO_PASS = "PASS is impossible, the best verdict is UNPROVEN"
    NO_SUBMISSION = "this repository's submission cannot run"


@dataclass(frozen=True)
class Check:
    """`detail`: what was found, or what is missing and how to get it."""

    name: str
    ok: bool
    detail: str
    cost: Cost = Cost.NOTHING


def inspect(
    out: Path = Path("runs"), backend: Backend | None = None, *, attack: bool = False, machine: Machine | None = None
) -> list[Check]:
    """Run every check; takes about a second. `out`: where run directories would go. backend: by default that of
    "auto". machine: what has been found.

    attack: attack the sandbox from inside even if nothing has changed since that was last done, and list every answer.
    """
    machine, backend = machine or survey(), backend or find_backend()
    sandbox: Sandbox | None = None
    try:
        sandbox = backend.make()
        found = Check(backend.name, True, str(sandbox), Cost.NO_RUN)
    except EnvironmentMissing as error:
        found = Check(backend.name, False, str(error), Cost.NO_RUN)
    checks = [
        _check_python(),
        found,
        *([_check_sandbox(sandbox)] if sandbox else []),
        _check_uid(),
        _check_fanotify(),
        _check_disk(out),
        _check_torch(),
        Check(
            "processor",
            True,
            f"{len(os.sched_getaffinity(0))} cores, {machine.memory_bytes / 1e9:.1f} GB memory, {_processor_name()}",
        ),
        Check("GPUs", True, str(machine.gpus)),
    ]
    if any(not check.ok and check.cost is Cost.NO_RUN for check in checks):
        return checks  # without a sandbox there is nothing to attack
    return [*checks, *(_attack_everything(sandbox) if attack else [_check_attacks(sandbox)])]


def require(checks: list[Check]) -> list[str]:
    """What makes a PASS impossible, as sentences; raises EnvironmentMissing if nothing can be run, at all or under the
    rules that were checked, InputError if nothing can be run with this data.
    """
    for check in checks:
        if not check.ok and check.cost in (Cost.NO_RUN, Cost.NOT_THESE_RULES):
            raise EnvironmentMissing(f"{check.name}: {check.detail}")
        if not check.ok and check.cost is Cost.NO_DATA:
            raise InputError(check.detail)
    return [f"{check.name}: {check.detail}" for check in checks if not check.ok and check.cost is Cost.NO_PASS]


def environment(machine: Machine | None = None) -> Facts:
    """Facts about this machine for record.json. What the harness reads itself; nothing that a submission says."""
    facts: Facts = {
        "system": _system_name(),
        "machine": platform.machine(),
        "processor": _processor_name(),
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        "root": os.geteuid() == 0,
        "harness": _version("parameter-golf-harness"),
        **(machine or survey()).facts(),
    }
    for package in ("torch", "numpy", "sentencepiece", "safetensors"):
        facts[package] = _version(package)
    return facts


def _check_python() -> Check:
    version = platform.python_version()
    return Check("Python", sys.version_info >= (3, 11), f"{version} (3.11 or newer is needed)", Cost.NO_RUN)


def _check_sandbox(sandbox: Sandbox) -> Check:
    """Start a real sandbox and let it fail to reach the network, to write to the system, and to see this file."""
    probe = (
        "import os, socket, sys\n"
        "from harness.scoring import wire\n"
        "faults = [name for name in ('/usr/x', '/x', '/dev/x', '/in/x') if os.access(os.path.dirname(name), os.W_OK)]\n"
        f"faults += ['sees the harness'] if os.path.exists({str(Path(__file__))!r}) else []\n"
        "faults += ['root'] if os.getuid() == 0 else []\n"
        "status = open('/proc/self/status').read()\n"
        "faults += ['has capabilities'] if 'CapEff:\\t0000000000000000' not in status else []\n"
        "try:\n    socket.create_connection(('192.0.2.1', 9), 1); faults += ['has a network']\n"
        "except OSError: pass\n"
        "print(*faults, sep=', '); sys.exit(bool(faults))\n"
    )
    spec = SandboxSpec(label="self-check", command=("python", "-c", probe), mounts=(), limits=SMALL)
    try:
        running = sandbox.start(spec)
    except (RefereeError, OSError) as error:
        return Check("sandbox", False, f"{error} (user namespaces must be allowed to unprivileged users)", Cost.NO_RUN)
    try:
        running.launch()
        deadline = time.monotonic() + SELF_CHECK_SECONDS
        exit_code = None
        while (event := running.event()) is None or event.kind != "empty":
            if event is not None:
                exit_code = event.exit_code
            if time.monotonic() > deadline:
                return Check("sandbox", False, "a trivial command did not end", Cost.NO_RUN)
            time.sleep(0.005)
        said = os.read(running.log_descriptor, 4000).decode(errors="replace").strip()
        attempts = running.network_attempts()
    finally:
        running.close()
    if exit_code != 0:
        last = said.splitlines()[-1] if said else f"exit code {exit_code}"
        return Check("sandbox", False, f"the probe inside it failed: {last}", Cost.NO_RUN)
    if attempts == 0:
        return Check("sandbox", False, "the kernel did not count an attempt to reach the network", Cost.NO_PASS)
    return Check("sandbox", True, "read-only, no network, no capabilities; network attempts are counted", Cost.NO_RUN)


ATTACK_TRIES = 2  # one that does not finish, on a machine that is very busy, says nothing about its walls


def _attack_everything(sandbox: Sandbox) -> list[Check]:
    """One check for each attack on the sandbox; keeps the outcome for `_check_attacks`, if every attack was tried."""
    results = run_attacks(sandbox, directory=Path.cwd() if own_container() else None)  # what is on a volume
    file = _attack_file(sandbox)
    holes = {result.name: result.detail for result in results if not result.denied}
    if UNFINISHED not in holes:
        file.parent.mkdir(mode=0o700, exist_ok=True)
        write_atomically(file, json.dumps({"denied": len(results) - len(holes), "holes": holes}).encode())
    return [Check(f"attack: {result.name}", result.denied, result.detail, Cost.NO_PASS) for result in results]


def _check_attacks(sandbox: Sandbox) -> Check:
    """What came of attacking the sandbox; anew after a boot or a change of kernel, back-end, harness."""
    file = _attack_file(sandbox)
    tried: list[Check] = []
    for _ in range(ATTACK_TRIES):
        if not file.exists():
            tried = _attack_everything(sandbox)
    if not file.exists():
        return Check("self-attack", False, f"it did not finish: {tried[-1].detail}", Cost.NO_PASS)
    outcome = json.loads(file.read_text())
    if outcome["holes"]:
        seen = "; ".join(f"{name} ({detail})" for name, detail in outcome["holes"].items())
        text = f"not denied: {seen}; try again with `harness doctor --attack`"
        return Check("self-attack", False, text, Cost.NO_PASS)
    return Check("self-attack", True, f"{outcome['denied']} attacks from inside the sandbox were denied", Cost.NO_PASS)


def _attack_file(sandbox: Sandbox) -> Path:
    """Where the outcome is kept: with the registrations, under a name that changes with everything it depends on."""
    digest = hashlib.sha256()
    for text in (platform.release(), sandbox.fingerprint(), Path("/proc/sys/kernel/random/boot_id").read_text()):
        digest.update(text.encode())
    for path in sorted(Path(__file__).parent.rglob("*.py")):
        digest.update(path.read_bytes())
    return default_directory() / f"attacks-{digest.hexdigest()[:16]}"


def _check_uid() -> Check:
    if os.geteuid() == 0:
        return Check("phase uids", True, "root: each phase runs under a uid of its own", Cost.NO_PASS)
    return Check("phase uids", False, "not root: phases run under your own uid", Cost.NO_PASS)


def _check_fanotify() -> Check:
    """Mark a file for real, and see that another process is denied while the mark stands and is not afterwards."""
    if os.geteuid() != 0:
        return Check(
            ACCESS_MONITOR,
            False,
            "not root: the kernel will not report opens (fanotify permission events)",
            Cost.NO_PASS,
        )
    with tempfile.TemporaryDirectory() as folder:
        canary = Path(folder) / "canary"
        canary.write_text("canary\n")

        def opens() -> bool:
            return subprocess.run(["cat", str(canary)], capture_output=True).returncode == 0

        try:
            with Registration(f"doctor-{os.getpid()}") as registration:
                monitor = AccessMonitor(registration, Path(folder))
                try:
                    monitor.mark(canary, "canary")
                    denied = not opens()
                finally:
                    monitor.close()
        except (RefereeError, OSError) as error:
            return Check(ACCESS_MONITOR, False, f"fanotify permission events do not work here: {error}", Cost.NO_PASS)
        if not denied or not opens():
            return Check(ACCESS_MONITOR, False, "a marked canary file was not denied, or stayed denied", Cost.NO_PASS)
    return Check(ACCESS_MONITOR, True, "fanotify permission marks deny, from two listeners", Cost.NO_PASS)


def _check_disk(out: Path) -> Check:
    free, place = free_bytes(out)
    text = f"{free / 1e9:.1f} GB free under {place}"
    return Check(
        "disk", free >= MINIMUM_FREE_BYTES, f"{text} ({MINIMUM_FREE_BYTES / 1e9:g} GB are needed)", Cost.NO_RUN
    )


def _check_torch() -> Check:
    version = _version("torch")
    return Check("torch", version is not None, version or "not installed; `make setup` installs it", Cost.NO_SUBMISSION)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _first_line(path: str, prefix: str, cut: Callable[[str], str]) -> str:
    try:
        lines = Path(path).read_text().splitlines()
    except OSError:
        return "unknown"
    return next((cut(line) for line in lines if line.startswith(prefix)), "unknown")


def _processor_name() -> str:
    return _first_line("/proc/cpuinfo", "model name", lambda line: line.partition(":")[2].strip())


def _system_name() -> str:
    return _first_line("/etc/os-release", "PRETTY_NAME", lambda line: line.partition("=")[2].strip('"'))
