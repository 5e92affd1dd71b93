"""Runs in a real MLflow store. `make test-tracking` runs these: MLflow pins other packages than those of the tests."""

import pytest

from reranker.errors import ConfigError
from reranker.tracking import tracked
from reranker.tracking.mlflow_tracker import MLflowTracker
from tests.cli.command import refused, run
from tests.pipeline import toys

mlflow = pytest.importorskip("mlflow")


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Of a store in a SQLite file, which the environment names."""
    uri = f"sqlite:///{tmp_path / 'runs.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.chdir(tmp_path)  # files of runs lie in ./mlruns
    return mlflow.MlflowClient(tracking_uri=uri)


def runs_of(client, name="shop"):
    return client.search_runs([client.get_experiment_by_name(name).experiment_id])


def test_a_run_has_settings_steps_files_and_an_end(client, tmp_path):
    (tmp_path / "report.html").write_text("verdict")
    with tracked("shop", "evaluate", {"systems": "baseline", "long": "x" * 2000}) as tracker:
        tracker.metrics({"loss": 2.0, "nothing": float("nan")}, 1)
        tracker.metrics({"loss": 1.0}, 2)
        tracker.file(tmp_path / "report.html")
    (found,) = runs_of(client)
    assert found.info.run_name == "evaluate" and found.info.status == "FINISHED"
    assert found.data.params["systems"] == "baseline" and len(found.data.params["long"]) == 500
    assert found.data.metrics == {"loss": 1.0}
    history = client.get_metric_history(found.info.run_id, "loss")
    assert [(one.step, one.value) for one in history] == [(1, 2.0), (2, 1.0)]
    assert [one.path for one in client.list_artifacts(found.info.run_id)] == ["report.html"]


def test_a_run_that_fails_is_marked_and_the_next_joins_the_experiment(client):
    with pytest.raises(ZeroDivisionError), tracked("shop", "fit", {}):
        raise ZeroDivisionError
    with tracked("shop", "fit", {}):
        pass
    assert sorted(one.info.status for one in runs_of(client)) == ["FAILED", "FINISHED"]


def test_many_numbers_are_sent_in_parts(client):
    tracker = MLflowTracker("shop", "evaluate")
    tracker.metrics({f"metric_{number}": float(number) for number in range(1234)})
    tracker.settings({f"setting_{number}": number for number in range(150)})
    (found,) = runs_of(client)
    assert len(found.data.metrics) == 1234 and len(found.data.params) == 150


def test_a_store_that_cannot_be_reached_is_told_before_anything_is_done(tmp_path):
    with pytest.raises(ConfigError, match="MLFLOW_TRACKING_URI"):
        MLflowTracker("shop", "fit", uri=f"sqlite:///{tmp_path}")  # a folder


def test_the_commands_track(client, tmp_path):
    data = toys.taste_dataset()
    data.interactions.to_parquet(tmp_path / "interactions.parquet")
    data.items.to_parquet(tmp_path / "items.parquet")
    tables = ("--interactions", tmp_path / "interactions.parquet", "--items", tmp_path / "items.parquet")
    run(
        "fit", *tables, "--scorer", "baseline", "--generator", "popularity", "--mlflow", "shop", "--out", tmp_path / "b"
    )
    asked = ("--systems", "baseline", "--n", 12, "--generator", "popularity", "--out", tmp_path / "out")
    run("evaluate", *tables, *asked, "--mlflow", "shop")
    found = {one.info.run_name: one for one in runs_of(client)}
    assert set(found) == {"fit", "evaluate"}
    assert found["fit"].data.params["guard.serves"] in ("baseline", "first_stage")
    assert "generic/baseline/end_to_end/12/ndcg_10" in found["evaluate"].data.metrics
    assert [one.path for one in client.list_artifacts(found["evaluate"].info.run_id)] == ["report.html"]
    assert "is no bundle" in refused("refresh", "--bundle", tmp_path / "none", "--interactions", tmp_path / "none.csv")
