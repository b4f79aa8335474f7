"""Artifacts come back exactly as they were written, damaged ones are refused, and pruning reaches its limit cheaply."""

import lzma
import struct
import tracemalloc
from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from submission import codec
from submission.codec import ArtifactError, RowQuantized, decode, encode, largest_codes, load_weights
from submission.config import ModelConfig
from submission.model import Transformer
from submission.pruning import encode_within


def random_weights(config: ModelConfig, seed: int = 0) -> codec.Weights:
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, (shape, largest) in largest_codes(config).items():
        if largest is None:
            weights[name] = torch.randn(shape, generator=generator).half()
        else:
            codes = (torch.randn(shape, generator=generator) * largest / 4).round().clamp(-largest, largest)
            scales = (torch.rand(shape[0], generator=generator) * 0.01 + 0.001).half()
            weights[name] = RowQuantized(codes=codes.to(torch.int8), scales=scales)
    return weights


def same(first: codec.Weights, second: codec.Weights) -> bool:
    def parts(weight):
        return (weight.codes, weight.scales) if isinstance(weight, RowQuantized) else (weight,)

    return first.keys() == second.keys() and all(
        a.dtype == b.dtype and torch.equal(a, b)
        for name in first
        for a, b in zip(parts(first[name]), parts(second[name]), strict=True)
    )


@pytest.fixture(scope="module")
def config(tiny) -> ModelConfig:
    return tiny.model


@pytest.fixture(scope="module")
def artifact(config) -> bytes:
    return encode(config, random_weights(config))


@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**31),
    layers=st.integers(2, 4),
    heads=st.sampled_from([(1, 1), (2, 1), (4, 2)]),
    vocab_size=st.integers(1, 70),
)
def test_round_trip(seed, layers, heads, vocab_size):
    config = ModelConfig(
        vocab_size=vocab_size,
        layers=layers,
        dim=16,
        query_heads=heads[0],
        key_value_heads=heads[1],
        mlp_dim=24,
        rotary_dims=4,
        bigram_rows=20,
        bigram_dim=4,
        value_embedding_dim=4,
    )
    weights = random_weights(config, seed)
    data = encode(config, weights)
    assert encode(config, weights) == data
    decoded_config, decoded = decode(data)
    assert decoded_config == config
    assert same(decoded, weights)


def test_weights_reach_the_model(config, artifact):
    weights = random_weights(config)
    model = Transformer(config)
    load_weights(model, decode(artifact)[1])
    query, scale = "blocks.2.attention.query.weight", "bigram.scale"
    expected = weights[query].codes.float() * weights[query].scales.float()[:, None]
    assert torch.equal(model.get_parameter(query), expected)
    assert model.get_parameter(scale).item() == weights[scale].item()


def test_banks_are_int6_tables_int8_and_vectors_half(config):
    kinds = {name: largest for name, (_, largest) in largest_codes(config).items()}
    assert kinds["blocks.0.mlp.down.weight"] == 31
    assert kinds["token_embedding.weight"] == kinds["bigram.projection.weight"] == 127
    assert kinds["blocks.0.mix"] is kinds["skip_weights"] is None


def test_every_truncation_is_refused(artifact):
    for length in [*range(0, 60), *range(60, len(artifact), 499), len(artifact) - 1]:
        with pytest.raises(ArtifactError):
            decode(artifact[:length])


def test_every_flipped_byte_is_refused(artifact):
    for offset in [*range(0, 40), *range(40, len(artifact), 499), *range(len(artifact) - 40, len(artifact))]:
        damaged = bytearray(artifact)
        damaged[offset] ^= 0x55
        with pytest.raises(ArtifactError):
            decode(bytes(damaged))


def test_anything_after_the_end_is_refused(artifact):
    for tail in (b"\0", b"\0\0\0\0", artifact[6:]):
        with pytest.raises(ArtifactError, match="after its end"):
            decode(artifact + tail)


def test_a_stream_that_wants_much_memory_is_refused(artifact):
    greedy = lzma.compress(lzma.decompress(artifact[6:]), format=lzma.FORMAT_XZ, preset=9)
    with pytest.raises(ArtifactError, match=r"[Mm]emory"):
        decode(artifact[:6] + greedy)


def test_other_magic_and_version_are_named(artifact):
    with pytest.raises(ArtifactError, match="begins with"):
        decode(b"ABCD" + artifact[4:])
    with pytest.raises(ArtifactError, match="version 3"):
        decode(artifact[:4] + struct.pack("<H", 3) + artifact[6:])


def repacked(artifact: bytes, change) -> bytes:
    """The artifact with its unpacked stream changed and packed again, checksum and all."""
    payload = change(lzma.decompress(artifact[6:]))
    return artifact[:6] + lzma.compress(payload, format=lzma.FORMAT_XZ, filters=codec.FILTERS)


@pytest.mark.parametrize(
    "change",
    [
        lambda payload: payload[:-1],
        lambda payload: payload + b"\0",
        lambda payload: payload[:-1] + b"\x20",  # 32, beyond int6
        lambda payload: struct.pack("<I", 2**31) + payload[4:],
        lambda payload: payload.replace(b'"layers":5', b'"layers":6'),
        lambda payload: payload.replace(b'"layers":5', b'"layers":0'),
        lambda payload: payload.replace(b'"layers"', b'"lairs" '),
        lambda payload: payload.replace(b'"rotary_length":16,', b" " * 19),
        lambda payload: payload.replace(b'{"', b'["', 1),
    ],
)
def test_well_packed_nonsense_is_refused(artifact, change):
    data = repacked(artifact, change)
    assert data != artifact
    with pytest.raises(ArtifactError):
        decode(data)


def test_a_bomb_is_not_unpacked(artifact):
    """100 MB of zeros after a sound model: refused after the bytes that a model of this configuration has."""
    compressor = lzma.LZMACompressor(format=lzma.FORMAT_XZ, filters=codec.FILTERS)
    parts = [compressor.compress(lzma.decompress(artifact[6:]))]
    parts += [compressor.compress(bytes(10**7)) for _ in range(10)]
    bomb = artifact[:6] + b"".join(parts) + compressor.flush()
    tracemalloc.start()
    with pytest.raises(ArtifactError):
        decode(bomb)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5_000_000


@pytest.mark.parametrize("problem", ["shape", "code", "scale", "vector"])
def test_weights_that_do_not_fit_are_not_encoded(config, problem):
    weights = random_weights(config)
    name = "blocks.0.mlp.up.weight"
    codes, scales = weights[name].codes.clone(), weights[name].scales.clone()
    if problem == "shape":
        weights[name] = RowQuantized(codes=codes[:-1], scales=scales)
    elif problem == "code":
        codes[0, 0] = 32
        weights[name] = RowQuantized(codes=codes, scales=scales)
    elif problem == "scale":
        scales[0] = torch.inf
        weights[name] = RowQuantized(codes=codes, scales=scales)
    else:
        weights["smear_gate"] = torch.full_like(weights["smear_gate"], torch.nan)
    with pytest.raises(ValueError):
        encode(config, weights)


@pytest.fixture(scope="module")
def input_power(config):
    generator = torch.Generator().manual_seed(3)
    return {
        name: torch.rand(shape[1], generator=generator) + 0.1
        for name, (shape, largest) in largest_codes(config).items()
        if largest == 31
    }


def test_an_artifact_that_fits_is_left_alone(config, artifact, input_power):
    assert encode_within(config, random_weights(config), input_power, len(artifact)) == (artifact, 0)


@pytest.mark.parametrize("saved", [1, 100, 400])
def test_pruning_reaches_the_limit_and_stays_near_it(config, artifact, input_power, saved):
    limit = len(artifact) - saved
    data, zeroed = encode_within(config, random_weights(config), input_power, limit)
    assert limit * 0.99 <= len(data) <= limit
    assert zeroed > 0


def test_pruning_zeroes_the_cheapest_ones_and_nothing_else(config, artifact, input_power):
    before = random_weights(config)
    data, zeroed = encode_within(config, before, input_power, len(artifact) - 200)
    after = decode(data)[1]
    kept_costs, zeroed_costs = [], []
    for name in before:
        if name not in input_power:
            assert same({name: before[name]}, {name: after[name]})
            continue
        changed = before[name].codes != after[name].codes
        assert (before[name].codes[changed].abs() == 1).all() and not after[name].codes[changed].any()
        assert torch.equal(before[name].scales, after[name].scales)
        cost = before[name].scales.float().square()[:, None] * input_power[name]
        zeroed_costs.append(cost[changed])
        kept_costs.append(cost[after[name].codes.abs() == 1])
    assert len(torch.cat(zeroed_costs)) == zeroed
    assert torch.cat(zeroed_costs).max() <= torch.cat(kept_costs).min()


def test_a_limit_out_of_reach_is_an_error(config, input_power):
    with pytest.raises(ValueError, match="limit is 100"):
        encode_within(config, random_weights(config), input_power, 100)


def test_a_header_of_another_model_is_not_this_models_weights(config, artifact):
    model = Transformer(replace(config, layers=4))
    with pytest.raises(RuntimeError):
        load_weights(model, decode(artifact)[1])
