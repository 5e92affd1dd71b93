"""Runs in MLflow; the environment's MLFLOW_TRACKING_URI says where."""

import math
import time
from collections.abc import Mapping
from pathlib import Path

from reranker.errors import ConfigError

_LONGEST = 500  # characters of a parameter that every store takes
_PARAMS, _METRICS = 100, 500  # of one request


class MLflowTracker:
    """One run of an MLflow experiment.

    Args:
        experiment: its name; made where it does not exist.
        kind: the run's name.
        uri: where runs are kept, for instance sqlite:///runs.db or http://host:5000; by default MLFLOW_TRACKING_URI.

    Raises:
        ConfigError: mlflow is not installed, or its store cannot be reached.
    """

    def __init__(self, experiment: str, kind: str, uri: str | None = None) -> None:
        try:
            from mlflow import MlflowClient
        except ImportError as error:
            raise ConfigError(f"--mlflow needs MLflow ({error}): pip install 'reranker[tracking]'") from error
        try:
            self._client = MlflowClient(tracking_uri=uri)
            found = self._client.get_experiment_by_name(experiment)
            number = found.experiment_id if found else self._client.create_experiment(experiment)
            self._run = self._client.create_run(number, run_name=kind, tags={"reranker": kind}).info.run_id
        except Exception as error:  # MLflow's, its server's and the network's have no common class
            raise ConfigError(
                f"MLflow cannot begin a run of {experiment!r}: {error}. See MLFLOW_TRACKING_URI"
            ) from error

    def settings(self, values: Mapping[str, object]) -> None:
        from mlflow.entities import Param

        params = [Param(name, str(value)[:_LONGEST]) for name, value in values.items()]
        for begin in range(0, len(params), _PARAMS):
            self._client.log_batch(self._run, params=params[begin : begin + _PARAMS])

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        known = [(name, value) for name, value in values.items() if math.isfinite(value)]  # some stores take no NaN
        metrics = [Metric(name, value, now, step or 0) for name, value in known]
        for begin in range(0, len(metrics), _METRICS):
            self._client.log_batch(self._run, metrics=metrics[begin : begin + _METRICS])

    def file(self, path: Path) -> None:
        self._client.log_artifact(self._run, str(path))

    def close(self, failed: bool) -> None:
        self._client.set_terminated(self._run, "FAILED" if failed else "FINISHED")
