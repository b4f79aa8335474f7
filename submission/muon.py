"""Muon, momentum orthogonalised by Newton-Schulz (Jordan et al. 2024), on banks: matrices of one shape as one stack.

`build_optimizers` gives the banks to Muon and everything else to AdamW.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from submission.config import TrainConfig
from submission.model import Transformer

# Coefficients of the quintic that pushes all singular values towards 1 fastest (Jordan et al. 2024).
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalise(matrices: Tensor, steps: int) -> Tensor:
    """Roughly U V^T of each matrix's singular value decomposition: [stack, rows, columns], any scale; same dtype back.

    Singular values end near 1 (0.7 to 1.2), not at it. bfloat16 on CUDA; float32 on a CPU, where not every processor
    has bfloat16 arithmetic and at the demo's sizes those that have gain little.
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices.bfloat16() if matrices.is_cuda else matrices.float()
    tall = x.size(1) > x.size(2)
    if tall:
        x = x.mT
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + torch.baddbmm(b * gram, gram, gram, alpha=c) @ x
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay. Every parameter must be a matrix.

    Parameters of the same shape form one bank, which is one parameter group: its gradients are stacked, and momentum
    and orthogonalisation work on the stack. Each step reads lr and momentum from the groups, so they may be scheduled.
    """

    def __init__(
        self, params: list[nn.Parameter], *, lr: float, momentum: float, weight_decay: float, steps: int
    ) -> None:
        banks: dict[torch.Size, list[nn.Parameter]] = {}
        for param in params:
            if param.ndim != 2:
                raise ValueError(f"Muon works on matrices, not on a parameter of shape {tuple(param.shape)}")
            banks.setdefault(param.shape, []).append(param)
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "steps": steps}
        super().__init__([{"params": bank} for bank in banks.values()], defaults)

    @torch.no_grad()
    def step(self) -> None:
        """One update of every bank; every parameter must have a gradient."""
        for group in self.param_groups:
            bank = group["params"]
            gradient = torch.stack([param.grad for param in bank])
            state = self.state[bank[0]]
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(gradient)
            momentum = state["momentum"].mul_(group["momentum"]).add_(gradient)
            update = orthogonalise(gradient.add(momentum, alpha=group["momentum"]), group["steps"])
            _, rows, columns = update.shape
            torch._foreach_mul_(bank, 1 - group["lr"] * group["weight_decay"])
            torch._foreach_add_(bank, update.unbind(), alpha=-group["lr"] * max(1.0, rows / columns) ** 0.5)


def build_optimizers(model: Transformer, config: TrainConfig) -> tuple[Muon, torch.optim.AdamW]:
    """Muon for the banks, AdamW for the rest. Each group remembers its full learning rate as `base_lr`."""
    by_class: dict[str, list[nn.Parameter]] = {"bank": [], "embedding": [], "projection": [], "vector": []}
    classes = model.weight_classes()
    for name, param in model.named_parameters():
        by_class[classes[name]].append(param)
    muon = Muon(
        by_class["bank"],
        lr=config.bank_lr,
        momentum=config.muon_momentum_start,
        weight_decay=config.weight_decay,
        steps=config.newton_schulz_steps,
    )
    adamw = torch.optim.AdamW(
        [
            {"params": by_class["embedding"], "lr": config.embedding_lr},
            {"params": by_class["projection"] + by_class["vector"], "lr": config.vector_lr},
        ],
        betas=config.adam_betas,
        eps=config.adam_eps,
        weight_decay=config.weight_decay,
        fused=True,
    )
    groups = muon.param_groups + adamw.param_groups
    counted = sum(param.numel() for group in groups for param in group["params"])
    expected = sum(param.numel() for param in model.parameters())
    assert counted == expected, f"the optimizers hold {counted} parameters, the model {expected}"
    for group in groups:
        group["base_lr"] = group["lr"]
    return muon, adamw
