"""The workload of sandbox_overhead.py: the submission's own training steps on real shards. Prints seconds per step."""

import argparse
import json
import time
from pathlib import Path

from submission.config import CONFIGURATIONS
from submission.data import batches
from submission.phase import use_device
from submission.train import prepare

parser = argparse.ArgumentParser()
parser.add_argument("--shards", type=Path, required=True)
parser.add_argument("--steps", type=int, required=True)
parser.add_argument("--threads", type=int, required=True)
arguments = parser.parse_args()

configuration = CONFIGURATIONS["demo"]
trainer = prepare(configuration, seed=0, device=use_device(arguments.threads))
shards = sorted(arguments.shards.glob("*.bin"))
data = batches(shards, configuration.train.batch_sequences, configuration.train.sequence_length, seed=0)
start = time.monotonic()
for _ in range(arguments.steps):
    trainer.step(next(data), 1.0, 0.9)
print(json.dumps({"seconds_per_step": (time.monotonic() - start) / arguments.steps}))
