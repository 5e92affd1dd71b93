"""One user's list, explained: what `Reranker.explain` does."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.schema import ITEM, RANK, RECALL_RANK, SCORE, USER, validate_candidates
from reranker.errors import ConfigError, DataError
from reranker.explain import (
    Explanation,
    HistoryEffect,
    ItemExplanation,
    TokenAttribution,
    attribute_tokens,
    contributions,
    history_effects,
)
from reranker.explain.history import HISTORY_ITEMS, ScoreHistories
from reranker.explain.tokens import require_captum
from reranker.fusion import Order
from reranker.types import ItemId, UserId, UserState

if TYPE_CHECKING:
    from reranker.pipeline.reranker import Reranker


def one_list(user: UserId, candidates: pd.DataFrame | Sequence[ItemId], further: Sequence[str] = ()) -> pd.DataFrame:
    """The validated list of one user.

    Args:
        user: whose.
        candidates: item ids, best first; or a candidates table, with or without `user_id`.
        further: columns that are kept as they are.

    Raises:
        DataError: no row is the user's, or the table breaks its contract.
    """
    if not isinstance(candidates, pd.DataFrame):
        if isinstance(candidates, str | bytes):
            raise DataError(f"candidates: one text instead of several item ids ({candidates!r}); give a list of them")
        items = pd.Series(list(candidates), dtype=object)
        candidates = pd.DataFrame({ITEM: items, RANK: np.arange(1, len(items) + 1)})
    if USER not in candidates:
        candidates = candidates.assign(**{USER: pd.Series([user] * len(candidates), dtype=object).to_numpy()})
    mine = candidates[candidates[USER] == user]
    if mine.empty:
        raise DataError(f"explain: the candidates hold no row of user {user!r}; check the id and its type")
    return validate_candidates(mine, further=further)


def history_scores(
    reranker: "Reranker",
    candidates: pd.DataFrame,
    order: Order,
    state: UserState | None = None,
    disliked: Sequence[ItemId] = (),
) -> ScoreHistories[int]:
    """What scores one validated list under other histories, given as rows of the statistics' index.

    Args:
        reranker: fitted.
        candidates: one user's list.
        order: "fused" or "baseline".
        state: the user's adapted context, which stays as it is.
        disliked: items that the user dislikes; they stay, too.
    """
    statistics = reranker.fitted()[0].statistics

    def score(histories: Sequence[Sequence[int]]) -> NDArray[np.float64]:
        n, numbers = len(candidates), range(len(histories))
        items: dict[UserId, list[ItemId]] = {
            number: [statistics.item_ids[row] for row in one] for number, one in enumerate(histories)
        }
        many = pd.concat([candidates] * len(histories), ignore_index=True)
        many[USER] = np.repeat(np.arange(len(histories)), n)
        head, values = reranker.head_columns(
            many,
            order,
            histories=statistics.histories_with(items, dict.fromkeys(numbers, disliked)),
            states={} if state is None else dict.fromkeys(numbers, state),
            identities=dict.fromkeys(numbers, candidates[USER].iloc[0]),
        )
        return head.score(values).reshape(len(histories), n)

    return score


def explain_list(
    reranker: "Reranker",
    user: UserId,
    candidates: pd.DataFrame | Sequence[ItemId],
    k: int | None = None,
    *,
    history: Sequence[ItemId] | None = None,
    order: Order | None = None,
    state: UserState | None = None,
    disliked: Sequence[ItemId] | None = None,
    tokens: bool = False,
    history_items: int = HISTORY_ITEMS,
) -> Explanation:
    """As `Reranker.explain` has it."""
    data, fusion_model = reranker.fitted()
    if tokens:
        _require_prompts(reranker)
    lists = one_list(user, candidates, data.candidate_columns)
    known = disliked is None and history is None
    disliked = reranker.disliked(user) if known else disliked or ()
    newer = None if known else {user: reranker.history(user) if history is None else history}
    rejected = {user: disliked}
    histories = data.statistics.histories_with(newer, rejected)
    state = reranker.states.get(user) if state is None else state
    states = {} if state is None else {user: state}
    result = reranker.rerank(lists, interactions=newer, disliked=rejected, order=order, states=states)
    ranked, served = result.to_frame(), result.orders[0]
    rows = [int(row) for row in histories.get(user, ())]
    place = {item: at for at, item in enumerate(lists[ITEM])}
    at_rank = [place[item] for item in ranked[ITEM]]
    scores = ranked[SCORE].to_numpy(dtype=np.float64)
    if served in ("fused", "baseline"):
        head, values = reranker.head_columns(lists, served, histories=histories, states=states)
        found = contributions(list(head.columns), head.contributions(values))
        columns = dict(zip(found.columns, found.values[at_rank].T, strict=True))
        groups = {group: values[at_rank] for group, values in found.groups.items()}
        score = history_scores(reranker, lists, served, state, disliked)
        positions, effects = history_effects(score, rows, history_items)
        effects = effects[:, at_rank] if positions else effects
    else:
        groups = {"first_stage": scores - scores.mean()}
        columns, positions, effects = {}, [], np.zeros((0, len(ranked)))
    past = [data.statistics.item_ids[rows[position]] for position in positions]
    past_titles = reranker.titles(past)
    titles = reranker.titles(ranked[ITEM].tolist())
    items, n = [], len(ranked) if k is None else min(k, len(ranked))
    chosen = [data.statistics.item_ids[row] for row in rows]
    attributed = _attributed(reranker, lists, chosen, states, at_rank[:n]) if tokens else [None] * n
    for number in range(n):
        moved = [
            HistoryEffect(item_id=item, title=title, position=position, effect=float(effect))
            for item, title, position, effect in zip(
                past, past_titles, positions, effects[:, number] if positions else (), strict=True
            )
        ]
        items.append(
            ItemExplanation(
                item_id=ranked[ITEM].iloc[number],
                title=titles[number],
                rank=number + 1,
                first_stage_rank=int(ranked[RECALL_RANK].iloc[number]),
                score=float(scores[number]),
                contributions={group: float(values[number]) for group, values in groups.items()},
                columns={name: float(values[number]) for name, values in columns.items()},
                history=tuple(sorted(moved, key=lambda one: -abs(one.effect))),
                tokens=attributed[number],
            )
        )
    return Explanation(
        user_id=user,
        domain=reranker.llm_scorer.domain,
        order=served,
        mean=float(scores.mean()),
        guard=fusion_model.guard.summary(),
        items=tuple(items),
        history_known=len(rows),
        history_used=len(positions),
    )


def _require_prompts(reranker: "Reranker") -> None:
    """Raises ConfigError where no prompt is read whose tokens could be named, or what names them is missing."""
    if "likelihood" not in reranker.config.scorers:
        raise ConfigError(
            f"attributions to tokens are of prompts that hold the history; the scorer {reranker.config.scorer!r} reads "
            "none: leave tokens out, or fit with scorer='likelihood'"
        )
    if reranker.llm_scorer.engine.name not in ("torch", "vllm"):
        raise ConfigError(
            f"attributions to tokens need the model's gradients, and the engine {reranker.llm_scorer.engine.name!r} "
            "gives none: take engine='torch' or 'vllm'"
        )
    require_captum()


def _attributed(
    reranker: "Reranker",
    lists: pd.DataFrame,
    history: Sequence[ItemId],
    states: Mapping[UserId, UserState],
    rows: Sequence[int],
) -> list[TokenAttribution | None]:
    """Of these rows of one user's list: which tokens of the prompt make their titles likely."""
    reader, catalog = reranker.llm_scorer, reranker.fitted()[0].catalog
    (one,) = reader.lists(lists, catalog, lambda _: history, states)
    prompt = reader.renderer.likelihood(
        one.history, one.candidates, soft_prompt=one.soft_prompt, user_tokens=one.user_tokens, query=one.query
    )
    lm, decode = reader.packed_lm(), reader.engine.tokenizer.decode
    return [attribute_tokens(lm, prompt, row, decode) for row in rows]
