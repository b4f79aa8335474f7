"""The checkpoint as a typed input: what train left is read, compared with the declared schema, rounded, and written
anew by the harness.

Nothing crosses from train to quantize but the declared tensors: no metadata, no gaps, no second reading of the header,
no low mantissa bits, no negative zeros. Nothing is ever unpickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import safetensors

from harness.contestant import CheckpointSchema
from harness.errors import Reason, Violation

HEADER_BYTES = 4_000_000  # more than any honest safetensors header needs
_ITEM_BYTES = {"F32": 4, "F16": 2, "BF16": 2}
_MANTISSA_BITS = {"F32": 23, "F16": 10, "BF16": 7}
_EXPONENT_BITS = {"F32": 8, "F16": 5, "BF16": 8}
_SERIALIZE_NAME = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def most_bytes(schema: CheckpointSchema) -> int:
    """The largest file that can hold a checkpoint of `schema`."""
    return HEADER_BYTES + sum(_ITEM_BYTES[tensor.dtype] * int(np.prod(tensor.shape)) for tensor in schema.values())


def round_mantissa(bits: np.ndarray, dtype: str, mantissa_bits: int) -> np.ndarray:
    """Floating point numbers, given and returned as their bit patterns (uint32 for F32, uint16 for F16 and BF16),
    rounded to nearest even with `mantissa_bits` explicit bits of mantissa; negative zero becomes zero. Shape is kept.

    Rounding the bit pattern as an integer rounds the number, because the patterns of one sign are ordered like their
    numbers."""
    one = bits.dtype.type(1)
    dropped = max(0, _MANTISSA_BITS[dtype] - mantissa_bits)
    if dropped:
        shift = bits.dtype.type(dropped)
        half_minus_one = (one << (shift - one)) - one
        bits = ((bits + half_minus_one + ((bits >> shift) & one)) >> shift) << shift
    sign = one << bits.dtype.type(8 * bits.itemsize - 1)
    return np.where(bits == sign, bits.dtype.type(0), bits)


def _not_finite(bits: np.ndarray, dtype: str) -> bool:
    exponent = bits.dtype.type(((1 << _EXPONENT_BITS[dtype]) - 1) << _MANTISSA_BITS[dtype])
    return bool(((bits & exponent) == exponent).any())


def canonical_checkpoint(received: Path, schema: CheckpointSchema, mantissa_bits: int) -> bytes:
    """The bytes of the one file that holds the received tensors as the rules want them.

    Raises Violation (checkpoint_mismatch) with the first difference from the schema, or for a number that is not
    finite."""
    try:
        tensors = safetensors.deserialize(received.read_bytes())
    except safetensors.SafetensorError as error:
        raise Violation(Reason.CHECKPOINT_MISMATCH, f"not a safetensors file: {error}") from None
    found = dict(tensors)
    compare_names(found, schema)
    rounded: dict[str, np.ndarray] = {}
    for name, declared in sorted(schema.items()):
        dtype, shape = found[name]["dtype"], tuple(found[name]["shape"])
        if (dtype, shape) != (declared.dtype, declared.shape):
            raise Violation(
                Reason.CHECKPOINT_MISMATCH,
                f"tensor {name!r} is {dtype} {shape}, declared was {declared.dtype} {declared.shape}",
            )
        bits = np.frombuffer(found[name]["data"], np.uint32 if dtype == "F32" else np.uint16)
        rounded[name] = round_mantissa(bits, dtype, mantissa_bits)
        if _not_finite(bits, dtype) or _not_finite(rounded[name], dtype):
            raise Violation(Reason.CHECKPOINT_MISMATCH, f"tensor {name!r} holds a number that is not finite")
    specs = {
        name: safetensors.TensorSpec(
            dtype=_SERIALIZE_NAME[schema[name].dtype],
            shape=list(schema[name].shape),
            data_ptr=bits.ctypes.data,
            data_len=bits.nbytes,
        )
        for name, bits in rounded.items()
    }
    return bytes(safetensors.serialize(specs))


def compare_names(found: Mapping[str, object], schema: CheckpointSchema) -> None:
    """Raise Violation if the tensors are not exactly the declared ones."""
    extra, missing = sorted(set(found) - set(schema)), sorted(set(schema) - set(found))
    if extra:
        raise Violation(Reason.CHECKPOINT_MISMATCH, f"tensor {extra[0][:80]!r} was not declared ({len(extra)} such)")
    if missing:
        raise Violation(Reason.CHECKPOINT_MISMATCH, f"tensor {missing[0]!r} is missing ({len(missing)} such)")
