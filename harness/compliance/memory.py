"""What several parts of the analysis ask about the same target is computed once, kept, and let go of with the target:
a tree or a value that is kept holds on to the whole program it is part of, and many programs slow down whatever looks
for garbage."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

_kept: list[Any] = []


def keep(at_most: int) -> Callable[[Callable], Callable]:
    """A decorator: the answers to the last `at_most` different calls are kept until `forget`. Arguments are hashable;
    nobody changes an answer."""

    def decorate(function: Callable) -> Callable:
        cached = lru_cache(maxsize=at_most)(function)
        _kept.append(cached)
        return cached

    return decorate


def forget() -> None:
    """Let go of every answer that is kept."""
    for cached in _kept:
        cached.cache_clear()
