"""What an audited open costs, and the start and end of a sandbox, against the same things done plainly.

    .venv/bin/python bench/audited_open.py [--opens 2000] [--sandboxes 20]

Needs root. Opens are timed in one process, of a file before it is marked, marked for one listener, and for two (as in
a run)."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from unittest import mock

from harness import access, doctor
from harness.access import AccessMonitor
from harness.registry import Registration
from harness.sandbox import SMALL, SandboxSpec
from harness.sandbox.bubblewrap import BubblewrapSandbox

RESULT = Path(__file__).resolve().parents[1] / "bench" / "results" / "audited_open.json"


def open_microseconds(path: Path, count: int) -> float:
    """Median time of an open and close, in microseconds."""
    times = []
    for _ in range(count):
        start = time.perf_counter_ns()
        os.close(os.open(path, os.O_RDONLY))
        times.append(time.perf_counter_ns() - start)
    return statistics.median(times) / 1000


def marked_open_microseconds(path: Path, count: int, listeners: int, folder: Path) -> float:
    with mock.patch.object(access, "LISTENERS", listeners), Registration(f"bench-{os.getpid()}") as registration:
        monitor = AccessMonitor(registration, folder)
        try:
            monitor.mark(path, "file")
            return open_microseconds(path, count)
        finally:
            monitor.close()


def sandbox_milliseconds(count: int) -> tuple[float, float]:
    """Medians: from nothing to launched, and from the command's exit to everything removed, in milliseconds."""
    starts, ends = [], []
    spec = SandboxSpec(label="bench", command=("/bin/true",), mounts=(), limits=SMALL)
    for _ in range(count):
        begin = time.monotonic()
        running = BubblewrapSandbox().start(spec)
        starts.append(running.launch() - begin)
        exited = None
        while (event := running.event()) is None or event.kind != "empty":
            if event is not None:
                exited = event.at
            time.sleep(0.0005)
        running.close()
        ends.append(time.monotonic() - exited)
    return 1000 * statistics.median(starts), 1000 * statistics.median(ends)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--opens", type=int, default=2000)
    parser.add_argument("--sandboxes", type=int, default=20)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "file"
        path.write_bytes(b"x" * 4096)
        plain = open_microseconds(path, arguments.opens)
        one = marked_open_microseconds(path, arguments.opens, 1, folder)
        two = marked_open_microseconds(path, arguments.opens, 2, folder)
    start, end = sandbox_milliseconds(arguments.sandboxes)
    begin = time.monotonic()
    for _ in range(arguments.sandboxes):
        subprocess.run(["/bin/true"], check=True)
    process = 1000 * (time.monotonic() - begin) / arguments.sandboxes
    result = {
        "what": "medians; opens in microseconds, sandboxes in milliseconds",
        "open_plain": plain,
        "open_one_listener": one,
        "open_two_listeners": two,
        "sandbox_start_to_launch": start,
        "sandbox_exit_to_removed": end,
        "plain_process": process,
        "machine": doctor.environment(),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(f"open: plain {plain:.1f} us, one listener {one:.1f} us, two {two:.1f} us ({two / plain:.0f}x)")
    print(f"sandbox: {start:.1f} ms to launch, {end:.1f} ms to remove; a plain process {process:.1f} ms")


if __name__ == "__main__":
    sys.exit(main())
