"""The minimal honest submission again and again: how often is it not PASS, and what does a whole run cost?

    .venv/bin/python bench/honest_runs.py [--count 200]

Needs root. A run is a whole `harness record` process under the toy rules of the tests, with all three phases and
trivial work."""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from harness import doctor

REPOSITORY = Path(__file__).resolve().parents[1]
RESULT = REPOSITORY / "bench" / "results" / "honest_runs.json"
sys.path.insert(0, str(REPOSITORY / "tests"))


def main() -> None:
    from crashes import toy_command
    from support import make_toy_data

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=200)
    arguments = parser.parse_args()
    verdicts: Counter[str] = Counter()
    seconds: list[float] = []
    sandbox_seconds: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        data = make_toy_data(Path(folder) / "data")
        for number in range(arguments.count):
            out = Path(folder) / f"runs-{number}"
            start = time.monotonic()
            subprocess.run(toy_command(data, out), cwd=REPOSITORY, stdout=subprocess.DEVNULL, check=False)
            seconds.append(time.monotonic() - start)
            record = json.loads(next(out.glob("*/record.json")).read_text())
            verdicts[record["verdict"]] += 1
            phases = record["seeds"][0]["phases"].values()
            sandbox_seconds.append(sum(phase["prepare_seconds"] + phase["clock_seconds"] for phase in phases))
            print(f"{number + 1}: {record['verdict']} in {seconds[-1]:.2f} s", flush=True)
    result = {
        "what": "whole toy records, all three phases, trivial work",
        "count": arguments.count,
        "verdicts": dict(verdicts),
        "median_seconds": statistics.median(seconds),
        "longest_seconds": max(seconds),
        "median_seconds_in_sandboxes": statistics.median(sandbox_seconds),
        "machine": doctor.environment(),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(
        f"{dict(verdicts)}; median {result['median_seconds']:.2f} s, of which "
        f"{result['median_seconds_in_sandboxes']:.2f} s in sandboxes; longest {max(seconds):.2f} s"
    )
    sys.exit(set(verdicts) != {"PASS"})


if __name__ == "__main__":
    main()
