"""Hypothesis profiles, as in tests/property: `ci` repeats the same examples every time."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import HealthCheck, settings
from tests.collective.balance.balance_kit import Clock

_COMMON = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}

settings.register_profile("ci", max_examples=60, derandomize=True, database=None, **_COMMON)
settings.register_profile("hunt", max_examples=5000, **_COMMON)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def rng() -> random.Random:
    return random.Random(12)
