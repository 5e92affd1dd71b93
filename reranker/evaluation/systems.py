"""What is judged: anything that gives every candidate a score."""

from collections.abc import Sequence
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from reranker.evaluation.protocol import CandidateLists


@runtime_checkable
class System(Protocol):
    """Orders candidate lists. Contract suite: tests/contracts/systems.py.

    Attributes:
        name: goes into results; one name a system in an evaluation.
        stochastic: True when `fit` or `score` depends on a seed; such systems are run once a seed.
    """

    name: str
    stochastic: bool

    def fit(self, lists: Sequence[CandidateLists]) -> Self:
        """Learns from validation lists, whose targets may be looked at; one entry a domain. Returns self."""

    def score(self, lists: CandidateLists) -> NDArray[np.float64]:
        """(rows,) finite scores aligned with `lists.candidates`, higher is better; never looks at `lists.relevant`."""


@runtime_checkable
class CountsTokens(Protocol):
    """A system that can say how many prompt tokens its last `score` took."""

    tokens: int


@runtime_checkable
class HasPriors(Protocol):
    """A system with a per-item prior, which the leak checks look at."""

    def priors(self, lists: CandidateLists) -> NDArray[np.float64]:
        """(rows,) prior of each candidate in nats, computed without any user."""


@runtime_checkable
class HasFingerprint(Protocol):
    """A system that depends on more than its name, its seed and the lists: kept scores are its own by this text too."""

    fingerprint: str
