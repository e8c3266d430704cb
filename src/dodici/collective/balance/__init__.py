"""Choosing a peer and surviving its failure: state machines without I/O, whose clock is given to them."""

from __future__ import annotations

from .backoff import Backoff
from .breaker import CircuitBreaker
from .budget import RetryBudget
from .candidates import Candidate, Candidates
from .limiter import Limiter, Permit
from .outcomes import Outcome, outcome_of
from .outlier import OutlierDetector
from .picker import PeerFigures, Picker, Ticket
from .retrying import NEVER, Attempts, parse_pushback

__all__ = [
    "NEVER",
    "Attempts",
    "Backoff",
    "Candidate",
    "Candidates",
    "CircuitBreaker",
    "Limiter",
    "Outcome",
    "OutlierDetector",
    "PeerFigures",
    "Permit",
    "Picker",
    "RetryBudget",
    "Ticket",
    "outcome_of",
    "parse_pushback",
]
