"""The eval phase: a model server that answers sliding windows with logits."""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from torch import Tensor

from harness.scoring import wire
from submission.codec import ArtifactError, decode, load_weights
from submission.config import CONFIGURATIONS, Configuration
from submission.model import Transformer
from submission.phase import ARTIFACT_PATH, read_phase, use_device


@torch.inference_mode()
def window_logits(model: Transformer, tokens: Tensor, scored: int) -> Tensor:
    """tokens int [B, N] -> float32 [B, scored, V]; bfloat16 inside on CUDA, as in training."""
    with torch.autocast(tokens.device.type, torch.bfloat16, enabled=tokens.is_cuda):
        return model.logits(tokens, scored)


def prepare(configuration: Configuration, device: torch.device) -> Transformer:
    """A model without its weights, after both shapes of request have been run once on made-up tokens."""
    model, config = Transformer(configuration.model).to(device), configuration.serve
    tokens = torch.zeros((config.batch, config.window), dtype=torch.int64, device=device)
    window_logits(model, tokens[:1], config.window)
    window_logits(model, tokens, config.stride)
    return model


def hello(configuration: Configuration) -> wire.Hello:
    """What the server declares before it is sent a token."""
    config = configuration.serve
    return wire.Hello(
        vocab_size=configuration.model.vocab_size, window=config.window, stride=config.stride, batch=config.batch
    )


def load_artifact(path: Path, model: Transformer) -> None:
    """Load the artifact into the model. Raises ArtifactError when it is damaged or of another configuration."""
    config, weights = decode(path.read_bytes())
    if config != model.config:
        raise ArtifactError(f"the artifact holds a model of {config}, the server expects {model.config}")
    load_weights(model, weights)


def answer(session: wire.Session, model: Transformer) -> None:
    """Answer requests until everything is scored."""
    device = model.token_embedding.weight.device
    for request in session.requests():
        tokens = torch.from_numpy(request.tokens.astype("int64")).to(device)
        request.logits[:] = window_logits(model, tokens, request.scored).cpu().numpy()
        request.reply()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", choices=CONFIGURATIONS, required=True)
    parser.add_argument("--weights", type=Path, help="serve this float checkpoint instead of the artifact")
    arguments = parser.parse_args()
    configuration = CONFIGURATIONS[arguments.config]
    model = prepare(configuration, use_device(read_phase().threads))
    session = wire.Session(hello(configuration))
    if arguments.weights is None:
        load_artifact(ARTIFACT_PATH, model)
    else:
        from submission.checkpoint import load_checkpoint  # not among the files that count as eval code

        load_checkpoint(arguments.weights, model)
    answer(session, model)


if __name__ == "__main__":
    main()
