"""The two configurations are what they say they are, and nonsense is refused when it is built."""

from dataclasses import FrozenInstanceError, replace

import pytest

from submission.checkpoint import DECLARATIONS, declaration
from submission.config import (
    CONFIGURATIONS,
    AdaptConfig,
    CalibrationConfig,
    ModelConfig,
    QuantizeConfig,
    ServeConfig,
    TrainConfig,
)
from submission.model import meta_model


def test_record_has_exactly_the_published_number_of_parameters():
    model = meta_model(CONFIGURATIONS["record"].model)
    assert sum(param.numel() for param in model.parameters()) == 27_067_484


def test_record_trains_on_the_published_number_of_tokens_per_step():
    train = CONFIGURATIONS["record"].train
    assert train.batch_sequences * train.sequence_length == 786_432


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_demo_and_record_have_the_same_parts(name):
    """No feature is configured away: both have skips, hash rows, value embeddings and partly rotated heads."""
    config = CONFIGURATIONS[name].model
    assert config.encoder_layers >= 2
    assert config.value_embedding_layers == 2
    assert config.query_heads > config.key_value_heads
    assert config.rotary_dims < config.head_dim
    assert CONFIGURATIONS[name].train.sequence_length > config.rotary_base_length
    assert CONFIGURATIONS[name].train.sequence_length == config.rotary_length
    assert CONFIGURATIONS[name].serve.window == config.rotary_length
    assert CONFIGURATIONS[name].adapt.sequence_length == config.rotary_length


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_checkpoint_declarations_are_current(name):
    """If this fails, run `python -m submission.checkpoint`."""
    assert (DECLARATIONS / f"{name}.json").read_text() == declaration(CONFIGURATIONS[name].model)


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        (ModelConfig, {"dim": 500}),
        (ModelConfig, {"layers": 1}),
        (ModelConfig, {"layers": "11"}),
        (ModelConfig, {"layers": True}),
        (ModelConfig, {"query_heads": 6}),
        (ModelConfig, {"rotary_dims": 15}),
        (ModelConfig, {"rotary_dims": 66}),
        (ModelConfig, {"rotary_dims": 2}),
        (ModelConfig, {"rotary_length": 0}),
        (ModelConfig, {"vocab_size": 60_000}),
        (ModelConfig, {"bigram_rows": 1}),
        (ModelConfig, {"value_embedding_layers": 12}),
        (ModelConfig, {"logit_softcap": 0.0}),
        (TrainConfig, {"micro_batch_sequences": 50}),
        (TrainConfig, {"ema_decay": 1.0}),
        (TrainConfig, {"muon_momentum": 1.0}),
        (TrainConfig, {"weight_decay": -0.1}),
        (TrainConfig, {"adam_betas": (0.9, 1.0)}),
        (CalibrationConfig, {"temperature": 0.0}),
        (QuantizeConfig, {"clip_quantiles": ()}),
        (QuantizeConfig, {"clip_quantiles": (1.5,)}),
        (QuantizeConfig, {"damping": 0.0}),
        (ServeConfig, {"stride": 4096}),
        (ServeConfig, {"ranks": -1}),
        (AdaptConfig, {"parameters": "embeddings"}),
        (AdaptConfig, {"momentum": 1.0}),
        (AdaptConfig, {"epochs": 0}),
    ],
)
def test_wrong_values_are_refused(kind, changes):
    with pytest.raises(ValueError):
        replace(kind(), **changes)


def test_configurations_are_frozen_and_keyword_only():
    with pytest.raises(FrozenInstanceError):
        CONFIGURATIONS["demo"].train.bank_lr = 1.0
    with pytest.raises(TypeError):
        ServeConfig(2048, 64, 32)
