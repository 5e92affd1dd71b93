"""Lists of the user's own as runs of an evaluation: what is judged was not fitted on, and attacks reach it."""

import json

import numpy as np
import pandas as pd
import pytest

from reranker.errors import DataError
from reranker.evaluation.diagnose import diagnose
from reranker.evaluation.exposure import exposures
from reranker.evaluation.own_lists import OwnLists
from reranker.evaluation.own_lists_runs import rung_factories, runs_on_lists
from reranker.evaluation.user_groups import group_qualities
from tests.cli.command import refused, run
from tests.evaluation.test_own_lists import served, words
from tests.pipeline import toys
from tests.pipeline.test_own_features import served_lists

RUNGS = ("first_stage", "baseline", "lexical")


def results_of(data, pairs, features=()):
    own = OwnLists.of(data, pairs, features)
    factories = rung_factories(words(), data.domain, RUNGS)
    return runs_on_lists(own.windows, data, factories), factories


def users_of(lists):
    return set(lists.fold.users)


def test_one_window_is_fitted_on_half_of_the_users_and_judged_on_the_other():
    data = toys.taste_dataset(users=48)
    results, _ = results_of(data, [served(data)])
    assert [one.system for one in results.runs] == list(RUNGS)
    judged, (fitted,) = results.runs[0].lists, results.runs[0].fitting
    assert len(users_of(judged)) == len(users_of(fitted)) == 24
    assert users_of(judged) | users_of(fitted) == set(data.interactions["user_id"]) and judged.n == 8
    quality = {one.system: one.value for one in group_qualities(results)}  # all users have a history of one length
    assert quality["lexical"].n == 24 and quality["lexical"].mean > 0.9 > quality["first_stage"].mean


def test_several_windows_are_judged_on_the_newest():
    data = toys.taste_dataset(users=48)
    results, _ = results_of(data, [served(data, 0), served(data, 1)])
    judged, (fitted,) = results.runs[0].lists, results.runs[0].fitting
    assert users_of(judged) == users_of(fitted) == set(data.interactions["user_id"])
    assert not judged.fold.held_out.merge(fitted.fold.held_out).size


def test_who_is_shown_is_told_by_provider():
    data = toys.taste_dataset(users=48)
    provider = ["one" if item.startswith(("g0", "g1")) else "two" for item in data.items["item_id"]]
    data = type(data)(interactions=data.interactions, items=data.items.assign(shop=provider), domain="toy")
    results, _ = results_of(data, [served(data)])
    found = {one.system: one for one in exposures(results, provider="shop") if one.grouping == "provider"}
    assert set(found) == set(RUNGS) and {group.group for group in found["lexical"].groups} == {"one", "two"}
    assert sum(group.share for group in found["lexical"].groups) == pytest.approx(1)


def test_diagnoses_reach_the_features_of_columns_of_the_user():
    data, lists, chosen = served_lists()
    results, factories = results_of(data, [(lists, chosen)], ("ctr",))
    assert "candidates.ctr" in results.runs[0].lists.statistics.columns
    found = {one.system: one for one in diagnose(results.runs, factories, 40, ("baseline", "lexical"))}
    assert set(found) == {"baseline", "lexical"}
    assert found["lexical"].order.max_score_change < 1e-9
    assert [attack.attack for attack in found["baseline"].attacks][-1] == "poisoned histories"


def test_too_few_lists_are_refused():
    data = toys.taste_dataset(users=48)
    lists, chosen = served(data)
    with pytest.raises(DataError, match="too few to fit on some and judge others"):
        results_of(data, [(lists[lists["user_id"] == "u1"], chosen[chosen["user_id"] == "u1"])])


def test_the_command_tells_them_and_refuses_what_it_would_ignore(tmp_path):
    data = toys.taste_dataset(users=48)
    lists, chosen = served(data)
    groups = pd.DataFrame({"user_id": data.interactions["user_id"].unique()})
    groups = groups.assign(region=np.where(np.arange(len(groups)) % 2, "north", "south"))
    tables = []
    for name, table in (
        ("interactions", data.interactions),
        ("items", data.items),
        ("candidates", lists),
        ("held-out", chosen),
        ("user-groups", groups),
    ):
        table.to_parquet(tmp_path / f"{name}.parquet")
        tables += [f"--{name}", tmp_path / f"{name}.parquet"]
    asked = (*tables, "--systems", "first_stage,baseline,lexical", "--diagnose", 10)
    said, _ = run("evaluate", *asked, "--out", tmp_path / "judged")
    assert "24 lists, ranked by what was fitted on the other half of the users" in said
    assert "region: north" in said and "poisoned histories" in said
    kept = json.loads((tmp_path / "judged" / "lists.json").read_text())
    assert {one["system"] for one in kept["diagnoses"]} == {"baseline", "lexical"}
    assert {one["grouping"] for one in kept["user_groups"]} == {"history length", "region"}
    assert kept["exposure"] and kept["users"] == 48
    assert "'shop'" in refused("evaluate", *asked, "--provider-column", "shop")
    for flag in (("--sample", 10), ("--n", 20), ("--protocol", "covered"), ("--all-lists",)):
        assert f"evaluate --candidates does not read {flag[0]}:" in refused("evaluate", *asked, *flag)
