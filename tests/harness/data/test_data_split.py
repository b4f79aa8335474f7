"""No document, and no near copy of one, is both in train and in val."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.data.prose import Document
from harness.data.split import SHINGLE_WORDS, clusters, overlap, shingles, split, without_repeats

WORDS = [f"{first}{second}{third}" for first in "bdgk" for second in "aeiou" for third in "lmnrst"]


def sentence(source: random.Random, words: int) -> str:
    return " ".join(source.choices(WORDS, k=words))


def independent_documents(count: int, words: int, seed: int = 0) -> list[Document]:
    source = random.Random(seed)
    return [Document(name=f"text-{number}", text=sentence(source, words)) for number in range(count)]


def near_copy(document: Document, name: str, source: random.Random) -> Document:
    """The document with every twentieth word exchanged, some capitals and commas."""
    words = document.text.split()
    for position in range(source.randrange(20), len(words), 20):
        words[position] = source.choice(WORDS).upper() + ","
    return Document(name=name, text=" ".join(words))


def test_shingles_are_runs_of_words() -> None:
    words = [f"w{number}" for number in range(SHINGLE_WORDS + 1)]
    assert shingles(" ".join(words)) == {" ".join(words[:-1]), " ".join(words[1:])}
    assert shingles("Short, TEXT!") == shingles("short text") == {"short text"}


def test_a_paragraph_is_kept_where_it_first_occurs() -> None:
    documents = [
        Document(name="a", text="One of these.\nTwo of these."),
        Document(name="b", text="two  of THESE\nThree of these."),
        Document(name="c", text="One of these!"),
    ]
    assert without_repeats(documents) == [documents[0], Document(name="b", text="Three of these.")]


def test_a_chain_of_near_copies_is_one_cluster() -> None:
    source = random.Random(1)
    parts = [sentence(source, 30) for _ in range(4)]
    chain = [Document(name=f"c{n}", text=f"{parts[n]} {parts[n + 1]}") for n in range(3)]
    other = Document(name="other", text=sentence(source, 60))
    assert clusters([chain[2], other, chain[0], chain[1]]) == [[chain[2], chain[0], chain[1]], [other]]


@settings(max_examples=25)
@given(seed=st.integers(0, 2**32), originals=st.integers(10, 40), copies=st.integers(1, 40))
def test_planted_near_copies_stay_on_one_side(seed: int, originals: int, copies: int) -> None:
    source = random.Random(seed)
    documents = independent_documents(originals, 80, seed)
    pairs = []
    for number in range(copies):
        original = source.choice(documents[:originals])
        pairs.append((original.name, f"copy-{number}"))
        documents.append(near_copy(original, f"copy-{number}", source))
    parts = split(documents, val_share=0.3, largest_share=1.0)

    val = {document.name for document in parts.val}
    train = {document.name for document in parts.train}
    assert val | train == {document.name for document in documents}
    assert not val & train
    assert all((original in val) == (copy in val) for original, copy in pairs)
    assert overlap(parts.train, parts.val) == overlap(parts.val, parts.train) == 0


def test_a_careless_split_is_measured() -> None:
    documents = independent_documents(20, 80)
    copy = near_copy(documents[3], "copy", random.Random(2))
    assert overlap(documents, [copy]) > 0.2
    assert overlap(documents, [documents[5], copy]) >= overlap(documents, [copy]), "the worst document counts"
    assert overlap(documents, [documents[5]]) == 1
    assert overlap(documents[:10], documents[10:]) == 0


def test_the_split_depends_on_names_alone() -> None:
    documents = independent_documents(60, 40)
    parts = split(documents, val_share=0.2, largest_share=0.5)
    shuffled = random.Random(3).sample(documents, k=len(documents))
    assert split(shuffled, val_share=0.2, largest_share=0.5) == parts
    assert 0.2 <= sum(d.size for d in parts.val) / sum(d.size for d in documents) < 0.25


@pytest.mark.parametrize("seed", range(5))
def test_a_large_cluster_goes_to_train(seed: int) -> None:
    documents = independent_documents(60, 40, seed)
    large = Document(name="large", text=sentence(random.Random(seed + 100), 400))
    parts = split([*documents, large], val_share=0.2, largest_share=0.25)
    assert large in parts.train
    assert parts.val
