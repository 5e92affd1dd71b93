"""What a context is adapted on, and what adapting did."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reranker.types import UserState

DRIFT_NATS = 0.5
"""A user's new titles are this much less likely, a token, than the old ones were: the user has drifted."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Support:
    """A user and what their context is adapted on.

    Attributes:
        state: as it is kept; a fresh one for a user who has none.
        items: the interactions, oldest first: with an adapted state the new ones only.
    """

    state: UserState
    items: Sequence[Mapping[str, object]]


@dataclass(frozen=True, kw_only=True)
class AdaptReport:
    """What adapting did.

    Attributes:
        users: how many were adapted.
        strangers: users without interactions; nothing was done.
        drifted: users whose support loss rose by `DRIFT_NATS`: their step sizes grew.
        tokens: read forward and backward, padding not included.
        loss_before: mean over users of the support loss at the first step, in nats a token; NaN without users.
        loss_after: of the loss at the last step.
        seconds: wall time.
    """

    users: int
    strangers: int
    drifted: int
    tokens: int
    loss_before: float
    loss_after: float
    seconds: float
