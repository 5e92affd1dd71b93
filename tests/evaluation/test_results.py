import html
import json
import re
from dataclasses import replace

import pandas as pd
import pytest
import pytrec_eval

from candidate_gen import PopularityGenerator
from reranker.errors import DataError
from reranker.evaluation import (
    Results,
    Settings,
    cold_users,
    evaluate,
    leave_last_k,
    leave_random_k,
    read_results,
    write_report,
    write_results,
)
from reranker.evaluation.baselines import FirstStageOrder, LinearControl, RandomOrder
from reranker.evaluation.exposure import exposures
from reranker.evaluation.reporting.examples import example_lists
from reranker.evaluation.reporting.plots import gain_by_system
from reranker.evaluation.reporting.verdict import Provenance, verdict
from reranker.evaluation.significance import Comparison
from reranker.evaluation.user_groups import group_qualities
from tests.evaluation.toys import dataset

SYSTEMS = {"first_stage": lambda _: FirstStageOrder(), "random": RandomOrder, "baseline": lambda _: LinearControl()}


@pytest.fixture(scope="module")
def results():
    lines = [f"u {user}: " + " ".join(f"i{(user + step) % 12}" for step in range(6)) for user in range(40)]
    return evaluate([leave_last_k(dataset(lines))], PopularityGenerator(), SYSTEMS, Settings(candidates=(8,)))


def test_what_is_written_is_read(results, tmp_path):
    written = write_results(results, tmp_path, [{"domain": "toy", "kendall_tau": 1.0}])
    document = read_results(tmp_path / "results.json")
    assert document == written
    assert document["schema_version"] == 1
    keys = {"domain", "system", "protocol", "split", "seed", "metric", "k", "value", "low", "high", "n_users"}
    assert all(keys <= set(row) for row in document["rows"])
    keys = {"domain", "system", "versus", "metric", "mean", "low", "high", "p_holm"}
    assert all(keys <= set(comparison) for comparison in document["comparisons"])
    assert len(pd.read_parquet(tmp_path / "results.parquet")) == len(document["rows"])
    assert document["diagnostics"][-1] == {"domain": "toy", "kendall_tau": 1.0}
    coverage = [row for row in document["rows"] if row["metric"] == "coverage"]
    assert coverage[0]["low"] is None
    mrr = [row for row in document["rows"] if row["metric"] == "mrr"]
    assert mrr[0]["k"] is None


def test_older_and_newer_versions_are_refused(results, tmp_path):
    path = tmp_path / "results.json"
    for document, words in (({"rows": []}, "an older version"), ({"schema_version": 99}, "a newer version")):
        path.write_text(json.dumps(document))
        with pytest.raises(DataError, match=f"{words}.*run the evaluation again"):
            read_results(path)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema_version": 1, "rows": [{"domain": "d"}], "comparisons": []}'])
def test_broken_files_are_refused(tmp_path, text):
    path = tmp_path / "results.json"
    path.write_text(text)
    with pytest.raises(DataError, match=re.escape(str(path))):
        read_results(path)


def test_trec_files_reproduce_the_report(results, tmp_path):
    write_results(results, tmp_path)
    (qrels,) = (tmp_path / "runs").glob("*.qrels")
    with qrels.open() as file:
        relevance = pytrec_eval.parse_qrel(file)
    for name in SYSTEMS:
        (path,) = (tmp_path / "runs").glob(f"*.{name}.0.run")
        with path.open() as file:
            run = pytrec_eval.parse_run(file)
        scores = pytrec_eval.RelevanceEvaluator(relevance, {"recip_rank"}).evaluate(run)
        rows = results.rows
        at = (rows.system == name) & (rows.metric == "mrr") & (rows.protocol == "end_to_end")
        mean = sum(score["recip_rank"] for score in scores.values()) / len(relevance)
        assert rows[at]["value"].item() == pytest.approx(mean)


def test_report_is_one_file_with_all_plots(results, tmp_path):
    path = tmp_path / "report.html"
    write_report(results, path, title="Toy <shop>")
    text = path.read_text()
    assert "Toy &lt;shop&gt;" in text
    assert text.count("<svg") == 5
    assert not re.search(r'(src|href)="https?:', text)
    assert "prefers-color-scheme: dark" in text
    assert 'name="viewport"' in text
    assert "currentColor" in text
    assert "#010203" not in text
    ids = re.findall(r'<clipPath id="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    for words in (
        "ndcg@10 against first_stage",
        "by history length",
        "by popularity",
        "rank movement",
        "calibration",
        "tied scores",
    ):
        assert words in text


def test_report_shows_names_with_markup_as_they_are_written(tmp_path):
    def named(what):
        return f"<script>{what}</script> & co"

    class Random(RandomOrder):
        name = named("system")

    data = dataset([f"u{user}: " + " ".join(f"i{(user + step) % 12}" for step in range(6)) for user in range(40)])
    items = data.items.assign(title=named("item"), provider=[named(f"provider {row % 2}") for row in range(12)])
    fold = leave_last_k(replace(data, items=items, domain=named("domain")))
    systems = {"first_stage": SYSTEMS["first_stage"], Random.name: Random}
    results = evaluate([fold], PopularityGenerator(), systems, Settings(candidates=(8,)))
    users = pd.DataFrame({"user_id": fold.users, named("grouping"): named("group")})
    write_report(
        results,
        tmp_path / "report.html",
        title=named("title"),
        provenance=Provenance(command=named("command"), date=named("date"), versions={named("package"): "1"}),
        exposures=exposures(results),
        groups=group_qualities(results, users),
    )
    text = (tmp_path / "report.html").read_text()
    assert "<script" not in text and "&amp;lt;" not in text
    places = ("title", "domain", "system", "item", "provider 1", "grouping", "group", "command", "date", "package")
    assert [what for what in places if html.escape(named(what)) not in text] == []


def test_report_of_an_unordered_domain_says_so(tmp_path):
    lines = [f"u{user}: " + " ".join(f"i{(user + step) % 12}" for step in range(6)) for user in range(40)]
    fold = leave_random_k(dataset(lines, ordered=False), seed=1)
    results = evaluate([fold], PopularityGenerator(), SYSTEMS, Settings(candidates=(8,)))
    write_report(results, tmp_path / "report.html")
    assert "nothing here speaks of sequence" in (tmp_path / "report.html").read_text()


def test_report_without_comparisons_still_has_the_values(tmp_path):
    lines = [f"u{user}: " + " ".join(f"i{(user + step) % 12}" for step in range(6)) for user in range(40)]
    fold = leave_last_k(dataset(lines))
    only = {"first_stage": SYSTEMS["first_stage"]}
    results = evaluate([fold], PopularityGenerator(), only, Settings(candidates=(8,)))
    write_report(results, tmp_path / "report.html")
    text = (tmp_path / "report.html").read_text()
    assert "<td>first_stage</td>" in text and "toy · " not in text  # one domain is named once, above
    assert "<th>ndcg<wbr>@10</th>" in text  # where a phone may break it


def test_report_keeps_splits_and_rivals_apart(tmp_path):
    lines = [f"u{user}: " + " ".join(f"i{(user + step) % 12}" for step in range(6)) for user in range(40)]
    data = dataset(lines)
    settings = Settings(candidates=(8,), rivals=(("random", "baseline"),))
    parts = [
        evaluate([fold], PopularityGenerator(), SYSTEMS, settings) for fold in (leave_last_k(data), cold_users(data))
    ]
    write_report(Results.combined(parts), tmp_path / "report.html", focus="baseline")
    text = (tmp_path / "report.html").read_text()
    for split in ("leave_last_1", "cold_users_1"):
        assert f"toy, {split} · baseline" in text
        for versus in ("first_stage", "baseline"):
            assert f"ndcg@10 against {versus}, {split}" in text
    assert text.count("<svg") == 2 + 4  # a plot a split against the baseline, and the closer look


def comparison(system, versus, mean, half, domain="toy", n_users=400):
    return Comparison(
        domain=domain,
        system=system,
        versus=versus,
        metric="ndcg@10",
        mean=mean,
        low=mean - half,
        high=mean + half,
        relative=mean / 0.1,
        relative_low=(mean - half) / 0.1,
        relative_high=(mean + half) / 0.1,
        p=0.01,
        p_holm=0.02,
        n_users=n_users,
        detectable=0.01,
        split="leave_last_1",
    )


def test_a_name_with_dollars_is_no_formula():
    plot = gain_by_system([comparison(name, "first_stage", 0.1, 0.05) for name in (r"$\frac$", "pays $5 and $6")])
    assert r"$\frac$" in plot and "pays $5 and $6" in plot


LADDERS = {
    "The LLM pays": (0.04, 0.05, 0.07, 0.02),
    "words without a model are enough": (0.04, 0.05, 0.0, 0.0),
    "Interaction features are enough": (0.04, 0.0, 0.0, 0.0),
    "Nothing ranks these lists better": (0.0, 0.0, 0.0, 0.0),
}


@pytest.mark.parametrize("words", LADDERS)
def test_the_verdict_names_what_pays(words):
    features, lexical, fused, llm = LADDERS[words]
    found = [
        comparison("baseline", "first_stage", features, 0.01),
        comparison("fused", "first_stage", max(features, fused), 0.01),
        comparison("lexical_fused", "baseline", lexical, 0.01),
        comparison("fused", "lexical_fused", llm, 0.01),
    ]
    said = verdict(Results(rows=pd.DataFrame(), comparisons=found, runs=[]))
    assert words in said[0]
    (of_llm,) = [one for one in said if one.startswith("The LLM over")]
    assert ("a gain" in of_llm) == (llm > 0) and ("cannot be told from 0" in of_llm) == (llm == 0)
    assert said[-1] == "Judged on 400 users (toy, leave_last_1)."


@pytest.mark.parametrize(("reader", "said"), [("lexical", "words alone"), ("encoder", "the sentence encoder")])
def test_the_verdict_names_what_read_the_texts(reader, said):
    found = [comparison("fused", "first_stage", 0.04, 0.01), comparison("fused", "baseline", 0.03, 0.01)]
    results = Results(rows=pd.DataFrame(), comparisons=found, runs=[], settings=Settings(reader=reader))
    sentences = verdict(results)
    assert sentences[0].startswith(f"Texts, read by {said}, add")
    assert ("was not asked" in sentences[0]) == (reader == "encoder")
    assert any(one.startswith(f"Reading texts by {said} over interaction features") for one in sentences)
    assert not any("LLM" in one for one in sentences)


def test_the_verdict_of_words_says_nothing_twice_and_what_is_served():
    found = [
        comparison(system, versus, 0.0 if versus == "lexical_fused" else 0.03, 0.01)
        for system, versus in (
            ("fused", "first_stage"),
            ("served", "first_stage"),
            ("fused", "baseline"),
            ("lexical_fused", "baseline"),
            ("fused", "lexical_fused"),
        )
    ]
    results = Results(rows=pd.DataFrame(), comparisons=found, runs=[], settings=Settings(reader="lexical"))
    sentences = verdict(results)
    assert [one.split(":")[0] for one in sentences[1:3]] == [
        "Words, without a model, over interaction features",
        "What the guard serves over the list that came in",
    ]
    assert not any(one.startswith(("Words alone", "Reading texts")) for one in sentences)


def test_the_verdict_marks_few_users_and_prefers_the_pooled_figures():
    found = [comparison("baseline", "first_stage", 0.04, 0.01, domain, 40) for domain in ("toy", "pooled")]
    said = verdict(Results(rows=pd.DataFrame(), comparisons=found, runs=[]))
    assert "40 users (pooled over domains, leave_last_1). That is few" in said[-1]


def test_a_report_says_how_it_was_made_and_shows_lists_with_titles(results, tmp_path):
    path = tmp_path / "report.html"
    made = Provenance.of(["evaluate", "--out", "my folder"], "29 November 2026")
    write_report(results, path, provenance=made, focus="random")
    text = path.read_text()
    assert "reranker evaluate --out 'my folder'" in html.unescape(text) and "29 November 2026" in text
    assert f"numpy {made.versions['numpy']}" in text
    assert "conditional logit on the interaction features" in text  # what `baseline` is
    (run,) = [run for run in results.runs if run.system == "random"]
    examples = example_lists(run)
    assert examples and examples == example_lists(run)
    for one in examples:
        assert one.target.startswith("Title ") and f"<mark>{one.target}</mark>" in text
        assert [hit for _, hit in one.titles_before].count(True) == (one.before <= 5)
        assert [hit for _, hit in one.titles_after].count(True) == (one.after <= 5)
    assert examples[-1].after > examples[-1].before  # a fall is shown, too
    assert "Too few users to read anything into" in text
