"""What one busy process of another session costs a phase whose threads wait for each other at every step; with the
weight that the harness gives the phase, and without it.

    .venv/bin/python bench/busy_neighbour.py [--rounds 3]

The phase multiplies small matrices on all cores in a real sandbox. Three ways alternate: alone; beside a busy process
of the lowest priority, as `supervisor.py` runs a phase; beside it without `processes.favour`. Needs root."""

from __future__ import annotations

import argparse
import json
import os
import select
import statistics
import subprocess
import sys
from pathlib import Path

from harness import doctor
from harness.sandbox import Limits, SandboxSpec, bubblewrap
from harness.sandbox.bubblewrap import BubblewrapSandbox

RESULT = Path(__file__).resolve().parents[1] / "bench" / "results" / "busy_neighbour.json"
WORK = """
import statistics, time, torch
torch.set_num_threads({threads})
weights, x = torch.randn(256, 256), torch.randn(64, 256)
def step():
    y = x
    for _ in range(100):
        y = torch.relu(y @ weights) * 0.01 + y
times = []
for _ in range(16):
    begin = time.perf_counter()
    step()
    times.append(time.perf_counter() - begin)
print(statistics.median(times[4:]))
"""
LIMITS = Limits(
    processes=512,
    open_files=4096,
    memory_bytes=1 << 33,
    output_bytes=1 << 20,
    output_files=10,
    scratch_bytes=1 << 24,
    shared_memory_bytes=1 << 24,
)


def seconds_per_step(*, busy: bool, favoured: bool) -> float:
    """Median over the steps of one sandbox."""
    cores = len(os.sched_getaffinity(0))
    command = ("python", "-c", WORK.format(threads=cores))
    real = bubblewrap.favour
    bubblewrap.favour = real if favoured else lambda pid, nice: None
    hog = None
    if busy:
        hog = subprocess.Popen(["nice", "-n", "19", sys.executable, "-c", "while True: pass"], start_new_session=True)
    running = BubblewrapSandbox().start(SandboxSpec(label="bench", command=command, mounts=(), limits=LIMITS))
    try:
        running.launch()
        seen = False
        while (event := running.event()) is None or event.kind != "empty":
            select.select([running], [], [], 0.01)
            seen = seen or running.confinement() is not None
        return float(os.read(running.log_descriptor, 1000))
    finally:
        running.close()
        bubblewrap.favour = real
        if hog:
            hog.kill()
            hog.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    rounds = parser.parse_args().rounds
    ways = {
        "alone": {"busy": False, "favoured": True},
        "beside a busy process": {"busy": True, "favoured": True},
        "beside it, not favoured": {"busy": True, "favoured": False},
    }
    found: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, how in ways.items():
            found[way].append(seconds_per_step(**how))
    medians = {way: statistics.median(times) for way, times in found.items()}
    for way, median in medians.items():
        print(f"{way}: {median * 1e3:.1f} ms a step, {median / medians['alone']:.2f} times that alone")
    RESULT.write_text(
        json.dumps({"seconds_per_step": found, "medians": medians, "machine": doctor.environment()}, indent=1) + "\n"
    )


if __name__ == "__main__":
    main()
