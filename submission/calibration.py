"""Calibration text that the checkpoint writes for itself, sampled so that anyone can check it later.

Each token is argmax(logits / T + g), which is a sample from softmax(logits / T) when g is Gumbel noise (Gumbel 1954).
The noise is a pure function of (key, sequence, position, token), so the text follows from the checkpoint and the key
alone: `replay` shows it with one teacher-forced pass and without trusting whoever generated it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch
from torch import Tensor

from submission.config import CalibrationConfig
from submission.model import KeyValueCache, Transformer

KEY_DOMAIN = b"submission.calibration philox4x32-10 key v1\0"
WORD = 0xFFFFFFFF


def philox(counter: Tensor, key: tuple[int, int]) -> Tensor:
    """Philox4x32-10 (Salmon et al. 2011): counter int64 [..., 4] of 32-bit words -> as many random words, same layout.

    Integer arithmetic only, so every device gives the same words.
    """
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = key
    for _ in range(10):
        # A product may pass 2^63 and wrap; shifting and masking still give its true high and low words.
        product0, product1 = c0 * 0xD2511F53, c2 * 0xCD9E8D57
        c0, c2 = ((product1 >> 32) & WORD) ^ c1 ^ k0, ((product0 >> 32) & WORD) ^ c3 ^ k1
        c1, c3 = product1 & WORD, product0 & WORD
        k0, k1 = (k0 + 0x9E3779B9) & WORD, (k1 + 0xBB67AE85) & WORD
    return torch.stack((c0, c1, c2, c3), dim=-1)


def philox_key(calibration_key: str) -> tuple[int, int]:
    """Fold the harness's 256-bit key, 64 hexadecimal digits, to Philox's two words: the first 8 bytes of
    SHA-256(KEY_DOMAIN + key), little-endian. Raises ValueError when it is not such a key.
    """
    key = bytes.fromhex(calibration_key)
    if len(key) != 32:
        raise ValueError(f"the calibration key has {len(key)} bytes, not 32")
    digest = hashlib.sha256(KEY_DOMAIN + key).digest()
    return int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:8], "little")


def gumbel_noise(key: tuple[int, int], sequences: Tensor, positions: Tensor, vocab_size: int) -> Tensor:
    """Standard Gumbel noise, float64 [sequences, positions, vocab_size], for the given sequence and position numbers.

    Token v takes word v mod 4 of the counter (sequence, position, v div 4, 0); word w is the uniform (w + 1/2) / 2^32.
    The words are the same on every device, the logarithms up to the last bits of a float64.
    """
    blocks = torch.arange((vocab_size + 3) // 4, device=sequences.device)
    numbers = torch.broadcast_tensors(sequences[:, None, None], positions[:, None], blocks, blocks.new_zeros(()))
    words = philox(torch.stack(numbers, dim=-1), key).flatten(2)[..., :vocab_size]
    return -torch.log(-torch.log((words.double() + 0.5) * 2.0**-32))


@torch.no_grad()
def generate(model: Transformer, config: CalibrationConfig, calibration_key: str) -> Tensor:
    """Text by the model: int64 [sequences, length]. The first token of each sequence is uniform over the vocabulary.

    Logits are float32 whatever the device, so that `replay` elsewhere agrees but for rounding.
    """
    device = model.token_embedding.weight.device
    key, vocab_size = philox_key(calibration_key), model.config.vocab_size
    sequences = torch.arange(config.sequences, device=device)
    cache = KeyValueCache(model.config, config.sequences, config.length, device)
    tokens = torch.empty((config.sequences, config.length), dtype=torch.int64, device=device)
    scores = torch.zeros((), dtype=torch.float64, device=device)
    for position in range(config.length):
        scores = scores + gumbel_noise(key, sequences, torch.tensor([position], device=device), vocab_size)[:, 0]
        tokens[:, position] = scores.argmax(-1)
        scores = model.step(tokens[:, position], cache).double() / config.temperature
    return tokens


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What a replay found. Margins are in the unit of logits / T: the best score less the given token's.

    exact tokens are the argmax; close ones miss it by at most the stated margin, as rounding may; foreign ones by more.
    """

    exact: int
    close: int
    foreign: int
    largest_margin: float


@torch.inference_mode()
def replay(
    model: Transformer, tokens: Tensor, temperature: float, calibration_key: str, margin: float, batch: int = 4
) -> Replay:
    """Check int64 [sequences, length] tokens against the model, teacher-forced, `batch` sequences at a time."""
    key, length = philox_key(calibration_key), tokens.size(1)
    positions = torch.arange(length, device=tokens.device)
    margins = []
    for sequences in torch.arange(tokens.size(0), device=tokens.device).split(batch):
        given = tokens[sequences]
        scores = gumbel_noise(key, sequences, positions, model.config.vocab_size)
        scores[:, 1:] += model.logits(given, length)[:, :-1].double() / temperature
        margins.append(scores.amax(-1) - scores.gather(-1, given[..., None])[..., 0])
    missed = torch.cat(margins)
    return Replay(
        exact=int((missed == 0).sum()),
        close=int(((missed > 0) & (missed <= margin)).sum()),
        foreign=int((missed > margin).sum()),
        largest_margin=float(missed.max()),
    )
