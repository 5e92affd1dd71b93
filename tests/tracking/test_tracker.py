"""What a tracker is told, and that its failures end nothing."""

import logging
from pathlib import Path

import pandas as pd
import pytest

from candidate_gen import PopularityGenerator
from reranker.engines.scripted import ScriptedEngine
from reranker.evaluation import Settings, evaluate, leave_last_k
from reranker.evaluation.baselines import FirstStageOrder, LinearControl
from reranker.refresh import refresh
from reranker.tracking import Tracker, log_evaluation, log_fit, log_refresh, tracked
from reranker.tracking.tracker import lenient
from tests.pipeline import toys


class Keeps:
    """A tracker in memory, as somebody may write one for another service."""

    def __init__(self):
        self.asked, self.found, self.files, self.ended = {}, {}, [], []

    def settings(self, values):
        assert not self.asked.keys() & values.keys(), "MLflow takes a setting once"
        self.asked |= values

    def metrics(self, values, step=None):
        self.found |= {(name, step): value for name, value in values.items()}

    def file(self, path):
        self.files.append(path)

    def close(self, failed):
        self.ended.append(failed)


class Fails(Keeps):
    def metrics(self, values, step=None):
        raise ConnectionError("the server is gone")


@pytest.fixture(scope="module")
def reranker():
    return toys.fitted(ScriptedEngine(), scorer="embedding")


def test_a_tracker_is_anything_with_the_methods():
    assert isinstance(Keeps(), Tracker) and not isinstance(object(), Tracker)


def test_a_fit_is_told_with_settings_guard_and_weights(reranker):
    kept = Keeps()
    log_fit(kept, reranker)
    guard, head = reranker.fusion_model.guard, reranker.fusion_model.fused
    assert kept.asked["guard.serves"] == guard.serve and kept.asked["config.scorer"] == "embedding"
    assert (kept.asked["items"], kept.asked["users"]) == (32, 48)
    assert kept.found["guard/fused_minus_first_stage/low", None] == guard.fused_minus_first_stage.low
    assert kept.found["weight/popularity", None] == head.logit.weights[list(head.columns).index("popularity")]


def test_a_refresh_is_told(tmp_path):
    reranker = toys.fitted(ScriptedEngine(), scorer="embedding")
    report = refresh(reranker, pd.DataFrame({"user_id": ["u1"], "item_id": ["g0i3"], "timestamp": [9000]}))
    kept = Keeps()
    log_refresh(kept, report, reranker)
    assert kept.found["refresh/new_interactions", None] == 1 and kept.asked["guard.serves"] == report.served


def test_an_evaluation_is_told_by_system_and_metric():
    systems = {"first_stage": lambda _: FirstStageOrder(), "baseline": lambda _: LinearControl()}
    settings = Settings(candidates=(12,), protocols=("end_to_end",))
    results = evaluate([leave_last_k(toys.taste_dataset())], PopularityGenerator(), systems, settings)
    kept = Keeps()
    log_evaluation(kept, results)
    rows = results.rows
    row = rows[(rows["system"] == "baseline") & (rows["metric"] == "ndcg") & (rows["k"] == 10)].iloc[0]
    assert kept.found["toy/baseline/end_to_end/12/ndcg_10", None] == row["value"]
    assert "toy/baseline/end_to_end/12/mrr" in {name for name, _ in kept.found}
    gain = next(one for one in results.comparisons if one.metric == "ndcg@10")
    assert kept.found["toy/baseline/over/first_stage/ndcg_10/low", None] == gain.low
    assert len(kept.found) == len(rows) + 3 * len(results.comparisons)


def test_failures_of_a_tracker_are_logged_and_end_nothing(caplog):
    kept = Fails()
    tracker = lenient(kept)
    with caplog.at_level(logging.WARNING, "reranker.tracking"):
        tracker.metrics({"loss": 1.0}, 3)
    tracker.file(Path("report.html"))
    tracker.close(False)
    assert "metrics not tracked: ConnectionError: the server is gone" in caplog.text
    assert kept.files == [Path("report.html")] and kept.ended == [False]


def test_without_an_experiment_nothing_is_kept_and_nothing_is_needed():
    with tracked(None, "fit", {"scorer": "auto"}) as tracker:
        tracker.metrics({"loss": 1.0})
    with pytest.raises(ZeroDivisionError), tracked(None, "fit", {}):
        raise ZeroDivisionError
