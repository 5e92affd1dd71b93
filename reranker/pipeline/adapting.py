"""Users' contexts, adapted and kept."""

from collections.abc import Iterable

from reranker.data.schema import (
    refuse_single,
)
from reranker.errors import ConfigError
from reranker.pipeline.fitted_state import FittedState
from reranker.protocols import UserStore
from reranker.soft_tokens import AdaptReport, Support, unseen
from reranker.types import ItemId, UserId, UserState


class Adaptive(FittedState):
    """Adapting users' contexts."""

    def adapt(
        self,
        users: Iterable[UserId] | None = None,
        *,
        store: UserStore | None = None,
        steps: int = 2,
        progress: bool = False,
    ) -> AdaptReport:
        """Adapts users' contexts to what they chose, many at once.

        A user who was adapted before goes on from there: only interactions since then are read. Where the context was
        adapted under another map, or what the bundle knows of the user is not what it was then, all is read anew.

        Args:
            users: whom to adapt; everyone whose history is known by default, and everyone in `store`.
            store: where states are kept and newer interactions come from; `states` without it.
            steps: gradient steps a user.
            progress: show a progress bar on stderr.

        Returns:
            How many were adapted, how many drifted, and what it cost.

        Raises:
            ConfigError: steps < 1, no context map, or torch is not installed.
            DataError: nothing was fitted, or one text instead of several ids.
        """
        if steps < 1:
            raise ConfigError(f"steps must be at least 1, got {steps}")
        refuse_single(users, "user ids", "users")
        data = self._require_data()
        adapter = self.llm_scorer.adapter(steps)
        if users is None:
            users = [*data.statistics.histories, *(store.user_ids() if store else ())]
        asked = list(dict.fromkeys(users))
        known = self.states if store is None else store.get(asked)
        support = []
        for user in asked:
            state, new = self._unseen(known.get(user) or UserState(user_id=user))
            support.append(Support(state=state, items=data.catalog.items(new)))
        states, report = adapter.adapt(support, progress)
        changed = [state for state, one in zip(states, support, strict=True) if one.items]
        if store is None:
            self.states.update((state.user_id, state) for state in changed)
        else:
            store.put_contexts(changed)
        return report

    def is_behind(self, state: UserState) -> bool:
        """Whether `adapt` would read anything of this user: something happened that the context has not seen, or it
        was adapted under another map or bundle.

        Raises:
            DataError: nothing was fitted.
        """
        return bool(self._unseen(state)[1])

    def _unseen(self, state: UserState) -> tuple[UserState, list[ItemId]]:
        """The state to go on from, and what of the user is to be read."""
        signals = self._require_data().signals
        since = [row[0] for row in state.interactions if signals.of_stored(row) > 0]
        return unseen(state, self.history(state.user_id), since, self.llm_scorer.contexts)

    def forget(self, users: Iterable[UserId]) -> int:
        """Drops what `adapt` kept of these users; returns of how many. A store forgets by its own `forget`.

        Raises:
            DataError: one text instead of several ids.
        """
        refuse_single(users, "user ids", "users")
        return sum(self.states.pop(user, None) is not None for user in users)
