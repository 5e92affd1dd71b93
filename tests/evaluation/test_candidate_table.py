"""The table of candidate generators, on a world where one of them is better by construction."""

import pandas as pd
import pytest
import typer.testing

from candidate_gen import ItemKNNGenerator, PopularityGenerator
from eval import benchmark, candidate_table
from reranker.config import RerankerConfig
from reranker.data.splits import cold_items, leave_last_k
from reranker.errors import ConfigError
from reranker.evaluation.registry import Suite
from tests.pipeline import toys


def factories(domain):
    return Suite(RerankerConfig(), lambda: None).factories(("first_stage", "baseline"))


def test_the_better_generator_gains_and_the_checks_say_so(tmp_path, monkeypatch):
    """Items of one's own taste against the most popular: of 32 items, 8 are of a taste, of which a user saw 4."""
    monkeypatch.setattr(candidate_table, "LENGTH", 4)
    data = toys.taste_dataset(users=80)
    lines = []
    checks = candidate_table.run(
        lambda split: [leave_last_k(data)],
        "baseline",
        factories,
        tmp_path,
        lines.append,
        generators={
            "als": lambda items: PopularityGenerator(),
            "als+co_visit": lambda items: ItemKNNGenerator(),
            "worse": lambda items: PopularityGenerator(),
        },
        splits=("leave-last",),
    )
    rows = pd.read_csv(tmp_path / "leave-last" / "domains.csv").set_index("generator")
    # Four items of the taste are left, and four are listed: nothing is missed.
    assert rows.loc["als+co_visit", "recall"] == 1.0
    assert rows.loc["als", "recall"] < 0.5
    assert rows.loc["als+co_visit", "gain_low"] > 0.12
    assert (rows["users"] == 80).all()
    gain, below, *others = checks
    assert [one.name.partition(",")[0] for one in others] == [
        "leave-last: worse over als",
        "leave-last: worse",
        "leave-last: worse over als+co_visit",
    ]
    assert others[0].value == 0 and others[2].value == pytest.approx(
        100 * (rows.loc["worse", "served"] / rows.loc["als+co_visit", "served"] - 1)
    )
    assert gain.passed and gain.value == pytest.approx(100 * rows.loc["als+co_visit", "gain"])
    assert (below.value, below.passed) == (0, True)
    assert any(line.startswith(data.domain) and "als+co_visit" in line for line in lines)


def test_the_same_generator_twice_reaches_nothing(tmp_path):
    checks = candidate_table.run(
        lambda split: [leave_last_k(toys.taste_dataset(users=20))],
        "baseline",
        factories,
        tmp_path,
        lambda line: None,
        generators={"als": lambda items: PopularityGenerator(), "als+co_visit": lambda items: PopularityGenerator()},
        splits=("leave-last",),
    )
    assert [(check.value, check.passed) for check in checks] == [(0.0, False), (0, True)]


def test_a_table_without_what_it_compares_with_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="compared with 'als'"):
        candidate_table.run(
            lambda split: [],
            "baseline",
            factories,
            tmp_path,
            print,
            generators={"x": lambda items: PopularityGenerator()},
        )


def test_an_unknown_scorer_is_refused(tmp_path):
    app = typer.Typer()
    app.command()(benchmark.main)
    with pytest.raises(ConfigError, match="--scorer gold: there are baseline, lexical, llm"):
        typer.testing.CliRunner().invoke(
            app, ["--table", "candidates", "--scorer", "gold", "--out", str(tmp_path)], catch_exceptions=False
        )


def test_new_items_are_found_by_their_texts_and_counted_among_the_new_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(candidate_table, "LENGTH", 1)
    data = toys.taste_dataset(users=80, per_group=20)
    lines = []
    checks = candidate_table.new_items(lambda draw: [cold_items(data, seed=draw)], tmp_path, lines.append, (0, 1))
    row = pd.read_csv(tmp_path / "new-items.csv").set_index("domain").loc[data.domain]
    # 8 of 80 items are new, about two of each taste: one guess in eight is right by chance, one in two by the titles.
    assert row["random"] == pytest.approx(1 / 8)
    assert row["recall"] > 0.35
    assert [(check.value, check.passed) for check in checks] == [(row["recall"], row["recall"] >= 0.45)]
    assert lines[-1].startswith(data.domain)
