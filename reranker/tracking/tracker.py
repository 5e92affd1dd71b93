"""The callback that runs report to, and the run of an experiment around a command."""

import contextlib
import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

logger = logging.getLogger(__name__)


@runtime_checkable
class Tracker(Protocol):
    """Takes what a run was asked for and what it found. Give any object with these methods, for instance over W&B."""

    def settings(self, values: Mapping[str, object]) -> None:
        """What was asked for; once a name."""

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Numbers that were found, after so many steps where there are steps."""

    def file(self, path: Path) -> None:
        """A file to keep with the run."""

    def close(self, failed: bool) -> None:
        """The run is over."""


def lenient(tracker: Tracker | None) -> Tracker:
    """A tracker whose failures are logged and end nothing: a fit of hours is worth more than its record.

    Args:
        tracker: that is told; None keeps nothing.
    """
    return _Lenient(tracker)


class _Lenient:
    """Of `lenient`."""

    def __init__(self, tracker: Tracker | None) -> None:
        self._tracker = tracker

    def settings(self, values: Mapping[str, object]) -> None:
        with self._kept("settings"):
            if self._tracker is not None:
                self._tracker.settings(values)

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        with self._kept("metrics"):
            if self._tracker is not None:
                self._tracker.metrics(values, step)

    def file(self, path: Path) -> None:
        with self._kept(str(path)):
            if self._tracker is not None:
                self._tracker.file(path)

    def close(self, failed: bool) -> None:
        with self._kept("the end of the run"):
            if self._tracker is not None:
                self._tracker.close(failed)

    @contextlib.contextmanager
    def _kept(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of a server, its client or the network
            logger.warning("%s not tracked: %s: %s", what, type(error).__name__, error)


@contextlib.contextmanager
def tracked(experiment: str | None, kind: str, settings: Mapping[str, object]) -> Iterator[Tracker]:
    """A run of an MLflow experiment around a block; without an experiment, a tracker that keeps nothing.

    Where the run cannot be begun, nothing else is; what fails later is logged as a warning and ends nothing.

    Args:
        experiment: its name; made where it does not exist.
        kind: "fit", "evaluate", ...: the run's name.
        settings: what was asked for.

    Raises:
        ConfigError: mlflow is not installed, or its store cannot be reached.
    """
    from reranker.tracking.mlflow_tracker import MLflowTracker

    tracker = lenient(None if experiment is None else MLflowTracker(experiment, kind))
    tracker.settings(settings)
    try:
        yield tracker
    except BaseException:
        tracker.close(failed=True)
        raise
    tracker.close(failed=False)
