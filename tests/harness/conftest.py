"""Fixtures of the scorer's tests."""

from __future__ import annotations

import pytest
from servers import Stage


@pytest.fixture
def stage(tmp_path):
    stages = []

    def make(tokens=range(1, 12), **options) -> Stage:
        stages.append(Stage(tmp_path, tokens, **options))
        return stages[-1]

    yield make
    for made in stages:
        made.close()
