"""Membership inference: can the head's weights tell whose choices they were fitted on?

The attacker knows the weights and a user's lists and choices, and guesses "was in the fit" the likelier the choices are
under the head (the loss attack of Yeom et al. 2018, "Privacy Risk in Machine Learning"). Half of the users, drawn at
random, are fitted on; AUC is the chance that one of them looks likelier than another user: 0.5 says nothing.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from reranker.errors import DataError
from reranker.evaluation.metrics import auc
from reranker.fusion import Choices, ConditionalLogit
from reranker.fusion.conditional_logit import log_softmax_within_lists
from reranker.utils.statistics import Interval

REPEATS = 20


def membership_auc(choices: Choices, l2: float = 1.0, repeats: int = REPEATS, seed: int = 0) -> Interval:
    """AUC of the loss attack on a head over the features of these choices.

    Args:
        choices: lists and what was chosen of them.
        l2: ridge of the head.
        repeats: divisions of the users into those who are fitted on and the others.
        seed: of the divisions.

    Returns:
        Mean over the divisions, the central 95 % of them, and how many users have a choice in a list.

    Raises:
        DataError: fewer than four users have a choice in their lists.
    """
    users = choices.user_numbers[choices.list_index]
    teaching = np.unique(users[choices.chosen])
    if len(teaching) < 4:
        raise DataError(f"membership inference needs four users with a choice in their lists, got {len(teaching)}")
    found = []
    for repeat in range(repeats):
        drawn = np.random.default_rng([seed, repeat]).permutation(teaching)
        members, others = drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :]
        inside = np.isin(users, members)
        head = ConditionalLogit.fit(choices.features[inside], choices.list_index[inside], choices.chosen[inside], l2)
        likely = _mean_log_likelihoods(head, choices)
        scores = np.array([likely[user] for user in drawn])
        found.append(auc(scores, np.isin(drawn, members) & ~np.isin(drawn, others)))
    low, high = np.quantile(found, [0.025, 0.975])
    return Interval(mean=float(np.mean(found)), low=float(low), high=float(high), n=len(teaching))


def _mean_log_likelihoods(head: ConditionalLogit, choices: Choices) -> Mapping[int, float]:
    """User -> mean log P of the user's choices."""
    log_p: NDArray[np.float64] = log_softmax_within_lists(
        head.score(choices.features), np.unique(choices.list_index, return_inverse=True)[1]
    )
    users = choices.user_numbers[choices.list_index[choices.chosen]]
    sums = np.bincount(users, weights=log_p[choices.chosen])
    counts = np.bincount(users)
    return {int(user): float(sums[user] / counts[user]) for user in np.unique(users)}
