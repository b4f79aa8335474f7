"""Fit an artifact into a size: zeros compress better than ones, so the cheapest codes of +-1 become 0."""

from __future__ import annotations

import torch
from torch import Tensor

from submission.codec import INT6_MAX, RowQuantized, Weights, encode, largest_codes
from submission.config import ModelConfig

# A search step that ends this close below the limit, as a share of it, is good enough.
SLACK = 1e-3


def encode_within(
    config: ModelConfig, weights: Weights, input_power: dict[str, Tensor], size_limit: int
) -> tuple[bytes, int]:
    """The artifact in at most `size_limit` bytes, and how many codes were set to zero for it; none if it fits as it is.

    input_power: of each bank the diagonal of its Hessian, [columns]. Zeroing a code costs scale^2 * H_jj, the output
    error of that weight alone. Raises ValueError when even zeroing all codes of +-1 is not enough.
    """
    data = encode(config, weights)
    if len(data) <= size_limit:
        return data, 0
    costs = {}
    for name, (_, largest) in largest_codes(config).items():
        if largest == INT6_MAX:
            cost = weights[name].scales.float().square()[:, None] * input_power[name]
            costs[name] = cost.masked_fill(weights[name].codes.abs() != 1, torch.inf)
    ranked = torch.cat([cost[cost.isfinite()] for cost in costs.values()]).sort().values

    def pruned(count: int) -> bytes:
        limit = ranked[count - 1]
        zeroed = {
            name: RowQuantized(codes=weights[name].codes.masked_fill(cost <= limit, 0), scales=weights[name].scales)
            for name, cost in costs.items()
        }
        return encode(config, weights | zeroed)

    too_few, too_large = 0, len(data)
    enough, fitting = len(ranked), pruned(len(ranked)) if len(ranked) else data
    if len(fitting) > size_limit:
        raise ValueError(
            f"the artifact has {len(fitting)} bytes after pruning all codes of +-1; the limit is {size_limit}"
        )
    # The size is nearly linear in the count, so interpolation needs few of these slow encodings.
    while len(fitting) < size_limit * (1 - SLACK) and enough - too_few > 1:
        target = size_limit * (1 - SLACK / 2)
        share = (too_large - target) / (too_large - len(fitting))
        count = min(max(too_few + round(share * (enough - too_few)), too_few + 1), enough - 1)
        attempt = pruned(count)
        if len(attempt) <= size_limit:
            enough, fitting = count, attempt
        else:
            too_few, too_large = count, len(attempt)
    return fitting, enough
