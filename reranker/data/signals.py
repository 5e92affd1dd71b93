"""What interactions say, as one number a row: its strength, above 0 for a choice, below 0 for a dislike.

The columns `event`, `rating` and `weight` become `strength` once, where a table is validated. What a user says of one
item is added up: above 0 the user chose it, below 0 the user dislikes it, at 0 it was only seen.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from pydantic import Field, field_validator

from reranker.data.schema import EVENT, ITEM, RATING, STRENGTH, USER, WEIGHT, numeric, refuse_rows
from reranker.errors import DataError
from reranker.types import ItemId, UserInteraction
from reranker.utils.settings import SettingsModel

Floats = NDArray[np.float64]

SURE = 5.0
"""Strength of what is as clear as a purchase, a like or the best rating; minus that, of a dislike or the worst."""

EVENT_WEIGHTS: Mapping[str, float] = {
    "view": 1.0,
    "click": 1.0,
    "play": 1.0,
    "cart": 3.0,
    "add to cart": 3.0,
    "like": SURE,
    "purchase": SURE,
    "transaction": SURE,
    "skip": -1.0,
    "dislike": -SURE,
}
"""Event -> strength, where no other is given; upper case, spaces, `_` and `-` do not matter."""

RATING_SCALES = ((1.0, 5.0), (0.5, 5.0), (1.0, 10.0))
"""Lowest and highest rating of the scales that are recognised, the first that holds all ratings."""

_SHOWN = 5
_NOTHING = 1e-9  # sums of strengths nearer to 0 than this are 0


class Signals(SettingsModel):
    """How the interactions of a data set are read.

    Attributes:
        event_weights: event -> strength, beside those of `EVENT_WEIGHTS`; below 0 for a dislike.
        rating_scale: lowest and highest rating; by default the one of `RATING_SCALES` that holds all ratings.
        target_events: events that are to be predicted: only these are held out by fit and evaluation; by default all
            that say that an item was chosen.
        repeats: "allowed" where users choose the same item again (groceries, music): then items that they know are
            proposed, and held out, too. Disliked ones are not.
    """

    REFUSAL = "signals: {problems}. Known keys: {keys}"

    event_weights: Mapping[str, float] = Field(default_factory=dict)
    rating_scale: tuple[float, float] | None = None
    target_events: tuple[str, ...] = ()
    repeats: Literal["left out", "allowed"] = "left out"

    @field_validator("event_weights")
    @classmethod
    def _finite(cls, weights: Mapping[str, float]) -> Mapping[str, float]:
        if wrong := [name for name, weight in weights.items() if not np.isfinite(weight)]:
            raise ValueError(f"the strength of {', '.join(wrong)} is not a finite number")
        return dict(weights)

    @field_validator("rating_scale")
    @classmethod
    def _rising(cls, scale: tuple[float, float] | None) -> tuple[float, float] | None:
        if scale is not None and not (np.isfinite(scale).all() and scale[0] < scale[1]):
            raise ValueError("give the lowest and the highest rating, for instance 1 and 10")
        return scale

    @property
    def allows_repeats(self) -> bool:
        return self.repeats == "allowed"

    @property
    def strengths(self) -> dict[str, float]:
        """Strength by event, as `event_key` writes the name."""
        return {event_key(name): weight for name, weight in [*EVENT_WEIGHTS.items(), *self.event_weights.items()]}

    def of_row(self, event: str | None = None, rating: float | None = None, weight: float | None = None) -> float:
        """Strength of one interaction: what its rating or else its event is worth, times its weight.

        Raises:
            DataError: an unknown event, a rating out of the scale, or a weight below 0 beside either.
        """
        if weight is not None:
            if weight < 0 and (event is not None or rating is not None):
                raise DataError(
                    f"the weight {weight:g} is below 0 beside an event or rating: say a dislike by the event, or leave "
                    "event and rating out"
                )
            return weight * self.of_row(event, rating)
        if rating is not None:
            one = np.array([rating], dtype=np.float64)
            low, high = self.rating_scale or told_scale(one)
            if not low <= rating <= high:
                raise DataError(f"the rating {rating:g} lies outside the scale {low:g}-{high:g}")
            return float(rating_strengths(one, (low, high))[0])
        if event is None:
            return 1.0
        known = self.strengths
        if event_key(event) not in known:
            there = ", ".join([*EVENT_WEIGHTS, *self.event_weights])
            raise DataError(
                f"nothing is known of the event {event!r}; there are {there}. Fit with --event-weights {event}=1 to "
                "have it count"
            )
        return known[event_key(event)]

    def of_stored(self, row: UserInteraction) -> float:
        """Strength of an interaction of a user store; of an event that is not known any more 0, as of what was seen.

        A plain one is a choice.
        """
        if len(row) == 2:
            return 1.0
        try:
            return self.of_row(*row[2])
        except DataError:
            return 0.0


def event_key(name: object) -> str:
    """An event's name without what differs from shop to shop: "Add_To-Cart" and "addtocart" are one."""
    return "".join(character for character in str(name).casefold() if character not in " _-")


def with_strengths(frame: pd.DataFrame, signals: Signals, name: str) -> pd.DataFrame:
    """The table with a column `strength`, where one of `event`, `rating` and `weight` says something.

    A rating counts before an event, and a weight multiplies both. A table that has `strength` keeps it. Columns that
    say the same of every row say nothing: a constant weight, or ratings all alike of no given scale.

    Args:
        frame: with canonical names.
        signals: how it is read.
        name: of the table, for errors.

    Raises:
        DataError: an unknown event, a rating out of scale or missing without an event, a number that is not finite.
    """
    if STRENGTH in frame:
        return frame.assign(**{STRENGTH: numeric(frame, STRENGTH, name)})
    frame = frame.copy(deep=False)
    if RATING in frame:
        frame[RATING] = _ratings(frame, name)
    if WEIGHT in frame:
        frame[WEIGHT] = numeric(frame, WEIGHT, name)
    signals = signals_told(frame, signals, name)
    rated = RATING in frame and signals.rating_scale is not None
    weighted = WEIGHT in frame and (frame[WEIGHT].nunique() > 1 or bool((frame[WEIGHT] <= 0).any()))
    if not (rated or EVENT in frame or weighted):
        return frame
    said = frame if rated else frame.drop(columns=RATING, errors="ignore")
    strengths = _strengths(said, signals, name)
    if weighted:
        if rated or EVENT in frame:
            refuse_rows(frame, WEIGHT, (frame[WEIGHT] < 0).to_numpy(), "is below 0 beside an event or rating", name)
        strengths = strengths * frame[WEIGHT].to_numpy(dtype=np.float64)
    return frame.assign(**{STRENGTH: strengths})


def signals_told(frame: pd.DataFrame, signals: Signals, name: str = "interactions") -> Signals:
    """The same with the scale of the table's ratings, where it has some and no scale was given.

    Raises:
        DataError: no known scale holds the ratings.
    """
    if RATING not in frame or signals.rating_scale is not None:
        return signals
    ratings = frame[RATING].dropna().to_numpy(dtype=np.float64)
    if len(np.unique(ratings)) < 2:
        return signals
    return signals.model_copy(update={"rating_scale": told_scale(ratings, name)})


def told_scale(ratings: Floats, name: str = "interactions") -> tuple[float, float]:
    """The scale of `RATING_SCALES` that holds all ratings.

    Raises:
        DataError: none does.
    """
    lowest, highest = float(ratings.min()), float(ratings.max())
    for low, high in RATING_SCALES:
        if low <= lowest and highest <= high:
            return low, high
    zero = " 0 often stands for no rating: make it missing and name an `event`." if lowest == 0 else ""
    raise DataError(
        f"table {name!r}, column {RATING!r}: values from {lowest:g} to {highest:g} are of no scale that is recognised "
        f"({', '.join(f'{low:g}-{high:g}' for low, high in RATING_SCALES)}).{zero} Give the scale "
        f"(Signals(rating_scale=(low, high)), --rating-scale LOW,HIGH); counts belong in a column {WEIGHT!r}"
    )


def _ratings(frame: pd.DataFrame, name: str) -> pd.Series:
    """Numbers; missing ones only where there is an event."""
    ratings = pd.to_numeric(frame[RATING], errors="coerce").astype(np.float64)
    missing = frame[RATING].isna().to_numpy()
    refuse_rows(frame, RATING, ~missing & ~np.isfinite(ratings.to_numpy()), "is not a finite number", name)
    silent = missing & (frame[EVENT].isna().to_numpy() if EVENT in frame else True)
    refuse_rows(frame, RATING, silent, f"is missing and no {EVENT!r} stands beside it; leave the row out", name)
    return ratings


def _strengths(frame: pd.DataFrame, signals: Signals, name: str) -> Floats:
    """(rows,) by rating, else by event, else 1."""
    strengths = np.ones(len(frame))
    rated = frame[RATING].notna().to_numpy() if RATING in frame else np.zeros(len(frame), dtype=np.bool_)
    if EVENT in frame:
        strengths[~rated] = _of_events(frame[~rated], signals, name)
    if rated.any():
        assert signals.rating_scale is not None
        low, high = signals.rating_scale
        ratings = frame.loc[rated, RATING].to_numpy(dtype=np.float64)
        outside = f"lies outside the scale {low:g}-{high:g}; mend it, or give another (rating_scale, --rating-scale)"
        refuse_rows(frame[rated], RATING, (ratings < low) | (ratings > high), outside, name)
        strengths[rated] = rating_strengths(ratings, (low, high))
    return strengths


def rating_strengths(ratings: Floats, scale: tuple[float, float]) -> Floats:
    """(n,) -SURE for the lowest rating to SURE for the highest.

    Below the middle of the scale a rating is a dislike, the more the lower; the middle itself is worth half of the best
    one. The scale's middle and not the user's mean, so that one rating alone says the same as among others.
    """
    low, high = scale
    above = (ratings - (low + high) / 2) / ((high - low) / 2)
    return np.asarray(SURE * np.where(above < 0, above, (1 + above) / 2), dtype=np.float64)


def _of_events(frame: pd.DataFrame, signals: Signals, name: str) -> Floats:
    refuse_rows(frame, EVENT, frame[EVENT].isna().to_numpy(), "is missing and no rating stands beside it", name)
    known = signals.strengths
    found = frame[EVENT].map({event: known.get(event_key(event), np.nan) for event in frame[EVENT].unique()})
    unknown = frame.loc[found.isna(), EVENT].map(str).value_counts()
    if len(unknown):
        shown = ", ".join(f"{event!r} ({count} rows)" for event, count in unknown.head(_SHOWN).items())
        more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
        raise DataError(
            f"table {name!r}, column {EVENT!r}: nothing is known of {shown}{more}. Say what they are worth "
            f"(Signals(event_weights={{{str(unknown.index[0])!r}: 1}}), --event-weights {unknown.index[0]}=1; below 0 "
            f"for a dislike), or leave the column out. Known: {', '.join(EVENT_WEIGHTS)}"
        )
    return found.to_numpy(dtype=np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class RowSignals:
    """What each row of a validated table says.

    Attributes:
        strengths: (rows,) as they stand.
        chosen: (rows,) True where the row is above 0 and so is all that its user says of the item.
        disliked: (rows,) True where all that the user says of the item is below 0.
    """

    strengths: Floats
    chosen: NDArray[np.bool_]
    disliked: NDArray[np.bool_]

    @classmethod
    def of(cls, interactions: pd.DataFrame) -> "RowSignals":
        if STRENGTH not in interactions:
            rows = len(interactions)
            return cls(strengths=np.ones(rows), chosen=np.ones(rows, np.bool_), disliked=np.zeros(rows, np.bool_))
        strengths = interactions[STRENGTH].to_numpy(dtype=np.float64)
        pairs = interactions.groupby([USER, ITEM], sort=False).ngroup().to_numpy()
        total = settled(np.bincount(pairs, weights=strengths).astype(np.float64))[pairs]
        return cls(strengths=strengths, chosen=(strengths > 0) & (total > 0), disliked=total < 0)

    @property
    def relative(self) -> Floats:
        """(rows,) strengths in units of the mean of those that are choices: these count as much as without signals."""
        return self.strengths / mean_choice(self.strengths[self.chosen])


def mean_choice(strengths: Floats) -> float:
    """Mean of the strengths of choices; 1 where there is none."""
    return float(strengths.mean()) if len(strengths) else 1.0


def settled(sums: Floats) -> Floats:
    """Sums in which what is left of rounding is 0."""
    return np.where(np.abs(sums) < _NOTHING, 0.0, sums)


def choices_of(interactions: pd.DataFrame) -> pd.DataFrame:
    """The rows that say that an item was chosen; the table itself where it says nothing else."""
    if STRENGTH not in interactions:
        return interactions
    return interactions[RowSignals.of(interactions).chosen]


def targets_of(interactions: pd.DataFrame, signals: Signals) -> NDArray[np.bool_]:
    """(rows,) True where a row is of the kind that is to be predicted: a choice, by one of the target events.

    A table without events holds nothing but such.
    """
    targets = RowSignals.of(interactions).chosen
    if signals.target_events and EVENT in interactions:
        wanted = {event_key(event) for event in signals.target_events}
        targets = targets & np.array([event_key(event) in wanted for event in interactions[EVENT]], dtype=np.bool_)
    return targets


def require_targets(interactions: pd.DataFrame, signals: Signals) -> None:
    """Refuses target events that the interactions lack.

    Raises:
        DataError: there are no events, or none of this name.
    """
    if not signals.target_events:
        return
    if EVENT not in interactions:
        raise DataError(
            f"target_events: the interactions have no column {EVENT!r}, so {', '.join(signals.target_events)} cannot "
            "be told from the rest: add it, or leave target_events out"
        )
    there = {event_key(event): event for event in interactions[EVENT].dropna().unique()}
    missing = [event for event in signals.target_events if event_key(event) not in there]
    if missing:
        raise DataError(
            f"target_events: no interaction is a {', '.join(missing)}; there are {', '.join(map(str, there.values()))}"
        )


def split_by_sign(rows: Iterable[tuple[ItemId, float]]) -> tuple[list[ItemId], list[ItemId]]:
    """Items that are chosen, in the order of the rows, repeats included, and distinct items that are disliked.

    Args:
        rows: item and strength of what one user said, oldest first.
    """
    rows = list(rows)
    totals: dict[ItemId, float] = {}
    for item, strength in rows:
        totals[item] = totals.get(item, 0.0) + strength
    chosen = [item for item, strength in rows if strength > 0 and totals[item] > _NOTHING]
    return chosen, [item for item, total in totals.items() if total < -_NOTHING]


def told(interactions: pd.DataFrame, signals: Signals) -> Sequence[str]:
    """What was made of the columns `event`, `rating` and `weight`, for people; nothing where there are none."""
    lines = []
    if STRENGTH in interactions:
        said = RowSignals.of(interactions)
        lines.append(_counted(interactions, signals, said))
    elif WEIGHT in interactions or RATING in interactions:
        name = RATING if RATING in interactions else WEIGHT
        lines.append(f"the {name} is the same in every row, so it tells nothing: every row counts as a choice")
    if signals.target_events:
        n_targets = int(targets_of(interactions, signals).sum())
        lines.append(f"to be predicted: {', '.join(signals.target_events)} ({n_targets} of {len(interactions)} rows)")
        if not signals.allows_repeats and (met := _met_before(interactions, signals)):
            lines.append(
                f"{met} of these are of items that their user had met before, as by a view; items met before are not "
                "proposed, so they count as missed: allow repeats (Signals(repeats='allowed'), --repeats)"
            )
    if signals.allows_repeats:
        lines.append("repeats are allowed: items that users know are proposed and held out, too")
    return lines


def _met_before(interactions: pd.DataFrame, signals: Signals) -> int:
    """Targets whose user has an earlier row of the item."""
    return int((targets_of(interactions, signals) & interactions.duplicated([USER, ITEM]).to_numpy()).sum())


def _counted(interactions: pd.DataFrame, signals: Signals, said: RowSignals) -> str:
    parts = []
    if RATING in interactions and signals.rating_scale is not None:
        low, high = signals.rating_scale
        parts.append(f"ratings of {low:g}-{high:g} (below {(low + high) / 2:g} a dislike)")
    if EVENT in interactions:
        counts = interactions[EVENT].map(str).value_counts()
        shown = ", ".join(f"{event} {count}" for event, count in counts.head(_SHOWN).items())
        parts.append(f"events ({shown}{', ...' if len(counts) > _SHOWN else ''})")
    if WEIGHT in interactions:
        parts.append("weights")
    neither = int((~said.chosen & ~said.disliked).sum())
    return (
        f"{' and '.join(parts) or 'strengths'} count: {int(said.chosen.sum())} of {len(interactions)} interactions are "
        f"choices, {int(said.disliked.sum())} are about items that their user dislikes"
        + (f", {neither} are neither" if neither else "")
    )
