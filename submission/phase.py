"""What the harness tells a phase: /in/phase.json, and where a phase finds its inputs and leaves its outputs."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

import torch

PHASE_PATH = Path("/in/phase.json")
TRAIN_DIRECTORY = Path("/in/train")
CHECKPOINT_PATH = Path("/in/checkpoint/checkpoint.safetensors")
ARTIFACT_PATH = Path("/in/artifact/artifact.bin")
OUTPUT_DIRECTORY = Path("/out")


@dataclass(frozen=True, kw_only=True)
class Phase:
    """The parameters of a phase.

    clock_seconds: what is left on the clock that starts at the gate. threads: CPU threads to use. calibration_key
    (64 hexadecimal digits) and size_limit (bytes left for the artifact) are there in the quantize phase only.
    """

    seed: int
    threads: int
    clock_seconds: float
    vocab_size: int
    calibration_key: str | None = None
    size_limit: int | None = None


def read_phase(path: Path = PHASE_PATH) -> Phase:
    """The phase's parameters; other keys are left aside. Raises TypeError when one that is needed is missing."""
    values = json.loads(path.read_text())
    return Phase(**{entry.name: values[entry.name] for entry in fields(Phase) if entry.name in values})


def use_device(threads: int, rank: int = 0, ranks: int = 1) -> torch.device:
    """The GPU of this rank if there are any, else the CPU; the rank's share of `threads` CPU threads either way."""
    torch.set_num_threads(max(1, threads // ranks))
    if not torch.cuda.is_available():
        return torch.device("cpu")
    torch.cuda.set_device(rank)
    return torch.device("cuda", rank)
