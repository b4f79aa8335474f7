"""The score from its definition, without lanes, ranks, slots or shared memory."""

from __future__ import annotations

import math

import numpy as np
import torch

from submission.model import Transformer


def direct_bits_per_byte(model: Transformer, tokens: np.ndarray, text_bytes: int, window: int, stride: int) -> float:
    """One window after the other, a full softmax of it in float64, and the logarithm of each target not scored yet."""
    inputs = len(tokens) - 1
    total, scored, end = 0.0, 0, min(window, inputs)
    while scored < inputs:
        start = max(0, end - window)
        with torch.inference_mode():
            logits = model.logits(torch.from_numpy(tokens[None, start:end].astype(np.int64)), end - start)[0]
        probabilities = torch.softmax(logits.double(), dim=1).numpy()
        for target in range(scored + 1, end + 1):
            total -= math.log(probabilities[target - 1 - start, int(tokens[target])])
        scored, end = end, min(end + stride, inputs)
    return total / math.log(2) / text_bytes
