"""Rules as data: one TOML file per contest, read into frozen models. A wrong or unknown key is an error that names it.

The meaning of every key, and what it leaves out, is in docs/rules.md; the values are in `rules/*.toml` and nowhere
else."""

from __future__ import annotations

import hashlib
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from harness.errors import InputError

DIRECTORY = Path(__file__).with_name("rules")

Model = TypeVar("Model", bound=BaseModel)
Seconds = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(gt=0)]


class Table(BaseModel):
    """A TOML table: every key required, unknown keys refused, types exact, immutable."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Clock(Table):
    train_seconds: Seconds
    quantize_shares_train: bool
    quantize_seconds: Seconds
    eval_seconds: Seconds
    drain_seconds: Seconds


class Prepare(Table):
    train_seconds: Seconds
    quantize_seconds: Seconds
    eval_seconds: Seconds


class Size(Table):
    artifact_and_code_bytes: Positive
    submission_bytes: Positive


class Checkpoint(Table):
    mantissa_bits: Annotated[int, Field(ge=1, le=23)]


class SandboxLimits(Table):
    threads: Count
    processes: Positive
    open_files: Positive
    memory_bytes: Positive
    output_bytes: Positive
    output_files: Positive
    scratch_bytes: Positive
    shared_memory_bytes: Positive
    log_bytes: Positive


class Hardware(Table):
    gpus: Count
    gpu_name: str
    gpu_free_bytes: Count
    exclusive: bool


class Data(Table):
    vocab_size: Annotated[int, Field(gt=0, le=65536)]
    val_tokens: Count
    tokenizer_sha256: Annotated[str, Field(pattern=r"^([0-9a-f]{64})?$")]
    max_val_documents_in_train: Annotated[float, Field(ge=0, le=1)]


class Seeds(Table):
    default: Annotated[tuple[Count, ...], Field(min_length=1)]
    minimum: Positive


class Probes(Table):
    blind_share: Annotated[float, Field(ge=0, lt=1)]
    windows_after: Count
    tolerance_nats: Annotated[float, Field(gt=0)]
    mean_tolerance_nats: Annotated[float, Field(gt=0)]


class Significance(Table):
    baseline_name: str
    baseline_val_loss: tuple[float, ...]
    minimum_improvement_nats: Annotated[float, Field(ge=0)]
    p_value: Annotated[float, Field(gt=0, lt=1)]

    @field_validator("baseline_val_loss")
    @classmethod
    def _has_a_variance(cls, losses: tuple[float, ...]) -> tuple[float, ...]:
        if len(losses) == 1:
            raise ValueError("needs at least two values, or none for no baseline")
        return losses


class Rules(Table):
    name: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    description: str
    clock: Clock
    prepare: Prepare
    size: Size
    checkpoint: Checkpoint
    limits: SandboxLimits
    hardware: Hardware
    data: Data
    probes: Probes
    seeds: Seeds
    significance: Significance


@dataclass(frozen=True)
class LoadedRules:
    """Rules with the sha256 of the file that they were read from."""

    rules: Rules
    sha256: str


def load_rules(name_or_path: str) -> LoadedRules:
    """Rules by name ("demo", "record") or from a TOML file. Raises InputError naming file and wrong key."""
    path = Path(name_or_path)
    if path.suffix != ".toml":
        path = DIRECTORY / f"{name_or_path}.toml"
        if not path.is_file():
            known = ", ".join(sorted(file.stem for file in DIRECTORY.glob("*.toml")))
            raise InputError(f"no rules named {name_or_path!r}; there are {known}, or give the path of a .toml file")
    data = read_input(path, "rules")
    return LoadedRules(parse_toml(data, Rules, path), hashlib.sha256(data).hexdigest())


def read_input(path: Path, what: str) -> bytes:
    """The bytes of a file that the user named; raises InputError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read the {what} {path}: {error.strerror}") from None


def parse_toml(data: bytes, model: type[Model], path: Path) -> Model:
    """TOML text as `model`; raises InputError with one line that names the file, the key and what is wrong with it."""
    try:
        tables = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}") from None
    try:
        return model.model_validate_json(
            json.dumps(tables, default=str)
        )  # JSON mode: strict, yet a TOML array fits a tuple
    except ValidationError as error:
        first = min(
            error.errors(), key=lambda found: found["type"] != "extra_forbidden"
        )  # a misspelt key is also a missing one
        key = ".".join(str(part) for part in first["loc"])
        problem = {"extra_forbidden": "is not a known key", "missing": "is missing"}.get(
            first["type"], first["msg"].lower()
        )
        raise InputError(f"{path}: {key} {problem}" if key else f"{path}: {problem}") from None
