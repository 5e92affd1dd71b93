"""Refreshing a fitted Reranker with what happened since.

1. New items join by their texts, as `Reranker.add_items` has them.
2. Lists are made as they were served before: by the bundle's candidate generator and statistics, for the users who
   chose something since (or the lists that really were served). What they chose next are new choices, of a time that
   nothing in the bundle has seen.
3. New interactions join histories and statistics, and the generator learns from all. States of known texts stay; who
   chooses which texts is learned anew, under the penalties that the last fit found best.
4. Weights are updated by the new choices: those before count on, to second order (`fusion.past`). The guard goes by
   its newest lists, cross-fitted, and stops an order that the new window alone shows to be worse.
"""

import logging
import time
from collections.abc import Collection
from dataclasses import dataclass, replace

import pandas as pd

from reranker.data.dataset import Dataset
from reranker.data.frames import Table
from reranker.data.schema import ITEM, USER, require_ids_like, validate_candidates
from reranker.errors import ConfigError, DataError
from reranker.fusion.model import FusionModel
from reranker.pipeline.domain import DomainData
from reranker.pipeline.fitting import fit_ranker, read_lists
from reranker.pipeline.lists import CandidateLists
from reranker.pipeline.reranker import Reranker
from reranker.refresh.merge import Merged, merge
from reranker.types import UserId
from reranker.utils.spaces import MOST_LEARNED_FROM

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RefreshReport:
    """What a refresh did, and what of the tables it did not use.

    Attributes:
        new_interactions: rows that joined.
        repeated: rows that were known already; they change nothing.
        late: of the new ones, rows from before something known of their user: they joined the statistics alone.
        new_users, new_items: that came with them.
        lists: lists of users who chose something since.
        choices: of those, lists that hold a chosen item: what the weights were updated by.
        too_new: users with too few interactions before to make a list for.
        not_updated: why weights and guard are those of before; empty where they were updated.
        served_before, served: what the guard serves.
        guard: in words.
        seconds: that it took.
    """

    new_interactions: int
    repeated: int
    late: int
    new_users: int
    new_items: int
    lists: int
    choices: int
    too_new: int
    not_updated: str
    served_before: str
    served: str
    guard: str
    seconds: float

    @property
    def changed(self) -> bool:
        """Whether anything is other than before."""
        return bool(self.new_interactions or self.new_items)

    def summary(self) -> str:
        """Several lines for a log."""
        joined = (
            f"{self.new_interactions} new interactions ({self.late} of them late), {self.repeated} known already; "
            f"{self.new_users} new users, {self.new_items} new items"
        )
        learned = (
            f"weights as before: {self.not_updated}"
            if self.not_updated
            else f"weights updated by {self.choices} of {self.lists} lists; {self.too_new} users were too new for one"
        )
        moved = "" if self.served == self.served_before else f"was {self.served_before}; "
        return f"{joined}\n{learned}\n{moved}{self.guard}\n{self.seconds:.1f} s"


def refresh(
    reranker: Reranker,
    interactions: pd.DataFrame,
    items: pd.DataFrame | None = None,
    *,
    item_vectors: Table | None = None,
    candidates: pd.DataFrame | None = None,
    memory: float = 1.0,
    progress: bool = False,
) -> RefreshReport:
    """Brings a fitted Reranker up to date, in place; save it as a new version.

    Args:
        reranker: fitted or loaded; where this fails, load it again.
        interactions: what happened since; rows that are known already are told apart and counted.
        items: new items, or new rows of known ones.
        item_vectors: of these items, where the ranker goes by such.
        candidates: the lists that were served before the new choices; by default the bundle's own candidate generator
            makes them.
        memory: what the choices of before count, 0 to 1 of themselves: below 1, old ones fade with every refresh.
        progress: show a progress bar on stderr.

    Raises:
        DataError: nothing was fitted, a table breaks its contract or has ids of another type, or the bundle was
            saved by a version that kept no times.
        ConfigError: `memory` out of its bounds.
        BundleError: the head holds no past choices.
    """
    started = time.perf_counter()
    if not 0 <= memory <= 1:
        raise ConfigError(f"memory must lie between 0 and 1, got {memory:g}")
    data, fusion_model = reranker.fitted()
    known = data.interactions
    if known is None:
        raise DataError(
            "the bundle keeps no times of its interactions, for an earlier version saved it: fit it once more with "
            "this version, and refresh from then on"
        )
    if items is None and item_vectors is not None:
        raise ConfigError("item vectors join with their items: give the items table, too")
    new_items = 0 if items is None else reranker.add_items(items, item_vectors=item_vectors)
    merged = merge(known, interactions, data.signals)
    window = _window(reranker, merged, candidates)
    updated, not_updated = None, window if isinstance(window, str) else ""
    if not isinstance(window, str):
        updated = _updated(reranker, window, memory, progress)
    users = set(known[USER])
    if len(merged.new) or items is not None:
        _join(reranker, merged, texts_changed=items is not None)
    if updated is not None:
        reranker.fusion_model = updated
    if len(merged.new) or items is not None:
        reranker.mark_fitted()
    serves = updated or fusion_model
    report = RefreshReport(
        new_interactions=len(merged.new),
        repeated=merged.n_repeated,
        late=merged.n_late,
        new_users=len(set(merged.new[USER]) - users),
        new_items=new_items,
        lists=0 if isinstance(window, str) else len(window.lists.users),
        choices=0 if isinstance(window, str) else int(window.lists.covered.sum()),
        too_new=0 if isinstance(window, str) else window.too_new,
        not_updated=not_updated,
        served_before=fusion_model.guard.serve,
        served=serves.guard.serve,
        guard=serves.guard.summary(),
        seconds=time.perf_counter() - started,
    )
    logger.info("refreshed: %s", report.summary())
    return report


@dataclass(frozen=True, kw_only=True, eq=False)
class _Window:
    """Lists as they were served, and what was chosen next."""

    lists: CandidateLists
    too_new: int


def _window(reranker: Reranker, merged: Merged, served: pd.DataFrame | None) -> _Window | str:
    """The new window, or why there is none."""
    data, _ = reranker.fitted()
    held_out = merged.choices[[USER, ITEM]].drop_duplicates()
    if held_out.empty:
        return "no interaction came after those that were known of its user"
    n_known = data.statistics.n_known(held_out[USER].unique())
    known_enough = n_known >= max(1, reranker.config.min_history)
    users = list(held_out[USER].unique()[known_enough])
    if served is not None:
        lists = validate_candidates(served, further=data.candidate_columns)
        require_ids_like(data.items[ITEM], lists[ITEM], "candidates")
        require_ids_like(data.statistics.histories, lists[USER], "candidates")
        lists = lists[lists[USER].isin(users)].reset_index(drop=True)
        if lists.empty:
            return "none of the served lists is of a user who chose something since"
    elif reranker.generator is None:
        return "the bundle holds no candidate generator, and no served lists were given (--candidates)"
    elif not users:
        fewest = reranker.config.min_history
        return f"each of {len(n_known)} users who chose something has fewer than {fewest} interactions"
    else:
        unseen, n = not data.signals.allows_repeats, reranker.config.n_candidates
        lists = validate_candidates(reranker.generator.recommend(users, n, exclude_seen=unseen))
    window = CandidateLists(
        domain=reranker.llm_scorer.domain,
        users=lists[USER].drop_duplicates().tolist(),
        candidates=lists,
        items=data.items,
        known=merged.every.iloc[: len(merged.every) - len(merged.new)],
        held_out=held_out,
        generator=reranker.generator,
        learned=data.statistics,
    )
    if not window.relevant.any():
        return f"none of the {len(held_out)} choices is in the lists of {len(window.users)} users"
    return _Window(lists=window, too_new=int((~known_enough).sum()))


def _updated(reranker: Reranker, window: _Window, memory: float, progress: bool) -> FusionModel:
    """The head after the new choices, read as of before them."""
    data, fusion_model = reranker.fitted()
    config, reader = reranker.config, reranker.llm_scorer

    updated = fit_ranker(
        [window.lists],
        lambda lists, numbers: read_lists(reader, data.catalog, lists, numbers, progress),
        reader.scorer.components,
        most=config.lists_to_read,
        l2=config.l2,
        seed=config.seed,
        past=_faded(fusion_model, memory),
    )
    return updated.guarded()


def _faded(fusion_model: FusionModel, memory: float) -> FusionModel:
    fused, features = (
        head if head.past is None else replace(head, past=head.past.faded(memory))
        for head in (fusion_model.fused, fusion_model.features)
    )
    return replace(fusion_model, fused=fused, features=features)


def _join(reranker: Reranker, merged: Merged, texts_changed: bool) -> None:
    """Statistics, histories and the generator learn from all interactions; known texts are not read again."""
    data, _ = reranker.fitted()
    if texts_changed and len(data.items) <= MOST_LEARNED_FROM:  # of a larger one, the sample that was drawn stays good
        reranker.llm_scorer = reranker.llm_scorer.for_catalog(data.catalog.items(data.items[ITEM]))
    learn_from(reranker, merged.every, same_penalties=True)


def learn_from(
    reranker: Reranker,
    interactions: pd.DataFrame,
    forgotten: Collection[UserId] = (),
    same_penalties: bool = False,
) -> None:
    """Puts what these interactions say in the place of what was known of the domain; weights stay.

    Args:
        reranker: fitted.
        interactions: all of them; a validated table.
        forgotten: users whose own columns go, too.
        same_penalties: of the regressions of who chooses which texts, those of the last fit stay.
    """
    data, _ = reranker.fitted()
    own = data.statistics.own
    signals = data.signals.model_copy(update={"target_events": ()})  # what is learned are all events
    whole = Dataset(interactions=interactions, items=data.items, domain=reranker.llm_scorer.domain, signals=signals)
    generator = reranker.generator if reranker.generator is None else reranker.generator.clone().fit(whole.interactions)
    built = replace(DomainData.build(whole, generator), signals=data.signals)
    if own is not None:
        users = own.users if own.users is None else own.users[~own.users[USER].isin(forgotten)].reset_index(drop=True)
        built = replace(built, statistics=built.statistics.with_own(own.columns, data.items, users))
    if (vectors := data.statistics.own_vectors) is not None:
        built = replace(built, statistics=built.statistics.with_vectors(vectors.vectors))
    after = replace(built, calibration_ids=data.calibration_ids, calibration_items=data.calibration_items)
    reranker.llm_scorer = reranker.llm_scorer.for_window(after.catalog, after.statistics, same_penalties)
    reranker.generator, reranker._data = generator, after
