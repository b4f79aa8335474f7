"""GPTQ: layer-wise quantization with error compensation (Frantar et al. 2022), in the paper's letters.

W [rows, columns] are the weights of linear layers that share their input, stacked along the rows; H [columns, columns]
is the Hessian of that input; Hinv the upper Cholesky factor of its damped inverse; Err the errors of a block.
"""

from __future__ import annotations

import torch
from torch import Tensor

from submission.codec import INT6_MAX, RowQuantized
from submission.config import QuantizeConfig


def clip_scales(W: Tensor, quantiles: tuple[float, ...], largest: int) -> Tensor:
    """Row scales float16 [quantiles, rows] that put each quantile of a row's |W| at the code `largest`."""
    clips = torch.quantile(W.abs(), torch.tensor(quantiles, device=W.device), dim=1)
    return (clips / largest).clamp_min(torch.finfo(torch.float16).smallest_normal).half()


def round_codes(W: Tensor, scales: Tensor, largest: int) -> Tensor:
    """The nearest codes of W [rows, columns] under float16 [rows] scales, as float32 in [-largest, largest]."""
    return (W / scales.float()[:, None]).round().clamp(-largest, largest)


def hessian_error(E: Tensor, H: Tensor) -> Tensor:
    """The error's effect on the layers' output, row by row of tr(E H E^T): E [rows, columns] -> [rows]."""
    return ((E @ H) * E).sum(-1)


def inverse_factor(H: Tensor, damping: float) -> Tensor:
    """Hinv: upper Cholesky factor of the inverse of H with damping * mean(diag H) added to the diagonal once.

    Computed in float64. Raises torch.linalg.LinAlgError when the damped H is not positive definite.
    """
    damped = H.double()
    damped = damped + damping * damped.diagonal().mean() * torch.eye(len(H), dtype=damped.dtype, device=H.device)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True).to(H.dtype)


def compensate(W: Tensor, H: Tensor, scales: Tensor, config: QuantizeConfig) -> Tensor:
    """Codes of W, int8 [rows, columns], each column's error pushed on to the columns not yet quantized.

    The columns with the largest diagonal of H go first. Rows do not influence each other.
    """
    order = H.diagonal().argsort(descending=True, stable=True)
    W, Hinv = W[:, order].clone(), inverse_factor(H[order][:, order], config.damping)
    Q = torch.empty_like(W, dtype=torch.int8)
    columns = W.size(1)
    for start in range(0, columns, config.block_columns):
        stop = min(start + config.block_columns, columns)
        Err = torch.empty_like(W[:, start:stop])
        for j in range(start, stop):
            w = W[:, j : j + 1]
            codes = round_codes(w, scales, INT6_MAX)
            error = (w - codes * scales.float()[:, None]) / Hinv[j, j]
            W[:, j + 1 : stop] -= error * Hinv[j, j + 1 : stop]
            Q[:, j], Err[:, j - start] = codes[:, 0].to(torch.int8), error[:, 0]
        W[:, stop:] -= Err @ Hinv[start:stop, stop:]
    return Q[:, order.argsort()]


@torch.inference_mode()
def gptq(W: Tensor, H: Tensor, config: QuantizeConfig) -> RowQuantized:
    """Quantize W, float32 [rows, columns], to symmetric int6 with one float16 scale per row.

    Every row is quantized under each clip of the configuration, all at once because rows are independent, and keeps
    the one with the least Hessian-weighted error: what counts is the layer's output, not its weights. Raises ValueError
    when W or H is not finite, torch.linalg.LinAlgError when H is zero.
    """
    if not (W.isfinite().all() and H.isfinite().all()):
        raise ValueError("weights and Hessian must be finite")
    scales = clip_scales(W, config.clip_quantiles, INT6_MAX)
    clips, rows = scales.shape
    Q = compensate(W.repeat(clips, 1), H, scales.flatten(), config).unflatten(0, (clips, rows))
    E = W - Q * scales.float()[..., None]
    best = hessian_error(E.flatten(0, 1), H).view(clips, rows).argmin(0)
    row = torch.arange(rows, device=W.device)
    return RowQuantized(codes=Q[best, row], scales=scales[best, row])
