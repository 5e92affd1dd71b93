"""Drift of a score log, of a table of lists and of what a running server ranks, against a bundle of tastes."""

import httpx
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from reranker.cli.app import app
from reranker.cli.drift import ALARM
from reranker.drift import DriftSettings, drift_of_lists, drift_of_log, reference_values
from reranker.drift.margin import margins
from reranker.engines.scripted import ScriptedEngine
from reranker.errors import ConfigError, DataError
from reranker.evaluation.logs import read_score_log
from reranker.serve.app import create_app
from reranker.serve.settings import ServeSettings
from tests.pipeline import toys
from tests.serve.live import serving, wait_until_ready

USERS = [f"u{number}" for number in range(48)]
SETTINGS = DriftSettings(window=40, fewest=20)


@pytest.fixture(scope="module")
def reranker():
    return toys.fitted(ScriptedEngine(), scorer="embedding")


def usual(reranker, users=USERS):
    return reranker.generator.recommend(users, reranker.config.n_candidates)


def strange(reranker):
    """Lists of users and items that the bundle has never seen."""
    lists = usual(reranker)
    return lists.assign(user_id="new-" + lists["user_id"], item_id="new-" + lists["item_id"])


def test_the_bundle_s_own_lists_are_no_drift(reranker):
    report = drift_of_lists(reranker, usual(reranker), SETTINGS)
    assert report.alarms == 0 and report.windows[0].lists == 40
    assert report.left_out == "the last 8 lists, too few" and report.left_out in report.summary()
    assert {one.quantity: one.mean for one in report.windows[0].shifts}["unknown_users"] == 0


def test_strangers_are_an_alarm_by_name(reranker):
    report = drift_of_lists(reranker, pd.concat([usual(reranker, USERS[:40]), strange(reranker)]), SETTINGS)
    first, second = report.windows[0], report.windows[1]
    assert not first.alarms
    assert {"unknown_users", "unknown_items", "popularity", "history_length"} <= {one.quantity for one in second.alarms}
    assert "unknown_users" in report.summary() and report.alarms == 1


def test_the_first_window_can_be_the_reference(reranker):
    settings = SETTINGS.model_copy(update={"reference": "first"})
    report = drift_of_lists(reranker, pd.concat([strange(reranker).head(40 * 12), usual(reranker)]), settings)
    assert report.reference_lists == 40 and "unknown_users" in {one.quantity for one in report.windows[0].alarms}
    with pytest.raises(DataError, match="8 lists beside the reference, at least 20 are needed"):
        drift_of_lists(reranker, usual(reranker), settings)


def test_without_a_candidate_generator_the_bundle_has_no_lists(reranker):
    bare = toys.fitted(ScriptedEngine(), scorer="embedding")
    bare.generator = None
    with pytest.raises(DataError, match="reference: first"):
        reference_values(bare, 10)
    assert drift_of_lists(bare, usual(reranker, USERS), DriftSettings(window=20, fewest=20)).reference_lists == 20


def test_the_guard_s_margin_is_told_by_window_newest_first(reranker):
    judged = reranker.fusion_model.judged
    found = margins(reranker, window=100, fewest=20)
    gain = judged.ndcg[:100, 2] - judged.ndcg[:100, 0]
    assert reranker.fusion_model.guard.serve == "fused"
    means = pd.Series(gain).groupby(np.array(judged.users[:100])).mean()
    assert found[0].gain.mean == pytest.approx(means.mean()) and found[0].lists == 100
    assert (
        str(found[0].gain) in drift_of_lists(reranker, usual(reranker), DriftSettings(window=100, fewest=40)).summary()
    )


@pytest.fixture(scope="module")
def served(reranker, tmp_path_factory):
    """What a server said of 80 usual lists and then 40 strange ones: metrics before and after, and its log."""
    folder = tmp_path_factory.mktemp("log")
    settings = ServeSettings(drift=SETTINGS)
    application = create_app(reranker, settings=settings, score_log=folder)
    with serving(application) as url:
        wait_until_ready(url, 60)
        told = []
        for table in (usual(reranker), usual(reranker, USERS[:32]), strange(reranker).head(40 * 12)):
            with httpx.Client(timeout=60) as client:
                for user, part in table.groupby("user_id", sort=False):
                    body = {"user": user, "item_ids": part["item_id"].tolist()}
                    body["first_stage_scores"] = part["score"].tolist()
                    assert client.post(f"{url}/v1/rerank", json=body).status_code == 200
            application.state.service.drift.settle()
            told.append(httpx.get(f"{url}/metrics").text)
    return told, folder


def value(text, name, **labels):
    wanted = ",".join(f'{key}="{one}"' for key, one in sorted(labels.items()))
    line = next(line for line in text.splitlines() if line.startswith(f"{name}{{{wanted}}}"))
    return float(line.split()[-1])


def test_a_server_tells_prometheus(served, reranker):
    (first, second, third), _ = served
    assert value(first, "reranker_drift_windows_total", domain="toy") == 1
    assert value(second, "reranker_drift_windows_total", domain="toy") == 2
    for quantity in ("unknown_users", "unknown_items", "popularity"):
        assert value(second, "reranker_drift_alarm", domain="toy", quantity=quantity) == 0
        assert value(third, "reranker_drift_alarm", domain="toy", quantity=quantity) == 1
        assert value(third, "reranker_drift_psi", domain="toy", quantity=quantity) > 0.2
    low = value(first, "reranker_guard_margin", domain="toy", bound="low")
    assert low == pytest.approx(reranker.fusion_model.guard.fused_minus_first_stage.low)


def test_its_log_tells_the_same_windows(served, reranker):
    (_, second, third), folder = served
    report = drift_of_log(reranker, read_score_log(folder), settings=SETTINGS)
    assert [bool(one.alarms) for one in report.windows] == [False, False, True]
    for text, window in ((second, report.windows[1]), (third, report.windows[2])):
        for one in window.shifts:
            told = value(text, "reranker_drift_psi", domain="toy", quantity=one.quantity)
            assert told == pytest.approx(one.psi, abs=1e-9), one.quantity
    with pytest.raises(DataError, match="another bundle"):
        drift_of_log(reranker, read_score_log(folder), domain="shop")


def test_lists_that_another_bundle_ranked_are_named(served, reranker, tmp_path):
    reranker.save(tmp_path / "bundle")
    mine = reranker.identity
    log = read_score_log(served[1])
    assert log["bundle"].isna().all()  # the server began with a bundle that nobody had saved
    assert "not ranked by this bundle: 120 by a bundle" in drift_of_log(reranker, log, settings=SETTINGS).summary()
    log = log.assign(bundle=mine.fingerprint, bundle_fitted=mine.fitted)
    assert not drift_of_log(reranker, log, settings=SETTINGS).others
    first = log["request_id"] == log["request_id"].iloc[0]
    found = drift_of_log(reranker, log.assign(bundle=log["bundle"].where(~first, "ffff")), settings=SETTINGS)
    assert [(one.identity.fingerprint, one.rankings) for one in found.others] == [("ffff", 1)]


def test_the_command_prints_windows_and_exits_by_alarm(served, reranker, tmp_path):
    reranker.save(tmp_path / "bundle")
    config = tmp_path / "serve.yaml"
    config.write_text("drift: {window: 40, fewest: 20}\n")
    call = ["inspect", "--bundle", str(tmp_path / "bundle"), "--drift"]
    found = CliRunner().invoke(app, [*call, "--score-log", str(served[1]), "--config", str(config)])
    assert found.exit_code == ALARM and "unknown_users" in found.output, found.output
    lists = tmp_path / "lists.parquet"
    usual(reranker).to_parquet(lists)
    found = CliRunner().invoke(app, [*call, "--candidates", str(lists), "--window", "40"])
    assert found.exit_code == 0, found.output
    for wrong in (call, [*call[:-1], "--score-log", str(lists)]):
        with pytest.raises(ConfigError):
            CliRunner().invoke(app, wrong, catch_exceptions=False)
