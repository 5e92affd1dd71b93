"""Score logs as the server writes them, joined with outcomes."""

from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from typer.testing import CliRunner

from reranker import Reranker
from reranker.cli.app import app
from reranker.errors import ConfigError, DataError
from reranker.evaluation.logs import join_outcomes, judge_log, read_score_log
from reranker.pipeline.manifest import BundleIdentity
from reranker.serve.exploration import Explore, explore
from reranker.serve.observability.ranking_log import Entry, table_of
from reranker.serve.rank_jobs import Ranked
from tests.pipeline import toys

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


MONDAY = BundleIdentity(fingerprint="aa11", fitted=datetime(2026, 11, 30, 2, tzinfo=UTC))
TUESDAY = BundleIdentity(fingerprint="bb22", fitted=datetime(2026, 12, 1, 2, tzinfo=UTC))


def test_a_log_of_another_bundle_of_the_domain_is_refused_and_named():
    chosen = outcomes(("u", "a", START + 1))
    log = log_of(entry(0, bundle=TUESDAY))
    with pytest.raises(DataError, match=r"no ranking by the bundle aa11 .* but 1 by bb22 \(fitted 2026-12-01 02:00\)"):
        join_outcomes(log, chosen, bundle=MONDAY)
    for silent in (log_of(entry(0)), log_of(entry(0)).drop(columns=["bundle", "bundle_fitted"])):
        with pytest.raises(DataError, match="does not say which bundle ranked"):
            join_outcomes(silent, chosen, bundle=MONDAY)


def test_of_a_log_of_several_bundles_one_is_judged_and_the_others_are_named():
    entries = [entry(0, bundle=TUESDAY), entry(1, bundle=MONDAY), entry(2, bundle=TUESDAY), entry(3)]
    chosen = outcomes(("u", "a", START + 1), ("u", "a", START + 3601), ("u", "a", START + 7201))
    every = join_outcomes(log_of(*entries), chosen)
    assert every.rankings == 4 and not every.others
    assert "1 by aa11 (fitted 2026-11-30 02:00), 2 by bb22 (fitted 2026-12-01 02:00), 1 by a bundle" in every.summary()
    found = join_outcomes(log_of(*entries), chosen, bundle=TUESDAY)
    assert set(found.rows["request_id"]) == {"0", "2"} and found.rankings == 2
    assert [(one.identity, one.rankings) for one in found.others] == [(MONDAY, 1), (None, 1)]
    assert "left out, for other bundles ranked them: 1 by aa11" in found.summary()


def test_the_command_takes_the_bundle(tmp_path):
    toys.fitted(scorer="baseline").save(tmp_path / "bundle")
    mine = Reranker.load(tmp_path / "bundle", engine="scripted").identity
    entries = [entry(0, bundle=mine), entry(1, "v", bundle=MONDAY), entry(2, "w", domain="books", bundle=MONDAY)]
    pq.write_table(table_of(entries), tmp_path / "scores-1.parquet")
    outcomes(("u", "a", START + 1)).to_csv(tmp_path / "chosen.csv", index=False)
    call = ["evaluate", "--score-log", str(tmp_path), "--outcomes", str(tmp_path / "chosen.csv")]
    said = CliRunner().invoke(app, [*call, "--bundle", str(tmp_path / "bundle")]).output
    assert f"ranked by the bundle: 1 by {mine}" in said and "other bundles ranked them: 1 by aa11" in said
    refused = CliRunner().invoke(app, ["evaluate", "--bundle", str(tmp_path / "bundle")])
    assert isinstance(refused.exception, ConfigError) and "--bundle" in str(refused.exception)


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


def test_interleaved_lists_are_judged_by_whose_items_were_chosen(tmp_path):
    """Each user has a list a, b, c of the teams new, old, new, chooses a and, every fourth user, b instead."""
    entries = [entry(number, f"u{number}", teams=("new", "old", "new")) for number in range(80)]
    alone = [entry(100 + number, f"u{number}") for number in range(9)]
    pq.write_table(table_of([*entries, *alone]), tmp_path / "scores-1.parquet")
    chosen = [(f"u{at}", "b" if at % 4 == 0 else "a", START + 3600 * at + 60) for at in range(80)]
    report = judge_log(tmp_path, outcomes(*chosen))
    found = report.interleaving
    assert (found.a, found.b, found.wins_a, found.wins_b, found.ties) == ("new", "old", 60, 20, 0)
    assert found.decided and found.by_user.low > 0.5 and found.by_user.mean == found.preference == 0.75
    assert "interleaved: new wins 60, old 20" in report.summary() and "new is preferred" in report.summary()
    assert report.values[0].ips.n == 9  # no other order is told from lists that were drawn
    only = judge_log(tmp_path, outcomes(*chosen), k=1).interleaving
    assert (only.wins_a, only.wins_b, only.ties) == (60, 0, 20)


def test_lists_of_two_interleavings_are_refused(tmp_path):
    entries = [entry(0, teams=("new", "old", "new")), entry(1, teams=("newest", "old", "old"))]
    pq.write_table(table_of(entries), tmp_path / "scores-1.parquet")
    with pytest.raises(DataError, match="needs two orders, the score log holds"):
        judge_log(tmp_path, outcomes(("u", "a", START + 1)))


def test_folders_without_a_log_are_refused(tmp_path):
    with pytest.raises(DataError, match="holds no score log"):
        read_score_log(tmp_path)
    pd.DataFrame({"x": [1]}).to_parquet(tmp_path / "scores-1.parquet")
    with pytest.raises(DataError, match="request_id"):
        read_score_log(tmp_path)


def test_the_command_prints_the_report(tmp_path):
    pq.write_table(table_of([entry(number, f"u{number}") for number in range(9)]), tmp_path / "scores-1.parquet")
    outcomes(("u1", "a", START + 3700), ("u2", "z", START)).to_csv(tmp_path / "chosen.csv", index=False)
    flags = ["evaluate", "--score-log", str(tmp_path), "--outcomes", str(tmp_path / "chosen.csv")]
    said = CliRunner().invoke(app, flags)
    assert said.exit_code == 0, said.output
    assert "9 rankings of 9 users, 1 of 2 outcomes joined (1 were not shown" in said.output
    alone = CliRunner().invoke(app, flags[:3])
    assert "go together" in str(alone.exception)
