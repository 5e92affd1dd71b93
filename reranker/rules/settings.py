"""Rules as they are written down: one model for Python, YAML, JSON and HTTP.

Where rules contradict each other, pins go before caps, caps before quotas, quotas before diversity, and diversity
before the score. Exclusions go before everything.
"""

import json
from collections.abc import Mapping
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
import yaml
from pydantic import BeforeValidator, Field, FiniteFloat, StrictBool, StrictInt, StrictStr, model_validator

from reranker.errors import ConfigError
from reranker.utils.settings import SettingsModel

MOST_RULES = 100
"""Rules of one kind."""

MOST_VALUES = 10_000
"""Items of an exclusion, or values of a condition."""

LONGEST_WINDOW = 1000
"""Places that a cap, a quota or diversity can be about."""

Place = Annotated[int, Field(ge=1, le=LONGEST_WINDOW)]


def _python_value(value: Any) -> Any:
    """numpy's scalars as Python's."""
    return value.item() if isinstance(value, np.generic) else value


def _several(value: Any) -> Any:
    """One where a list is meant becomes a list of it."""
    return value if isinstance(value, list | tuple) else [value]


RuleItem = Annotated[StrictInt | StrictStr, BeforeValidator(_python_value)]
Value = Annotated[StrictBool | StrictInt | FiniteFloat | StrictStr, BeforeValidator(_python_value)]
Bound = Annotated[FiniteFloat | datetime | date, Field(union_mode="left_to_right")]


class Range(SettingsModel):
    """Values between two bounds, both included. A missing value is in no range.

    Attributes:
        at_least, at_most: numbers, or dates for a column of dates.
        within_days: dates no older than so many days, by the clock in UTC; what lies ahead is within, too.
    """

    at_least: Bound | None = None
    at_most: Bound | None = None
    within_days: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _bounded(self) -> Self:
        if self.at_least is None and self.at_most is None and self.within_days is None:
            raise ValueError("give at_least, at_most or within_days")
        bounds = [bound for bound in (self.at_least, self.at_most) if bound is not None]
        if len({isinstance(bound, float) for bound in bounds}) > 1:
            raise ValueError("at_least and at_most must both be numbers or both be dates")
        if self.within_days is not None and bounds:
            raise ValueError("give within_days, or at_least and at_most, not both")
        return self

    def __str__(self) -> str:
        given = self.model_dump(exclude_none=True)
        return " ".join(
            f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}" for name, value in given.items()
        )


_Values = Annotated[tuple[Value, ...], BeforeValidator(_several), Field(min_length=1, max_length=MOST_VALUES)]
Where = Annotated[dict[str, Range | _Values], Field(max_length=MOST_RULES)]
"""Column of the item table -> a value, several, or a range; all columns must hold. Of `category`, which may name
several, one of them has to be equal."""


def in_words(where: Mapping[str, Range | tuple[Value, ...]]) -> str:
    """A condition for people: "brand Acme, Own; price at_most 10"."""
    parts = []
    for column, wanted in where.items():
        shown = str(wanted) if isinstance(wanted, Range) else ", ".join(map(str, wanted[:3]))
        more = "" if isinstance(wanted, Range) or len(wanted) <= 3 else f" and {len(wanted) - 3} more"
        parts.append(f"{column} {shown}{more}")
    return "; ".join(parts)


class Exclude(SettingsModel):
    """Items that are not shown: by id, or by a condition.

    Attributes:
        items: item ids.
        where: a condition on the item table.
    """

    items: Annotated[tuple[RuleItem, ...], BeforeValidator(_several), Field(max_length=MOST_VALUES)] = ()
    where: Where = Field(default_factory=dict)

    @model_validator(mode="after")
    def _one(self) -> Self:
        if bool(self.items) == bool(self.where):
            raise ValueError("give items, or where: an exclusion by id and one by condition are two")
        return self


class Pin(SettingsModel):
    """An item at a fixed place of every list whose candidates hold it.

    Attributes:
        item: its id.
        place: from 1.
    """

    item: RuleItem
    place: Place


class Boost(SettingsModel):
    """A push up or down for items that meet a condition.

    Attributes:
        where: a condition on the item table.
        by: standard deviations of the list's scores that are added to the item's score; below 0 it sinks.
    """

    where: Where = Field(min_length=1)
    by: float = Field(ge=-100, le=100)


class Cap(SettingsModel):
    """At most so many items of one value of a column among the first places.

    An item without a value is never capped. An item of several categories counts for each of them.

    Attributes:
        column: of the item table: category, brand, provider.
        most: items of one value.
        first: places that are looked at.
    """

    column: str
    most: int = Field(ge=1)
    first: Place = 10


class Quota(SettingsModel):
    """At least so many items that meet a condition among the first places: new items, or the house's own brand.

    Attributes:
        where: a condition on the item table, for instance {"added": {"within_days": 30}}.
        at_least: items.
        first: places that are looked at.
    """

    where: Where = Field(min_length=1)
    at_least: int = Field(ge=1)
    first: Place = 10

    @model_validator(mode="after")
    def _possible(self) -> Self:
        if self.at_least > self.first:
            raise ValueError(f"at_least {self.at_least} of the first {self.first} places is more than there are")
        return self


class Diversity(SettingsModel):
    """First places that differ from each other, by the words of some columns (pyversity).

    Attributes:
        method: "mmr", maximal marginal relevance (Carbonell & Goldstein 1998), or "dpp", a greedy determinantal point
            process (Chen et al. 2018).
        strength: 0 goes by the scores alone, 1 by difference alone.
        first: places that are filled so.
        among: of how many best by score.
        by: columns of the item table whose words are compared.
    """

    method: Literal["mmr", "dpp"] = "mmr"
    strength: float = Field(default=0.3, ge=0, le=1)
    first: Place = 10
    among: Place = 50
    by: Annotated[tuple[str, ...], BeforeValidator(_several), Field(min_length=1, max_length=MOST_RULES)] = ("title",)

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.among < self.first:
            raise ValueError(f"among {self.among} is less than the {self.first} places that are filled")
        return self


class Calibration(SettingsModel):
    """First places whose mix of one column is near that of the user's own history (Steck 2018).

    A list of a user without a history, or of one whose items have no value, stays as it is and is counted.

    Attributes:
        by: column of the item table: category, provider, price band.
        strength: 0 goes by the scores alone, 1 by the mix alone.
        first: places that are filled so.
        among: of how many best by score.
    """

    by: str = "category"
    strength: float = Field(default=0.5, ge=0, le=1)
    first: Place = 10
    among: Place = 50

    @model_validator(mode="after")
    def _enough(self) -> Self:
        if self.among < self.first:
            raise ValueError(f"among {self.among} is less than the {self.first} places that are filled")
        return self


class Rules(SettingsModel):
    """What a shop wants of its lists, whatever the scores say.

    Attributes:
        exclude: items that are not shown.
        pin: items at fixed places.
        boost: pushes by condition.
        caps: at most so many of one value of a column.
        quotas: at least so many that meet a condition.
        diversity: first places that differ.
        calibration: first places in the mix of the user's own history; not beside `diversity`, which fills them, too.
    """

    REFUSAL: ClassVar[str] = "rules: {problems}. Known keys: {keys}"

    exclude: Annotated[tuple[Exclude, ...], BeforeValidator(_several), Field(max_length=MOST_RULES)] = ()
    pin: Annotated[tuple[Pin, ...], BeforeValidator(_several), Field(max_length=MOST_RULES)] = ()
    boost: Annotated[tuple[Boost, ...], BeforeValidator(_several), Field(max_length=MOST_RULES)] = ()
    caps: Annotated[tuple[Cap, ...], BeforeValidator(_several), Field(max_length=MOST_RULES)] = ()
    quotas: Annotated[tuple[Quota, ...], BeforeValidator(_several), Field(max_length=MOST_RULES)] = ()
    diversity: Diversity | None = None
    calibration: Calibration | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.diversity is not None and self.calibration is not None:
            raise ValueError("diversity and calibration both fill the first places: give one of them")
        for name in ("item", "place"):
            given = [str(getattr(pin, name)) for pin in self.pin]
            if repeated := sorted({one for one in given if given.count(one) > 1}):
                raise ValueError(f"two pins name the {name} {', '.join(repeated)}")
        return self

    @property
    def columns(self) -> list[str]:
        """The columns of the item table that the rules read."""
        rules: list[Exclude | Boost | Quota] = [*self.exclude, *self.boost, *self.quotas]
        conditions = [rule.where for rule in rules]
        names = [column for where in conditions for column in where]
        names += [cap.column for cap in self.caps]
        names += self.diversity.by if self.diversity else ()
        names += [self.calibration.by] if self.calibration else []
        return list(dict.fromkeys(names))

    @property
    def items(self) -> list[int | str]:
        """The items that the rules name."""
        return list(
            dict.fromkeys([*(item for rule in self.exclude for item in rule.items), *(pin.item for pin in self.pin)])
        )


def read_rules(path: Path | str) -> Rules:
    """Rules from a YAML or JSON file.

    Raises:
        ConfigError: the file cannot be read, or breaks the contract; the message names each problem.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the rules in {path}: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"the rules in {path} are no mapping: expected keys such as {', '.join(Rules.model_fields)}")
    return Rules.from_mapping(values)
