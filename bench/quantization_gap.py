"""What quantization costs: the checkpoint and the artifact of one finished run, scored by the harness's own scorer.

    .venv/bin/python bench/quantization_gap.py runs/<run> [--data data/demo]

The artifact's score is the run's own. The checkpoint is served by the same model server, in a sandbox, over the same
windows."""

from __future__ import annotations

import argparse
import json
import os
import socket
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console

from harness.clock import PhaseClock
from harness.data.manifest import Manifest
from harness.data.shards import read_shard
from harness.evidence.record import Record
from harness.progress import ConsoleObserver
from harness.registry import Registration
from harness.sandbox import Limits, Mount, SandboxSpec
from harness.sandbox.bubblewrap import BubblewrapSandbox
from harness.scoring.bpb import bits_per_byte
from harness.scoring.probes import Comparison
from harness.scoring.scorer import Scorer
from harness.supervisor import Log, Supervisor

PATIENCE_SECONDS = 3600.0


@dataclass(frozen=True)
class Gap:
    """Bits per byte of one seed's checkpoint (as the quantizer saw it) and of its artifact."""

    seed: int
    checkpoint_bpb: float
    artifact_bpb: float

    @property
    def bpb(self) -> float:
        return self.artifact_bpb - self.checkpoint_bpb


def measure(run: Path, data: Path, configuration: str) -> list[Gap]:
    """The gap of every seed of a finished run."""
    record = Record.model_validate_json((run / "record.json").read_text())
    manifest = Manifest.load(data)
    val = np.concatenate([read_shard(data / shard.file) for shard in manifest.val])
    gaps = []
    for seed in record.seeds:
        checkpoint = run / f"seed-{seed.seed}" / "checkpoint.safetensors"
        nats = score_checkpoint(run / "submission", checkpoint, configuration, val, manifest.vocab_size)
        gaps.append(Gap(seed.seed, bits_per_byte(float(nats.sum(dtype=np.float64)), seed.bytes), seed.val_bpb))
    return gaps


def score_checkpoint(submission: Path, checkpoint: Path, configuration: str, val: np.ndarray, vocab: int) -> np.ndarray:
    """Nats per token, float32 [N - 1], of the float checkpoint under the submission's own model server."""
    with (
        tempfile.TemporaryDirectory() as folder,
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener,
        Registration(f"gap-{os.getpid()}") as registration,
    ):
        path = Path(folder) / "scorer.sock"
        listener.bind(str(path))
        path.chmod(0o666)
        listener.listen()
        phase = {
            "seed": 0,
            "threads": len(os.sched_getaffinity(0)),
            "clock_seconds": PATIENCE_SECONDS,
            "vocab_size": vocab,
        }
        (Path(folder) / "phase.json").write_text(json.dumps(phase))
        weights = "/in/checkpoint/checkpoint.safetensors"
        spec = SandboxSpec(
            label="quantization gap",
            command=("python", "-m", "submission.serve", "--config", configuration, "--weights", weights),
            mounts=(
                Mount(source=submission, target="/in/submission"),
                Mount(source=checkpoint, target=weights),
                Mount(source=Path(folder) / "phase.json", target="/in/phase.json"),
                Mount(source=path, target="/in/scorer.sock"),
            ),
            limits=Limits(
                processes=4096,
                open_files=4096,
                memory_bytes=1 << 34,
                output_bytes=1 << 20,
                output_files=10,
                scratch_bytes=1 << 30,
                shared_memory_bytes=1 << 30,
            ),
        )
        observer = ConsoleObserver(Console(stderr=True, soft_wrap=True))
        supervisor = Supervisor(
            seed=0,
            phase="checkpoint",
            clock=PhaseClock(PATIENCE_SECONDS, PATIENCE_SECONDS, PATIENCE_SECONDS, gate_is_seen=False),
            gate=frozenset(),
            monitor=None,
            registration=registration,
            observer=observer,
            log=Log(Path(folder) / "log", 1 << 20, observer),
            scorer=Scorer(
                val, vocab, listener, observer.scored, comparison=Comparison(1.0, 1.0), probe_share=0.0, other=val
            ),
        )
        outcome = supervisor.run(BubblewrapSandbox(), spec, {}, Path(folder))
        if outcome.score is None:
            raise SystemExit(
                f"the checkpoint could not be scored: {outcome.violations}\n{(Path(folder) / 'log').read_text()}"
            )
        return outcome.score.nats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--data", type=Path, default=Path("data/demo"))
    parser.add_argument("--config", default="demo")
    arguments = parser.parse_args()
    for gap in measure(arguments.run, arguments.data, arguments.config):
        scores = f"checkpoint {gap.checkpoint_bpb:.5f}, artifact {gap.artifact_bpb:.5f}"
        print(f"seed {gap.seed}: {scores}, gap {gap.bpb:+.5f} BPB")


if __name__ == "__main__":
    main()
