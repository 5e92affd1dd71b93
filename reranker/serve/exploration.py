"""Exploring: a share of the lists is answered with its first places shuffled, so that logs can tell of other orders.

With chance `share`, the first m places are put in a random order. An item of greedy place g then stands at place k with
probability (1 - share) [g = k] + share / m: known exactly, and logged as its propensity. Experiments divide users by a
hash of the experiment's name and the user, so that a user stays in one arm and two experiments divide independently.
"""

import hashlib
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from reranker.fusion import Order


class Explore(BaseModel):
    """How much is explored.

    Attributes:
        share: of the lists whose first places are shuffled.
        first: places that are.
        seed: of the draws; by default they differ from start to start.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(gt=0, le=1)
    first: int = Field(default=10, ge=2)
    seed: int | None = None


class Experiment(BaseModel):
    """Orders compared on live users: an A/B test, or two orders in one list.

    Attributes:
        name: part of the hash that divides users.
        arms: name -> the order that it is served: "guard" for what the guard decides, or one of the orders.
        kind: "arms" gives each user one arm's order; "interleaving" mixes two arms' orders in each list (team draft),
            which finds the better one with far fewer users, and says nothing of how much better it is.
        share: of the users who take part, by another hash of name and user; the others are served by the guard.
        seed: of the draws of interleaving; by default they differ from start to start.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(min_length=1)
    arms: dict[str, Order | Literal["guard"]]
    kind: Literal["arms", "interleaving"] = "arms"
    share: float = Field(default=1.0, gt=0, le=1)
    seed: int | None = None

    @field_validator("arms")
    @classmethod
    def _two(cls, arms: dict[str, str]) -> dict[str, str]:
        if len(arms) < 2:
            raise ValueError(f"an experiment needs two arms, got {list(arms) or 'none'}")
        return arms

    @model_validator(mode="after")
    def _of_two_orders(self) -> "Experiment":
        if self.kind == "interleaving":
            if len(self.arms) != 2:
                raise ValueError(f"interleaving mixes two orders, got the arms {', '.join(self.arms)}")
            if len(set(self.arms.values())) < 2:
                raise ValueError(f"interleaving mixes two orders, and both arms are {next(iter(self.arms.values()))!r}")
        return self

    def takes(self, user: object) -> bool:
        """Whether the user takes part, always the same."""
        return int.from_bytes(self._digest(user)[8:16], "big") < self.share * 2**64

    def arm_of(self, user: object) -> str:
        """The user's arm, always the same."""
        return list(self.arms)[int.from_bytes(self._digest(user)[:8], "big") % len(self.arms)]

    def _digest(self, user: object) -> bytes:
        return hashlib.sha256(f"{self.name}\x1f{user}".encode()).digest()

    def order_of(self, arm: str) -> Order | None:
        """What the arm is served; None where the guard decides."""
        order = self.arms[arm]
        return None if order == "guard" else order


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """What the caller gets of a ranking.

    Attributes:
        ranks: (n,) 0-based ranks in the order in which they are shown.
        propensities: (n,) chance of the item at each place to stand there.
        explored: whether the first places were shuffled.
    """

    ranks: NDArray[np.int64]
    propensities: NDArray[np.float64]
    explored: bool


def explore(n: int, settings: Explore, rng: np.random.Generator) -> Shown:
    """Places for a ranking of n candidates."""
    first = min(settings.first, n)
    ranks = np.arange(n)
    explored = bool(rng.random() < settings.share)
    if explored:
        ranks[:first] = rng.permutation(first)
    greedy = ranks == np.arange(n)
    propensities = np.ones(n)
    propensities[:first] = (1 - settings.share) * greedy[:first] + settings.share / first
    return Shown(ranks=ranks, propensities=propensities, explored=explored)
