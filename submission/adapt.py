"""Test-time training on what has been scored: plain SGD on each chunk of the stream, after its losses are fixed.

The scorer hands over a chunk when every token of it has been scored, and not before, so nothing here can raise a score
by looking ahead. Weights are changed in float32, in memory; the artifact stays what it is.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from harness.scoring import wire
from submission.config import AdaptConfig, AdaptedParameters
from submission.model import Transformer

NO_TARGET = -100  # cross_entropy leaves such positions out


def adapted_parameters(model: Transformer, which: AdaptedParameters) -> dict[str, nn.Parameter]:
    """The parameters that are trained, by name: all of them, of the MLPs, or of their second matrices."""
    part = {"all": "", "mlp": ".mlp.", "mlp_down": ".mlp.down."}[which]
    return {name: param for name, param in model.named_parameters() if part in name}


def cosine_lr(config: AdaptConfig, chunk: int, chunks: int) -> float:
    """The learning rate of a chunk: half a cosine over the stream, from `lr` at its start to 0 at its end."""
    return config.lr * 0.5 * (1 + math.cos(math.pi * chunk / chunks))


def cut_sequences(tokens: Tensor, length: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets, int64 [sequences, length], of a stretch of N + 1 tokens: each of the last N is a target once.

    `length` is cut to N where that is shorter. The last sequence is filled up with positions without a target; they
    come last, so that nothing depends on them.
    """
    length = min(length, len(tokens) - 1)
    missing = -(len(tokens) - 1) % length
    inputs, targets = F.pad(tokens[:-1], (0, missing)), F.pad(tokens[1:], (0, missing), value=NO_TARGET)
    return inputs.view(-1, length), targets.view(-1, length)


class Adapter:
    """Trains the model on observations. Every rank of the process group must observe the same ones; each computes the
    gradients of its own sequences, and all end up with the same weights, bit for bit.

    Build it when the weights are loaded: from then on only what is adapted has a gradient.
    """

    def __init__(self, model: Transformer, config: AdaptConfig, rank: int = 0, ranks: int = 1) -> None:
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # a debugging aid that costs time
        self.model, self.config, self.rank, self.ranks = model, config, rank, ranks
        model.requires_grad_(False)
        self.parameters = list(adapted_parameters(model, config.parameters).values())
        # One vector holds all gradients, so that one reduction and one norm cover them; another the running sums.
        sizes = [param.numel() for param in self.parameters]
        self.gradient, self.momentum = torch.zeros((2, sum(sizes)), device=self.parameters[0].device)
        for param, part in zip(self.parameters, self.gradient.split(sizes), strict=True):
            param.requires_grad_(True)
            param.grad = part.view_as(param)
        parts = zip(self.parameters, self.momentum.split(sizes), strict=True)
        self.directions = [part.view_as(param) for param, part in parts]

    def observe(self, observation: wire.Observation) -> None:
        """Train on one chunk: `epochs` passes over its sequences in order, a step per batch of them."""
        config = self.config
        tokens = torch.from_numpy(observation.tokens.astype(np.int64)).to(self.gradient.device)
        inputs, targets = cut_sequences(tokens, config.sequence_length)
        lr = cosine_lr(config, observation.chunk, observation.chunks)
        for _ in range(config.epochs):
            batches = (inputs.split(config.batch_sequences), targets.split(config.batch_sequences))
            for batch_inputs, batch_targets in zip(*batches, strict=True):
                self._step(batch_inputs, batch_targets, lr)

    def _step(self, inputs: Tensor, targets: Tensor, lr: float) -> None:
        """One update by the mean loss of a batch, all ranks together; inputs, targets int64 [B, N] are the same on all
        of them.
        """
        self.gradient.zero_()
        own = slice(self.rank, None, self.ranks)
        if len(inputs[own]):
            with torch.autocast(inputs.device.type, torch.bfloat16, enabled=inputs.is_cuda):
                logits = self.model.logits(inputs[own], inputs.size(1))
            nats = F.cross_entropy(
                logits.flatten(0, 1), targets[own].flatten(), ignore_index=NO_TARGET, reduction="sum"
            )
            (nats / (targets != NO_TARGET).sum()).backward()
        if self.ranks > 1:
            dist.all_reduce(self.gradient)
        norm = torch.linalg.vector_norm(self.gradient)
        self.gradient.mul_((self.config.gradient_clip / (norm + 1e-6)).clamp(max=1.0))
        self.momentum.mul_(self.config.momentum).add_(self.gradient)
        with torch.no_grad():
            torch._foreach_add_(self.parameters, self.directions, alpha=-lr)


def rehearse(model: Transformer, config: AdaptConfig, rank: int = 0, ranks: int = 1) -> None:
    """Take one step on made-up tokens, of the shape that counts. Spoils the weights: call it before they are loaded."""
    tokens = np.zeros(min(config.chunk_tokens, config.batch_sequences * config.sequence_length) + 1, np.int32)
    adapter = Adapter(model, replace(config, epochs=1), rank, ranks)
    adapter.observe(wire.Observation(tokens, 0, 1))
