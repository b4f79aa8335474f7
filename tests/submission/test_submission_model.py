"""The model against a slow reference that is written from its description, and its three ways of computing logits."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from submission.config import CONFIGURATIONS
from submission.model import (
    KeyValueCache,
    Transformer,
    bigram_rows,
    exclude_own_value,
    meta_model,
    rotary_tables,
)


def reference_logits(weights, config, tokens):
    """float64 [N, V] for one sequence of ints: position by position, head by head, nothing batched or shared."""
    w = {name: weight.double() for name, weight in weights.items()}
    length, size = len(tokens), config.head_dim

    def norm(x):
        return x / (x.square().mean() + torch.finfo(torch.float32).eps).sqrt()

    def rotated(x, position):
        base = config.rotary_base
        if config.rotary_length > config.rotary_base_length:
            base *= (config.rotary_length / config.rotary_base_length) ** (
                config.rotary_dims / (config.rotary_dims - 2)
            )
        out, half = x.clone(), config.rotary_dims // 2
        for i in range(half):
            angle = position * base ** (-2 * i / config.rotary_dims)
            out[i] = x[i] * math.cos(angle) - x[i + half] * math.sin(angle)
            out[i + half] = x[i] * math.sin(angle) + x[i + half] * math.cos(angle)
        return out

    embedded = []
    for t, token in enumerate(tokens):
        row = config.bigram_rows - 1
        if t > 0:
            row = ((36313 * token) ^ (27191 * tokens[t - 1])) % (config.bigram_rows - 1)
        bigram = w["bigram.scale"] * (w["bigram.projection.weight"] @ w["bigram.table.weight"][row])
        embedded.append(norm(w["token_embedding.weight"][token] + bigram))
    gate = 1 / (1 + torch.exp(-w["smear_gate"]))
    start = torch.zeros_like(embedded[0])
    x0 = [(1 - gate) * embedded[t] + gate * (embedded[t - 1] if t else start) for t in range(length)]

    x, kept = list(x0), []
    decoder = config.layers // 2
    for layer in range(config.layers):
        p = f"blocks.{layer}."
        if layer >= decoder and kept:
            skipped = kept.pop()
            x = [a + w["skip_weights"][layer - decoder] * b for a, b in zip(x, skipped, strict=True)]
        x = [w[p + "mix"][0] * a + w[p + "mix"][1] * b for a, b in zip(x, x0, strict=True)]
        queries, keys, values = [], [], []
        for t, token in enumerate(tokens):
            h = norm(x[t]) / math.sqrt(layer + 1)
            q, k, v = (w[f"{p}attention.{name}.weight"] @ h for name in ("query", "key", "value"))
            embedded_layer = layer - (config.layers - config.value_embedding_layers)
            if embedded_layer >= 0:
                extra = w["value_embedding.projection.weight"] @ w["value_embedding.table.weight"][token]
                v = v + w["value_embedding.layer_scales"][embedded_layer] * w["value_embedding.scale"] * extra
            queries.append([rotated(norm(part), t) for part in q.split(size)])
            keys.append([rotated(norm(part), t) for part in k.split(size)])
            values.append(list(v.split(size)))
        for t in range(length):
            heads = []
            for head in range(config.query_heads):
                group = head // (config.query_heads // config.key_value_heads)
                q = queries[t][head] * w[p + "attention.query_gain"][head]
                attention = torch.stack([q @ keys[s][group] for s in range(t + 1)]) / math.sqrt(size)
                y = sum(a * values[s][group] for s, a in enumerate(attention.softmax(0)))
                unit = values[t][group] / values[t][group].norm()
                heads.append(y - (y @ unit) * unit)
            x[t] = x[t] + w[p + "attention_scale"] * (w[p + "attention.out.weight"] @ torch.cat(heads))
            h = w[p + "mlp.up.weight"] @ (norm(x[t]) / math.sqrt(layer + 1))
            h = torch.where(h > 0, h, 0.5 * h).square()
            x[t] = x[t] + w[p + "mlp_scale"] * (w[p + "mlp.down.weight"] @ h)
        if layer < decoder:
            kept.append(list(x))
    z = torch.stack([w["token_embedding.weight"] @ norm(a) for a in x])
    return config.logit_softcap * torch.tanh(z / config.logit_softcap)


@pytest.mark.parametrize("length", [1, 5, 16])
def test_logits_equal_the_reference(model, tokens, length):
    """Shorter and longer than the rotary base length."""
    logits = model.logits(tokens[:, :length], length)
    for row, expected in zip(tokens[:, :length].tolist(), logits, strict=True):
        torch.testing.assert_close(reference_logits(model.state_dict(), model.config, row).float(), expected)


def test_every_parameter_matters(model, tokens):
    """No part is dead weight: a change of any one parameter tensor changes the logits."""
    before = model.logits(tokens, 16)
    for name, param in model.named_parameters():
        saved = param.clone()
        param.mul_(1.5).add_(0.1)
        changed = (model.logits(tokens, 16) - before).abs().max()
        param.copy_(saved)
        assert changed > 1e-4, name


def test_future_tokens_change_nothing(model, tokens):
    before = model.logits(tokens, 16)
    for position in (1, 7, 15):
        changed = tokens.clone()
        changed[:, position:] = (changed[:, position:] + 1) % model.config.vocab_size
        after = model.logits(changed, 16)
        torch.testing.assert_close(after[:, :position], before[:, :position], rtol=0, atol=0)
        assert not torch.allclose(after[:, position], before[:, position])


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(length=st.integers(2, 24), seed=st.integers(0, 2**31), data=st.data())
def test_logits_of_a_prefix_depend_on_nothing_else(model, length, seed, data):
    """Windows cut short, alone, with other text behind them, with fewer scored positions: the same logits. Lengths run
    from below the rotary base length (8) to beyond the length that the base is made for (16).
    """
    rows = data.draw(st.integers(1, 4))
    cut = data.draw(st.integers(1, length))
    scored = data.draw(st.integers(1, cut))
    generator = torch.Generator().manual_seed(seed)
    whole, other = torch.randint(model.config.vocab_size, (2, rows, length), generator=generator)
    expected = model.logits(whole, length)[:, cut - scored : cut]
    replaced = torch.cat((whole[:, :cut], other[:, cut:]), dim=1)
    row = data.draw(st.integers(0, rows - 1))
    cache = KeyValueCache(model.config, rows, data.draw(st.integers(cut, 24)), torch.device("cpu"))
    for position in range(cut):
        generated = model.step(whole[:, position], cache)
    torch.testing.assert_close(model.logits(whole[:, :cut], scored), expected)
    torch.testing.assert_close(model.logits(whole[row : row + 1, :cut], scored), expected[row : row + 1])
    torch.testing.assert_close(model.logits(replaced, length)[:, cut - scored : cut], expected)
    torch.testing.assert_close(generated, expected[:, -1])


@pytest.mark.parametrize("scored", [1, 2, 15, 16])
def test_scored_positions_equal_the_full_forward(model, tokens, scored):
    logits = model.logits(tokens, scored)
    assert logits.shape == (3, scored, model.config.vocab_size)
    torch.testing.assert_close(logits, model.logits(tokens, 16)[:, -scored:])


def test_the_last_layer_works_for_scored_positions_only(model, tokens):
    seen = {}
    for name in ("attention.query", "attention.key", "mlp.up"):
        linear = model.get_submodule(f"blocks.4.{name}")
        linear.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: inputs[0].size(1)}))
    model.logits(tokens, 3)
    assert seen == {"attention.query": 3, "attention.key": 16, "mlp.up": 3}


def test_generation_equals_the_full_forward(model, tokens):
    cache = KeyValueCache(model.config, 3, 16, torch.device("cpu"))
    steps = torch.stack([model.step(tokens[:, t], cache) for t in range(16)], dim=1)
    torch.testing.assert_close(steps, model.logits(tokens, 16))


def test_a_full_cache_is_an_error(model, tokens):
    cache = KeyValueCache(model.config, 3, 1, torch.device("cpu"))
    model.step(tokens[:, 0], cache)
    with pytest.raises(ValueError, match="full"):
        model.step(tokens[:, 1], cache)


def test_loss_is_the_mean_cross_entropy(model, tokens):
    logits = model.logits(tokens[:, :-1], 15).double()
    nats = [
        -logits[row, t].log_softmax(-1)[tokens[row, t + 1]].item() for row in range(tokens.size(0)) for t in range(15)
    ]
    assert model(tokens[:, :-1], tokens[:, 1:]).item() == pytest.approx(sum(nats) / len(nats), rel=1e-5)


def test_bigram_rows_are_the_published_hash_without_overflow():
    """The largest tokens of the record's vocabulary, against Python's unbounded integers."""
    tokens = [1023, 1022, 0, 1, 1023, 1023]
    expected = [3071] + [((36313 * b) ^ (27191 * a)) % 3071 for a, b in itertools.pairwise(tokens)]
    assert bigram_rows(torch.tensor([tokens]), 3072)[0].tolist() == expected


def test_exclusive_attention_leaves_nothing_along_the_own_value():
    generator = torch.Generator().manual_seed(0)
    y = torch.randn(2, 6, 5, 8, generator=generator)
    v = torch.randn(2, 3, 5, 8, generator=generator)
    excluded = exclude_own_value(y, v)
    own = v.repeat_interleave(2, dim=1)
    assert ((excluded * own).sum(-1).abs() < 1e-5).all()
    removed = y - excluded
    torch.testing.assert_close(torch.cosine_similarity(removed, own, dim=-1).abs(), torch.ones(2, 6, 5))


def test_rotary_base_grows_only_beyond_its_length():
    """Made for twice the base length, the slowest of 16 rotated dimensions turns (1/2)^(14/16 * 16/14) = half as fast,
    whatever the length of the tables.
    """
    beyond = CONFIGURATIONS["record"].model
    at, below = replace(beyond, rotary_length=1024), replace(beyond, rotary_length=512)

    def tables(config, length):
        return rotary_tables(config, length, torch.device("cpu"))

    slowest_at, slowest_beyond = (torch.asin(tables(config, 8)[1][1, -1]) for config in (at, beyond))
    assert slowest_at.item() == pytest.approx(10000 ** (-14 / 16), rel=1e-4)
    assert (slowest_at / slowest_beyond).item() == pytest.approx(2.0, rel=1e-4)
    assert torch.equal(tables(below, 512)[1], tables(at, 512)[1])
    assert torch.equal(tables(beyond, 100)[1], tables(beyond, 4096)[1][:100])


def test_fresh_weights_follow_the_recipe():
    config = CONFIGURATIONS["demo"].model
    model, again = Transformer(config), Transformer(config)
    model.initialise(7)
    again.initialise(7)
    weights = model.state_dict()
    assert all(torch.equal(weight, again.state_dict()[name]) for name, weight in weights.items())
    query = weights["blocks.0.attention.query.weight"]
    torch.testing.assert_close(query @ query.T, torch.eye(config.dim), atol=1e-5, rtol=0)
    assert weights["token_embedding.weight"].std().item() == pytest.approx(0.005, rel=0.05)
    assert weights["value_embedding.table.weight"].std().item() == pytest.approx(0.01, rel=0.05)
    for zero in ("bigram.table", "blocks.1.attention.out", "blocks.1.mlp.down"):
        assert not weights[f"{zero}.weight"].any()
    assert weights["bigram.scale"].item() == pytest.approx(0.05)
    assert weights["blocks.3.attention.query_gain"].unique().tolist() == [1.5]


def test_classes_and_groups_cover_the_banks():
    model = meta_model(CONFIGURATIONS["record"].model)
    classes = model.weight_classes()
    assert list(classes) == list(model.state_dict())
    banks = {name for name, kind in classes.items() if kind == "bank"}
    assert len(banks) == 66
    assert {f"{name}.weight" for group in model.shared_inputs() for name in group} == banks
    assert {name for name, kind in classes.items() if kind == "projection"} == {
        "bigram.projection.weight",
        "value_embedding.projection.weight",
    }


def test_layers_of_a_group_share_their_input(model, tokens):
    seen = {}
    for group in model.shared_inputs():
        for name in group:
            hook = lambda _, inputs, name=name: seen.update({name: inputs[0]})  # noqa: E731
            model.get_submodule(name).register_forward_pre_hook(hook)
    model.logits(tokens, 16)
    for group in model.shared_inputs():
        assert all(torch.equal(seen[name], seen[group[0]]) for name in group)
