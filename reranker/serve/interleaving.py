"""A request's part in an experiment: one arm's order, or a list of two orders."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from reranker.fusion import Order
from reranker.serve.rank_jobs import Ranked
from reranker.serve.schemas.rerank import RerankRequest
from reranker.serve.settings import ServeSettings
from reranker.utils.team_draft import INTERLEAVED, team_draft


@dataclass(frozen=True, kw_only=True)
class Part:
    """What an experiment makes of a request.

    Attributes:
        orders: that the list is ranked by, one for each of `teams`, else one; None where the guard decides.
        arm: the user's arm; None in no A/B test.
        teams: arms whose orders share the list; empty where they do not.
    """

    orders: tuple[Order | None, ...]
    arm: str | None = None
    teams: tuple[str, ...] = ()

    @property
    def is_mixed(self) -> bool:
        """Whether two orders share the list."""
        return bool(self.teams)

    @classmethod
    def of(cls, settings: ServeSettings, body: RerankRequest, explains: bool) -> "Part":
        """A request that names an order, or no user, is in no experiment; one that asks for reasons or rules is never
        interleaved: both are of one order."""
        experiment = settings.experiment
        is_free = body.user is not None and body.order is None and bool(body.item_ids) and not settings.shadow
        if experiment is None or not is_free or not experiment.takes(body.user):
            return cls(orders=(body.order,))
        if experiment.kind == "interleaving":
            if explains or body.rules is not None:
                return cls(orders=(None,))
            teams = tuple(experiment.arms)
            return cls(orders=tuple(experiment.order_of(one) for one in teams), teams=teams)
        arm = experiment.arm_of(body.user)
        return cls(orders=(experiment.order_of(arm),), arm=arm)


def mixed(a: Ranked, b: Ranked, names: Sequence[str], rng: np.random.Generator) -> tuple[Ranked, tuple[str, ...]]:
    """One ranking of two orders of the same list, and the team of each place.

    Its scores are reciprocal ranks: those of two orders cannot be compared.

    Args:
        a, b: of the two teams.
        names: of the teams.
        rng: draws who begins in each round.
    """
    order, teams = team_draft(a.order, b.order, rng)
    together = replace(
        a,
        order=tuple(order),
        scores=tuple(1.0 / (place + 1) for place in range(len(order))),
        served=INTERLEAVED,
        prompt_tokens=a.prompt_tokens + b.prompt_tokens,
        relevances=None,
    )
    return together, tuple(names[team] for team in teams)
