"""Flags that say how interactions are read: what events and ratings are worth, and what is to be predicted."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from reranker.data.signals import EVENT_WEIGHTS, Signals
from reranker.errors import ConfigError

EventWeightsOption = Annotated[
    str | None,
    typer.Option(
        "--event-weights",
        help="strength of events, such as view=1,purchase=5,hide=-5 (below 0: a dislike); known without: "
        + ", ".join(EVENT_WEIGHTS),
    ),
]
RatingScaleOption = Annotated[
    str | None,
    typer.Option("--rating-scale", help="lowest and highest rating, such as 1,10; told from them by default"),
]
TargetEventsOption = Annotated[
    str | None,
    typer.Option(
        "--target-events", help="events to be predicted, comma-separated, such as purchase; all choices by default"
    ),
]
RepeatsOption = Annotated[
    bool | None,
    typer.Option(
        "--repeats/--no-repeats", help="users choose the same items again (groceries, music): propose such, too"
    ),
]


def signals_from_flags(
    event_weights: str | None = None,
    rating_scale: str | None = None,
    target_events: str | None = None,
    repeats: bool | None = None,
    settings: Mapping[str, object] | None = None,
) -> Signals:
    """The signals that the flags name, over those of a settings file.

    Raises:
        ConfigError: a flag or setting is wrong.
    """
    named: dict[str, Any] = dict(settings or {})
    if event_weights is not None:
        named["event_weights"] = {**named.get("event_weights", {}), **_event_weights(event_weights)}
    if rating_scale is not None:
        named["rating_scale"] = _scale(rating_scale)
    if target_events is not None:
        named["target_events"] = tuple(filter(None, map(str.strip, target_events.split(","))))
    if repeats is not None:
        named["repeats"] = "allowed" if repeats else "left out"
    return Signals.from_mapping(named)


def _event_weights(text: str) -> dict[str, float]:
    """Strengths from "view=1,purchase=5".

    Raises:
        ConfigError: it is written otherwise.
    """
    weights: dict[str, float] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        event, _, number = part.rpartition("=")
        try:
            weights[event.strip()] = float(number)
        except ValueError:
            event = ""
        if not event.strip():
            raise ConfigError(f"--event-weights must be NAME=NUMBER, separated by commas, got {part!r}")
    return weights


def _scale(text: str) -> tuple[float, float]:
    """The lowest and the highest rating from "1,10".

    Raises:
        ConfigError: it is written otherwise.
    """
    try:
        low, high = map(float, text.split(","))
    except ValueError:
        raise ConfigError(f"--rating-scale must be LOWEST,HIGHEST, for instance 1,10; got {text!r}") from None
    return low, high


def signals_of(settings: dict[str, Any], path: Path | None) -> Mapping[str, object]:
    """Takes the mapping `signals` out of the settings of a YAML file.

    Raises:
        ConfigError: it is no mapping.
    """
    found = settings.pop("signals", {})
    if not isinstance(found, dict):
        raise ConfigError(f"{path}: signals must be a mapping, for instance 'signals: {{repeats: allowed}}'")
    return found
