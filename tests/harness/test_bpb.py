"""The bytes behind tokens are those of the text, whatever it is written in; nats become bits per such byte."""

from __future__ import annotations

import collections
import math
from pathlib import Path

import numpy as np
import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from harness.errors import InputError
from harness.scoring.bpb import (
    TokenBytes,
    bits_per_byte,
    bootstrap,
    document_starts,
    load_tokenizer,
    prove_text,
    unigram_nats,
)


@pytest.fixture(scope="module")
def tokenizer(toy_data) -> sentencepiece.SentencePieceProcessor:
    return load_tokenizer(toy_data / "tokenizer.model")


@pytest.fixture(scope="module")
def table(toy_data) -> TokenBytes:
    return TokenBytes.from_tokenizer(toy_data / "tokenizer.model")


def stream(tokenizer, documents: list[str]) -> np.ndarray:
    return np.array([token for text in documents for token in (tokenizer.bos_id(), *tokenizer.encode(text))], np.uint16)


# SentencePiece writes a space as U+2581, so a text with that character cannot be told from one with a space.
words = st.text(st.characters(exclude_characters="\u2581", exclude_categories=("Cs",)), max_size=40)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(documents=st.lists(words, min_size=1, max_size=6))
def test_the_count_is_that_of_the_decoded_text(tokenizer, table, documents: list[str]) -> None:
    tokens = stream(tokenizer, documents)
    decoded = [tokenizer.decode(tokenizer.encode(text)) for text in documents]
    assert table.count(tokens) == sum(len(text.encode()) for text in decoded)


@pytest.mark.parametrize(
    "text",
    ["", "a", " ", "  two  spaces ", "\ttab\n", "naïve 世界 🦆", "\x00", "the model the model", "é\u0301", "ﬁ"],
)
def test_texts_that_survive_the_tokenizer_count_as_they_are(tokenizer, table, text: str) -> None:
    tokens = stream(tokenizer, [text, "and then", text])
    if tokenizer.decode(tokenizer.encode(text)) == text:
        assert table.count(tokens) == 2 * len(text.encode()) + len("and then")


def test_the_toy_corpus_counts_as_its_documents(toy_data, table) -> None:
    from support import toy_documents

    from harness.data.shards import read_shard

    documents = toy_documents(60, 1)
    assert table.count(read_shard(toy_data / "toy_val_000000.bin")) == sum(len(text.encode()) for text in documents)


def test_the_leading_space_counts_unless_a_boundary_comes_before(tokenizer, table) -> None:
    (spaced,) = [token for token in tokenizer.encode("the") if tokenizer.id_to_piece(token) == "\u2581the"]
    boundary = tokenizer.bos_id()
    assert table.leading_space[spaced]
    assert table.count(np.array([boundary, spaced])) == 3
    assert table.count(np.array([spaced, spaced])) == 4
    assert table.count(np.array([boundary, spaced, boundary, spaced, spaced])) == 3 + 0 + 3 + 4


def test_the_first_token_is_context_and_boundaries_have_no_bytes(tokenizer, table) -> None:
    assert table.count(np.array([5])) == 0
    for boundary in (tokenizer.bos_id(), tokenizer.eos_id(), tokenizer.unk_id()):
        assert table.boundary[boundary]
        assert table.count(np.array([boundary, boundary])) == 0


def test_a_byte_piece_is_one_byte(tokenizer, table) -> None:
    """Not the six characters of its name <0x41>."""
    pieces = [token for token in range(tokenizer.vocab_size()) if tokenizer.is_byte(token)]
    assert len(pieces) == 256
    assert set(table.bytes[pieces].tolist()) == {1}
    assert not table.leading_space[pieces].any()
    duck = tokenizer.encode("🦆")
    assert table.count(np.array([tokenizer.bos_id(), *duck])) == 4


def test_the_table_has_an_entry_for_every_token(tokenizer, table) -> None:
    assert table.bytes.shape == table.leading_space.shape == table.boundary.shape == (tokenizer.vocab_size(),)


def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    for content in (b"nonsense", b"\x80\x04"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"tokenizer\.model"):
            TokenBytes.from_tokenizer(path)
    with pytest.raises(InputError):
        load_tokenizer(tmp_path / "nothing.model")


def test_bits_per_byte_by_hand() -> None:
    assert bits_per_byte(100 * math.log(2), 100) == pytest.approx(1)
    assert bits_per_byte(8 * math.log(256), 8) == pytest.approx(8)


@given(st.lists(st.integers(0, 20), min_size=2, max_size=200))
def test_the_best_unigram_model_spends_the_entropy(tokens: list[int]) -> None:
    counts = collections.Counter(tokens[1:])
    total = len(tokens) - 1
    entropy = -sum(count / total * math.log(count / total) for count in counts.values())
    assert unigram_nats(np.array(tokens)) == pytest.approx(total * entropy, abs=1e-9)


def test_no_other_unigram_model_spends_less() -> None:
    tokens = np.random.default_rng(0).integers(0, 5, 100)
    guess = np.array([0.3, 0.1, 0.2, 0.2, 0.2])
    assert unigram_nats(tokens) < -np.log(guess[tokens[1:]]).sum()


# --- the proof on the text


def test_tokens_text_and_originals_agree(tokenizer, table, toy_data) -> None:
    documents = ["the model", "naïve 世界 🦆", "a clock and a gate", "", "of the token"]
    tokens = stream(tokenizer, documents)
    for originals in (None, documents, iter(documents)):
        counts = prove_text(tokens, toy_data / "tokenizer.model", originals)
        assert counts.tolist() == table.each(tokens).tolist()
        assert counts.sum() == sum(len(text.encode()) for text in documents)


@pytest.mark.parametrize(
    ("originals", "complaint"),
    [
        (["the model", "and the gatE"], r"document 1 .*decode to 'e' at character 11, the original has 'E'"),
        (["the model", "and the gate again"], r"document 1 .*decode to '' at character 12, the original has ' again'"),
        (["the model"], "document 1 .*no original"),
        (["the model", "and the gate", "more"], "holds 2 documents, but there are more originals"),
        (["The model", "and the gate"], r"document 0 .*tokens 0 to \d+.*'the model' at character 0"),
    ],
)
def test_another_original_is_named(tokenizer, toy_data, originals: list[str], complaint: str) -> None:
    tokens = stream(tokenizer, ["the model", "and the gate"])
    with pytest.raises(InputError, match=complaint):
        prove_text(tokens, toy_data / "tokenizer.model", originals)


def test_bytes_that_are_no_text_are_named(tokenizer, toy_data) -> None:
    """Byte pieces that do not make UTF-8 decode to U+FFFD, three bytes for one: attack E14."""
    first = tokenizer.encode("🦆")[-1]
    tokens = np.concatenate([stream(tokenizer, ["the model"]), [tokenizer.bos_id(), first]])
    with pytest.raises(InputError, match=r"document 1 .*stand for 1 bytes, the text .* has 3"):
        prove_text(tokens, toy_data / "tokenizer.model")


def test_a_table_that_lies_is_found(tokenizer, toy_data, monkeypatch) -> None:
    """A tokenizer whose pieces would count another number of bytes than its text has."""
    real = TokenBytes.from_tokenizer

    def without_spaces(path: Path) -> TokenBytes:
        table = real(path)
        return TokenBytes(table.bytes, np.zeros_like(table.leading_space), table.boundary)

    monkeypatch.setattr(TokenBytes, "from_tokenizer", without_spaces)
    with pytest.raises(InputError, match=r"document 1 .*stand for 10 bytes, the text .* has 12"):
        prove_text(stream(tokenizer, ["model", "and the gate"]), toy_data / "tokenizer.model")


def test_a_stream_that_does_not_begin_with_a_document_is_refused(tokenizer, toy_data) -> None:
    with pytest.raises(InputError, match=r"document 0 .*does not begin"):
        prove_text(stream(tokenizer, ["the model"])[1:], toy_data / "tokenizer.model")


def test_boundary_tokens_inside_a_document_have_no_text(tokenizer, table, toy_data) -> None:
    body = tokenizer.encode("the model")
    tokens = np.array([tokenizer.bos_id(), *body, tokenizer.eos_id(), *body, tokenizer.unk_id(), *body], np.uint16)
    assert prove_text(tokens, toy_data / "tokenizer.model").sum() == 3 * len("the model") == table.count(tokens)


def test_documents_begin_where_their_token_stands() -> None:
    assert document_starts(np.array([1, 5, 1, 1, 7]), 1).tolist() == [0, 2, 3]
    assert document_starts(np.array([5, 1]), 1).tolist() == [0, 1]
    assert document_starts(np.array([5, 6]), 1).tolist() == [0]


# --- the standard error


def test_the_bootstrap_agrees_with_theory_on_documents_of_one_length() -> None:
    """The mean of n equal documents has the standard error of their means: s / sqrt(n)."""
    random = np.random.default_rng(0)
    means = random.normal(2.0, 0.3, 400)
    nats = np.repeat(means, 50)
    starts = np.arange(0, len(nats) + 1, 50)[:-1] + 1
    errors = bootstrap(nats, np.full(len(nats), 3), starts)
    assert errors.val_loss == pytest.approx(means.std(ddof=1) / math.sqrt(400), rel=0.1)
    assert errors.val_bpb == pytest.approx(errors.val_loss / math.log(2) / 3, rel=1e-9)
    assert errors == bootstrap(nats, np.full(len(nats), 3), starts)


def test_equal_documents_have_no_error_and_one_document_no_estimate() -> None:
    nats, text_bytes = np.tile([1.0, 2.0, 3.0], 5), np.tile([1, 2, 3], 5)
    errors = bootstrap(nats, text_bytes, np.array([0, 4, 7, 10, 13]))
    assert errors.val_loss == pytest.approx(0, abs=1e-12)
    assert bootstrap(nats, text_bytes, np.array([0])) is None
    assert bootstrap(nats, text_bytes, np.array([0, 1])) is None, "the second begins where the first is scored"
