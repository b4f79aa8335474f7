"""Everything that can be set, one frozen dataclass per concern. The defaults are the published record recipe.

`CONFIGURATIONS` holds the two complete ones: `record`, and `demo`, which is the same code scaled to two CPU cores.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal, get_args

AdaptedParameters = Literal["all", "mlp", "mlp_down"]


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


def _require_positive(config: object, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        _require(value > 0, f"{type(config).__name__}.{name} must be positive, not {value!r}")


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The transformer's shape. Travels inside the artifact.

    bigram_rows counts the row of the first position, which no hash reaches. rotary_dims of each head are rotated; the
    rotary base is made for sequences of rotary_length tokens, which is what the model is trained on, and grows with
    that beyond rotary_base_length. value_embedding_layers are the last ones.
    """

    vocab_size: int = 1024
    layers: int = 11
    dim: int = 512
    query_heads: int = 8
    key_value_heads: int = 4
    mlp_dim: int = 1536
    rotary_dims: int = 16
    rotary_base: float = 10000.0
    rotary_base_length: int = 1024
    rotary_length: int = 2048
    bigram_rows: int = 3072
    bigram_dim: int = 112
    value_embedding_dim: int = 128
    value_embedding_layers: int = 2
    query_gain: float = 1.5
    logit_softcap: float = 30.0

    def __post_init__(self) -> None:
        for entry in fields(self):
            kind, value = {"int": int, "float": float}[entry.type], getattr(self, entry.name)
            _require(type(value) is kind, f"ModelConfig.{entry.name} must be of type {entry.type}, not {value!r}")
        _require_positive(self, *(entry.name for entry in fields(self)))
        # The bigram hash is int32 arithmetic: 36313 * token must not overflow.
        _require(self.vocab_size <= 2**31 // 36313, f"vocab_size {self.vocab_size} overflows the bigram hash")
        _require(self.layers >= 2, "at least 2 layers are needed: one before and one after the skip connections")
        _require(self.dim % self.query_heads == 0, "dim must be a multiple of query_heads")
        _require(self.query_heads % self.key_value_heads == 0, "query_heads must be a multiple of key_value_heads")
        _require(self.rotary_dims % 2 == 0, "rotary_dims must be even")
        _require(2 < self.rotary_dims <= self.head_dim, "rotary_dims must be more than 2 and at most the head's size")
        _require(self.bigram_rows >= 2, "bigram_rows must be at least 2")
        _require(self.value_embedding_layers <= self.layers, "value_embedding_layers must not exceed layers")

    @property
    def head_dim(self) -> int:
        return self.dim // self.query_heads

    @property
    def encoder_layers(self) -> int:
        """Layers whose outputs are kept for the skip connections; the other layers are the decoder."""
        return self.layers // 2


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Training on the clock. Lengths are in tokens, batches in sequences.

    reserve_seconds of the train clock are left for saving the checkpoint and, where the rules put it on the same clock,
    for quantization. warmup_steps run before the clock on made-up tokens and are rolled back.
    """

    sequence_length: int = 2048
    batch_sequences: int = 384
    micro_batch_sequences: int = 48
    warmup_steps: int = 20
    bank_lr: float = 0.025
    embedding_lr: float = 0.035
    vector_lr: float = 0.025
    weight_decay: float = 0.04
    muon_momentum_start: float = 0.92
    muon_momentum: float = 0.99
    muon_momentum_steps: int = 1500
    newton_schulz_steps: int = 5
    adam_betas: tuple[float, float] = (0.9, 0.95)
    adam_eps: float = 1e-8
    gradient_clip: float = 0.3
    ema_decay: float = 0.997
    warmdown_steps: int = 4000
    reserve_seconds: float = 90.0

    def __post_init__(self) -> None:
        may_be_zero = ("weight_decay", "adam_betas")
        _require_positive(self, *(entry.name for entry in fields(self) if entry.name not in may_be_zero))
        _require(self.batch_sequences % self.micro_batch_sequences == 0, "batch_sequences must be whole micro batches")
        _require(self.weight_decay >= 0, "weight_decay must not be negative")
        _require(self.muon_momentum_start <= self.muon_momentum < 1, "muon_momentum must rise and stay below 1")
        _require(all(0 <= beta < 1 for beta in self.adam_betas), "adam_betas must lie in [0, 1)")
        _require(self.ema_decay < 1, "ema_decay must be below 1")


@dataclass(frozen=True, kw_only=True)
class CalibrationConfig:
    """How much text the checkpoint writes for its own calibration, and at what temperature."""

    sequences: int = 64
    length: int = 2048
    temperature: float = 0.8

    def __post_init__(self) -> None:
        _require_positive(self, *(entry.name for entry in fields(self)))


@dataclass(frozen=True, kw_only=True)
class QuantizeConfig:
    """GPTQ. damping is a share of the Hessian's mean diagonal; block_columns is the lazy batch of the paper.

    clip_quantiles are the quantiles of a row's absolute weights that are tried as the row's largest value.
    hessian_sequences are run through the model at once.
    """

    damping: float = 0.01
    block_columns: int = 128
    clip_quantiles: tuple[float, ...] = (0.999, 0.9995, 0.9999, 0.99999, 1.0)
    hessian_sequences: int = 8

    def __post_init__(self) -> None:
        _require_positive(self, "damping", "block_columns", "hessian_sequences")
        _require(len(self.clip_quantiles) > 0, "clip_quantiles must not be empty")
        _require(all(0 < quantile <= 1 for quantile in self.clip_quantiles), "clip_quantiles must lie in (0, 1]")


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """Sliding-window evaluation: tokens of context, positions scored per window, windows per request.

    ranks: processes that serve side by side; 0 means one per GPU, and at least one.
    """

    window: int = 2048
    stride: int = 64
    batch: int = 32
    ranks: int = 0

    def __post_init__(self) -> None:
        _require_positive(self, "window", "stride", "batch")
        _require(self.stride <= self.window, "stride must not exceed window")
        _require(self.ranks >= 0, "ranks must not be negative")


@dataclass(frozen=True, kw_only=True)
class AdaptConfig:
    """Training on what has been scored, for a server that is told to adapt. Lengths in tokens, batches in sequences.

    At least chunk_tokens are scored before they are learned from. A step takes the mean loss of batch_sequences
    sequences, divided over the ranks; the default is a chunk's whole.
    """

    parameters: AdaptedParameters = "mlp"
    lr: float = 0.002
    momentum: float = 0.9
    epochs: int = 3
    chunk_tokens: int = 32768
    sequence_length: int = 2048
    batch_sequences: int = 16
    gradient_clip: float = 1.0

    def __post_init__(self) -> None:
        _require(self.parameters in get_args(AdaptedParameters), f"parameters must not be {self.parameters!r}")
        _require_positive(self, "lr", "epochs", "chunk_tokens", "sequence_length", "batch_sequences", "gradient_clip")
        _require(0 <= self.momentum < 1, "momentum must lie in [0, 1)")


@dataclass(frozen=True, kw_only=True)
class Configuration:
    """One complete, named way to train, quantize and serve."""

    model: ModelConfig = field(default_factory=ModelConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    calibration: CalibrationConfig = field(default_factory=CalibrationConfig)
    quantize: QuantizeConfig = field(default_factory=QuantizeConfig)
    serve: ServeConfig = field(default_factory=ServeConfig)
    adapt: AdaptConfig = field(default_factory=AdaptConfig)


CONFIGURATIONS = {
    "record": Configuration(),
    "demo": Configuration(
        model=ModelConfig(
            layers=4,
            dim=96,
            query_heads=2,
            key_value_heads=1,
            mlp_dim=288,
            rotary_base_length=128,
            rotary_length=256,
            bigram_rows=2048,
            bigram_dim=32,
            value_embedding_dim=32,
        ),
        train=TrainConfig(
            sequence_length=256,
            batch_sequences=8,
            micro_batch_sequences=8,
            warmup_steps=2,
            bank_lr=0.035,
            muon_momentum_start=0.85,
            muon_momentum=0.95,
            muon_momentum_steps=100,
            gradient_clip=1.0,
            ema_decay=0.96,
            warmdown_steps=250,
            reserve_seconds=28.0,
        ),
        calibration=CalibrationConfig(sequences=64, length=256),
        serve=ServeConfig(window=256, stride=64, batch=32),
        adapt=AdaptConfig(chunk_tokens=4096, sequence_length=256),
    ),
}
