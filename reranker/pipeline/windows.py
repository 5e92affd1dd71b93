"""The windows that `Reranker.fit` learns from: lists made before the item that the user chose next."""

import logging
from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.config import RerankerConfig
from reranker.data.dataset import Dataset, in_sequence
from reranker.data.frames import as_frame
from reranker.data.id_matching import refuse_written_otherwise, shown, written_otherwise
from reranker.data.schema import (
    ITEM,
    QUERY,
    TIMESTAMP,
    USER,
    require_ids_like,
    validate_candidates,
    validate_interactions,
)
from reranker.data.signals import Signals, targets_of
from reranker.data.user_rows import last_target_places, row_places, rows_of_user
from reranker.errors import ConfigError, DataError
from reranker.fusion.own_columns import OwnColumn, resolved
from reranker.fusion.statistics import interaction_statistics
from reranker.pipeline.lists import CandidateLists
from reranker.pipeline.proposing import copy_of, fitted_on, lists_by, require_generator
from reranker.protocols import CandidateGenerator
from reranker.utils.progress import step
from reranker.utils.rolling_origin import DEFAULT_WINDOWS, rolling_origin

logger = logging.getLogger(__name__)

_LOOKED_AT = 1000  # ids, for how they are written


def window_of(
    data: Dataset,
    known: pd.DataFrame,
    held_out: pd.DataFrame,
    candidates: pd.DataFrame,
    generator: CandidateGenerator | None,
    own: Sequence[OwnColumn] = (),
) -> CandidateLists:
    """Lists of one window.

    Args:
        data: gives the items.
        known: interactions that the first stage and features may see.
        held_out: what the users chose after that.
        candidates: lists proposed then.
        generator: gives the item space, if it has one; fitted on `known`.
        own: columns of the user's tables that are features, too.

    Raises:
        DataError: no list holds a chosen item.
    """
    statistics = interaction_statistics(known, data.items, generator) if own or data.item_vectors is not None else None
    if statistics is not None:
        statistics = statistics.with_own(own, data.items, data.users).with_vectors(data.item_vectors)
    lists = CandidateLists(
        domain=data.domain,
        users=candidates[USER].drop_duplicates().tolist(),
        candidates=candidates,
        items=data.items,
        known=known,
        held_out=held_out[[USER, ITEM]].drop_duplicates(),
        generator=generator,
        learned=statistics,
    )
    if not lists.relevant.any():
        raise DataError(
            f"nothing to learn from: none of the {int(lists.n_relevant.sum())} held-out items "
            f"({shown(held_out[ITEM])}, for instance) is in the lists of {len(lists.users)} users. Propose more "
            "candidates, or check that the ids of both tables are the same"
        )
    return lists


def windows_of(
    data: Dataset,
    generator: CandidateGenerator | None,
    candidates: pd.DataFrame | None,
    held_out: pd.DataFrame | None,
    config: RerankerConfig,
    progress: bool | None = False,
    lean: bool = False,
) -> list[CandidateLists]:
    """The windows that `Reranker.fit` learns from, newest first: of a candidate generator, or of served lists.

    Those of a generator, which need not be fitted, are `lean` where it is asked for.

    Raises:
        ConfigError: neither a generator nor lists were given, or both, or it is no candidate generator.
        GeneratorError: the generator failed.
        DataError: a table is wrong, or there is nothing to learn from.
    """
    logs = None if candidates is None or held_out is None else (candidates, held_out)
    if (generator is None) == (logs is None) or (candidates is None) != (held_out is None):
        raise ConfigError("fit needs either generator=, or candidates= and held_out= together")
    data.require_shared_items()
    served = None if candidates is None else as_frame(candidates, "candidates")
    own = resolved(config.features, data.items, data.users, served)
    if logs is not None:
        return [window_from_logs(data, *logs, own)]
    assert generator is not None
    require_generator(generator)
    return windows_from_generator(
        data,
        generator,
        config.n_candidates,
        config.min_history,
        config.seed,
        config.windows,
        most=config.window_users,
        own=own,
        progress=progress,
        lean=lean,
    )


def windows_from_generator(
    data: Dataset,
    generator: CandidateGenerator,
    n: int,
    min_history: int,
    seed: int = 0,
    windows: int = DEFAULT_WINDOWS,
    *,
    most: int | None = None,
    own: Sequence[OwnColumn] = (),
    progress: bool | None = False,
    lean: bool = False,
) -> list[CandidateLists]:
    """`window_from_generator` of the data, and of what was known before each of these windows, newest first.

    Raises:
        DataError: of the newest.
    """

    def window(of: Dataset) -> CandidateLists:
        return window_from_generator(
            of, generator, n, min_history, seed, most=most, own=own, progress=progress, lean=lean
        )

    return rolling_origin(
        lambda: window(data),
        lambda newer: window(data.with_interactions(newer.known)),
        lambda window: int(window.covered.sum()),
        windows,
    )


def window_from_generator(
    data: Dataset,
    generator: CandidateGenerator,
    n: int,
    min_history: int,
    seed: int = 0,
    *,
    most: int | None = None,
    own: Sequence[OwnColumn] = (),
    progress: bool | None = False,
    lean: bool = False,
) -> CandidateLists:
    """Holds each user's last target out, fits a clone of `generator` on what was before and lets it propose lists.

    Targets are all choices, or those of `Signals.target_events`; what a user did after the target is left out, too.
    Without timestamps there is no "last": a random target is held out instead, and nothing else.

    Args:
        data: interactions and items.
        generator: makes the lists; a clone is fitted.
        n: candidates a list.
        min_history: users with fewer interactions than this before the held-out one get no list.
        seed: of what is held out without timestamps, and of who gets a list.
        most: users who get a list, drawn at random; all by default.
        own: columns of the user's tables that are features, too.
        progress: show a line a step on stderr; None does on a terminal and in a notebook.
        lean: keep no more than `fit` needs (`CandidateLists.lean`): a large catalogue takes gigabytes less.

    Raises:
        DataError: no user has enough interactions, or the first stage finds none of the held-out items.
    """
    with step("choices to learn from", progress):
        before, held_out, n_held = _held_out(data, min_history, seed, most)
    with step(f"candidate generator, without {n_held:,} choices", progress):
        earlier = fitted_on(generator, before)
    with step(f"lists of {len(held_out):,} of {n_held:,} users", progress):
        users, repeats = held_out[USER].tolist(), data.signals.allows_repeats
        candidates = lists_by(earlier, before, users, n, repeats=repeats)
    with step("interaction features of the lists", progress):
        lists = window_of(data, before, held_out, candidates, earlier, own)
        _ = lists.features
    return lists.lean(copy_of(generator, before)) if lean else lists


def _held_out(data: Dataset, min_history: int, seed: int, most: int | None) -> tuple[pd.DataFrame, pd.DataFrame, int]:
    """Interactions before the last targets, targets of `most` users, and how many there are of all.

    Raises:
        DataError: no user has enough interactions.
    """
    interactions = data.interactions
    if not data.has_order:  # rows may be sorted by anything: hold a random interaction out instead of a "last" one
        interactions = in_sequence(interactions, seed)
    held, later = last_targets(interactions, targets_of(interactions, data.signals), min_history, data.has_order)
    if not held.any():
        raise DataError(
            f"no user has more than {min_history} interactions{_up_to_a_target(data.signals)}, so there is no "
            "validation fold to fit on. Give more interactions or lower min_history"
        )
    before, held_out = interactions[~held & ~later].reset_index(drop=True), interactions[held]
    if most is not None and len(held_out) > most:
        drawn = np.sort(np.random.default_rng(seed).choice(len(held_out), most, replace=False))
        logger.info("lists are made for %d of %d users, drawn at random", most, len(held_out))
        held_out = held_out.iloc[drawn]
    return before, held_out, int(held.sum())


def _up_to_a_target(signals: Signals) -> str:
    return f" up to one that is to be predicted ({', '.join(signals.target_events)})" if signals.target_events else ""


def last_targets(
    interactions: pd.DataFrame, targets: NDArray[np.bool_], fewest: int, has_order: bool
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(rows,) each user's last target, where `fewest` interactions come before it, and (rows,) what came after those.

    Args:
        interactions: in their order.
        targets: (rows,) True for those that may be held out.
        fewest: interactions before it.
        has_order: rows after it came later; else they are in a random order and stay.
    """
    places, last = row_places(interactions), last_target_places(interactions, targets)
    if not has_order:  # others stand before or after it by chance
        return (places == last) & (rows_of_user(interactions) > fewest), np.zeros(len(places), dtype=np.bool_)
    return (places == last) & (last >= fewest), (places > last) & (last >= fewest)


def window_from_logs(
    data: Dataset, candidates: pd.DataFrame, held_out: pd.DataFrame, own: Sequence[OwnColumn] = ()
) -> CandidateLists:
    """A window from the user's own first stage: lists it served, and what was chosen afterwards.

    Rows of `data.interactions` that are in `held_out` are left out of the statistics; earlier choices of the same item
    stay. Nothing is learned from rows of `held_out` that are no targets (`Signals.target_events`, dislikes).

    Raises:
        DataError: a table breaks its contract, has ids of another type than the data, or none of the chosen items is in
            the lists.
    """
    known = {USER: data.interactions[USER], ITEM: data.items[ITEM]}
    further = [QUERY, *(column.name for column in own if column.source == "candidates")]
    candidates = validate_candidates(as_frame(candidates, "candidates", known), further=further)
    held_out = validate_interactions(as_frame(held_out, "held_out", known), "held_out", data.signals)
    for name, table in (("candidates", candidates), ("held_out", held_out)):
        require_ids_like(data.interactions[USER], table[USER], name)
        require_ids_like(data.items[ITEM], table[ITEM], name)
    require_lists(candidates[USER], held_out[USER])
    for name, table in (("candidates", candidates), ("held_out", held_out)):
        refuse_written_otherwise(data.interactions[USER], table[USER], name, "the interactions")
        refuse_written_otherwise(data.items[ITEM], table[ITEM], name, "the item table")
    users = candidates[USER].drop_duplicates()
    if len(new := users[~users.isin(data.interactions[USER])]):
        logger.warning(
            "candidates: %d of %d users are not in the interactions, for instance %s: their lists count as those of "
            "users without a history. If they have one, add it to the interactions",
            len(new),
            len(users),
            shown(new),
        )
    before = data.interactions[~_chosen_later(data.interactions, held_out)].reset_index(drop=True)
    targets = targets_of(held_out, data.signals)
    if not targets.all():
        logger.info("held_out: %d of %d rows are nothing to predict", int((~targets).sum()), len(targets))
    return window_of(data, validate_interactions(before), held_out[targets], candidates, None, own)


def require_lists(listed: pd.Series, choosing: pd.Series) -> pd.Series:
    """The users who chose something and have no list, each once; some of them are named in a warning.

    Args:
        listed: users of the lists, one a row.
        choosing: users of what was chosen afterwards.

    Raises:
        DataError: none of them has a list.
    """
    users = choosing.drop_duplicates()
    without = users[~users.isin(listed)]
    if without.empty:
        return without
    words = (
        f"held_out: {len(without)} of {len(users)} users have no list in the candidates, for instance {shown(without)}"
    )
    if len(without) == len(users):
        known = listed.drop_duplicates().tolist()
        remedy = written_otherwise(known, without.head(_LOOKED_AT).tolist()) or (
            f"There are lists of {shown(known)}, for instance: give those that these users were served, or check that "
            "the ids of both tables are the same"
        )
        raise DataError(f"{words}, so there is nothing to learn from. {remedy}")
    logger.warning("%s: their choices are left out. Give the lists that they were served to have them count", words)
    return without


def _chosen_later(interactions: pd.DataFrame, held_out: pd.DataFrame) -> NDArray[np.bool_]:
    """(rows,) True for the held-out choices: from their time on, or without times a user's newest of an item."""
    keys = pd.MultiIndex.from_frame(interactions[[USER, ITEM]])
    held = held_out.groupby([USER, ITEM], sort=False)
    counts = held.size()
    mine = np.asarray(keys.isin(counts.index))
    if TIMESTAMP in interactions and TIMESTAMP in held_out:
        since = held[TIMESTAMP].min().reindex(keys[mine])
        try:
            later = interactions[TIMESTAMP][mine].reset_index(drop=True) >= since.reset_index(drop=True)
        except TypeError as error:
            raise DataError(
                f"tables 'interactions' and 'held_out', column {TIMESTAMP!r}: the times cannot be compared ({error}). "
                "Give both one type"
            ) from error
    else:
        newest = interactions.groupby([USER, ITEM], sort=False).cumcount(ascending=False)
        later = newest[mine].reset_index(drop=True) < counts.reindex(keys[mine]).reset_index(drop=True)
    mine[mine] = later
    return mine
