"""The score of a record is that of a direct computation: whatever the ranks, batches and shared memory between."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from direct import direct_bits_per_byte
from servers import Stage

from harness.scoring import wire
from harness.scoring.bpb import TokenBytes, bits_per_byte
from submission.config import Configuration, ModelConfig, ServeConfig
from submission.model import Transformer
from submission.serve import answer, hello

TOKENS = 700
CONFIGURATION = Configuration(
    model=ModelConfig(
        vocab_size=320,
        layers=2,
        dim=32,
        query_heads=2,
        key_value_heads=1,
        mlp_dim=64,
        rotary_dims=8,
        value_embedding_layers=1,
        bigram_rows=64,
        bigram_dim=8,
        value_embedding_dim=8,
    ),
    serve=ServeConfig(window=48, stride=20, batch=3),
)


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(one_thread) -> Transformer:
    """Random in every weight, so that every part of it matters."""
    model = Transformer(CONFIGURATION.model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.empty(parameter.shape).normal_(std=0.3, generator=generator))
    return model


@pytest.fixture(scope="module")
def text(toy_data) -> tuple[np.ndarray, int]:
    """The first tokens of the toy val stream, and the bytes of text that they are scored by."""
    tokens = np.fromfile(toy_data / "toy_val_000000.bin", "<u2", TOKENS, offset=1024)
    return tokens, TokenBytes.from_tokenizer(toy_data / "tokenizer.model").count(tokens)


@pytest.fixture(scope="module")
def direct(model, text) -> float:
    tokens, text_bytes = text
    config = CONFIGURATION.serve
    return direct_bits_per_byte(model, tokens, text_bytes, config.window, config.stride)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_agrees_with_a_direct_computation(tmp_path, model, text, direct, world_size: int) -> None:
    tokens, text_bytes = text
    other = np.arange(320, dtype=np.uint16)
    declared = vars(hello(CONFIGURATION))
    hellos = [wire.Hello(**{**declared, "rank": rank, "world_size": world_size}) for rank in range(world_size)]
    at_work = Stage(tmp_path, tokens, vocab_size=320, probe_share=0.3, tolerances=(1e-3, 1e-4), other=other)
    try:
        at_work.serve(lambda path, greeting: answer(wire.Session(greeting, path), model), hellos)
        nats = at_work.score().nats
    finally:
        at_work.close()
    assert at_work.comparison.probes > 0
    assert bits_per_byte(float(nats.sum(dtype=np.float64)), text_bytes) == pytest.approx(direct, abs=1e-6)
    assert direct > 1, "a model whose score says something"
