"""Which of its scores a program reports. It may print several, as of the model before and after quantization, or of
another evaluation beside the one that is submitted; the logs tell which of them is claimed."""

from __future__ import annotations

import ast
import re
import statistics
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from harness.compliance.evidence import GAP, MAX_LINE, MAX_LINES, STAMP, between
from harness.compliance.flow_values import Print
from harness.compliance.record_folder import Claims, Number, fits

NAMES_SCORE = re.compile("(?i)bpb|bits")
WORD = re.compile("[A-Za-z]{3}")
NUMBER = re.compile(r"-?\d{1,4}\.\d{1,12}")
DIGITS_AT_LEAST = 3  # of a claim; with fewer, too many scores are the same
ENOUGH = 6  # digits to tell a score by
PRINTS_AT_MOST = 300  # of one program; each is looked for in all lines


@dataclass(frozen=True)
class Reported:
    """sums: the accumulators that the score was made of which is claimed; prints: what prints it."""

    sums: frozenset[ast.AST]
    prints: tuple[Print, ...]


def reported(prints: Collection[Print], logs: Sequence[str], claims: Claims | None) -> Reported | None:
    """The scores that are claimed, by their lines in the logs; None if these do not tell, or if what they were made of
    was not followed."""
    if claims is None or not 0 < len(prints) <= PRINTS_AT_MOST:
        return None
    lines = [list(_lines(text)) for text in logs]
    found: list[tuple[Print, set[ast.AST]]] = []
    known: dict[str, list[bool]] = {}  # of a text: which of its gaps hold what is claimed
    for one in prints:
        if one.text not in known:
            known[one.text] = [_is_claimed(values, claims) for values in _last_values(one.text, lines)]
        found += [(one, sums) for sums, hit in zip(one.sums, known[one.text], strict=True) if hit]
    if not found or not all(sums for _, sums in found):
        return None
    return Reported(frozenset().union(*(sums for _, sums in found)), tuple(dict.fromkeys(one for one, _ in found)))


def _lines(text: str) -> Iterator[str]:
    for line in text.splitlines()[:MAX_LINES]:
        if NAMES_SCORE.search(line, 0, MAX_LINE):
            yield STAMP.sub("", line[:MAX_LINE].strip())


def _last_values(text: str, lines: Sequence[Sequence[str]]) -> list[list[str]]:
    """Of each gap of a text what stands there the last time in each of the logs."""
    found: list[list[str]] = []
    for part in text.split("\n"):
        words = part.strip().split(GAP)
        gaps: list[list[str]] = [[] for _ in words[1:]]
        found += gaps
        longest = max(words, key=len)
        if not gaps or not WORD.search(part):
            continue
        for log in lines:
            for line in reversed(log):
                if longest in line and (values := between(words, line)) is not None:
                    for gap, value in zip(gaps, values, strict=True):
                        gap.append(value)
                    break
    return found


def _is_claimed(values: Sequence[str], claims: Claims) -> bool:
    """Whether the last values of a line in some logs are what is claimed: each seed's score, the only one, or their
    mean."""
    numbers = [Number.of(one) for one in values if NUMBER.fullmatch(one)]
    seeds = [one.bpb for one in claims.seeds if one.bpb is not None]
    if seeds and all(any(_is(seed, one, one.digits) for one in numbers) for seed in seeds):
        return True
    if claims.bpb is None:
        return False
    if len(seeds) < 2 and any(_is(claims.bpb, one, one.digits) for one in numbers):
        return True
    fewest = min((one.digits for one in numbers), default=0)
    return len(numbers) > 1 and _is(claims.bpb, statistics.fmean(numbers), fewest + 1)


def _is(claim: Number, value: float, digits: int) -> bool:
    """Whether a claim is a value of so many digits. One with fewer digits than the claim is it by chance only."""
    return claim.digits >= DIGITS_AT_LEAST and digits >= min(claim.digits, ENOUGH) and fits(claim, value, digits)
