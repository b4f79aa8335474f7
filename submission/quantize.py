"""The quantize phase: the checkpoint writes its own calibration text, GPTQ rounds it to int6, the codec packs it."""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from submission.calibration import generate
from submission.checkpoint import load_checkpoint
from submission.codec import INT8_MAX, RowQuantized, Weights
from submission.config import CONFIGURATIONS, Configuration, QuantizeConfig
from submission.data import write_shard
from submission.gptq import clip_scales, gptq, round_codes
from submission.hessian import collect_hessians
from submission.model import Transformer
from submission.phase import CHECKPOINT_PATH, OUTPUT_DIRECTORY, Phase, read_phase, use_device
from submission.pruning import encode_within

WARM_UP_LENGTH = 4
WARM_UP_KEY = "00" * 32


def quantize_rows(W: Tensor) -> RowQuantized:
    """Plain int8, one scale per row: for the matrices that are looked up or small. W float32 [rows, columns]."""
    scales = clip_scales(W, (1.0,), INT8_MAX)[0]
    return RowQuantized(codes=round_codes(W, scales, INT8_MAX).to(torch.int8), scales=scales)


@torch.inference_mode()
def quantize_model(model: Transformer, tokens: Tensor, config: QuantizeConfig) -> tuple[Weights, dict[str, Tensor]]:
    """All weights as an artifact holds them, on the CPU, and the diagonal of each bank's Hessian.

    tokens: int64 [sequences, length], the calibration text.
    """
    weights: Weights = {}
    input_power: dict[str, Tensor] = {}
    for group, H in collect_hessians(model, tokens, config.hessian_sequences).items():
        linears = [model.get_submodule(name).weight for name in group]
        stacked = gptq(torch.cat(linears), H, config)
        rows = [len(weight) for weight in linears]
        for name, codes, scales in zip(group, stacked.codes.split(rows), stacked.scales.split(rows), strict=True):
            weights[f"{name}.weight"] = RowQuantized(codes=codes.cpu(), scales=scales.cpu())
            input_power[f"{name}.weight"] = H.diagonal().cpu()
    classes = model.weight_classes()
    for name, param in model.named_parameters():
        if classes[name] == "vector":
            weights[name] = param.half().cpu()
        elif classes[name] != "bank":
            weights[name] = quantize_rows(param.cpu())
    return weights, input_power


def run(configuration: Configuration, phase: Phase, checkpoint: Path, output_directory: Path) -> None:
    """The whole phase: `checkpoint` to artifact.bin and calibration.bin. Raises ValueError when it cannot."""
    if phase.calibration_key is None or phase.size_limit is None:
        raise ValueError("the phase has no calibration_key or no size_limit")
    model = Transformer(configuration.model)
    model.initialise(phase.seed)
    model.to(use_device(phase.threads))
    generate(model, replace(configuration.calibration, length=WARM_UP_LENGTH), WARM_UP_KEY)

    started = time.monotonic()

    def log(text: str) -> None:
        print(f"{text} elapsed:{time.monotonic() - started:.1f}s", flush=True)

    load_checkpoint(checkpoint, model)
    tokens = generate(model, configuration.calibration, phase.calibration_key)
    write_shard(output_directory / "calibration.bin", tokens.cpu().numpy())
    log(f"calibration_tokens:{tokens.numel()}")
    weights, input_power = quantize_model(model, tokens, configuration.quantize)
    log("quantized")
    data, zeroed = encode_within(configuration.model, weights, input_power, phase.size_limit)
    (output_directory / "artifact.bin").write_bytes(data)
    log(f"artifact_bytes:{len(data)} pruned_codes:{zeroed}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", choices=CONFIGURATIONS, required=True)
    run(CONFIGURATIONS[parser.parse_args().config], read_phase(), CHECKPOINT_PATH, OUTPUT_DIRECTORY)


if __name__ == "__main__":
    main()
