"""What `reranker train search` may vary: fields of `MetaConfig` with ranges or choices, checked before it runs."""

import copy
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from reranker.errors import ConfigError
from reranker.training.config import MetaConfig
from reranker.utils.settings import field_problems

Scalar = bool | int | float | str

_FIXED = {
    "what validation measures, so that trials could not be compared": (
        "domains", "held_out", "objective", "negatives", "n_candidates", "rounds", "hold_out", "min_history",
        "evidence", "validation_share", "validation_lists", "seed",
    ),
    "how much a trial reads, so that the dearest would win": ("steps", "lists_per_step"),
    "when trials are compared": ("validate_every", "patience"),
    "where and how the run is kept": ("keep", "checkpoint_every", "device"),
}  # fmt: skip


class Suggester(Protocol):
    """An Optuna trial."""

    def suggest_int(self, name: str, low: int, high: int, *, log: bool = False) -> int:
        """A whole number between low and high."""

    def suggest_float(self, name: str, low: float, high: float, *, log: bool = False) -> float:
        """A number between low and high."""

    def suggest_categorical(self, name: str, choices: tuple[Scalar, ...]) -> Scalar:
        """One of the choices."""


class Range(BaseModel):
    """Values between two ends; whole numbers where both ends are.

    Attributes:
        low, high: the ends, both possible.
        log: even in the logarithm.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _in_order(self) -> "Range":
        if not self.low < self.high or (self.log and self.low <= 0):
            raise ValueError("low must be below high, and above 0 with log")
        return self

    @property
    def ends(self) -> tuple[Scalar, ...]:
        return self.low, self.high

    def suggest(self, name: str, trial: Suggester) -> Scalar:
        """A value of this range."""
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, self.low, self.high, log=self.log)


@dataclass(frozen=True, kw_only=True)
class Choices:
    """One of a few values."""

    values: tuple[Scalar, ...]

    @property
    def ends(self) -> tuple[Scalar, ...]:
        return self.values

    def suggest(self, name: str, trial: Suggester) -> Scalar:
        """One of the values."""
        return trial.suggest_categorical(name, self.values)


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """Settings of a training run, and what may be varied in them.

    Attributes:
        base: as `MetaConfig.from_mapping` takes them.
        fields: name, with dots for fields of fields, such as `reranker.soft_tokens` -> its values.
    """

    base: Mapping[str, object]
    fields: Mapping[str, Range | Choices]

    @classmethod
    def from_mapping(cls, base: Mapping[str, object], space: Mapping[str, object]) -> "SearchSpace":
        """From YAML: each field a mapping with `low`, `high` and perhaps `log`, or a list of choices.

        Raises:
            ConfigError: `base` is wrong, a field is unknown, may not vary, or could take an impossible value.
        """
        MetaConfig.from_mapping(base)
        if not space:
            raise ConfigError(
                "search space: it is empty; give a field, such as learning_rate: {low: 0.001, high: 0.01}"
            )
        for reason, names in _FIXED.items():
            if wrong := [name for name in space if name in names]:
                raise ConfigError(f"search space: {', '.join(wrong)} would change {reason}; set it in the settings")
        found = cls(base=base, fields={name: _values(name, value) for name, value in space.items()})
        for name, values in found.fields.items():
            for end in values.ends:
                try:
                    found.settings({name: end})
                except ConfigError as error:
                    raise ConfigError(f"search space, {name} = {end}: {error}") from error
        return found

    def suggest(self, trial: Suggester) -> dict[str, Scalar]:
        """A value for each field."""
        return {name: values.suggest(name, trial) for name, values in self.fields.items()}

    def changed(self, values: Mapping[str, Scalar]) -> dict[str, object]:
        """`base` with these values."""
        settings: dict[str, object] = copy.deepcopy(dict(self.base))
        for name, value in values.items():
            *path, last = name.split(".")
            place = settings
            for key in path:
                inner = place.setdefault(key, {})
                if not isinstance(inner, dict):
                    raise ConfigError(f"{name}: {key} has no fields")
                place = inner
            place[last] = value
        return settings

    def settings(self, values: Mapping[str, Scalar]) -> MetaConfig:
        """The training run with these values. Raises ConfigError when they are impossible together."""
        return MetaConfig.from_mapping(self.changed(values))

    def as_json(self) -> str:
        """What a study belongs to."""
        fields = {name: values.ends for name, values in self.fields.items()}
        logs = [name for name, values in self.fields.items() if isinstance(values, Range) and values.log]
        return json.dumps([self.settings({}).model_dump(mode="json"), fields, logs], sort_keys=True)


def _values(name: str, value: object) -> Range | Choices:
    if isinstance(value, list) and value and all(isinstance(one, bool | int | float | str) for one in value):
        return Choices(values=tuple(value))
    if not isinstance(value, dict):
        raise ConfigError(f"search space, {name}: needs {{low, high}} or a list of numbers or words, got {value!r}")
    try:
        return Range.model_validate(value)
    except ValidationError as error:
        raise ConfigError(f"search space, {name}: {field_problems(error.errors(), name)}") from error
