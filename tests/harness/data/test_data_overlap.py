"""A val document that train has been given is found, as it is, cut, shifted or a little changed; one that it has not
been given is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.data import overlap
from harness.data.manifest import Manifest, verify
from harness.data.overlap import MINIMUM_TOKENS, RUN_TOKENS, Overlap, measure, measure_once
from harness.data.shards import BOS, write_shard

Document = list[int]


def documents(count: int, seed: int, tokens: tuple[int, int] = (40, 400)) -> list[Document]:
    """Documents of random tokens: no two have a run in common."""
    generator = np.random.default_rng(seed)
    return [generator.integers(3, 1024, generator.integers(*tokens)).tolist() for _ in range(count)]


def stream(given: Sequence[Document]) -> np.ndarray:
    return np.array([token for document in given for token in (BOS, *document)], np.uint16)


def shards(folder: Path, tokens: np.ndarray, count: int = 3) -> list[Path]:
    """The stream in shards of equal size, as the contest cuts it: in the middle of documents."""
    paths = [folder / f"train_{number}.bin" for number in range(count)]
    for path, part in zip(paths, np.array_split(tokens, count), strict=True):
        write_shard(path, part)
    return paths


def by_hand(train: Sequence[Document], val: Sequence[Document]) -> Overlap:
    """The definition, word for word."""
    runs = {tuple(text[at : at + RUN_TOKENS]) for text in train for at in range(len(text) - RUN_TOKENS + 1)}
    whole = {tuple(text) for text in train}
    found = []
    position = 0
    for text in val:
        position += 1
        if len(text) >= MINIMUM_TOKENS:
            own = [tuple(text[at : at + RUN_TOKENS]) in runs for at in range(len(text) - RUN_TOKENS + 1)]
            found.append((tuple(text) in whole, 2 * sum(own) > len(own), position))
        position += len(text)
    return Overlap(
        documents=len(found),
        repeated=sum(repeated for repeated, _, _ in found),
        mostly_in_train=sum(mostly for _, mostly, _ in found),
        in_train=sum(repeated or mostly for repeated, mostly, _ in found),
        example=next((at for repeated, mostly, at in found if repeated or mostly), None),
    )


TRAIN, VAL = documents(200, 1), documents(50, 2)


def test_different_documents_do_not_overlap(tmp_path) -> None:
    found = measure(shards(tmp_path, stream(TRAIN)), stream(VAL))
    assert found == Overlap(documents=50, repeated=0, mostly_in_train=0, in_train=0, example=None)
    assert found.share == 0.0


def test_val_under_the_name_of_train_is_all_of_it(tmp_path) -> None:
    found = measure(shards(tmp_path, stream(VAL)), stream(VAL))
    assert found == Overlap(documents=50, repeated=50, mostly_in_train=50, in_train=50, example=1)
    assert found.share == 1.0


def test_four_of_five_val_documents_in_train(tmp_path) -> None:
    """Attack D20, as it happened: 40,000 of 50,000."""
    chosen = [document for number, document in enumerate(VAL) if number % 5]
    found = measure(shards(tmp_path, stream([*TRAIN[:100], *chosen, *TRAIN[100:]])), stream(VAL))
    assert (found.repeated, found.mostly_in_train, found.share) == (40, 40, 0.8)
    assert found.example == len(VAL[0]) + 2


@pytest.mark.parametrize(
    ("change", "mostly"),
    [
        (lambda document: document[7:], 50),
        (lambda document: document[:-7], 50),
        (lambda document: [9, 9, 9, *document, 9], 50),
        (lambda document: document[: len(document) * 3 // 4], 50),
        (lambda document: document[: len(document) // 3], 0),
        (lambda document: [t if at % 50 else 1000 + t % 24 for at, t in enumerate(document)], 50),
        (lambda document: [t if at % 12 else 1000 + t % 24 for at, t in enumerate(document)], 0),
        (lambda document: document[::-1], 0),
    ],
    ids=["head-cut", "tail-cut", "shifted", "three-quarters", "a-third", "1-in-50", "1-in-12", "reversed"],
)
def test_cut_shifted_and_retokenised_documents_are_found_by_their_runs(tmp_path, change, mostly: int) -> None:
    long = documents(50, 3, (200, 400))
    found = measure(shards(tmp_path, stream([*TRAIN, *map(change, long)])), stream(long))
    assert (found.repeated, found.mostly_in_train) == (0, mostly)


def test_short_documents_do_not_count(tmp_path) -> None:
    short, long = documents(20, 4, (1, MINIMUM_TOKENS)), documents(3, 5, (MINIMUM_TOKENS, MINIMUM_TOKENS + 1))
    found = measure(shards(tmp_path, stream([*short, *long])), stream([*short, *long]))
    assert (found.documents, found.in_train) == (3, 3)
    nothing = measure(shards(tmp_path, stream(TRAIN)), stream(short))
    assert (nothing.documents, nothing.share) == (0, 0.0)


def test_a_run_does_not_reach_from_one_document_into_the_next(tmp_path) -> None:
    [document] = documents(1, 6, (60, 61))
    pieces = [document[at : at + RUN_TOKENS - 1] for at in range(0, 60, RUN_TOKENS - 1)]
    assert measure(shards(tmp_path, stream([*TRAIN, *pieces])), stream([document])).in_train == 0


def test_documents_across_shards_and_pieces_are_whole(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(overlap, "_PIECE_TOKENS", 64)
    for count in (1, 2, 7, 40):
        paths = shards(tmp_path, stream(VAL), count)
        assert measure(paths, stream(VAL), threads=2).repeated == 50


def test_a_document_across_several_shards_is_whole(tmp_path) -> None:
    [long] = documents(1, 7, (5000, 5001))
    paths = shards(tmp_path, stream([*TRAIN[:5], long, *TRAIN[5:8]]), 11)
    assert measure(paths, stream([long])).repeated == 1


def test_the_rest_of_a_document_in_the_next_shard_is_no_document(tmp_path) -> None:
    [document] = documents(1, 9, (199, 200))
    found = measure(shards(tmp_path, stream([document]), 2), stream([document[99:]]))
    assert (found.repeated, found.mostly_in_train) == (0, 1)


def test_what_is_longer_than_the_longest_document_is_cut_on_both_sides_alike(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(overlap, "MAXIMUM_TOKENS", 100)
    [long] = documents(1, 8, (1000, 1001))
    found = measure(shards(tmp_path, stream([*TRAIN, long]), 1), stream([long]))
    assert (found.documents, found.in_train) == (10, 10)  # 1,001 tokens with BOS; the last has 1


def test_a_stream_without_bos_is_one_document(tmp_path) -> None:
    tokens = np.array(VAL[0], np.uint16)
    assert measure(shards(tmp_path, tokens), tokens) == Overlap(
        documents=1, repeated=1, mostly_in_train=1, in_train=1, example=0
    )


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_it_is_what_the_definition_says(tmp_path, data) -> None:
    """Documents of two tokens, so that runs meet by chance; shards of any number, pieces of any size."""
    text = st.lists(st.integers(0, 4).filter(lambda token: token != BOS), max_size=70)
    train = data.draw(st.lists(text, min_size=1, max_size=8))
    val = data.draw(st.lists(st.one_of(text, st.sampled_from(train)), min_size=1, max_size=6))
    tokens = stream(train)
    paths = shards(tmp_path, tokens, data.draw(st.integers(1, min(5, len(tokens)))))
    piece = data.draw(st.integers(1, 200))
    kept = overlap._PIECE_TOKENS
    overlap._PIECE_TOKENS = piece
    try:
        assert measure(paths, stream(val), threads=2) == by_hand(train, val)
    finally:
        overlap._PIECE_TOKENS = kept


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(planted=st.sets(st.integers(0, len(VAL) - 1)), count=st.integers(1, 6))
def test_the_number_of_planted_documents_is_found_exactly(tmp_path, planted: set[int], count: int) -> None:
    train = [*TRAIN[:60], *(VAL[number] for number in sorted(planted)), *TRAIN[60:90]]
    found = measure(shards(tmp_path, stream(train), count), stream(VAL))
    assert (found.repeated, found.mostly_in_train, found.in_train) == (len(planted),) * 3


def test_hashes_that_begin_alike_are_told_apart() -> None:
    """The filter knows the first bits of a hash alone."""
    keys = np.arange(1000, dtype=np.uint64) << np.uint64(20)
    table = overlap._Table(np.concatenate([keys, keys]))
    assert table.holds(keys).all()
    assert not table.holds(keys + np.uint64(1)).any()
    table.mark(np.concatenate([keys[5:9], keys[5:9] + np.uint64(1)]))
    assert np.flatnonzero(table.marked().holds(keys)).tolist() == [5, 6, 7, 8]
    assert not overlap._Table(keys[:0]).holds(keys).any()


# --- what is kept from one run to the next


def test_the_same_data_is_measured_once(toy_data: Path, tmp_path, monkeypatch) -> None:
    files = verify(toy_data)
    first = measure_once(files, tmp_path)
    [kept] = tmp_path.iterdir()
    monkeypatch.setattr(overlap, "measure", lambda *_: pytest.fail("measured again"))
    assert measure_once(files, tmp_path) == first
    monkeypatch.setattr(overlap, "measure", lambda *_: first.model_copy(update={"repeated": 7}))
    fewer = [facts for facts in files if "000001" not in facts.path.name]
    assert measure_once(fewer, tmp_path).repeated == 7, "other shards, another measurement"
    kept.write_text("{")
    assert measure_once(files, tmp_path).repeated == 7, "half a file is no measurement"


def test_progress_is_told_for_each_shard(tmp_path) -> None:
    told: list[str] = []
    measure(shards(tmp_path, stream(TRAIN)), stream(VAL), told.append)
    assert told == [f"compared val with train: {done} of 3 shards" for done in (1, 2, 3)]


def test_the_toy_s_splits_share_little(toy_data: Path) -> None:
    manifest = Manifest.load(toy_data)
    train = [toy_data / shard.file for shard in manifest.train]
    found = measure(train, overlap.read_shard(toy_data / manifest.val[0].file))
    assert found.repeated == 0
    assert found.share < 0.1
