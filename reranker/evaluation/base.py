"""What is judged: anything that gives every candidate a score."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from reranker.pipeline.lists import FoldLists


@runtime_checkable
class System(Protocol):
    """Orders candidate lists. Contract suite: tests/contracts/systems.py.

    Attributes:
        name: goes into results; one name a system in an evaluation.
        stochastic: True when `fit` or `score` depends on a seed; such systems are run once a seed.
    """

    name: str
    stochastic: bool

    def fit(self, lists: Sequence[FoldLists]) -> Self:
        """Learns from validation lists, whose targets may be looked at; one entry a domain and
        window, newest first. Returns self."""

    def score(self, lists: FoldLists) -> NDArray[np.float64]:
        """(rows,) finite scores aligned with `lists.candidates`, higher is better; never looks at `lists.relevant`."""


@dataclass(frozen=True, kw_only=True)
class ReadingCost:
    """What it takes a model to read lists.

    Attributes:
        tokens: prompt tokens; a prefix counts once a request.
        seconds: wall time.
    """

    tokens: int
    seconds: float


@runtime_checkable
class ReadsLists(Protocol):
    """A system whose model reads the lists, perhaps together with other systems that share the reading."""

    def reading_cost(self, lists: FoldLists) -> ReadingCost | None:
        """What reading `lists` took; None while they are unread."""


@runtime_checkable
class HasPriors(Protocol):
    """A system with a per-item prior, which the leak checks look at."""

    def priors(self, lists: FoldLists) -> NDArray[np.float64]:
        """(rows,) prior of each candidate in nats, computed without any user."""


@runtime_checkable
class HasFingerprint(Protocol):
    """A system that depends on more than its name, its seed and the lists: kept scores are its own by this text too."""

    fingerprint: str


@runtime_checkable
class HasDomains(Protocol):
    """A system that can score some domains only; it is left out of the others, and that is said."""

    domains: frozenset[str]
