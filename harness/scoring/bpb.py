"""Bytes of text behind tokens, and bits per byte.

BPB = nats / ln 2 / UTF-8 bytes of the scored text. The bytes of a token come from the tokenizer model alone, never
from the submission: the UTF-8 bytes of its piece without the leading U+2581, one more for that leading space unless
the token before it is a boundary token (control, unknown or unused), one for a byte piece, none for a boundary token.
The text that the tokens decode to is counted beside it and must have as many bytes, document by document.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece

from harness.errors import InputError

SPACE = "\u2581"
DOCUMENTS_AT_ONCE = 1000
BOOTSTRAP_DRAWS = 1000


@dataclass(frozen=True)
class TokenBytes:
    """Per token of the vocabulary, arrays of shape [vocab_size]: bytes without the leading space (int64), whether
    there is such a space (bool), whether the token is a boundary (bool)."""

    bytes: np.ndarray
    leading_space: np.ndarray
    boundary: np.ndarray

    @classmethod
    def from_tokenizer(cls, path: Path) -> TokenBytes:
        """Read a SentencePiece model; raises InputError if it is none."""
        processor = load_tokenizer(path)
        size = processor.vocab_size()
        counts, spaces, boundaries = np.zeros(size, np.int64), np.zeros(size, bool), np.zeros(size, bool)
        for token in range(size):
            if processor.is_control(token) or processor.is_unknown(token) or processor.is_unused(token):
                boundaries[token] = True
            elif processor.is_byte(token):
                counts[token] = 1
            else:
                piece = processor.id_to_piece(token)
                spaces[token] = piece.startswith(SPACE)
                counts[token] = len(piece.removeprefix(SPACE).encode())
        return cls(counts, spaces, boundaries)

    def each(self, tokens: np.ndarray) -> np.ndarray:
        """UTF-8 bytes of each of tokens[1:], int64 [N - 1]; tokens[0] is context (it is not scored)."""
        targets, previous = tokens[1:], tokens[:-1]
        return self.bytes[targets] + (self.leading_space[targets] & ~self.boundary[previous])

    def count(self, tokens: np.ndarray) -> int:
        """UTF-8 bytes of tokens[1:], integers of shape [N]."""
        return int(self.each(tokens).sum())


def load_tokenizer(path: Path) -> sentencepiece.SentencePieceProcessor:
    """The SentencePiece model at `path`; raises InputError if it is none."""
    try:
        return sentencepiece.SentencePieceProcessor(model_file=str(path))
    except (OSError, RuntimeError) as error:
        raise InputError(f"{path} is not a SentencePiece model: {str(error).splitlines()[0]}") from None


def bits_per_byte(nats: float, text_bytes: int) -> float:
    """Nats over a whole text as bits per UTF-8 byte of it."""
    return nats / math.log(2) / text_bytes


def unigram_nats(tokens: np.ndarray) -> float:
    """Nats that the best possible unigram model spends on tokens[1:]: one that knows their exact frequencies
    beforehand.
    """
    counts = np.bincount(tokens[1:]).astype(np.float64)
    counts = counts[counts > 0]
    return float(-(counts * np.log(counts / counts.sum())).sum())


def document_starts(tokens: np.ndarray, begin_token: int) -> np.ndarray:
    """Places in the stream where a document begins, int64: at each `begin_token`, and at 0."""
    starts = np.flatnonzero(tokens == begin_token)
    return starts if len(starts) and starts[0] == 0 else np.concatenate([[0], starts])


def prove_text(tokens: np.ndarray, tokenizer: Path, originals: Iterable[str] | None = None) -> np.ndarray:
    """UTF-8 bytes of each of tokens[1:], int64 [N - 1], after proving them on the text that the tokens decode to.

    tokens: integers [N], documents that begin with the tokenizer's BOS. originals: the documents as they were before
    they became tokens; each must be what its tokens decode to, whatever the tokenizer. Nothing is tokenized again.
    Raises InputError that names the first document where tokens, text and bytes do not agree."""
    table = TokenBytes.from_tokenizer(tokenizer)
    processor = load_tokenizer(tokenizer)
    counts = table.each(tokens)
    starts = document_starts(tokens, processor.bos_id())
    ends = np.append(starts[1:], len(tokens))
    remaining = iter(originals) if originals is not None else None
    for first in range(0, len(starts), DOCUMENTS_AT_ONCE):
        some = slice(first, first + DOCUMENTS_AT_ONCE)
        spans = list(zip(starts[some].tolist(), ends[some].tolist(), strict=True))
        texts = _decode(tokens, spans, processor, table)
        for number, (text, (start, end)) in enumerate(zip(texts, spans, strict=True), first):
            where = f"document {number:,} of the val split (tokens {start:,} to {end - 1:,})"
            decoded, counted = len(text.encode()), int(counts[max(0, start - 1) : end - 1].sum())
            if start == 0 and not table.boundary[tokens[0]]:
                raise InputError(f"{where}: does not begin with the token for the beginning of a document")
            if decoded != counted:
                raise InputError(
                    f"{where}: its tokens stand for {counted:,} bytes, the text that they decode to has {decoded:,}"
                )
            if remaining is not None and (original := next(remaining, None)) != text:
                raise InputError(f"{where}: {_difference(text, original)}")
    if remaining is not None and next(remaining, None) is not None:
        raise InputError(f"the val split holds {len(starts):,} documents, but there are more originals")
    return counts


def _decode(
    tokens: np.ndarray,
    spans: list[tuple[int, int]],
    processor: sentencepiece.SentencePieceProcessor,
    table: TokenBytes,
) -> list[str]:
    """The text of each span. Boundary tokens have none, and the text between two of them is decoded by itself."""
    pieces: list[list[int]] = []
    owners: list[int] = []
    for owner, (start, end) in enumerate(spans):
        document = tokens[start:end]
        cuts = np.flatnonzero(table.boundary[document])
        for part in np.split(document, cuts):
            inside = part[1:] if len(part) and table.boundary[part[0]] else part
            if len(inside):
                pieces.append(inside.tolist())
                owners.append(owner)
    texts = [""] * len(spans)
    for owner, text in zip(owners, processor.decode(pieces) if pieces else [], strict=True):
        texts[owner] += text
    return texts


def _difference(text: str, original: str | None) -> str:
    """Where a decoded document leaves its original, for people."""
    if original is None:
        return "there is no original of it"
    place = next(
        (place for place, (one, other) in enumerate(zip(text, original, strict=False)) if one != other),
        min(len(text), len(original)),
    )
    return (
        f"its tokens decode to {text[place : place + 20]!r} at character {place:,}, "
        f"the original has {original[place : place + 20]!r} there"
    )


@dataclass(frozen=True)
class StandardErrors:
    """Of a score, had other documents been drawn."""

    val_loss: float  # nats per token
    val_bpb: float  # bits per byte


def bootstrap(nats: np.ndarray, text_bytes: np.ndarray, starts: np.ndarray) -> StandardErrors | None:
    """Standard errors of mean nats per token and of bits per byte, by drawing whole documents with replacement (Efron
    1979); None with fewer than two documents.

    nats, text_bytes: of each scored token [N - 1]. starts: places in the stream where documents begin. The same input
    gives the same numbers."""
    places = np.unique(np.maximum(starts, 1) - 1)  # token t is scored at place t - 1, the first not at all
    if len(places) < 2:
        return None
    sums = [np.add.reduceat(values.astype(np.float64), places) for values in (nats, text_bytes, np.ones(len(nats)))]
    random = np.random.Generator(np.random.Philox(key=0))
    means = np.empty((BOOTSTRAP_DRAWS, 2))
    for draw in range(BOOTSTRAP_DRAWS):
        picked = random.integers(0, len(places), len(places))
        total_nats, total_bytes, total_tokens = (values[picked].sum() for values in sums)
        means[draw] = total_nats / total_tokens, bits_per_byte(total_nats, total_bytes) if total_bytes else np.nan
    loss, bpb = means.std(axis=0, ddof=1)
    return StandardErrors(float(loss), float(bpb))
