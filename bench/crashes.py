"""SIGKILL at random instants of a run, to the harness, a helper, or all of them at once; then what is left, and what
the next start does.

    .venv/bin/python bench/crashes.py [--count 100] [--seed 0]

Needs root. Every crash is followed by: a look at whether a shard can be read again, whether the run directory tells
the truth, and, after the next run has started, whether a process, control group or registration of the crashed run is
left."""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import time
import uuid
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from harness import doctor
from harness.registry import default_directory, reap
from harness.sandbox.cgroup import FOLDER, hierarchies

REPOSITORY = Path(__file__).resolve().parents[1]
RESULT = REPOSITORY / "bench" / "results" / "crashes.json"
VICTIMS = ("harness", "guard", "listener", "all")
MARK = "PARAMETER_GOLF_CRASH"  # in the environment of the harness and its helpers, so that they can be found
SETTLE_SECONDS = 10.0


@dataclass(frozen=True)
class Outcome:
    """How a crashed run ended. state: "incomplete", or the verdict if a record was written. faults: what should not
    be.
    """

    victim: str
    delay: float
    state: str
    faults: tuple[str, ...]


def trusted_processes(mark: str) -> dict[int, str]:
    """The harness of the run with this mark, and its helpers: process id -> kind."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() not in (folder / "environ").read_bytes().split(b"\0"):
                continue
            command = (folder / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        kind = "guard" if "guard.py" in command else "listener" if "harness.listener" in command else "harness"
        found[int(folder.name)] = kind
    return found


def sandboxed_processes(harness_pid: int) -> list[int]:
    """Processes in control groups that the harness with this process id made."""
    found = []
    for hierarchy in hierarchies():
        for file in hierarchy.root.glob(f"{FOLDER}/{harness_pid}-*/cgroup.procs"):
            found += [int(line) for line in file.read_text().split()]
    return found


def crash(victim: str, delay: float, command: list[str], out: Path, shard: Path) -> Outcome:
    """Start `command` (a `harness record ... --out out`), kill `victim` after `delay` seconds, and look at what is
    left.
    """
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        command, env={**os.environ, MARK: mark}, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=REPOSITORY
    )
    time.sleep(delay)
    processes = trusted_processes(mark)
    for pid, kind in processes.items():
        if victim in (kind, "all"):
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
            if victim == "listener":
                break  # one of the two
    process.wait()
    faults = []
    if victim != "all":  # nobody is left to act at once; the next start does
        faults += _settle(lambda: not trusted_processes(mark), "a trusted process is left")
        faults += _settle(lambda: not sandboxed_processes(process.pid), "a sandbox is left")
    faults += _settle(lambda: _readable(shard), "a shard cannot be read by anybody any more")
    reap()
    faults += _settle(lambda: not sandboxed_processes(process.pid), "a sandbox survived the next start")
    faults += _settle(lambda: not trusted_processes(mark), "a trusted process survived the next start")
    if any(list(hierarchy.root.glob(f"{FOLDER}/{process.pid}-*")) for hierarchy in hierarchies()):
        faults.append("a control group survived the next start")
    for entry in default_directory().glob("*.json"):
        if json.loads(entry.read_text())["harness_pid"] == process.pid:
            faults.append("a registration survived the next start")
    state = "no run directory yet"
    for run in out.iterdir() if out.exists() else []:
        incomplete, record = (run / "INCOMPLETE").exists(), run / "record.json"
        state = "incomplete" if incomplete else json.loads(record.read_text())["verdict"]
        if (run / "scratch").exists():
            faults.append("scratch survived the next start")
    return Outcome(victim, delay, state, tuple(faults))


def _readable(shard: Path) -> bool:
    return subprocess.run(["head", "-c", "1", str(shard)], capture_output=True).returncode == 0


def _settle(condition, fault: str) -> list[str]:
    deadline = time.monotonic() + SETTLE_SECONDS
    while not condition():
        if time.monotonic() > deadline:
            return [fault]
        time.sleep(0.02)
    return []


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    sys.path.insert(0, str(REPOSITORY / "tests"))
    import tempfile

    from support import make_toy_data

    generator = random.Random(arguments.seed)
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        data = make_toy_data(Path(folder) / "data")
        shard = next(data.glob("*train*.bin"))
        for number in range(arguments.count):
            out = Path(folder) / f"runs-{number}"
            command = toy_command(data, out)
            outcome = crash(generator.choice(VICTIMS), generator.uniform(0.3, 2.6), command, out, shard)
            outcomes.append(outcome)
            what = "; ".join(outcome.faults)
            print(f"{number + 1}: {outcome.victim} after {outcome.delay:.2f} s: {outcome.state} {what}", flush=True)
    faults = [outcome for outcome in outcomes if outcome.faults]
    states = Counter(f"{outcome.victim}: {outcome.state}" for outcome in outcomes)
    result = {
        "what": "SIGKILL at random instants of a toy run",
        "count": len(outcomes),
        "with_faults": len(faults),
        "ends": dict(sorted(states.items())),
        "machine": doctor.environment(),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(
        f"{len(outcomes)} crashes, {len(faults)} with something left that should not be; {dict(sorted(states.items()))}"
    )
    sys.exit(bool(faults))


def toy_command(data: Path, out: Path) -> list[str]:
    """A `harness record` of the minimal honest submission."""
    tests = REPOSITORY / "tests"
    options = {
        "--rules": tests / "toy.toml",
        "--submission": tests / "honest" / "minimal",
        "--data": data,
        "--out": out,
    }
    return [
        sys.executable,
        "-m",
        "harness.cli",
        "record",
        *(str(part) for option in options.items() for part in option),
    ]


if __name__ == "__main__":
    main()
