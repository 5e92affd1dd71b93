"""What each way of `reranker evaluate` reads: a flag that would change nothing is refused, not ignored."""

from collections.abc import Iterator

import typer

from reranker.errors import ConfigError

_TABLES = {"interactions", "items", "dataset", "domain", "item_vectors"}
_SIGNALS = {"event_weights", "rating_scale", "target_events", "repeats"}
_RANKS = {"model", "engine", "dtype", "scorer", "ranker"}
_LOGS = {"score_log", "outcomes", "within_hours", "control", "user_key", "bundle"}
_OF_LISTS = {"candidates", "held_out", "features", "users", "allow_leaks"}
_SHOWN = {"diagnose", "user_groups", "provider"}


def refuse_unread(context: typer.Context) -> None:
    """Refuses flags that the way of evaluating that was asked for does not read.

    Args:
        context: of the call of `evaluate`.

    Raises:
        ConfigError: names the way and each flag.
    """
    given = {str(one.name): one.opts[0] for one in context.command.params if _is_given(context, str(one.name))}
    for way, reads in _ways(given):
        if unread := [flag for name, flag in given.items() if name not in reads]:
            raise ConfigError(f"evaluate {way} does not read {', '.join(unread)}: leave out what it does not read")
        return
    if of_logs := [flag for name, flag in given.items() if name in _LOGS]:
        raise ConfigError(f"{', '.join(of_logs)} go with --score-log and --outcomes: give both, or leave them out")
    if "support" in given and context.params["split"] != "cold-users":
        raise ConfigError("--support goes with --split cold-users: other splits keep what they know of each user")


def _ways(given: dict[str, str]) -> Iterator[tuple[str, set[str]]]:
    """The way that these flags ask for, and what it reads; nothing where interactions are held out by a split."""
    if given.keys() & {"score_log", "outcomes"}:
        yield "--score-log", {"domain", *_LOGS}
    elif "estimate" in given:
        yield "--estimate", {"estimate", "generator", "sample", "n", *_TABLES, *_SIGNALS, *_RANKS}
    elif given.keys() & {"candidates", "held_out"}:
        yield (
            "--candidates",
            {"systems", "fit_users", "out", "rules", *_OF_LISTS, *_TABLES, *_SIGNALS, *_RANKS, *_SHOWN},
        )


def _is_given(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"
