"""What each phase may see, must leave, and has time for. Data only: nothing here starts or opens anything.

A phase's inputs are mounted at fixed places under /in. The gated ones (`gate`) start its clock at their first open.
Where another phase has an input that this one may not see, lies a decoy: a file without data whose opening the kernel
reports like any forbidden open."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.contestant import Contestant
from harness.rules import Rules
from harness.sandbox import Mount

CHECKPOINT, ARTIFACT, CALIBRATION = "checkpoint.safetensors", "artifact.bin", "calibration.bin"
SUBMISSION_TARGET = "/in/submission"
PARAMETERS_TARGET = "/in/phase.json"
SOCKET_TARGET = "/in/scorer.sock"


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """Everything that any phase of one seed's run can be given, as host paths. What does not exist yet is None."""

    train_shards: Sequence[Path]
    val_names: Sequence[str]  # val shards are never mounted; their names are for decoys
    decoys: Mapping[str, Path]  # "train", "val", "checkpoint" -> the file that stands for such an input
    checkpoint: Path | None = None
    artifact: Path | None = None
    socket: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One phase of one seed's run.

    mounts: all that it sees besides the system, its parameters and /out. gate: the host paths among them whose first
    open starts the clock. outputs: file name -> most bytes. Seconds are limits."""

    name: str
    command: tuple[str, ...]
    mounts: tuple[Mount, ...]
    gate: tuple[Path, ...]
    outputs: Mapping[str, int]
    prepare_seconds: float
    clock_seconds: float
    parameters: Mapping[str, object]


def train_phase(rules: Rules, contestant: Contestant, inputs: Inputs, checkpoint_bytes: int) -> Phase:
    """Train sees the train shards and must leave the checkpoint."""
    shards = [Mount(source=path, target=f"/in/train/{path.name}") for path in inputs.train_shards]
    return Phase(
        name="train",
        command=contestant.commands.train,
        mounts=(_whole_submission(contestant), *shards, *_decoys(inputs, val=True)),
        gate=tuple(inputs.train_shards),
        outputs={CHECKPOINT: checkpoint_bytes},
        prepare_seconds=rules.prepare.train_seconds,
        clock_seconds=rules.clock.train_seconds,
        parameters={},
    )


def quantize_phase(
    rules: Rules, contestant: Contestant, inputs: Inputs, train_clock_seconds: float, calibration_key: str
) -> Phase:
    """Quantize sees the checkpoint, nothing else, and must leave the artifact and its calibration tokens."""
    shared = rules.clock.quantize_shares_train
    return Phase(
        name="quantize",
        command=contestant.commands.quantize,
        mounts=(
            _whole_submission(contestant),
            Mount(source=inputs.checkpoint, target=f"/in/checkpoint/{CHECKPOINT}"),
            *_decoys(inputs, train=True, val=True),
        ),
        gate=(inputs.checkpoint,),
        outputs={ARTIFACT: rules.limits.output_bytes, CALIBRATION: rules.limits.output_bytes},
        prepare_seconds=rules.prepare.quantize_seconds,
        clock_seconds=max(0.0, rules.clock.train_seconds - train_clock_seconds)
        if shared
        else rules.clock.quantize_seconds,
        parameters={
            "calibration_key": calibration_key,
            "size_limit": max(0, rules.size.artifact_and_code_bytes - contestant.code_bytes),
        },
    )


def eval_phase(rules: Rules, contestant: Contestant, inputs: Inputs, name: str = "eval") -> Phase:
    """Eval sees the artifact, its own files of the submission, and the scorer's socket; it must leave nothing.

    The phase that probes it afterwards is the same under another `name`, which it is not told."""
    return Phase(
        name=name,
        command=contestant.commands.eval,
        mounts=(
            Mount(source=contestant.eval_directory, target=SUBMISSION_TARGET),
            Mount(source=inputs.artifact, target=f"/in/artifact/{ARTIFACT}"),
            Mount(source=inputs.socket, target=SOCKET_TARGET),
            *_decoys(inputs, train=True, val=True, checkpoint=True),
        ),
        gate=(inputs.artifact,),
        outputs={},
        prepare_seconds=rules.prepare.eval_seconds,
        clock_seconds=rules.clock.eval_seconds,
        parameters={"phase": "eval"},
    )


def _whole_submission(contestant: Contestant) -> Mount:
    return Mount(source=contestant.directory, target=SUBMISSION_TARGET)


def _decoys(inputs: Inputs, *, train: bool = False, val: bool = False, checkpoint: bool = False) -> list[Mount]:
    names = {
        "train": [path.name for path in inputs.train_shards] if train else [],
        "val": inputs.val_names if val else [],
        "checkpoint": [CHECKPOINT] if checkpoint else [],
    }
    return [Mount(source=inputs.decoys[kind], target=f"/in/{kind}/{name}") for kind in names for name in names[kind]]
