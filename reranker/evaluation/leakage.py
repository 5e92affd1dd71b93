"""Leak checks: they run in every evaluation, and each raises a DataError that names the leak.

generator_saw_target       the training part, or the candidate generator itself, knows a held-out pair
history_holds_target    what is shown of a user contains the answer
fitted_on_test          weights were fitted on held-out pairs of the test users
prior_saw_user          the "prior" of an item differs between users, so it was computed with the user's history
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.schema import ITEM, USER
from reranker.data.splits import Fold
from reranker.data.user_rows import pairs_in
from reranker.errors import DataError
from reranker.pipeline.lists import FoldLists
from reranker.protocols import CandidateGenerator

PRIOR_TOLERANCE = 1e-3
"""Nats. Batches change the last bits of a sum of log-probabilities; a prior that saw the user differs by far more."""


def check_fold(fold: Fold) -> None:
    """Training part and histories share no pair with the targets; cold items are in neither.

    Where repeats are allowed, targets that the user chose before are no leak, here and in the other checks.

    Raises:
        DataError: generator_saw_target or history_holds_target.
    """
    new = _new_targets(fold)
    _refuse(fold, "generator_saw_target", new[pairs_in(new, fold.train)], "are in the training part")
    _refuse(fold, "history_holds_target", new[pairs_in(new, fold.history)], "are in the history")
    cold = fold.train[fold.train[ITEM].isin(list(fold.cold_items))]
    _refuse(fold, "generator_saw_target", cold[[USER, ITEM]], "are of cold items, yet in the training part")


def check_generator(generator: CandidateGenerator, fold: Fold, users: int = 50, seed: int = 0) -> None:
    """Asks a fitted candidate generator, as a black box, whether it has seen held-out pairs.

    A stage that leaves seen items out proposes a target to its user only when told not to leave any out: then it was
    fitted on that pair. Looks at a random sample of test users.

    Raises:
        DataError: generator_saw_target.
    """
    sample = fold.sample_users(users, seed)
    size = len(fold.items)
    everything = generator.recommend(sample.users, n=size, exclude_seen=False)
    unseen = generator.recommend(sample.users, n=size, exclude_seen=True)
    new = _new_targets(sample)
    known = pairs_in(new, everything) & ~pairs_in(new, unseen)
    _refuse(fold, "generator_saw_target", new[known], f"are known to candidate generator {generator.name!r}")


def check_fitting(fitted: Iterable[FoldLists], fold: Fold) -> None:
    """The lists that systems are fitted on neither contain the test targets as answers nor rest on them.

    Folds of other domains may share ids with this one; they are not looked at.

    Raises:
        DataError: fitted_on_test.
    """
    for lists in fitted:
        if lists.fold.domain == fold.domain:
            check_fitting_pairs(lists.fold.held_out, fold)
            check_fitting_pairs(lists.fold.train, fold)


def check_fitting_pairs(pairs: pd.DataFrame, fold: Fold) -> None:
    """The `user_id, item_id` pairs that a head or prompt was fitted on, wherever that was done.

    Raises:
        DataError: fitted_on_test.
    """
    new = _new_targets(fold)
    _refuse(fold, "fitted_on_test", new[pairs_in(new, pairs)], "were used for fitting")


def check_priors(lists: FoldLists, priors: NDArray[np.float64], tolerance: float = PRIOR_TOLERANCE) -> None:
    """An item's prior is the same for every user.

    Args:
        priors: (rows,) aligned with `lists.candidates`, in nats.

    Raises:
        DataError: prior_saw_user, or a prior that is not finite.
    """
    if len(priors) != len(lists.candidates) or not np.isfinite(priors).all():
        raise DataError(f"priors: expected {len(lists.candidates)} finite values, one a candidate row")
    by_item = pd.Series(priors).groupby(pd.factorize(lists.candidates[ITEM])[0])
    spread = by_item.transform("max").to_numpy() - by_item.transform("min").to_numpy()
    leaking = lists.candidates.loc[spread > tolerance, [USER, ITEM]].drop_duplicates(ITEM)
    _refuse(lists.fold, "prior_saw_user", leaking, "have an item prior that changes with the user")


def _new_targets(fold: Fold) -> pd.DataFrame:
    """The targets that the user must not have been known to choose."""
    if not fold.signals.allows_repeats:
        return fold.held_out
    return fold.held_out[~pairs_in(fold.held_out, fold.train)]


def _refuse(fold: Fold, leak: str, rows: pd.DataFrame, problem: str) -> None:
    if rows.empty:
        return
    shown = ", ".join(f"({user!r}, {item!r})" for user, item in rows[[USER, ITEM]].head(3).itertuples(index=False))
    raise DataError(
        f"leak {leak!r} in domain {fold.domain!r}, split {fold.split!r}: {len(rows)} (user, item) pairs {problem}, "
        f"first {shown}. Results would be inflated; make folds with "
        "reranker.data.splits and fit on fold.train only"
    )
