"""Score logs as the server writes them, joined with outcomes."""

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from reranker.errors import DataError
from reranker.evaluation.logs import join_outcomes, judge_log, read_score_log
from reranker.serve.exploration import Explore, explore
from reranker.serve.observability.ranking_log import Entry, table_of
from reranker.serve.rank_jobs import Ranked

START = 1_700_000_000.0


def entry(number, user="u", items=("a", "b", "c"), exploration=None, **fields):
    ranked = Ranked(
        order=tuple(range(len(items))), scores=tuple(float(-at) for at in range(len(items))), served="fused"
    )
    given = {"domain": "toy", "top_n": None, "shadow": False, "seconds": START + 3600 * number, **fields}
    return Entry(
        request_id=str(number),
        user=user,
        items=items,
        first_stage_scores=None,
        ranked=ranked,
        exploration=exploration,
        **given,
    )


def log_of(*entries):
    return table_of(entries).to_pandas()


def outcomes(*rows):
    return pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])


def test_an_outcome_belongs_to_the_last_ranking_that_showed_the_item():
    log = log_of(entry(0), entry(1), entry(2, top_n=1))
    found = join_outcomes(log, outcomes(("u", "b", START + 3700), ("u", "b", START + 3800), ("u", "c", START + 9000)))
    rewards = found.rows[found.rows["reward"] > 0][["request_id", "item_id", "reward"]].to_numpy().tolist()
    assert rewards == [["1", "b", 2.0], ["1", "c", 1.0]]  # the third ranking did not show c
    assert found.used == 3 and found.rankings == 3


def test_what_cannot_be_joined_is_counted():
    log = log_of(entry(0), entry(1, user=None), entry(2, shadow=True))
    table = outcomes(
        ("u", "a", START - 1),
        ("u", "a", START + 25 * 3600),
        ("u", "z", START + 1),
        ("v", "a", START + 1),
        ("u", "a", START),
    )
    found = join_outcomes(log, table)
    assert (found.too_early, found.too_late, found.not_shown, found.used, found.left_out) == (1, 1, 2, 1, 2)
    assert "1 of 5 outcomes joined" in found.summary()


def test_a_log_of_another_bundle_is_refused():
    log = log_of(entry(0), entry(1, domain="books"))
    with pytest.raises(DataError, match="say which"):
        join_outcomes(log, outcomes(("u", "a", START)))
    with pytest.raises(DataError, match="log of another bundle"):
        join_outcomes(log, outcomes(("u", "a", START)), domain="films")
    assert join_outcomes(log, outcomes(("u", "a", START + 1)), domain="toy").rankings == 1


def test_places_and_propensities_of_an_explored_list():
    rng = np.random.default_rng(4)
    shown = next(one for one in (explore(3, Explore(share=0.5, first=3), rng) for _ in range(99)) if one.ranks[0] == 2)
    rows = join_outcomes(log_of(entry(0, exploration=shown, top_n=2)), outcomes(("u", "c", START + 1))).rows
    by_item = rows.set_index("item_id")
    assert by_item.loc["c", "place"] == 1 and by_item.loc["c", "rank"] == 3 and by_item.loc["c", "reward"] == 1
    assert by_item.loc["c", "propensity"] == pytest.approx(0.5 / 3)
    assert sorted(rows["place"]) == [0, 1, 2]  # one was not shown


def test_the_report_of_a_folder(tmp_path):
    entries = [entry(number, f"u{number % 30}", arm=["one", "two"][number % 2]) for number in range(120)]
    pq.write_table(table_of(entries), tmp_path / "scores-1.parquet")
    chosen = outcomes(*[(f"u{number % 30}", "a", START + 3600 * number + 60) for number in range(0, 120, 2)])
    report = judge_log(tmp_path, chosen)
    said = report.summary()
    assert report.by_order["fused"].mean == pytest.approx(0.5)
    assert report.values[0].ips.mean == pytest.approx(0.5) and report.arms[0].difference.mean == pytest.approx(-1.0)
    assert "two over one" in said and "had it been served" in said


def test_folders_without_a_log_are_refused(tmp_path):
    with pytest.raises(DataError, match="holds no score log"):
        read_score_log(tmp_path)
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "scores-1.parquet")
    with pytest.raises(DataError, match="request_id"):
        read_score_log(tmp_path)


def test_the_command_prints_the_report(tmp_path):
    from typer.testing import CliRunner

    from reranker.cli.app import app

    pq.write_table(table_of([entry(number, f"u{number}") for number in range(9)]), tmp_path / "scores-1.parquet")
    outcomes(("u1", "a", START + 3700), ("u2", "z", START)).to_csv(tmp_path / "chosen.csv", index=False)
    flags = ["evaluate", "--score-log", str(tmp_path), "--outcomes", str(tmp_path / "chosen.csv")]
    said = CliRunner().invoke(app, flags)
    assert said.exit_code == 0, said.output
    assert "9 rankings of 9 users, 1 of 2 outcomes joined (1 were not shown" in said.output
    alone = CliRunner().invoke(app, flags[:3])
    assert "go together" in str(alone.exception)
