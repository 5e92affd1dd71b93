"""Forgetting users: a bundle's histories, statistics and candidate generator are made anew without them."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from reranker.data.schema import USER, refuse_single
from reranker.errors import DataError
from reranker.pipeline.reranker import Reranker
from reranker.refresh.refresh import learn_from
from reranker.types import UserId


@dataclass(frozen=True, kw_only=True)
class ForgetReport:
    """What was forgotten, and what weights still hold.

    Attributes:
        users: how many were known.
        unknown: how many were not.
        interactions: of them, which are gone from histories, statistics, co-visits and the candidate generator.
        lists: of theirs that the guard went by, which are gone too.
        choices: that the head's weights were fitted on.
        weights: of the head.
    """

    users: int
    unknown: int
    interactions: int
    lists: int
    choices: int
    weights: int

    def summary(self) -> str:
        return (
            f"forgot {self.users} users ({self.unknown} were not known): {self.interactions} interactions are gone "
            f"from histories, statistics and the candidate generator, {self.lists} lists from what the guard goes by. "
            f"What remains is their share in {self.weights} weights of the head, fitted on {self.choices} choices, of "
            f"which at most {self.lists} of the newest were theirs; a new fit takes that out, too"
        )


def forget_users(reranker: Reranker, users: Iterable[UserId]) -> ForgetReport:
    """Takes users out of a fitted Reranker, in place: what it knows of items is what a fit without them would know.

    The head's weights stay as they are; the report says on how much they rest. A store forgets by its own `forget`.

    Args:
        reranker: fitted or loaded.
        users: whom to forget; those who are not known are counted.

    Raises:
        DataError: one text instead of several ids, nothing was fitted, the bundle keeps no times, or nobody else would
            be left.
    """
    refuse_single(users, "user ids", "users")
    asked = set(users)
    data, fusion_model = reranker.fitted()
    known = data.interactions
    if known is None:
        raise DataError("the bundle keeps no times of its interactions, for an earlier version saved it: fit it again")
    theirs = known[USER].isin(asked).to_numpy()
    if theirs.all():
        raise DataError(f"forget: all {len(known)} interactions are of these users: delete the bundle instead")
    found = set(known.loc[theirs, USER])
    if (own := data.statistics.own) is not None and own.users is not None:
        found |= set(own.users[USER]) & asked
    judged = fusion_model.judged
    lists = 0 if judged is None else sum(user in asked for user in judged.users)
    reranker.forget(asked)
    if found:
        learn_from(reranker, known[~theirs].reset_index(drop=True), asked)
    if judged is not None and lists:
        reranker.fusion_model = replace(fusion_model, judged=judged.without(asked))
    past = fusion_model.fused.past
    return ForgetReport(
        users=len(found),
        unknown=len(asked - found),
        interactions=int(theirs.sum()),
        lists=lists,
        choices=fusion_model.fused.logit.n_choices if past is None else round(past.n_choices),
        weights=sum(len(head.columns) for head in (fusion_model.fused, fusion_model.new_items) if head is not None),
    )
