"""Tokens of a shard are found in a submission's files wherever they stand, and nothing else is."""

from __future__ import annotations

import base64
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.data import slices
from harness.data.shards import HEADER_BYTES, write_shard
from harness.data.slices import BLOCK_BYTES, MINIMUM_RUN, Slice, find_slice

TOKENS = 40_000
CODE = b"import numpy as np\n\n\ndef train(steps: int) -> None:\n    ...\n" * 20


@pytest.fixture(scope="module")
def shards(tmp_path_factory) -> list[Path]:
    """Two shards of random tokens below 1024."""
    folder = tmp_path_factory.mktemp("shards")
    generator = np.random.default_rng(7)
    paths = [folder / "train_0.bin", folder / "val_0.bin"]
    for path in paths:
        write_shard(path, generator.integers(0, 1024, TOKENS))
    return paths


def put(folder: Path, content: bytes, name: str = "file.py") -> Path:
    (folder / name).write_bytes(content)
    return folder / name


def confirmed(found: Slice | None) -> Slice:
    """The finding, after comparing the bytes it points at."""
    assert found is not None
    in_file = found.path.read_bytes()[found.offset : found.offset + BLOCK_BYTES]
    in_shard = found.shard.read_bytes()[found.shard_offset : found.shard_offset + BLOCK_BYTES]
    assert in_file == in_shard
    assert len(in_file) == BLOCK_BYTES
    return found


def test_a_whole_copy_is_found(shards, tmp_path) -> None:
    found = confirmed(find_slice([put(tmp_path, shards[1].read_bytes())], shards))
    assert found.shard == shards[1]
    assert found.offset == found.shard_offset == HEADER_BYTES


def test_a_slice_without_header_at_odd_offsets_inside_code_is_found(shards, tmp_path) -> None:
    piece = shards[0].read_bytes()[50_001 : 50_001 + MINIMUM_RUN]
    honest = put(tmp_path, CODE, "honest.py")
    hidden = put(tmp_path, CODE + b"#" + piece + CODE, "hidden.py")
    found = confirmed(find_slice([honest, hidden], shards))
    assert (found.path, found.shard) == (hidden, shards[0])
    assert found.offset - len(CODE) - 1 == found.shard_offset - 50_001


@pytest.mark.parametrize(("every", "seen"), [(300, True), (BLOCK_BYTES - 1, False), (100, False)])
def test_a_byte_changed_in_every_block_hides_a_slice_and_a_byte_now_and_then_does_not(
    shards, tmp_path, every: int, seen: bool
) -> None:
    """What docs/data.md says is not found is here, too."""
    piece = bytearray(shards[0].read_bytes()[HEADER_BYTES:])
    for position in range(0, len(piece), every):
        piece[position] ^= 0xFF
    found = find_slice([put(tmp_path, bytes(piece))], shards)
    assert (found is not None) == seen


def test_encodings_are_not_found_and_documented_so(shards, tmp_path) -> None:
    content = shards[0].read_bytes()
    files = [put(tmp_path, base64.b64encode(content), "base64"), put(tmp_path, content[::-1], "backwards")]
    assert find_slice(files, shards) is None


def test_code_zeros_headers_and_random_bytes_are_no_slices(shards, tmp_path) -> None:
    header = shards[0].read_bytes()[:HEADER_BYTES]
    noise = np.random.default_rng(8).bytes(300_000)
    contents = [CODE, bytes(5000), header, noise, b"", b"x" * (BLOCK_BYTES - 1), b"x" * BLOCK_BYTES]
    files = [put(tmp_path, content, str(number)) for number, content in enumerate(contents)]
    assert find_slice(files, shards) is None
    assert find_slice([], shards) is None
    assert find_slice(files, []) is None


def test_a_monotonous_shard_is_in_no_file(tmp_path) -> None:
    """Runs of one token, or of three, occur in honest tables of numbers, too."""
    write_shard(tmp_path / "shard", np.tile([5, 5, 5, 5, 7, 9], 10_000))
    table = put(tmp_path, np.tile([5, 5, 5, 5, 7, 9], 1000).astype("<u2").tobytes())
    assert find_slice([table], [tmp_path / "shard"]) is None


def test_equal_hashes_alone_are_no_finding(shards, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(slices, "_BASE", 1)  # then a hash is the sum of its words, whatever their order
    words = np.frombuffer(shards[0].read_bytes(), "<u8", 32, HEADER_BYTES)
    assert find_slice([put(tmp_path, words[::-1].tobytes())], shards) is None
    confirmed(find_slice([put(tmp_path, words.tobytes())], shards))


def test_pieces_of_a_shard_join_without_a_gap(shards, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(slices, "_PIECE_BLOCKS", 3)
    data = shards[1].read_bytes()
    for start in range(HEADER_BYTES, HEADER_BYTES + 7 * BLOCK_BYTES, BLOCK_BYTES // 2):
        confirmed(find_slice([put(tmp_path, data[start : start + MINIMUM_RUN])], shards))


def test_the_last_tokens_of_a_shard_are_found(shards, tmp_path) -> None:
    confirmed(find_slice([put(tmp_path, shards[0].read_bytes()[-MINIMUM_RUN:])], shards))


def test_windows_made_to_have_a_block_s_hash_do_not_hide_it(shards, tmp_path) -> None:
    """The top bits of any two words cancel out in the hash, whatever its base."""
    block = shards[0].read_bytes()[HEADER_BYTES : HEADER_BYTES + BLOCK_BYTES]
    decoys = []
    for word in range(1, 32):
        decoy = bytearray(block)
        decoy[7] ^= 0x80
        decoy[8 * word + 7] ^= 0x80
        assert slices._rolling(bytes(decoy))[0] == slices._rolling(block)[0]
        decoys.append(bytes(decoy))
    assert find_slice([put(tmp_path, b"".join(decoys))], shards) is None
    for place in (0, 1, 20, 31):
        confirmed(find_slice([put(tmp_path, b"".join([*decoys[:place], block, *decoys[place:]]))], shards))


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    start=st.integers(HEADER_BYTES, HEADER_BYTES + 2 * TOKENS - MINIMUM_RUN),
    length=st.integers(MINIMUM_RUN, MINIMUM_RUN + 64),
    before=st.binary(max_size=70),
    after=st.binary(max_size=20),
    which=st.integers(0, 1),
)
def test_every_planted_run_is_found(shards, tmp_path, start, length, before, after, which) -> None:
    piece = shards[which].read_bytes()[start : start + length]
    found = confirmed(find_slice([put(tmp_path, before + piece + after)], shards))
    assert found.shard == shards[which]
