"""GPTQ against a naive version of itself and against plain rounding; Hessians against their definition."""

import pytest
import torch

from submission.config import QuantizeConfig
from submission.gptq import clip_scales, compensate, gptq, hessian_error, inverse_factor, round_codes
from submission.hessian import collect_hessians

CONFIG = QuantizeConfig(block_columns=16)


@pytest.fixture
def layer():
    """W [24, 40] with a few outliers, and the Hessian of correlated inputs of very different power."""
    generator = torch.Generator().manual_seed(0)
    W = torch.randn(24, 40, generator=generator)
    W[::5, ::7] *= 4
    mixing = torch.randn(40, 40, generator=generator) * torch.logspace(-1, 1, 40)
    X = torch.randn(500, 40, generator=generator) @ mixing
    return W, X.T @ X


def naive_compensate(W, H, scales, damping):
    """The paper's update one column at a time, with the inverse of the remaining Hessian computed afresh."""
    W, scales = W.double(), scales.double()
    H = H.double() + damping * H.double().diagonal().mean() * torch.eye(len(H), dtype=torch.float64)
    codes = torch.zeros_like(W)
    remaining = H.diagonal().argsort(descending=True).tolist()
    while remaining:
        Hinv = torch.linalg.inv(H[remaining][:, remaining])
        column = remaining[0]
        codes[:, column] = (W[:, column] / scales).round().clamp(-31, 31)
        error = (W[:, column] - codes[:, column] * scales) / Hinv[0, 0]
        W[:, remaining] -= error[:, None] * Hinv[0]
        remaining = remaining[1:]
    return codes.to(torch.int8)


@pytest.mark.parametrize("block_columns", [1, 16, 128])
def test_blocks_and_cholesky_equal_the_naive_algorithm(layer, block_columns):
    W, H = layer
    scales = clip_scales(W, (1.0,), 31)[0]
    codes = compensate(W, H, scales, QuantizeConfig(block_columns=block_columns))
    assert (codes == naive_compensate(W, H, scales, 0.01)).float().mean() > 0.995  # rounding may break a tie


def test_inverse_factor_is_the_factor_of_the_damped_inverse(layer):
    _, H = layer
    Hinv = inverse_factor(H, 0.01)
    damped = H + 0.01 * H.diagonal().mean() * torch.eye(40)
    torch.testing.assert_close((Hinv.T @ Hinv) @ damped, torch.eye(40), atol=1e-3, rtol=0)
    assert torch.equal(Hinv, Hinv.triu())


def test_gptq_beats_rounding_to_nearest(layer):
    W, H = layer
    scales = clip_scales(W, (1.0,), 31)[0]
    rounded = hessian_error(W - round_codes(W, scales, 31) * scales.float()[:, None], H).sum()
    quantized = hessian_error(W - gptq(W, H, CONFIG).dequantize(), H).sum()
    assert quantized < 0.5 * rounded


def test_each_row_takes_the_best_clip(layer):
    """Never worse than any single clip, row by row, and better than picking by plain weight error."""
    W, H = layer
    # 40 columns: the quantiles of the record differ by little, so the test uses coarser ones
    config = QuantizeConfig(block_columns=16, clip_quantiles=(0.6, 0.8, 0.9, 0.95, 1.0))
    chosen = gptq(W, H, config)
    error = hessian_error(W - chosen.dequantize(), H)
    singles = [
        gptq(W, H, QuantizeConfig(block_columns=16, clip_quantiles=(quantile,))).dequantize()
        for quantile in config.clip_quantiles
    ]
    errors = torch.stack([hessian_error(W - single, H) for single in singles])
    torch.testing.assert_close(error, errors.min(0).values)
    assert len(errors.argmin(0).unique()) > 1  # the choice is a real one
    by_weight_error = torch.stack([(W - single).square().sum(-1) for single in singles]).argmin(0)
    assert error.sum() < errors.gather(0, by_weight_error[None]).sum()


def test_hessian_error_is_the_trace_by_rows(layer):
    W, H = layer
    assert hessian_error(W, H).sum().item() == pytest.approx(torch.trace(W @ H @ W.T).item(), rel=1e-4)


def test_rows_do_not_influence_each_other(layer):
    W, H = layer
    together = gptq(W, H, CONFIG)
    apart = [gptq(rows, H, CONFIG) for rows in W.split([5, 19])]
    assert torch.equal(together.codes, torch.cat([part.codes for part in apart]))
    assert torch.equal(together.scales, torch.cat([part.scales for part in apart]))


def test_codes_and_scales_are_what_the_artifact_holds(layer):
    quantized = gptq(*layer, CONFIG)
    assert quantized.codes.dtype == torch.int8 and quantized.codes.abs().max() == 31
    assert quantized.scales.dtype == torch.float16 and quantized.scales.shape == (24,)


def test_a_zero_row_stays_zero(layer):
    W, H = layer
    W[3] = 0
    assert not gptq(W, H, CONFIG).dequantize()[3].any()


def test_an_input_that_is_never_used_does_no_harm(layer):
    W, H = layer
    H[5], H[:, 5] = 0, 0
    assert gptq(W, H, CONFIG).dequantize().isfinite().all()


def test_useless_input_is_an_error(layer):
    W, H = layer
    with pytest.raises(torch.linalg.LinAlgError):
        gptq(W, torch.zeros_like(H), CONFIG)
    W[0, 0] = torch.nan
    with pytest.raises(ValueError, match="finite"):
        gptq(W, H, CONFIG)


def test_hessians_are_those_of_the_inputs(model, tokens):
    inputs = {}
    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, x, name=name: inputs.update({name: x[0]}))
        for group in model.shared_inputs()
        for name in group
    ]
    model.logits(tokens, 16)
    for handle in handles:
        handle.remove()
    hessians = collect_hessians(model, tokens, batch=2)
    assert list(hessians) == model.shared_inputs()
    for group, H in hessians.items():
        for name in group:
            X = inputs[name].flatten(0, 1)
            torch.testing.assert_close(H, X.T @ X, rtol=1e-4, atol=1e-4)


def test_no_hook_is_left_behind(model, tokens):
    collect_hessians(model, tokens, batch=3)
    assert not any(module._forward_pre_hooks for module in model.modules())
    with pytest.raises(IndexError):
        collect_hessians(model, tokens + 1000, batch=3)
    assert not any(module._forward_pre_hooks for module in model.modules())
