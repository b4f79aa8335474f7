"""The train phase: prepare on made-up tokens, open the shards, train until the clock says so, leave the average."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from submission.checkpoint import save_checkpoint
from submission.config import CONFIGURATIONS, Configuration, TrainConfig
from submission.data import batches
from submission.model import Transformer
from submission.muon import build_optimizers
from submission.phase import CHECKPOINT_PATH, OUTPUT_DIRECTORY, TRAIN_DIRECTORY, Phase, read_phase, use_device

LOG_SECONDS = 1.0


def lr_scale(elapsed: float, budget: float, step_seconds: float, warmdown_steps: int) -> float:
    """The factor on every learning rate: 1, then linear in time to 0 at `budget` seconds.

    The descent is as long as `warmdown_steps` steps of `step_seconds` take, or the whole budget where that is shorter.
    """
    warmdown = min(warmdown_steps * step_seconds, budget)
    remaining = max(0.0, budget - elapsed)
    return 1.0 if remaining >= warmdown else remaining / warmdown


def muon_momentum(step: int, config: TrainConfig) -> float:
    """Muon's momentum at a step: linear from its start to its final value over muon_momentum_steps."""
    progress = min(1.0, step / config.muon_momentum_steps)
    return config.muon_momentum_start + progress * (config.muon_momentum - config.muon_momentum_start)


@dataclass
class Trainer:
    """Model, optimizers and the running average of the weights; `step` is one update."""

    model: Transformer
    loss: Callable[[Tensor, Tensor], Tensor]  # the model, compiled where that pays
    config: TrainConfig

    def __post_init__(self) -> None:
        self.parameters = list(self.model.parameters())
        self.average = [param.detach().clone() for param in self.parameters]
        self.muon, self.adamw = build_optimizers(self.model, self.config)

    def step(self, batch: np.ndarray, scale: float, momentum: float) -> Tensor:
        """One update from int64 [batch_sequences, length + 1] tokens; the mean loss in nats, left on the device."""
        config, device = self.config, self.parameters[0].device
        tokens = torch.from_numpy(batch).to(device, non_blocking=True)
        total = torch.zeros((), device=device)
        micro_batches = config.batch_sequences // config.micro_batch_sequences
        for micro in tokens.chunk(micro_batches):
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = self.loss(micro[:, :-1], micro[:, 1:]) / micro_batches
            loss.backward()
            total += loss.detach()
        nn.utils.clip_grad_norm_(self.parameters, config.gradient_clip)
        for group in self.muon.param_groups:
            group["momentum"] = momentum
        for group in self.muon.param_groups + self.adamw.param_groups:
            group["lr"] = group["base_lr"] * scale
        for optimizer in (self.muon, self.adamw):
            optimizer.step()
            optimizer.zero_grad()
        torch._foreach_lerp_(self.average, [param.detach() for param in self.parameters], 1 - config.ema_decay)
        return total

    def averaged_weights(self) -> dict[str, Tensor]:
        """The exponential moving average of the weights, by name."""
        names = [name for name, _ in self.model.named_parameters()]
        return dict(zip(names, self.average, strict=True))


def prepare(configuration: Configuration, seed: int, device: torch.device) -> Trainer:
    """A trainer with fresh weights, after warm-up steps on random tokens that are rolled back. Touches no data."""
    config = configuration.train
    model = Transformer(configuration.model)
    model.initialise(seed)
    model.to(device)
    loss = torch.compile(model) if device.type == "cuda" else model
    fresh = {name: weight.clone() for name, weight in model.state_dict().items()}
    rehearsal = Trainer(model, loss, config)
    random = np.random.Generator(np.random.Philox(seed))
    shape = (config.batch_sequences, config.sequence_length + 1)
    for _ in range(config.warmup_steps):
        rehearsal.step(random.integers(configuration.model.vocab_size, size=shape), 1.0, config.muon_momentum_start)
    model.load_state_dict(fresh)
    return Trainer(model, loss, config)


def train(trainer: Trainer, data: Iterator[np.ndarray], budget: float) -> None:
    """Train until the next step would end after `budget` seconds from now. The first batch opens the first shard."""
    config = trainer.config
    started = logged = time.monotonic()
    steps, elapsed, step_seconds = 0, 0.0, 0.0
    while elapsed + step_seconds < budget:
        scale = lr_scale(elapsed, budget, step_seconds, config.warmdown_steps)
        loss = trainer.step(next(data), scale, muon_momentum(steps, config))
        steps += 1
        now = time.monotonic()
        elapsed = now - started
        step_seconds = elapsed / steps
        last = elapsed + step_seconds >= budget
        if last or now - logged >= LOG_SECONDS:
            logged = now
            total = steps if last else steps + int((budget - elapsed) / step_seconds)
            print(f"step:{steps}/~{total} train_loss:{loss.item():.4f} elapsed:{elapsed:.1f}s", flush=True)


def run(configuration: Configuration, phase: Phase, train_directory: Path, output_directory: Path) -> None:
    """The whole phase. Raises ValueError when the phase's vocabulary is not the model's or there is no data."""
    if phase.vocab_size != configuration.model.vocab_size:
        raise ValueError(f"the model has {configuration.model.vocab_size} tokens, the rules {phase.vocab_size}")
    config = configuration.train
    trainer = prepare(configuration, phase.seed, use_device(phase.threads))
    shards = sorted(train_directory.glob("*.bin"))
    data = batches(shards, config.batch_sequences, config.sequence_length, phase.seed)
    train(trainer, data, phase.clock_seconds - config.reserve_seconds)
    save_checkpoint(output_directory / CHECKPOINT_PATH.name, trainer.averaged_weights())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", choices=CONFIGURATIONS, required=True)
    run(CONFIGURATIONS[parser.parse_args().config], read_phase(), TRAIN_DIRECTORY, OUTPUT_DIRECTORY)


if __name__ == "__main__":
    main()
