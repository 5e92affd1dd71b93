"""What a context is adapted on, and what adapting did."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from reranker.soft_tokens.user_context import ContextMap
from reranker.types import ItemId, UserState
from reranker.utils.id_json import encode_ids

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


def unseen(
    state: UserState, before: Sequence[ItemId], since: Sequence[ItemId], contexts: ContextMap | None
) -> tuple[UserState, list[ItemId]]:
    """The state to go on from, and the items that its context has not seen, oldest first.

    A context that was adapted under another map, or when the bundle knew something else of the user, is dropped: all
    items are unseen then.

    Args:
        before: what the bundle knows of the user, oldest first.
        since: items of those of the state's interactions that are no dislikes; they came later.
        contexts: the map that contexts are adapted under.
    """
    mark = hashlib.sha256(json.dumps(encode_ids(before)).encode()).hexdigest()[:16]
    if contexts is None or not contexts.reads(state) or (state.context_map, state.history) != (contexts.mark, mark):
        state = UserState(user_id=state.user_id, interactions=state.interactions, updated_at=state.updated_at)
    return replace(state, history=mark), [*before, *since][state.support :]


@dataclass(frozen=True, kw_only=True)
class AdaptReport:
    """What adapting did.

    Attributes:
        users: how many were adapted.
        new users: users without interactions; nothing was done.
        drifted: users whose support loss rose by `DRIFT_NATS`: their step sizes grew.
        tokens: read forward and backward, padding not included.
        loss_before: mean over users of the support loss at the first step, in nats a token; NaN without users.
        loss_after: of the loss at the last step.
        seconds: wall time.
    """

    users: int
    new_users: int
    drifted: int
    tokens: int
    loss_before: float
    loss_after: float
    seconds: float
