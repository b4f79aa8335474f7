"""Nothing crosses from train to quantize but the declared tensors, rounded: one checkpoint has one file."""

from __future__ import annotations

import json
import struct
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.numpy import load, save

from harness.checkpoint import HEADER_BYTES, canonical_checkpoint, most_bytes, round_mantissa
from harness.contestant import TensorType
from harness.errors import Reason, Violation

FORMATS = {"F32": (8, 23), "F16": (5, 10), "BF16": (8, 7)}  # exponent and explicit mantissa bits
SCHEMA = {"a": TensorType(dtype="F32", shape=(2, 3)), "b": TensorType(dtype="F16", shape=(4,))}


def unsigned(dtype: str):
    return np.uint32 if dtype == "F32" else np.uint16


def value_of(bits: int, dtype: str) -> Fraction | None:
    """The number behind a bit pattern, exactly; None if it is not finite."""
    exponent_bits, mantissa_bits = FORMATS[dtype]
    sign = -1 if bits >> (exponent_bits + mantissa_bits) else 1
    exponent = bits >> mantissa_bits & ((1 << exponent_bits) - 1)
    mantissa = bits & ((1 << mantissa_bits) - 1)
    bias = (1 << (exponent_bits - 1)) - 1
    if exponent == (1 << exponent_bits) - 1:
        return None
    if exponent == 0:
        return sign * Fraction(mantissa) * Fraction(2) ** (1 - bias - mantissa_bits)
    return sign * Fraction(mantissa + (1 << mantissa_bits)) * Fraction(2) ** (exponent - bias - mantissa_bits)


def nearest(bits: int, dtype: str, kept: int) -> Fraction:
    """The nearest number with `kept` explicit mantissa bits, ties to even, as if exponents had no end."""
    exponent_bits, mantissa_bits = FORMATS[dtype]
    value = value_of(bits, dtype)
    bias = (1 << (exponent_bits - 1)) - 1
    exponent = max(1, bits >> mantissa_bits & ((1 << exponent_bits) - 1)) - bias
    spacing = Fraction(2) ** (exponent - min(kept, mantissa_bits))
    return round(value / spacing) * spacing  # Python rounds half to even


def test_the_reference_itself_agrees_with_numpy() -> None:
    for number in (0.0, 1.0, -1.5, 3.4028235e38, 1e-45, 6.1e-5, 65504.0):
        assert value_of(int(np.float32(number).view(np.uint32)), "F32") == Fraction(float(np.float32(number)))
        if abs(number) < 65505:
            assert value_of(int(np.float16(number).view(np.uint16)), "F16") == Fraction(float(np.float16(number)))


@settings(max_examples=400)
@given(bits=st.integers(0, 2**32 - 1), kept=st.integers(1, 23), dtype=st.sampled_from(list(FORMATS)))
def test_rounding_is_to_nearest_and_ties_go_to_even(bits: int, kept: int, dtype: str) -> None:
    bits &= (1 << (32 if dtype == "F32" else 16)) - 1
    if value_of(bits, dtype) is None:
        return
    rounded = int(round_mantissa(np.array([bits], unsigned(dtype)), dtype, kept)[0])
    wanted = nearest(bits, dtype, kept)
    exponent_bits, _ = FORMATS[dtype]
    if abs(wanted) >= Fraction(2) ** (1 << (exponent_bits - 1)):
        assert value_of(rounded, dtype) is None, "it became infinite, which the checkpoint is refused for"
    else:
        assert value_of(rounded, dtype) == wanted
        assert rounded != 1 << (31 if dtype == "F32" else 15), "no negative zero"


@given(
    numbers=st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1), kept=st.integers(1, 23)
)
def test_rounding_twice_is_rounding_once(numbers: list[float], kept: int) -> None:
    bits = np.array(numbers, np.float32).view(np.uint32)
    once = round_mantissa(bits, "F32", kept)
    assert once.dtype == np.uint32
    assert (round_mantissa(once, "F32", kept) == once).all()
    assert not (once & ((1 << (23 - kept)) - 1)).any(), "no low bit survives"


@pytest.mark.parametrize(
    ("number", "rounded"),
    [
        (1 + 2**-10, 1 + 2**-10),
        (1 + 2**-11, 1.0),  # a tie: to even
        (1 + 3 * 2**-11, 1 + 2**-9),
        (1 + 2**-11 + 2**-23, 1 + 2**-10),
        (-1 - 2**-11, -1.0),
        (2 - 2**-23, 2.0),  # the carry reaches the exponent
        (-0.0, 0.0),
        (-1e-45, 0.0),  # a denormal that rounds to negative zero
        (1e-45, 0.0),
        (2.0**-149 * 2**13, 2.0**-149 * 2**13),  # the smallest that has 10 bits
    ],
)
def test_rounding_to_ten_bits_by_hand(number: float, rounded: float) -> None:
    found = round_mantissa(np.array([number], np.float32).view(np.uint32), "F32", 10).view(np.float32)
    assert found[0] == np.float32(rounded)
    assert not np.signbit(found[0]) or rounded < 0


@pytest.mark.parametrize("dtype", ["F16", "BF16"])
def test_formats_with_fewer_bits_keep_them_all(dtype: str) -> None:
    bits = np.arange(65536, dtype=np.uint16)
    kept = round_mantissa(bits, dtype, 10)
    changed = np.flatnonzero(kept != bits)
    assert changed.tolist() == [0x8000], "only negative zero changes"


# --- files


def tensors() -> dict[str, np.ndarray]:
    return {"a": np.arange(6, dtype=np.float32).reshape(2, 3) / 3, "b": np.array([0, -1, 2, 0.1], np.float16)}


def raw_file(entries: list[tuple[str, str, list[int], bytes]], *, header_suffix: str = "", tail: bytes = b"") -> bytes:
    """A safetensors file spelled out by hand: (name, dtype, shape, data) in the order in which the data lies."""
    parts, offset = [], 0
    for name, dtype, shape, data in entries:
        entry = {"dtype": dtype, "shape": shape, "data_offsets": [offset, offset + len(data)]}
        parts.append(f"{json.dumps(name)}:{json.dumps(entry)}")
        offset += len(data)
    header = ("{" + ",".join(parts) + header_suffix + "}").encode()
    return struct.pack("<Q", len(header)) + header + b"".join(data for *_, data in entries) + tail


def entries() -> list[tuple[str, str, list[int], bytes]]:
    found = tensors()
    return [("a", "F32", [2, 3], found["a"].tobytes()), ("b", "F16", [4], found["b"].tobytes())]


@pytest.fixture
def canonical(tmp_path):
    def make(data: bytes, schema=SCHEMA, mantissa_bits: int = 10) -> bytes:
        path = tmp_path / "received"
        path.write_bytes(data)
        return canonical_checkpoint(path, schema, mantissa_bits)

    return make


def refused(canonical, data: bytes, **options) -> str:
    with pytest.raises(Violation) as caught:
        canonical(data, **options)
    assert caught.value.reason is Reason.CHECKPOINT_MISMATCH
    assert len(caught.value.text) < 1000
    return caught.value.text


def test_the_rounded_tensors_come_out(canonical) -> None:
    found = load(canonical(save(tensors())))
    assert set(found) == {"a", "b"}
    assert found["b"].dtype == np.float16
    assert (found["b"] == tensors()["b"]).all()
    assert found["a"].shape == (2, 3)
    assert np.abs(found["a"] - tensors()["a"]).max() < 2**-10
    assert not (found["a"].view(np.uint32) & 0x1FFF).any()


def test_one_checkpoint_has_one_file(canonical) -> None:
    """Order, metadata, padding of the header and low bits are all gone, so they can carry nothing."""
    wanted = canonical(raw_file(entries()))
    assert canonical(raw_file(entries()[::-1])) == wanted
    assert canonical(save(tensors())) == wanted
    assert canonical(save(tensors(), metadata={"hidden": "x" * 10000})) == wanted
    assert canonical(raw_file(entries(), header_suffix=" " * 77)) == wanted
    assert b"__metadata__" not in wanted
    nudged = tensors()
    nudged["a"] = (round_down := load(wanted)["a"]) + round_down * np.float32(2**-20)
    assert canonical(save(nudged)) == wanted
    assert canonical(wanted) == wanted, "what is canonical stays as it is"


def test_negative_zero_becomes_zero_in_every_format(canonical) -> None:
    schema = {name: TensorType(dtype=name, shape=(2,)) for name in FORMATS}
    data = [
        ("F32", "F32", [2], b"\0\0\0\x80" + b"\0\0\0\0"),
        ("F16", "F16", [2], b"\0\x80\0\0"),
        ("BF16", "BF16", [2], b"\0\x80\0\0"),
    ]
    written = canonical(raw_file(data), schema=schema)
    assert written[-16:] == b"\0" * 16


def test_bfloat16_passes(canonical) -> None:
    schema = {"w": TensorType(dtype="BF16", shape=(1, 2))}
    written = canonical(raw_file([("w", "BF16", [1, 2], b"\x80\x3f\x00\xc0")]), schema=schema)
    assert written.endswith(b"\x80\x3f\x00\xc0")
    assert b'"BF16"' in written


@pytest.mark.parametrize(
    ("dtype", "pattern"),
    [
        ("F32", 0x7F800000),
        ("F32", 0xFF800000),
        ("F32", 0x7FC00000),
        ("F32", 0xFFFFFFFF),
        ("F32", 0x7F800001),  # a NaN whose mantissa would be rounded away
        ("F32", 0x7F7FFFFF),  # finite, but rounds to infinity
        ("F32", 0xFF7FFFFF),
        ("F16", 0x7C00),
        ("F16", 0xFC01),
        ("BF16", 0x7F80),
        ("BF16", 0xFFFF),
    ],
)
def test_numbers_that_are_not_finite_are_refused(canonical, dtype: str, pattern: int) -> None:
    data = np.array([0, pattern, 0], unsigned(dtype)).tobytes()
    schema = {"w": TensorType(dtype=dtype, shape=(3,))}
    assert "'w'" in refused(canonical, raw_file([("w", dtype, [3], data)]), schema=schema)


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ([*entries(), ("c", "F32", [1], b"\0" * 4)], "'c' was not declared"),
        ([*entries(), ("c", "U8", [0], b"")], "'c' was not declared"),
        (entries()[:1], "'b' is missing"),
        ([("A", *entries()[0][1:]), entries()[1]], "'A' was not declared"),
        ([("a", "F32", [3, 2], entries()[0][3]), entries()[1]], "'a'"),
        ([("a", "F32", [6], entries()[0][3]), entries()[1]], "'a'"),
        ([("a", "F32", [2, 3, 1], entries()[0][3]), entries()[1]], "'a'"),
        ([("a", "F32", [1, 2, 3], entries()[0][3]), entries()[1]], "'a'"),
        ([("a", "I32", [2, 3], entries()[0][3]), entries()[1]], "'a'"),
        ([("a", "F64", [2, 3], b"\0" * 48), entries()[1]], "'a'"),
        ([entries()[0], ("b", "BF16", [4], entries()[1][3])], "'b'"),
        ([entries()[0], ("b", "F16", [5], b"\0" * 10)], "'b'"),
        ([("\0" * 500, "F32", [2, 3], entries()[0][3]), entries()[1]], "was not declared"),
        ([], "'a' is missing"),
    ],
)
def test_tensors_other_than_the_declared_are_refused(canonical, changed, named: str) -> None:
    assert named in refused(canonical, raw_file(changed))


def with_header(header: bytes, data: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 7,
        b"\0" * 8,
        b"PK\x03\x04 a pickle in a zip",
        b"\x80\x04\x95 a pickle",
        raw_file(entries())[:-1],
        raw_file(entries())[:20],
        raw_file(entries(), tail=b"hidden"),  # bytes after the last tensor
        with_header(b"not json"),
        with_header(b"[]"),
        with_header(b"{" * 5000),
        with_header(b'{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[8,32]}}', b"\0" * 32),  # a gap before
        with_header(
            b'{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},"b":{"dtype":"F16","shape":[4],"data_offsets":[16,24]}}',
            b"\0" * 24,
        ),  # overlapping
        with_header(b'{"a":{"dtype":"F32","shape":[2,3],"data_offsets":[24,0]}}', b"\0" * 24),
        with_header(b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,24]}}', b"\0" * 24),
        with_header(b'{"a":{"dtype":"F32","shape":[-2,-3],"data_offsets":[0,24]}}', b"\0" * 24),
        with_header(b'{"a":{"dtype":"XX","shape":[2,3],"data_offsets":[0,24]}}', b"\0" * 24),
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2**64 - 1) + b"{}",
        struct.pack("<Q", 200_000_000) + b"{}" + b" " * 1000,
    ],
    ids=lambda data: data[8:60].decode("latin1"),
)
def test_a_file_with_a_second_reading_is_refused(canonical, data: bytes) -> None:
    refused(canonical, data)


@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.integers(0, 200), byte=st.integers(0, 255), cut=st.integers(0, 30))
def test_a_damaged_file_is_a_violation_or_a_checkpoint(canonical, place: int, byte: int, cut: int) -> None:
    """Never an exception of another kind: the contestant cannot make the referee fail."""
    data = bytearray(raw_file(entries()))
    data[place % len(data)] = byte
    try:
        written = canonical(bytes(data[: len(data) - cut]))
    except Violation as violation:
        assert violation.reason is Reason.CHECKPOINT_MISMATCH
    else:
        assert set(load(written)) == {"a", "b"}


def test_a_key_given_twice_has_no_second_reading(canonical) -> None:
    """safetensors takes the last of two equal keys; the file written anew has one."""
    twice = raw_file(entries(), header_suffix=',"a":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]}')
    assert canonical(twice) == canonical(raw_file(entries()))
    other = raw_file(entries(), header_suffix=',"a":{"dtype":"F32","shape":[3,2],"data_offsets":[0,24]}')
    refused(canonical, other)


def test_a_pickle_is_never_run(canonical, tmp_path: Path) -> None:
    import pickle

    class Payload:
        def __reduce__(self):
            return Path.touch, (tmp_path / "executed",)

    refused(canonical, pickle.dumps(Payload()))
    assert not (tmp_path / "executed").exists()


def test_most_bytes_leaves_room_for_the_header_alone() -> None:
    assert most_bytes(SCHEMA) == HEADER_BYTES + 24 + 8
    assert len(save(tensors())) < most_bytes(SCHEMA)
    assert most_bytes({"scalar": TensorType(dtype="BF16", shape=())}) == HEADER_BYTES + 2
