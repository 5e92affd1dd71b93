"""`reranker inspect --drift`: how far lists are from those that a bundle was fitted for."""

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from reranker.cli.options import read_users, settings_from_yaml
from reranker.data.schema import ITEM, USER
from reranker.errors import ConfigError
from reranker.utils.pseudonyms import Pseudonyms

if TYPE_CHECKING:
    from reranker.pipeline.reranker import Reranker

ALARM = 3
"""Exit code where a window is an alarm."""


def tell_drift(
    reranker: "Reranker",
    score_log: Path | None,
    candidates: Path | None,
    config: Path | None,
    window: int | None,
    user_key: Path | None,
) -> None:
    """Prints the drift of a score log or of a table of lists; exits with `ALARM` where a window is an alarm.

    Raises:
        ConfigError: neither or both were given, or settings make no sense.
        DataError: they cannot be read, or hold too few lists.
    """
    from reranker.drift import DriftSettings, drift_of_lists, drift_of_log
    from reranker.evaluation.logs import read_score_log
    from reranker.serve.settings import ServeSettings

    if (score_log is None) == (candidates is None):
        raise ConfigError("--drift needs --score-log (folder of `serve --score-log`) or --candidates (lists): one")
    settings = ServeSettings.from_mapping(settings_from_yaml(config)).drift or DriftSettings()
    if window is not None:
        settings = settings.model_copy(update={"window": window, "fewest": min(settings.fewest, window)})
    if score_log is not None:
        pseudonyms = None if user_key is None else Pseudonyms.read(user_key)
        report = drift_of_log(reranker, read_score_log(score_log), settings=settings, pseudonyms=pseudonyms)
    else:
        assert candidates is not None
        table = read_users(candidates, {USER: reranker.user_ids, ITEM: reranker.item_ids})
        report = drift_of_lists(reranker, table, settings)
    typer.echo(report.summary())
    if report.alarms:
        raise typer.Exit(ALARM)
