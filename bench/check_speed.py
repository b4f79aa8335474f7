"""How many scripts a second `harness check` reads over all cores, and whether its time is linear in a script's size.

    .venv/bin/python bench/check_speed.py [--scripts 400] [--rounds 3] [--folder DIR]

The scripts are made here, of the shape that the contest's have: a model, an optimizer loop over train shards, helper
functions that call each other, a sliding evaluation that carries loss into a score; a script of n kB repeats these with
other names. `scripts_per_second` is for scripts of 50 kB, reading included, after imports, in the best of the rounds.
`seconds_by_kilobytes` is one script in one process of those that `harness check` works with, the best of the rounds,
without the search for garbage that follows each script there; `exponent` is the slope of log seconds over log size from
20 kB on: 1 is linear. With --folder, the scripts below a folder are timed too: all of them over all cores, and one by
one in one such process."""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path

from harness import doctor
from harness.compliance.check import TARGET_SECONDS, WORKER_MEMORY_BYTES, check_all, check_target, find_targets
from harness.compliance.inputs import Target
from harness.compliance.workers import run_all

RESULT = Path(__file__).resolve().parents[1] / "bench" / "results" / "check_speed.json"
KILOBYTES = (10, 20, 40, 80, 160, 320)
USUAL_KILOBYTES = 50
HEAD = """import glob
import math
import os
import time

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

STEPS = int(os.environ.get("STEPS", 20000))
LIMIT = float(os.environ.get("MAX_WALLCLOCK_SECONDS", 600))
TRAIN = os.environ.get("TRAIN", "data/fineweb_train_*.bin")
VAL = os.environ.get("VAL", "data/fineweb_val_*.bin")


def load(pattern):
    return torch.cat([torch.from_numpy(np.fromfile(name, dtype=np.uint16)) for name in sorted(glob.glob(pattern))])
"""
BLOCK = """

class Block{n}(nn.Module):
    def __init__(self, width={width}, heads=8):
        super().__init__()
        self.heads, self.gain = heads, nn.Parameter(torch.ones(width))
        self.query = nn.Linear(width, width, bias=False)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width, bias=False)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, cache=None):
        batch, length, width = x.shape
        shape = (batch, length, self.heads, width // self.heads)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.query, self.key, self.value))
        if cache is not None:
            k, v = torch.cat([cache[0], k], 2), torch.cat([cache[1], v], 2)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=cache is None)
        x = x + self.gain * y.transpose(1, 2).reshape(batch, length, width)
        return x + self.down(F.relu(self.up(helper{n}(x, {n}))).square())


def helper{n}(tensor, level, table=None):
    scales = {{}}
    for index, row in enumerate(tensor.unbind(0)):
        largest = row.abs().amax().item() if row.numel() else 0.0
        if largest > level and table is not None:
            scales[index] = table[index % len(table)]
        elif largest > 0:
            scales[index] = largest / 127
    codes = [(row / scales.get(index, 1.0)).round() for index, row in enumerate(tensor.unbind(0))]
    return {previous}


def score{n}(model, tokens, stride=64, window=1024):
    total, count = 0.0, 0
    for start in range(0, tokens.numel() - window, stride):
        piece = tokens[start : start + window + 1].long()
        inputs, targets = piece[:-1][None], piece[1:][None]
        with torch.no_grad():
            logits = model(inputs)
        losses = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
        fresh = losses[-stride:] if start else losses
        total, count = total + fresh.sum().item(), count + fresh.numel()
    return total / max(count, 1) / math.log(2)
"""
TAIL = """

class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(1024, 512)
        self.blocks = nn.ModuleList([{blocks}])

    def forward(self, x):
        x = self.embedding(x)
        for block in self.blocks:
            x = block(x)
        return x @ self.embedding.weight.T


def main():
    model, tokens, val = Model(), load(TRAIN), load(VAL)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    start = time.perf_counter()
    for step in range(STEPS):
        if time.perf_counter() - start > LIMIT:
            break
        at = step * 8192 % (tokens.numel() - 8193)
        batch = tokens[at : at + 8193].long()
        loss = F.cross_entropy(model(batch[:-1][None]).flatten(0, 1), batch[1:])
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    results = [{scores}]
    print(f"val_bpb:{{sum(results) / len(results):.6f}}")


if __name__ == "__main__":
    main()
"""


def script(kilobytes: int, variant: int = 0) -> str:
    """About that many kilobytes (1,000 bytes) of Python; `variant` makes it another text."""
    blocks, number, size = [], variant * 1000, len(HEAD) + len(TAIL)
    while size < 1000 * kilobytes:
        previous = "torch.stack(codes)" if not blocks else f"helper{number - 1}(torch.stack(codes), level + 1)"
        blocks.append(BLOCK.format(n=number, width=64 * (number % 8 + 1), previous=previous))
        size += len(blocks[-1]) + 35
        number += 1
    numbers = range(variant * 1000, number)
    tail = TAIL.format(
        blocks=", ".join(f"Block{n}()" for n in numbers), scores=", ".join(f"score{n}(model, val)" for n in numbers)
    )
    return HEAD + "".join(blocks) + tail


def timed(work) -> float:
    start = time.monotonic()
    work()
    return time.monotonic() - start


def seconds_of(target: Target) -> float:
    return timed(lambda: check_target(target))


def in_one_process(targets: list[Target]) -> list[float]:
    """Seconds for each target, one after the other, in a process as `check_all` starts them."""
    limits = {"seconds": TARGET_SECONDS, "memory_bytes": WORKER_MEMORY_BYTES}
    found = dict(run_all(seconds_of, targets, processes=1, **limits))
    return [found[index] for index in range(len(targets))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scripts", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path)
    arguments = parser.parse_args()
    load = os.getloadavg()[0]  # of the minute before: what else the machine was doing
    with tempfile.TemporaryDirectory() as name:
        many, sizes = Path(name, "many"), Path(name, "sizes")
        many.mkdir()
        sizes.mkdir()
        for number in range(arguments.scripts):
            (many / f"{number:04}.py").write_text(script(USUAL_KILOBYTES, number))
        for kilobytes in KILOBYTES:
            (sizes / f"{kilobytes}.py").write_text(script(kilobytes))
        check_all(find_targets([many / "0000.py"]))  # imports and compiled patterns
        paths = sorted(many.iterdir())
        rate = len(paths) / min(timed(lambda: check_all(find_targets(paths))) for _ in range(arguments.rounds))
        by_size = find_targets([sizes / f"{kilobytes}.py" for kilobytes in KILOBYTES])
        rounds = [in_one_process(by_size) for _ in range(arguments.rounds)]
        seconds = dict(zip(KILOBYTES, map(min, zip(*rounds, strict=True)), strict=True))
    scripts = find_targets(sorted(arguments.folder.rglob("*.py"))) if arguments.folder else []
    result = {
        "what": "scripts read per second over all cores; seconds for one script by its size, in one process",
        "cores": len(os.sched_getaffinity(0)),
        "load_before": round(load, 2),
        "scripts": arguments.scripts,
        "kilobytes": USUAL_KILOBYTES,
        "scripts_per_second": round(rate, 1),
        "seconds_by_kilobytes": {str(kilobytes): round(value, 4) for kilobytes, value in seconds.items()},
        "exponent": round(slope({size: value for size, value in seconds.items() if size >= 20}), 3),
        "folder": folder_facts(scripts, arguments.rounds) if scripts else None,
        "machine": doctor.environment(),
    }
    RESULT.write_text(json.dumps(result, indent=2) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "machine"}, indent=2))


def slope(seconds: dict[int, float]) -> float:
    """Of the straight line through log seconds over log size, by least squares."""
    points = [(math.log(size), math.log(value)) for size, value in seconds.items()]
    mean_x, mean_y = (sum(values) / len(points) for values in zip(*points, strict=True))
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / sum((x - mean_x) ** 2 for x, _ in points)


def folder_facts(targets: list[Target], rounds: int) -> dict:
    """Numbers only: names and code of other people's scripts are not written down."""
    over_all_cores = min(timed(lambda: check_all(targets)) for _ in range(rounds))
    seconds = sorted(in_one_process(targets))
    return {
        "scripts": len(targets),
        "bytes": sum(target.files[0].bytes for target in targets),
        "scripts_per_second": round(len(targets) / over_all_cores, 1),
        "scripts_per_second_and_core": round(len(targets) / sum(seconds), 2),
        "median_seconds": round(seconds[len(seconds) // 2], 4),
        "longest_seconds": round(seconds[-1], 3),
    }


if __name__ == "__main__":
    sys.exit(main())
