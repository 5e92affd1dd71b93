import logging
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from candidate_gen import PopularityGenerator
from reranker.cli.demo_run import run_demo
from reranker.data.splits import cold_items, new_items, unseen_domain
from reranker.errors import ConfigError, DataError
from reranker.evaluation import (
    Results,
    Settings,
    cold_users,
    evaluate,
    leave_last_k,
    leave_random_k,
    propose,
    write_report,
    write_results,
)
from reranker.evaluation.base import ReadingCost
from reranker.evaluation.baselines import FirstStageOrder, LinearControl, RandomOrder
from reranker.evaluation.kept import write_scores
from reranker.evaluation.reporting.text import comparison_table, gain_matrix
from tests.evaluation.toys import dataset

SYSTEMS = {"first_stage": lambda _: FirstStageOrder(), "random": RandomOrder, "baseline": lambda _: LinearControl()}


class Counting(FirstStageOrder):
    """Counts how often it is asked, and says how many tokens that took."""

    name = "counting"
    asked = 0

    def score(self, lists):
        type(self).asked += 1
        return super().score(lists)

    def reading_cost(self, lists):
        return ReadingCost(tokens=120, seconds=40.0)


class Scripted(FirstStageOrder):
    """Gives what a function of the lists says."""

    name = "scripted"

    def __init__(self, function):
        self.function = function

    def score(self, lists):
        return self.function(lists)


class PriorOf(FirstStageOrder):
    name = "prior_of"

    def __init__(self, priors):
        self.priors = priors


@pytest.fixture
def fold(chain):
    return leave_last_k(chain)


def run(fold, systems=SYSTEMS, **kwargs):
    settings = Settings(candidates=(5,), ks=(1, 10), **kwargs.pop("settings", {}))
    return evaluate([fold], PopularityGenerator(), systems, settings, **kwargs)


def value(results, system, metric, k, protocol="end_to_end"):
    rows = results.rows
    at = rows[(rows.system == system) & (rows.metric == metric) & (rows.k == k) & (rows.protocol == protocol)]
    return at["value"].tolist()


def test_rows_and_comparisons(fold):
    results = run(fold)
    assert list(results.rows.columns) == [
        *("domain", "system", "protocol", "split", "candidates", "seed"),
        *("metric", "k", "value", "low", "high", "n_users"),
    ]
    assert set(results.rows.protocol) == {"end_to_end", "covered"}
    assert value(results, "baseline", "hr", 1, "covered") == [1]
    covered = results.runs[0].lists.covered.mean()
    assert 0 < covered < 1
    assert value(results, "baseline", "hr", 1) == pytest.approx([covered])
    intervals = results.rows[results.rows.metric == "ndcg"]
    assert (intervals.low <= intervals["value"]).all()
    assert (intervals["value"] <= intervals.high).all()
    best = [c for c in results.comparisons if c.system == "baseline" and c.metric == "ndcg@10"]
    assert len(best) == 1
    assert best[0].low > 0
    assert best[0].p_holm >= best[0].p
    assert best[0].split == "leave_last_1"


def test_every_list_length(fold):
    results = evaluate([fold], PopularityGenerator(), SYSTEMS, Settings(candidates=(3, 5), compared=()))
    assert set(results.rows.candidates) == {3, 5}
    assert {run.lists.candidates["rank"].max() for run in results.runs} == {3, 5}


def test_only_stochastic_systems_run_once_a_seed(fold):
    results = run(fold, settings={"seeds": (0, 1, 2)})
    counts = results.rows[(results.rows.metric == "mrr") & (results.rows.protocol == "covered")].system.value_counts()
    assert counts.to_dict() == {"random": 3, "first_stage": 1, "baseline": 1}
    random = [c for c in results.comparisons if c.system == "random" and c.metric == "mrr"]
    seeds = results.rows[(results.rows.system == "random") & (results.rows.metric == "mrr")]
    generator = results.rows[(results.rows.system == "first_stage") & (results.rows.metric == "mrr")]
    end = seeds.protocol == "end_to_end"
    base = generator[generator.protocol == "end_to_end"]["value"].item()
    assert random[0].mean == pytest.approx(seeds[end]["value"].mean() - base)


def test_a_killed_run_goes_on_where_it_stopped(fold, tmp_path):
    def killed(lists):
        raise KeyboardInterrupt

    systems = {
        "first_stage": SYSTEMS["first_stage"],
        "counting": lambda _: Counting(),
        "scripted": lambda _: Scripted(killed),
    }
    Counting.asked = 0
    with pytest.raises(KeyboardInterrupt):
        run(fold, systems, out=tmp_path)
    assert Counting.asked == 1
    systems["scripted"] = lambda _: Scripted(lambda lists: np.zeros(len(lists.candidates)))
    said = []
    results = run(fold, systems, out=tmp_path, progress=said.append)
    assert Counting.asked == 1
    earlier = [line.split(",")[0] for line in said if "scores of an earlier run are used" in line]
    assert [line.split(": ")[1] for line in earlier] == ["first_stage", "counting"]
    assert {part.system for part in results.runs} == set(systems)
    pd.testing.assert_frame_equal(results.rows, run(fold, systems).rows)


def test_scores_of_other_data_or_settings_are_not_used_again(fold, tmp_path):
    systems = {"first_stage": SYSTEMS["first_stage"], "counting": lambda _: Counting()}
    Counting.asked = 0
    run(fold, systems, out=tmp_path)
    run(fold.sample_users(20), systems, out=tmp_path)
    assert Counting.asked == 2
    run(fold.sample_users(20), systems, out=tmp_path, settings={"fingerprint": "bigger model"})
    assert Counting.asked == 3


def test_scores_of_other_code_are_not_used_again(fold, tmp_path):
    """Kept under another version, the key does not fit, and the file is computed again."""
    systems = {"first_stage": SYSTEMS["first_stage"], "counting": lambda _: Counting()}
    Counting.asked = 0
    results = run(fold, systems, out=tmp_path)
    (path,) = (tmp_path / "scores").glob("*counting*")
    write_scores(path, "key of an older version", results.runs[1].scores + 1, [0.0, 0.0, 0.0])
    again = run(fold, systems, out=tmp_path)
    assert Counting.asked == 2
    assert np.array_equal(again.runs[1].scores, results.runs[1].scores)


@pytest.mark.parametrize("part", ["items", "train", "history", "held_out"])
def test_lists_with_other_contents_have_another_fingerprint(fold, part):
    lists = propose(fold, PopularityGenerator(), 5)
    changed = getattr(fold, part).copy()
    column = "title" if part == "items" else "item_id"
    changed.loc[0, column] = "another"
    other = replace(lists, fold=replace(fold, **{part: changed}))
    assert other.fingerprint != lists.fingerprint
    assert replace(lists).fingerprint == lists.fingerprint


def test_constant_scores_are_the_first_stage_order_and_all_tied(fold, tmp_path):
    flat = {
        "first_stage": SYSTEMS["first_stage"],
        "scripted": lambda _: Scripted(lambda lists: np.zeros(len(lists.candidates))),
    }
    results = run(fold, flat)
    for one in results.comparisons:
        assert (one.mean, one.low, one.high, one.p_holm) == (0, 0, 0, 1)
        assert not one.decided
        assert one.power_note == f"toy: scripted gives every one of 40 users the {one.metric} of first_stage"
    document = write_results(results, tmp_path)
    assert document["diagnostics"][1]["tied_share"] == 1
    write_report(results, tmp_path / "report.html")
    assert "100.0%" in (tmp_path / "report.html").read_text()


def test_users_with_one_interaction_only_train():
    lines = [f"u{user}: " + " ".join(f"i{(user + step) % 12}" for step in range(6)) for user in range(40)]
    results = run(leave_last_k(dataset([*lines, "single: i3", "other: i4"])))
    assert {one.n_users for one in results.comparisons} == {40}
    assert "single" in set(results.runs[0].lists.fold.train.user_id)
    assert results.runs[0].lists.fold.counts["users_not_tested"] == 2


def test_a_system_is_left_out_of_domains_it_does_not_cover(fold):
    class Elsewhere(FirstStageOrder):
        name = "elsewhere"
        domains = frozenset({"books"})

    said = []
    results = run(fold, {**SYSTEMS, "elsewhere": lambda _: Elsewhere()}, progress=said.append)
    assert "elsewhere" not in set(results.rows.system)
    assert "toy: left out by elsewhere, which covers books" in said


def test_a_half_written_score_file_is_computed_again(fold, tmp_path, caplog):
    run(fold, out=tmp_path)
    (broken,) = (tmp_path / "scores").glob("*baseline*")
    broken.write_bytes(broken.read_bytes()[:100])
    with caplog.at_level(logging.WARNING):
        results = run(fold, out=tmp_path)
    assert "computed again" in caplog.text
    assert value(results, "baseline", "hr", 1, "covered") == [1]


def test_cost_per_user(fold):
    results = run(fold, {"first_stage": SYSTEMS["first_stage"], "counting": lambda _: Counting()})
    assert results.runs[1].cost["tokens_per_user"] == pytest.approx(120 / 40)
    assert results.runs[1].cost["ms_per_user"] > 1000
    assert np.isnan(results.runs[0].cost["tokens_per_user"])


def test_a_reading_that_comes_from_disk_costs_what_it_took(fold):
    class FromDisk(Counting):
        def __init__(self):
            self.read = False

        def score(self, lists):
            self.read = True
            return super().score(lists)

        def reading_cost(self, lists):
            return super().reading_cost(lists) if self.read else None

    results = run(fold, {"first_stage": SYSTEMS["first_stage"], "counting": lambda _: FromDisk()})
    assert results.runs[1].cost["ms_per_user"] == pytest.approx(1000)  # 40 seconds, 40 users


def test_without_a_target_among_candidates_the_covered_protocol_is_refused_at_once(fold):
    unseen = replace(fold, held_out=fold.held_out.assign(item_id="nobody proposes it"))
    asked = []
    systems = {"first_stage": lambda _: asked.append(1) or FirstStageOrder()}
    with pytest.raises(DataError, match="holds a target, so the covered protocol has no user"):
        run(unseen, systems, settings={"protocols": ("covered",)})
    assert asked == []


def test_scores_that_are_not_finite_name_system_and_user(fold):
    bad = {
        "first_stage": SYSTEMS["first_stage"],
        "scripted": lambda _: Scripted(lambda lists: np.full(len(lists.candidates), np.nan)),
    }
    with pytest.raises(DataError, match=r"'scripted'.*not finite.*user 'u0'"):
        run(fold, bad)


def test_leaks_stop_the_evaluation(fold, chain):
    def leaking_validation(data):
        return fold

    with pytest.raises(DataError, match="leak 'fitted_on_test'"):
        run(replace(fold, resplit=leaking_validation))
    with pytest.raises(DataError, match="leak 'generator_saw_target'"):
        run(replace(fold, train=chain.interactions))
    personal = {
        "first_stage": SYSTEMS["first_stage"],
        "prior_of": lambda _: PriorOf(lambda lists: lists.list_index * 1.0),
    }
    with pytest.raises(DataError, match="leak 'prior_saw_user'"):
        run(fold, personal)
    plain = {
        "first_stage": SYSTEMS["first_stage"],
        "prior_of": lambda _: PriorOf(lambda lists: np.zeros(len(lists.list_index))),
    }
    assert len(run(fold, plain).runs) == 2


@pytest.mark.parametrize(
    ("systems", "settings", "message"),
    [
        ({"random": RandomOrder}, {}, "baseline 'first_stage'"),
        (SYSTEMS, {"compared": ("ndcg@7",)}, "cutoff 7"),
        (SYSTEMS, {"seeds": ()}, "at least one"),
        ({"first_stage": SYSTEMS["first_stage"], "mine": RandomOrder}, {}, "'mine' built a system called 'random'"),
    ],
)
def test_settings_that_cannot_work(fold, systems, settings, message):
    with pytest.raises(ConfigError, match=message):
        run(fold, systems, settings=settings)


def test_without_pytrec_eval_nothing_is_begun(fold, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytrec_eval", None)
    begun = []
    with pytest.raises(ConfigError, match=r"pip install 'reranker\[eval\]'"):
        evaluate([fold], PopularityGenerator(), {"first_stage": lambda: begun.append(1) or FirstStageOrder()})
    with pytest.raises(ConfigError, match=r"pip install 'reranker\[eval\]'"):
        run_demo("ml-100k", Path("nowhere"), begun.append)
    assert not begun


def test_folds_of_one_domain_twice_are_refused(fold):
    with pytest.raises(DataError, match="different domains"):
        evaluate([fold, fold], PopularityGenerator(), SYSTEMS)


def test_splits_can_be_put_together(fold, chain):
    together = Results.combined([run(fold), run(cold_users(chain, k=2))])
    assert set(together.rows.split) == {"leave_last_1", "cold_users_2"}
    assert {c.split for c in together.comparisons} == {"leave_last_1", "cold_users_2"}


def test_each_domain_is_compared_under_its_own_split(fold, chain):
    other = replace(leave_random_k(chain), domain="unordered")
    results = evaluate([fold, other], PopularityGenerator(), SYSTEMS, Settings(candidates=(5,)))
    assert {(one.domain, one.split) for one in results.comparisons} == {
        ("toy", "leave_last_1"),
        ("unordered", "leave_random_1"),
        ("pooled", "leave_last_1+leave_random_1"),
    }
    shown = comparison_table(results)
    assert "| unordered | leave_random_1 | 40 | baseline |" in shown
    line = next(line for line in shown.splitlines() if line.startswith("| unordered") and "| baseline |" in line)
    assert "| first_stage | " in line
    assert "leave_random_1 | baseline | first_stage |" in gain_matrix(results)


def test_a_gain_over_nothing_is_a_difference(fold):
    worst = {
        "first_stage": lambda _: FirstStageOrder(),
        "scripted": lambda _: Scripted(lambda lists: -lists.relevant.astype(float)),
        "baseline": SYSTEMS["baseline"],
    }
    settings = Settings(candidates=(5,), ks=(1,), compared=("hr@1",), baseline="scripted", rivals=())
    results = evaluate([fold], PopularityGenerator(), worst, settings)
    for table in (comparison_table(results, "hr@1"), gain_matrix(results, "hr@1")):
        assert "nan" not in table
        assert "+0." in table


class Taught(FirstStageOrder):
    """Remembers what it was fitted on."""

    name = "fitted_windows"

    def __init__(self):
        self.on = []

    def fit(self, lists):
        self.on = list(lists)
        return self


def fitted_windows(fold, **settings):
    system = Taught()
    run(fold, {"first_stage": lambda _: FirstStageOrder(), "fitted_windows": lambda _: system}, settings=settings)
    return system.on


def test_systems_are_fitted_on_several_windows_before_the_target():
    fold = leave_last_k(dataset([f"u{n}: a b c d e" if n % 2 else f"u{n}: e d c b a" for n in range(6)]))
    windows = fitted_windows(fold)
    chosen = [set(one.fold.held_out.item_id) for one in windows]
    assert chosen == [{"d", "b"}, {"c"}, {"b", "d"}]  # newest first; the target before them, one known item behind
    assert [len(one.fold.train) for one in windows] == [18, 12, 6]
    assert len(fitted_windows(fold, windows=2)) == 2
    assert [len(one.fold.users) for one in fitted_windows(fold, fitting_users=4)] == [4, 4, 4]


def test_windows_end_where_there_are_enough_lists(fold, monkeypatch):
    newest, *older = fitted_windows(fold)
    assert older
    monkeypatch.setattr("reranker.utils.rolling_origin.ENOUGH_LISTS", int(newest.covered.sum()))
    assert len(fitted_windows(fold)) == 1
    monkeypatch.setattr("reranker.utils.rolling_origin.ENOUGH_LISTS", int(newest.covered.sum()) + 1)
    assert len(fitted_windows(fold)) == 2


def test_of_cold_items_there_is_one_window(chain):
    assert len(fitted_windows(cold_items(chain, share=0.3))) == 1


def test_for_new_items_weights_are_fitted_on_windows_of_known_ones(chain):
    fold = new_items(chain, share=0.3)
    windows = fitted_windows(fold)
    assert len(windows) > 1
    assert not any(set(one.candidates.item_id) & set(fold.cold_items) for one in windows)


def test_windows_of_every_source_teach_where_the_domain_is_unseen(fold):
    there = leave_last_k(replace(fold.data, domain="there"))
    unseen = unseen_domain({"toy": fold, "there": there}, "toy")
    assert {one.fold.domain for one in fitted_windows(unseen)} == {"there"}
    assert len(fitted_windows(unseen)) == len(fitted_windows(there))
