import pytest
import torch

from submission.config import (
    CalibrationConfig,
    Configuration,
    ModelConfig,
    QuantizeConfig,
    ServeConfig,
    TrainConfig,
)
from submission.model import Transformer


@pytest.fixture(autouse=True, scope="session")
def two_threads():
    torch.set_num_threads(2)


@pytest.fixture(scope="session")
def tiny() -> Configuration:
    """Every feature of the model, in a size that trains in a blink. The rotary base has grown."""
    return Configuration(
        model=ModelConfig(
            vocab_size=48,
            layers=5,
            dim=32,
            query_heads=4,
            key_value_heads=2,
            mlp_dim=48,
            rotary_dims=4,
            rotary_base_length=8,
            rotary_length=16,
            bigram_rows=37,
            bigram_dim=6,
            value_embedding_dim=6,
        ),
        train=TrainConfig(
            sequence_length=16,
            batch_sequences=8,
            micro_batch_sequences=4,
            warmup_steps=1,
            muon_momentum_steps=50,
            gradient_clip=1.0,
            ema_decay=0.9,
            warmdown_steps=40,
            reserve_seconds=1.0,
        ),
        calibration=CalibrationConfig(sequences=16, length=16),
        quantize=QuantizeConfig(block_columns=16),
        serve=ServeConfig(window=16, stride=4, batch=3),
    )


@pytest.fixture
def model(tiny) -> Transformer:
    """A tiny model in which every parameter matters: fresh weights leave many at zero or one."""
    model = Transformer(tiny.model)
    model.initialise(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for param in model.parameters():
            param.add_(0.2 * torch.randn(param.shape, generator=generator))
    return model.requires_grad_(False)


@pytest.fixture
def tokens(tiny) -> torch.Tensor:
    """int64 [3, 16]"""
    return torch.randint(tiny.model.vocab_size, (3, 16), generator=torch.Generator().manual_seed(2))
