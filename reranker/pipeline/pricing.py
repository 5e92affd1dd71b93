"""The price of rules: NDCG@10 of lists under them, against the same lists without."""

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from reranker.data.schema import RANK, SCORE, USER
from reranker.fusion import FusionModel
from reranker.fusion.choices import user_numbers
from reranker.fusion.guard import GuardDecision, by_user
from reranker.fusion.rules_verdict import RulesVerdict
from reranker.pipeline.fit_basis import FitBasis
from reranker.pipeline.lists import CandidateLists
from reranker.rules import ItemColumns, Rules, RulesReport, apply_rules
from reranker.utils.statistics import mean_interval, ndcg_by_list

_ROW = "_row"


def under_rules(
    lists: CandidateLists, scores: NDArray[np.float64], rules: Rules, columns: ItemColumns
) -> tuple[NDArray[np.float64], NDArray[np.float64], RulesReport]:
    """(n_users,) NDCG@10 without the rules and under them, and what they did.

    Excluded candidates are found by nobody: a target among them counts as missed.

    Args:
        lists: what was proposed and chosen.
        scores: (rows,) by which the lists are ordered.
        rules: applied after scoring.
        columns: the item table that rules read.
    """
    index = lists.list_index
    order = np.lexsort((lists.candidates[RANK].to_numpy(), -scores, index))
    ranked = lists.candidates.iloc[order].assign(**{SCORE: scores[order], _ROW: order}).reset_index(drop=True)
    ranked[RANK] = ranked.groupby(USER, sort=False).cumcount() + 1
    ruled = apply_rules(ranked, rules, columns, history=lists.statistics.history)
    places = np.full(len(order), np.inf)
    places[ruled.ranked[_ROW].to_numpy()] = ruled.ranked[RANK].to_numpy()
    shown = np.isfinite(places)
    without = ndcg_by_list(scores, index, lists.relevant, lists.n_relevant)
    under = ndcg_by_list(-places, index, lists.relevant & shown, lists.n_relevant)
    return without, under, ruled.report


def price_rules(basis: FitBasis, fusion_model: FusionModel, seed: int = 0) -> RulesVerdict | None:
    """What rules cost the order that the guard serves, on the windows it was judged on; None without rules.

    Scores are cross-fitted. As the guard has it, a list that the LLM read counts as many times as there are lists with
    a choice for one read.

    Args:
        basis: windows and rules.
        fusion_model: as `FusionModel.fit` leaves it, with `scores`.
        seed: of the bootstrap.
    """
    if basis.rules is None:
        return None
    return _priced(basis.windows, basis.rules, basis.data.item_columns, fusion_model.guard, fusion_model.scores, seed)


def price_lists(windows: Sequence[CandidateLists], rules: Rules, columns: ItemColumns, seed: int = 0) -> RulesVerdict:
    """What rules cost the lists as they came in.

    Args:
        windows: of lists.
        rules: applied to their order.
        columns: the item table that rules read.
        seed: of the bootstrap.
    """
    return _priced(windows, rules, columns, None, {}, seed)


def _priced(
    windows: Sequence[CandidateLists],
    rules: Rules,
    columns: ItemColumns,
    guard: GuardDecision | None,
    cross_fitted: Mapping[str, NDArray[np.float64]],
    seed: int,
) -> RulesVerdict:
    """The price for what the guard serves; without one, for the order that came in."""
    users = [user for window in windows for user in window.users]
    covered = np.concatenate([window.covered for window in windows])
    holds, read, values = np.zeros_like(covered), np.zeros_like(covered), np.zeros((len(users), 2))
    reports: list[RulesReport] = []
    first_list = first_row = 0
    for window in windows:
        served = np.zeros(len(window.users), dtype=np.bool_)
        if guard is not None and guard.serve != "first_stage":
            served = guard.holds_for(window.n_known)
        scores, rows = -window.first_stage_rank.astype(np.float64), served[window.list_index]
        if guard is not None and rows.any():
            scores[rows] = cross_fitted[guard.serve][first_row : first_row + len(rows)][rows]
        there = np.bincount(window.list_index, weights=np.isnan(scores), minlength=len(window.users)) == 0
        mine = first_list + np.flatnonzero(there)
        if len(mine):
            part, kept = window.only(np.flatnonzero(there)), there[window.list_index]
            without, under, report = under_rules(part, scores[kept], rules, columns)
            values[mine] = np.stack([without, under], axis=1)
            reports.append(report)
        holds[first_list : first_list + len(served)], read[mine] = served, True
        first_list, first_row = first_list + len(served), first_row + len(rows)
    if (holds & read & covered).any():
        values[holds] *= (holds & covered).sum() / (holds & read & covered).sum()
    without, under = (by_user(column, user_numbers(users)) for column in values.T)
    return RulesVerdict(
        rules=rules.model_dump(mode="json", exclude_defaults=True),
        order="first_stage" if guard is None else guard.serve,
        without=float(without.mean()),
        under=float(under.mean()),
        gain=mean_interval(under - without, seed=seed),
        did=RulesReport.joined(reports).summary(),
    )
