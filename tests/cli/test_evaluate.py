import json

import pandas as pd
import pytest

from reranker.evaluation import read_results
from tests.cli.command import refused, run
from tests.pipeline import toys


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    data = toys.taste_dataset()
    data.interactions.to_parquet(folder / "interactions.parquet")
    data.items.to_parquet(folder / "items.parquet")
    files = ("--interactions", folder / "interactions.parquet", "--items", folder / "items.parquet")
    return (*files, "--n", 12, "--engine", "scripted")


def test_list_names_the_systems():
    shown, _ = run("evaluate", "--list")
    assert "served" in shown
    assert "zero_shot_likelihood" in shown


def test_results_need_a_place(tables):
    assert "give --out: the folder for the results" in refused("evaluate", *tables)


def test_an_evaluation_with_an_external_system_and_diagnoses(tables, tmp_path):
    exported, _ = run("evaluate", *tables, "--export", tmp_path / "lists")
    assert "candidates.parquet" in exported
    scores = pd.read_parquet(tmp_path / "lists" / "candidates.parquet")
    scores.drop(columns="rank").to_parquet(tmp_path / "scores.parquet")
    outside = ("--external", f"mine={tmp_path / 'scores.parquet'}", "--diagnose", 5)
    shown, _ = run("evaluate", *tables, "--systems", "baseline,llm", *outside, "--out", tmp_path / "out")
    assert "obfuscated titles" in shown
    document = read_results(tmp_path / "out" / "results.json")
    mean = {row["system"]: row["value"] for row in document["rows"] if row["metric"] == "mrr"}
    assert set(mean) == {"first_stage", "baseline", "llm", "mine"}
    assert mean["mine"] == pytest.approx(mean["first_stage"])
    tested = [one for one in document["diagnostics"] if "kendall_tau" in one]
    assert [one["system"] for one in tested] == ["llm", "baseline"]
    assert tested[0]["kendall_tau"] == pytest.approx(1)
    assert "Where the gain comes from" in (tmp_path / "out" / "report.html").read_text()


def test_an_evaluation_tells_who_is_shown_and_who_gains(tables, tmp_path):
    users = pd.DataFrame({"user_id": [f"u{user}" for user in range(48)]})
    users.assign(region=["north", *["south"] * 47]).to_csv(tmp_path / "users.csv", index=False)
    flags = (*tables, "--systems", "baseline", "--user-groups", tmp_path / "users.csv", "--out", tmp_path / "out")
    shown, _ = run("evaluate", *flags)
    assert "miscalibration" in shown
    document = read_results(tmp_path / "out" / "results.json")
    groups = {(one["system"], one["group"]): one["value"] for one in document["user_groups"]}
    assert groups["baseline", "north"]["n"] == 1 and groups["baseline", "north"]["low"] is None
    assert {one["grouping"] for one in document["exposure"]} == {"popularity"}
    assert "region: north" in (tmp_path / "out" / "report.html").read_text()
    assert "no column 'maker'" in refused("evaluate", *flags, "--provider-column", "maker")


def test_wrong_names_are_refused(tables, tmp_path):
    assert "unknown systems oracle" in refused("evaluate", *tables, "--systems", "oracle", "--out", tmp_path)
    assert "name=scores" in refused("evaluate", *tables, "--external", "mine", "--out", tmp_path)


def test_a_domain_without_times_is_judged_at_random_and_refused_in_order(tables, tmp_path):
    untimed = pd.read_parquet(tables[1]).drop(columns="timestamp")
    untimed.to_parquet(tmp_path / "untimed.parquet")
    flags = (
        "--interactions",
        tmp_path / "untimed.parquet",
        *tables[2:],
        "--systems",
        "baseline",
        "--out",
        tmp_path / "o",
    )
    shown, _ = run("evaluate", *flags)
    assert "leave_random_1" in shown
    assert "nothing here speaks of sequence" in (tmp_path / "o" / "report.html").read_text()
    assert "no timestamp column" in refused("evaluate", *flags, "--split", "leave-last")


def test_an_empty_test_fold_is_one_line_of_error(tables, tmp_path):
    single = pd.read_parquet(tables[1]).drop_duplicates("user_id")
    single.to_parquet(tmp_path / "single.parquet")
    flags = ("--interactions", tmp_path / "single.parquet", *tables[2:], "--out", tmp_path)
    assert "test fold is empty" in refused("evaluate", *flags)


def test_list_lengths_must_be_numbers_of_two_or_more(tables, tmp_path):
    for bad in ("many", "1"):
        assert "list lengths must be" in refused("evaluate", *tables, "--n", bad, "--out", tmp_path)


def test_an_estimate_reads_a_sample_and_says_what_it_could_show(tables):
    shown, _ = run("evaluate", *tables, "--estimate", "--sample", 25)
    assert shown.startswith("estimate on 25 users whose choice was proposed; the model read ")
    assert "llm " in shown and "with a power of 80 %" in shown


def test_flags_that_a_way_does_not_read_are_refused(tables, tmp_path):
    message = refused("evaluate", *tables, "--estimate", "--systems", "llm", "--split", "temporal")
    assert "evaluate --estimate does not read --systems, --split" in message
    assert "one length of lists" in refused("evaluate", *tables, "--estimate", "--n", "12,8")
    log = ("--score-log", tmp_path, "--outcomes", tmp_path / "chosen.parquet")
    assert "evaluate --score-log does not read --seeds" in refused("evaluate", *log, "--seeds", 2)
    assert "--control go with --score-log" in refused("evaluate", *tables, "--control", "a", "--out", tmp_path)
    message = refused("evaluate", *tables, "--support", 2, "--out", tmp_path)
    assert "--support goes with --split cold-users" in message


def test_what_rules_cost_is_printed_and_kept(tables, tmp_path):
    (tmp_path / "rules.yaml").write_text("exclude: [{items: [g0i0]}]\n")
    out = tmp_path / "out"
    shown, _ = run("evaluate", *tables, "--systems", "baseline", "--rules", tmp_path / "rules.yaml", "--out", out)
    assert "under the rules" in shown
    assert "baseline: rules: " in shown
    assert [one["system"] for one in json.loads((out / "rules.json").read_text())] == ["first_stage", "baseline"]
    (tmp_path / "rules.yaml").write_text("caps: [{column: brand, most: 1}]\n")
    message = refused("evaluate", *tables, "--rules", tmp_path / "rules.yaml", "--out", out)
    assert "the item table has no column 'brand'" in message


def test_trees_rank_in_the_systems_that_are_fitted(tables, tmp_path):
    pytest.importorskip("lightgbm")
    scores = {}
    for ranker in ("linear", "gradient_boosted"):
        flags = ("--systems", "lexical_fused", "--ranker", ranker, "--out", tmp_path / ranker)
        run("evaluate", *tables, *flags)
        (path,) = (tmp_path / ranker / "runs").rglob("*lexical_fused*")
        scores[ranker] = path.read_bytes()
    assert scores["linear"] != scores["gradient_boosted"]
