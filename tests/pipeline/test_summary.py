"""What a fitted Reranker says of itself."""

import json
from dataclasses import replace

import numpy as np
import pytest

from reranker import DataError, Reranker
from reranker.engines.scripted import ScriptedEngine
from reranker.fusion.judged import JudgedLists
from reranker.pipeline.summary import Judged
from tests.cli.command import refused, run
from tests.pipeline import toys


@pytest.fixture(scope="module")
def fitted():
    return toys.fitted()


def test_figures_are_means_over_users_of_the_means_over_their_lists():
    ndcg = np.array([[0.1, 0.2, 0.3], [0.3, 0.4, 0.5], [1.0, 1.0, 1.0]])  # two lists of a, one of b
    recall = np.array([1.0, 0.0, np.nan])  # b's list is of an earlier version
    lists = JudgedLists(ndcg=ndcg, n_known=np.ones(3, dtype=int), users=["a", "a", "b"], recall=recall)
    found = Judged.of(lists)
    assert found.ndcg == pytest.approx({"first stage": 0.6, "baseline": 0.65, "fused": 0.7})
    assert (found.lists, found.users, found.recall) == (3, 2, 0.5)
    assert Judged.of(replace(lists, recall=np.full(3, np.nan))).recall is None


def test_it_says_what_was_learned_and_what_is_served(fitted):
    summary = fitted.summary()
    data = toys.taste_dataset()
    assert summary.users == data.interactions["user_id"].nunique()
    assert (summary.items, summary.serves) == (len(data.items), fitted.fusion_model.guard.serve)
    assert summary.interactions == len(data.interactions.drop_duplicates(["user_id", "item_id"]))
    said = str(summary)
    assert said.startswith(f"domain {fitted.llm_scorer.domain!r}, fitted 20")
    assert f"{summary.judged.ndcg['fused']:.4f}" in said and fitted.fusion_model.guard.summary() in said
    assert f"{summary.judged.recall:.1%} of the choices are in the lists" in said
    read = fitted.fusion_model.judged
    assert summary.judged.recall == pytest.approx(np.mean(read.recall), abs=0.05) and set(read.recall) <= {0.0, 1.0}


def test_it_says_what_may_help_where_the_first_stage_is_served(fitted):
    kept = toys.fitted()
    kept.fusion_model = toys.served(kept.fusion_model, "first_stage")
    steps = "\n".join(kept.summary().next_steps)
    assert "--features" in steps and "more users" in steps and "nothing is lost" in steps
    assert "--features" not in "\n".join(fitted.summary().next_steps)


def test_bundles_hold_it_and_the_command_shows_it(fitted, tmp_path):
    fitted.save(tmp_path / "b")
    kept = json.loads((tmp_path / "b" / "summary.json").read_text())
    assert kept == json.loads(json.dumps(fitted.summary().to_json()))
    again = Reranker.load(tmp_path / "b", engine=ScriptedEngine())
    assert again.summary() == fitted.summary()
    assert run("inspect", "--bundle", tmp_path / "b")[0].strip() == str(fitted.summary())
    assert json.loads(run("inspect", "--bundle", tmp_path / "b", "--json")[0]) == kept
    bundle = ("inspect", "--bundle", tmp_path / "b")
    assert "--json would be ignored with --user" in refused(*bundle, "--json", "--user", "u0")
    assert "--k, --explain would be ignored without --user or --drift" in refused(*bundle, "--explain", "en", "--k", 3)
    assert "--user, --json would be ignored with --drift" in refused(*bundle, "--drift", "--json", "--user", "u0")


def test_nothing_is_said_before_fit():
    with pytest.raises(DataError, match="fit"):
        Reranker(toys.config(), ScriptedEngine()).summary()


def test_of_a_bundle_of_before_no_recall_is_told():
    older = toys.fitted()
    judged = older.fusion_model.judged
    older.fusion_model = replace(older.fusion_model, judged=replace(judged, recall=np.full(len(judged.users), np.nan)))
    assert "of the choices are in the lists" not in str(older.summary())
