"""The eval phase: a model server that answers sliding windows with logits, one process per GPU."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from harness.scoring import wire
from submission.adapt import Adapter, rehearse
from submission.codec import ArtifactError, decode, load_weights
from submission.config import CONFIGURATIONS, AdaptConfig, AdaptedParameters, Configuration
from submission.model import Transformer
from submission.phase import ARTIFACT_PATH, Phase, read_phase, use_device
from submission.ranks import Rank, count_ranks, run_ranks


@torch.inference_mode()
def window_logits(model: Transformer, tokens: Tensor, scored: int) -> Tensor:
    """tokens int [B, N] -> float32 [B, scored, V]; bfloat16 inside on CUDA, as in training."""
    with torch.autocast(tokens.device.type, torch.bfloat16, enabled=tokens.is_cuda):
        return model.logits(tokens, scored)


def to_host(logits: Tensor) -> Tensor:
    """The logits on the CPU; from a GPU through pinned memory, which torch keeps for the next request."""
    if not logits.is_cuda:
        return logits
    return torch.empty(logits.shape, dtype=logits.dtype, pin_memory=True).copy_(logits)


def prepare(configuration: Configuration, device: torch.device) -> Transformer:
    """A model without its weights, after both shapes of request have been run once on made-up tokens."""
    model, config = Transformer(configuration.model).to(device), configuration.serve
    tokens = torch.zeros((config.batch, config.window), dtype=torch.int64, device=device)
    to_host(window_logits(model, tokens[:1], config.window))
    to_host(window_logits(model, tokens, config.stride))
    return model


def hello(configuration: Configuration, adapt: AdaptConfig | None = None, rank: int = 0, ranks: int = 1) -> wire.Hello:
    """What the server declares before it is sent a token."""
    config = configuration.serve
    return wire.Hello(
        vocab_size=configuration.model.vocab_size,
        window=config.window,
        stride=config.stride,
        batch=config.batch,
        rank=rank,
        world_size=ranks,
        chunk=adapt.chunk_tokens if adapt else 0,
    )


def load_artifact(path: Path, model: Transformer) -> None:
    """Load the artifact into the model. Raises ArtifactError when it is damaged or of another configuration."""
    config, weights = decode(path.read_bytes())
    if config != model.config:
        raise ArtifactError(f"the artifact holds a model of {config}, the server expects {model.config}")
    load_weights(model, weights)


def answer(session: wire.Session, model: Transformer, adapter: Adapter | None = None) -> None:
    """Answer requests until everything is scored. The scorer works on one slot while another is answered here."""
    device = model.token_embedding.weight.device
    for request in session.requests(adapter.observe if adapter else None):
        tokens = torch.from_numpy(request.tokens.astype("int64")).to(device)
        request.logits[:] = to_host(window_logits(model, tokens, request.scored)).numpy()
        request.reply()


def serve(
    configuration: Configuration, phase: Phase, adapt: AdaptConfig | None, weights: Path | None, rank: Rank
) -> None:
    """The whole phase of one rank. The artifact, or `weights`, is opened when every rank has prepared."""
    session = wire.Session(hello(configuration, adapt, rank.number, rank.count))  # the scorer plans while we prepare
    device = use_device(phase.threads, rank.number, rank.count)
    model = prepare(configuration, device)
    if adapt:
        rank.join_group(device)
        rehearse(model, adapt, rank.number, rank.count)
    rank.wait_for_all()
    if weights is None:
        load_artifact(ARTIFACT_PATH, model)
    else:
        from submission.checkpoint import load_checkpoint  # not among the files that count as eval code

        load_checkpoint(weights, model)
    answer(session, model, Adapter(model, adapt, rank.number, rank.count) if adapt else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", choices=CONFIGURATIONS, required=True)
    parser.add_argument("--adapt", choices=get_args(AdaptedParameters), help="learn from what has been scored")
    parser.add_argument("--weights", type=Path, help="serve this float checkpoint instead of the artifact")
    arguments = parser.parse_args()
    configuration = CONFIGURATIONS[arguments.config]
    adapt = replace(configuration.adapt, parameters=arguments.adapt) if arguments.adapt else None
    work = partial(serve, configuration, read_phase(), adapt, arguments.weights)
    run_ranks(count_ranks(configuration.serve.ranks), work)


if __name__ == "__main__":
    main()
