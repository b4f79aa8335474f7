"""What the checks of data and submission before a run cost: val documents in train, and slices of shards in a
submission's folder.

    .venv/bin/python bench/data_overlap.py [--shards 8] [--shard-tokens 25000000] [--val-tokens 62021846]

Random tokens in documents of random length; a fifth of each train shard is the same part of val, so that looking up
what is found is timed, too. Rates are of the second half of the shards, all less the first half, which leaves out what
is done once (val's own runs, `once_seconds`). Files are in memory (/dev/shm). For the record's data nothing is
measured; `extrapolated` is the measured rate applied to 8,000,000,000 train tokens."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from harness import doctor
from harness.data.overlap import measure
from harness.data.shards import BOS, write_shard
from harness.data.slices import find_slice

RESULT = Path(__file__).resolve().parents[1] / "bench" / "results" / "data_overlap.json"
RECORD_TRAIN_TOKENS = 8_000_000_000
SUBMISSION_BYTES = 2_000_000
DOCUMENT_TOKENS = 500  # on average
FROM_VAL = 0.2


def random_documents(tokens: int, generator: np.random.Generator) -> np.ndarray:
    """uint16 [tokens]"""
    text = generator.integers(3, 1024, tokens, dtype=np.uint16)
    text[generator.random(tokens, dtype=np.float32) < 1 / DOCUMENT_TOKENS] = BOS
    text[0] = BOS
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shards", type=int, default=8)
    parser.add_argument("--shard-tokens", type=int, default=25_000_000)
    parser.add_argument("--val-tokens", type=int, default=62_021_846)
    arguments = parser.parse_args()
    generator = np.random.default_rng(0)
    cores = len(os.sched_getaffinity(0))
    overlap_rates, documents = {}, 0
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        val = random_documents(arguments.val_tokens, generator)
        shards = [Path(name, f"{number}.bin") for number in range(arguments.shards)]
        for shard in shards:
            own = random_documents(arguments.shard_tokens, generator)
            copied = int(FROM_VAL * len(own))
            own[:copied] = val[:copied]
            write_shard(shard, own)
        half = arguments.shards // 2
        for threads in (1, cores):
            seconds = []
            for some in (shards[:half], shards):
                start = time.monotonic()
                documents = measure(some, val, threads=threads).documents
                seconds.append(time.monotonic() - start)
            overlap_rates[threads] = (arguments.shards - half) * arguments.shard_tokens / (seconds[1] - seconds[0])
            once_seconds = seconds[1] - arguments.shards * arguments.shard_tokens / overlap_rates[threads]
        folder = Path(name, "submission")
        folder.write_bytes(generator.bytes(SUBMISSION_BYTES))
        start = time.monotonic()
        assert find_slice([folder], shards) is None
        slice_rate = sum(shard.stat().st_size for shard in shards) / (time.monotonic() - start)
    result = {
        "what": "tokens of train per second against val, by threads; bytes of shards per second against a submission",
        "val_tokens": arguments.val_tokens,
        "val_documents": documents,
        "once_seconds": round(once_seconds, 2),
        "overlap_tokens_per_second": {str(threads): round(rate) for threads, rate in overlap_rates.items()},
        "slices_bytes_per_second": round(slice_rate),
        "extrapolated_overlap_seconds": {
            str(threads): round(once_seconds + RECORD_TRAIN_TOKENS / rate) for threads, rate in overlap_rates.items()
        },
        "extrapolated_slices_seconds": round(2 * RECORD_TRAIN_TOKENS / slice_rate),
        "machine": doctor.environment(),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "machine"}, indent=2))


if __name__ == "__main__":
    sys.exit(main())
