"""Bytes of text behind tokens, and bits per byte.

BPB = nats / ln 2 / UTF-8 bytes of the scored text. The bytes of a token come from the tokenizer model alone, never
from the submission: the UTF-8 bytes of its piece without the leading U+2581, one more for that leading space unless
the token before it is a boundary token (control, unknown or unused), one for a byte piece, none for a boundary token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import sentencepiece

from harness.errors import InputError

SPACE = "\u2581"


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

    def count(self, tokens: np.ndarray) -> int:
        """UTF-8 bytes of tokens[1:], integers of shape [N]; tokens[0] is context (it is not scored)."""
        targets, previous = tokens[1:], tokens[:-1]
        with_space = self.leading_space[targets] & ~self.boundary[previous]
        return int(self.bytes[targets].sum()) + int(with_space.sum())


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
