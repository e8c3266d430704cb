"""A clock, and chance that repeats itself."""

from __future__ import annotations

import random

import pytest
from tests.collective.balance.balance_kit import Clock


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rng() -> random.Random:
    return random.Random(12)
