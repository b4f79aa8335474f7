"""Divide documents into train and val so that no document, and no near copy of one, is in both.

Two documents are near copies if they share a run of SHINGLE_WORDS words, whatever the case and the punctuation. Near
copies of near copies form a cluster; a cluster goes to one side as a whole.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable
from dataclasses import dataclass

from harness.data.prose import Document

SHINGLE_WORDS = 13  # the length that published contamination checks use

WORD = re.compile(r"\w+")


@dataclass(frozen=True, kw_only=True)
class Split:
    """The two sides, each in the order in which it is to be written."""

    train: tuple[Document, ...]
    val: tuple[Document, ...]


def shingles(text: str) -> set[str]:
    """Every run of SHINGLE_WORDS words, lower case, joined by spaces; of a shorter text, all its words as one."""
    words = WORD.findall(text.lower())
    last = max(len(words) - SHINGLE_WORDS, 0)
    return {" ".join(words[start : start + SHINGLE_WORDS]) for start in range(last + 1)}


def without_repeats(documents: Iterable[Document]) -> list[Document]:
    """The documents with every paragraph kept only where it first occurs; one that loses all its text is left out.

    Paragraphs are the lines of the text; two are the same if they have the same words in the same order.
    """
    seen: set[tuple[str, ...]] = set()
    kept = []
    for document in documents:
        lines = []
        for line in document.text.split("\n"):
            words = tuple(WORD.findall(line.lower()))
            if words not in seen:
                seen.add(words)
                lines.append(line)
        if lines:
            kept.append(Document(name=document.name, text="\n".join(lines)))
    return kept


def clusters(documents: Iterable[Document]) -> list[list[Document]]:
    """Group documents that are near copies, directly or through others. Order: of the first member, then as given."""
    documents = list(documents)
    parent = list(range(len(documents)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    first_with: dict[str, int] = {}
    for index, document in enumerate(documents):
        for shingle in shingles(document.text):
            one, other = sorted((root(index), root(first_with.setdefault(shingle, index))))
            parent[other] = one  # the earliest member is the root, whatever the order of the set
    groups: dict[int, list[Document]] = {}
    for index, document in enumerate(documents):
        groups.setdefault(root(index), []).append(document)
    return list(groups.values())


def split(documents: Iterable[Document], *, val_share: float, largest_share: float) -> Split:
    """Divide by cluster, in an order that depends on nothing but the documents' names.

    val gets clusters until it has `val_share` of all bytes; a cluster larger than `largest_share` of val always goes
    to train, so that no single text dominates the score.
    """
    groups = sorted(clusters(documents), key=lambda group: _rank(group[0]))
    wanted = val_share * sum(document.size for group in groups for document in group)
    train: list[Document] = []
    val: list[Document] = []
    taken = 0
    for group in groups:
        size = sum(document.size for document in group)
        if taken < wanted and size <= largest_share * wanted:
            val += group
            taken += size
        else:
            train += group
    return Split(train=tuple(sorted(train, key=_rank)), val=tuple(sorted(val, key=_rank)))


def overlap(train: Iterable[Document], val: Iterable[Document]) -> float:
    """How much of the most contaminated val document is in train: the share of its distinct shingles, 0 to 1."""
    known = set().union(*(shingles(document.text) for document in train))
    shares = [len(own & known) / len(own) for own in (shingles(document.text) for document in val)]
    return max(shares, default=0.0)


def _rank(document: Document) -> tuple[str, str]:
    """Where a document comes in a fixed order that looks shuffled."""
    return hashlib.sha256(document.name.encode()).hexdigest(), document.name
