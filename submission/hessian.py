"""Hessians of the banks' linear layers, from hooks on the live model."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from submission.model import Transformer


@torch.inference_mode()
def collect_hessians(model: Transformer, tokens: Tensor, batch: int) -> dict[tuple[str, ...], Tensor]:
    """H = X^T X, float32 [in, in], of each group of linear layers that share the input X, over all of `tokens`.

    tokens: int64 [sequences, length], run `batch` sequences at a time. The paper's factor of 2 is left out: GPTQ does
    not depend on the scale of H.
    """
    hessians: dict[tuple[str, ...], Tensor] = {}
    handles = []
    for group in model.shared_inputs():
        linear = model.get_submodule(group[0])
        hessian = linear.weight.new_zeros(linear.in_features, linear.in_features)
        hessians[group] = hessian

        def accumulate(_: nn.Module, inputs: tuple[Tensor], hessian: Tensor = hessian) -> None:
            x = inputs[0].flatten(0, -2).float()
            hessian.addmm_(x.T, x)

        handles.append(linear.register_forward_pre_hook(accumulate))
    try:
        for part in tokens.split(batch):
            model.logits(part, part.size(1))
    finally:
        for handle in handles:
            handle.remove()
    return hessians
