"""Training throughput inside the sandbox, with the access monitor on, against the same program started plainly.

    .venv/bin/python bench/sandbox_overhead.py [--rounds 7] [--steps 40]

Plain and sandboxed runs alternate, in an order that flips every round, so that a machine that slows down slows both.
The ratio is of the medians: throughput in the sandbox over throughput outside. Needs root and the demo data
(`harness data demo`).
"""

from __future__ import annotations

import argparse
import json
import os
import select
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from harness import doctor
from harness.access import AccessMonitor
from harness.registry import Registration
from harness.sandbox import Limits, Mount, SandboxSpec
from harness.sandbox.bubblewrap import BubblewrapSandbox

REPOSITORY = Path(__file__).resolve().parents[1]
WORKLOAD = REPOSITORY / "bench" / "training_steps.py"
RESULT = REPOSITORY / "bench" / "results" / "sandbox_overhead.json"


def run_plain(data: Path, options: list[str]) -> float:
    command = [sys.executable, str(WORKLOAD), "--shards", str(data), *options]
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(REPOSITORY)}
    output = subprocess.run(command, env=environment, check=True, capture_output=True, text=True, cwd=REPOSITORY).stdout
    return json.loads(output)["seconds_per_step"]


def run_sandboxed(data: Path, options: list[str], monitor: AccessMonitor, submission: Path) -> float:
    shards = sorted(data.glob("*.bin"))
    spec = SandboxSpec(
        label="bench",
        command=("python", "/in/workload.py", "--shards", "/in/train", *options),
        mounts=(
            Mount(source=submission, target="/in/submission"),
            Mount(source=WORKLOAD, target="/in/workload.py"),
            *(Mount(source=shard, target=f"/in/train/{shard.name}") for shard in shards),
        ),
        limits=Limits(
            processes=512,
            open_files=4096,
            memory_bytes=1 << 33,
            output_bytes=1 << 20,
            output_files=10,
            scratch_bytes=1 << 29,
            shared_memory_bytes=1 << 29,
        ),
    )
    running = BubblewrapSandbox().start(spec)
    try:
        monitor.grant("bench", running.walls, frozenset(monitor.names))
        running.launch()
        output = b""
        while (event := running.event()) is None or event.kind != "empty":
            ready, _, _ = select.select([running, running.log_descriptor], [], [], 1.0)
            if running.log_descriptor in ready:
                output += os.read(running.log_descriptor, 1 << 16)
        monitor.sync()
        opens = sum(open.allowed and open.listener == 0 for open in monitor.events())
        if opens == 0:
            raise SystemExit("the monitor saw no open: this measures nothing")
        monitor.revoke(running.walls)
    finally:
        running.close()
    return json.loads(output.splitlines()[-1])["seconds_per_step"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--data", type=Path, default=REPOSITORY / "data" / "demo")
    arguments = parser.parse_args()
    options = ["--steps", str(arguments.steps), "--threads", str(len(os.sched_getaffinity(0)))]
    seconds: dict[str, list[float]] = {"plain": [], "sandboxed": []}
    with tempfile.TemporaryDirectory() as folder:
        submission = Path(folder) / "submission"
        shutil.copytree(REPOSITORY / "submission", submission, ignore=shutil.ignore_patterns("__pycache__"))
        train = Path(folder) / "train"
        train.mkdir()
        for shard in arguments.data.glob("*train*.bin"):
            shutil.copy(shard, train)
        for number in range(arguments.rounds):
            for kind in ("plain", "sandboxed") if number % 2 == 0 else ("sandboxed", "plain"):
                if kind == "plain":
                    seconds[kind].append(run_plain(train, options))
                else:
                    with Registration(f"bench-{os.getpid()}") as registration:
                        monitor = AccessMonitor(registration, Path(folder))
                        try:
                            for shard in train.glob("*.bin"):
                                monitor.mark(shard, shard.name)
                            seconds[kind].append(run_sandboxed(train, options, monitor, submission))
                        finally:
                            monitor.close()
                print(f"round {number + 1}: {kind:<9} {1000 * seconds[kind][-1]:8.2f} ms per step", flush=True)
    medians = {kind: statistics.median(values) for kind, values in seconds.items()}
    ratio = medians["plain"] / medians["sandboxed"]
    result = {
        "what": "training throughput in the sandbox with the monitor on, over plain; ratio of medians",
        "ratio": ratio,
        "median_seconds_per_step": medians,
        "seconds_per_step": seconds,
        "steps": arguments.steps,
        "machine": doctor.environment(),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    times = ", ".join(f"{kind} {1000 * value:.2f} ms per step" for kind, value in medians.items())
    print(f"throughput ratio {ratio:.4f} ({times})")


if __name__ == "__main__":
    main()
