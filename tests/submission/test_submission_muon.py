"""Muon on stacks does what Muon on single matrices does, and every parameter has one optimizer."""

import pytest
import torch
from torch import nn

from submission.config import CONFIGURATIONS
from submission.model import Transformer, meta_model
from submission.muon import NEWTON_SCHULZ, Muon, build_optimizers, orthogonalise


@pytest.mark.parametrize("shape", [(16, 16), (8, 40), (40, 8)])
def test_orthogonalise_brings_singular_values_near_one(shape):
    """Well-conditioned input, as the five steps are made for; the scale of the input does not matter."""
    generator = torch.Generator().manual_seed(0)
    u, s, vt = torch.linalg.svd(torch.randn(3, *shape, generator=generator), full_matrices=False)
    matrices = u @ torch.diag_embed(torch.linspace(0.3, 1.0, s.size(-1)).expand_as(s)) @ vt
    for scale in (1e-3, 1.0, 1e3):
        result = orthogonalise(scale * matrices, 5)
        singular = torch.linalg.svdvals(result)
        assert singular.min() > 0.6 and singular.max() < 1.3
        # same singular vectors: U^T result V is diagonal
        core = u.mT @ result @ vt.mT
        assert (core - torch.diag_embed(core.diagonal(dim1=1, dim2=2))).abs().max() < 1e-3


def single_matrix_muon(params, gradients, lr, momenta, weight_decay, steps):
    """Muon on one matrix at a time, from its description."""
    a, b, c = NEWTON_SCHULZ
    buffers = [torch.zeros_like(param) for param in params]
    for step, momentum in enumerate(momenta):
        for param, buffer, gradient in zip(params, buffers, gradients[step], strict=True):
            buffer.copy_(momentum * buffer + gradient)
            x = gradient + momentum * buffer
            x = x / (x.norm() + 1e-7)
            for _ in range(steps):
                gram = x @ x.T
                x = a * x + (b * gram + c * gram @ gram) @ x
            rows, columns = param.shape
            param.copy_((1 - lr * weight_decay) * param - lr * max(1, rows / columns) ** 0.5 * x)


def test_stacks_equal_single_matrices():
    generator = torch.Generator().manual_seed(0)
    shapes = [(12, 12), (12, 30), (30, 12), (12, 12), (12, 30)]
    start = [torch.randn(shape, generator=generator) for shape in shapes]
    gradients = [[torch.randn(shape, generator=generator) for shape in shapes] for _ in range(3)]
    momenta = [0.9, 0.92, 0.94]

    params = [nn.Parameter(weight.clone()) for weight in start]
    muon = Muon(params, lr=0.05, momentum=0.9, weight_decay=0.1, steps=5)
    assert sorted(len(group["params"]) for group in muon.param_groups) == [1, 2, 2]
    for step, momentum in enumerate(momenta):
        for param, gradient in zip(params, gradients[step], strict=True):
            param.grad = gradient
        for group in muon.param_groups:
            group["momentum"] = momentum
        muon.step()

    expected = [weight.clone() for weight in start]
    single_matrix_muon(expected, gradients, 0.05, momenta, 0.1, 5)
    for param, weight in zip(params, expected, strict=True):
        torch.testing.assert_close(param.detach(), weight, rtol=1e-4, atol=1e-5)


def test_vectors_are_refused():
    with pytest.raises(ValueError, match="matrices"):
        Muon([nn.Parameter(torch.zeros(3))], lr=0.1, momentum=0.9, weight_decay=0.0, steps=5)


def test_record_banks_have_the_published_shapes():
    record = CONFIGURATIONS["record"]
    muon, _ = build_optimizers(meta_model(record.model), record.train)
    banks = {(len(group["params"]), *group["params"][0].shape) for group in muon.param_groups}
    assert banks == {(22, 512, 512), (22, 256, 512), (11, 1536, 512), (11, 512, 1536)}


def test_each_parameter_has_one_optimizer_and_the_right_rate(tiny):
    model = Transformer(tiny.model)
    muon, adamw = build_optimizers(model, tiny.train)
    rates = {}
    for group in muon.param_groups + adamw.param_groups:
        for param in group["params"]:
            assert id(param) not in rates
            rates[id(param)] = group["base_lr"]
    by_class = {"bank": 0.025, "embedding": 0.035, "projection": 0.025, "vector": 0.025}
    classes = model.weight_classes()
    assert {name: rates[id(param)] for name, param in model.named_parameters()} == {
        name: by_class[kind] for name, kind in classes.items()
    }
