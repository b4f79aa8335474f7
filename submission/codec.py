"""The artifact: the whole model as one compressed, versioned file.

    magic (4 bytes), version (uint16), then one xz stream (LZMA2 with a CRC-64) of
    header length (uint32), header (JSON: the model's configuration),
    scales and vectors (float16), int8 codes, int6 codes (one byte each: the entropy coder does the packing)

All numbers are little-endian. Which tensor is stored how, in which order and shape, follows from the configuration, so
the length of the stream is known before it is unpacked.
"""

from __future__ import annotations

import json
import lzma
import struct
from dataclasses import asdict, dataclass

import numpy as np
import torch
from torch import Tensor

from submission.config import ModelConfig
from submission.model import Transformer, meta_model

MAGIC = b"SGGQ"
VERSION = 2
PREFIX = struct.Struct("<4sH")
HEADER_LENGTH = struct.Struct("<I")
MAX_HEADER_BYTES = 4096
INT6_MAX = 31
INT8_MAX = 127
# Codes have no structure beyond their distribution. No context bits (lc, lp, pb) and hardly any search for repetitions
# pack them a little smaller than preset 9 does, and four times as fast.
FILTERS = [
    {
        "id": lzma.FILTER_LZMA2,
        "lc": 0,
        "lp": 0,
        "pb": 0,
        "dict_size": 4096,
        "mode": lzma.MODE_NORMAL,
        "mf": lzma.MF_HC4,
        "nice_len": 8,
        "depth": 1,
    }
]
DECODER_MEMORY_BYTES = 1_000_000


class ArtifactError(ValueError):
    """The file is not an artifact of this version, or is damaged; the text says how."""


@dataclass(frozen=True, kw_only=True)
class RowQuantized:
    """A matrix as whole numbers: codes int8 [rows, columns] times scales float16 [rows]."""

    codes: Tensor
    scales: Tensor

    def dequantize(self) -> Tensor:
        """float32 [rows, columns]."""
        return self.codes.float() * self.scales.float()[:, None]


# What an artifact holds, by parameter name: matrices as codes and scales, vectors as float16.
Weights = dict[str, RowQuantized | Tensor]


def largest_codes(config: ModelConfig) -> dict[str, tuple[torch.Size, int | None]]:
    """Of each parameter, in the order of the state dict: its shape and largest code, None for a float16 vector."""
    model = meta_model(config)
    largest = {"bank": INT6_MAX, "embedding": INT8_MAX, "projection": INT8_MAX, "vector": None}
    classes = model.weight_classes()
    return {name: (param.shape, largest[classes[name]]) for name, param in model.named_parameters()}


def encode(config: ModelConfig, weights: Weights) -> bytes:
    """The artifact of these weights. Raises ValueError when one is misshapen, out of range or not finite."""
    floats, codes = [], {INT8_MAX: [], INT6_MAX: []}
    for name, (shape, largest) in largest_codes(config).items():
        weight = weights[name]
        values = weight if largest is None else weight.scales
        stored = weight if largest is None else weight.codes
        if stored.shape != shape or not values.isfinite().all():
            raise ValueError(f"{name}: wrong shape or not finite")
        floats.append(_little_endian(values, torch.float16))
        if largest is not None:
            if stored.abs().max() > largest:
                raise ValueError(f"{name}: a code is beyond {largest}")
            codes[largest].append(_little_endian(stored, torch.int8))
    header = json.dumps(asdict(config), separators=(",", ":")).encode()
    payload = b"".join([HEADER_LENGTH.pack(len(header)), header, *floats, *codes[INT8_MAX], *codes[INT6_MAX]])
    stream = lzma.compress(payload, format=lzma.FORMAT_XZ, check=lzma.CHECK_CRC64, filters=FILTERS)
    return PREFIX.pack(MAGIC, VERSION) + stream


def decode(data: bytes) -> tuple[ModelConfig, Weights]:
    """The configuration and weights of an artifact. Raises ArtifactError when it is not whole and sound."""
    if len(data) < PREFIX.size:
        raise ArtifactError("the artifact is truncated")
    magic, version = PREFIX.unpack_from(data)
    if magic != MAGIC:
        raise ArtifactError(f"not an artifact: it begins with {magic!r}")
    if version != VERSION:
        raise ArtifactError(f"artifact version {version}; this program reads version {VERSION}")
    stream = _BoundedStream(data[PREFIX.size :])
    (length,) = HEADER_LENGTH.unpack(stream.read(HEADER_LENGTH.size))
    if length > MAX_HEADER_BYTES:
        raise ArtifactError(f"a header of {length} bytes; at most {MAX_HEADER_BYTES} are allowed")
    try:
        values = json.loads(stream.read(length))
        config = ModelConfig(**values)
        if values != asdict(config):
            raise ValueError(f"{(asdict(config).keys() - values.keys()).pop()} is missing")
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"the header is not a model configuration: {error}") from None
    layout = largest_codes(config)
    floats = {}
    for name, (shape, largest) in layout.items():
        stored = shape if largest is None else shape[:1]
        values = np.frombuffer(stream.read(2 * stored.numel()), "<f2").astype(np.float16)
        if not np.isfinite(values).all():
            raise ArtifactError(f"{name}: not finite")
        floats[name] = torch.from_numpy(values).view(stored)
    weights: Weights = {name: floats[name] for name, (_, largest) in layout.items() if largest is None}
    for stored_as in (INT8_MAX, INT6_MAX):
        for name, (shape, largest) in layout.items():
            if largest == stored_as:
                codes = np.frombuffer(stream.read(shape.numel()), np.int8).copy()
                if codes.min() < -largest or codes.max() > largest:
                    raise ArtifactError(f"{name}: a code is beyond {largest}")
                weights[name] = RowQuantized(codes=torch.from_numpy(codes).view(shape), scales=floats[name])
    stream.finish()
    return config, weights


def load_weights(model: Transformer, weights: Weights) -> None:
    """Put an artifact's weights into the model, dequantized. Raises RuntimeError when they are another model's."""
    tensors = {
        name: weight.dequantize() if isinstance(weight, RowQuantized) else weight for name, weight in weights.items()
    }
    model.load_state_dict(tensors)


def _little_endian(tensor: Tensor, dtype: torch.dtype) -> bytes:
    array = tensor.to("cpu", dtype).numpy()
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


class _BoundedStream:
    """Reads exactly as many bytes of an xz stream as asked for, in bounded memory."""

    def __init__(self, data: bytes) -> None:
        self._decompressor = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=DECODER_MEMORY_BYTES)
        self._pending = data

    def read(self, count: int) -> bytes:
        parts = bytearray()
        while len(parts) < count:
            part = self._decompress(count - len(parts))
            if not part:
                raise ArtifactError("the artifact is truncated")
            parts += part
        return bytes(parts)

    def finish(self) -> None:
        """Check that nothing follows, and with it the stream's checksum."""
        if self._decompress(1) or not self._decompressor.eof or self._decompressor.unused_data:
            raise ArtifactError("the artifact is truncated or has something after its end")

    def _decompress(self, count: int) -> bytes:
        if self._decompressor.eof:
            return b""
        pending, self._pending = self._pending, b""
        try:
            return self._decompressor.decompress(pending, count)
        except lzma.LZMAError as error:
            raise ArtifactError(f"the artifact is damaged: {error}") from None
