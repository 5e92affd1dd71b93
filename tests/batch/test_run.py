"""An offline run gives what `Reranker.rerank` gives, part by part, from any file, and loses no row."""

import json

import numpy as np
import pandas as pd
import pytest

from reranker import Reranker
from reranker.batch import Columns, Engines
from reranker.errors import ConfigError, DataError, RerankerError
from tests.batch.conftest import PART_USERS
from tests.batch.helpers import manifest, offline, ranking, rejected, write


def in_memory(bundle, candidates, **options):
    return Reranker.load(bundle).rerank(candidates, order="baseline", **options).to_frame()


def same(left, right):
    """Equal, but for the last bit of scores: BLAS adds up matrices of other heights in another order."""
    pd.testing.assert_frame_equal(left, right, rtol=1e-12)


def test_the_parts_are_what_rerank_returns(bundle, folder, candidates):
    summary = offline(bundle, folder).run()
    same(ranking(folder), in_memory(bundle, candidates))
    parts = sorted(path.name for path in (folder / "out" / "ranking").iterdir())
    assert parts == [f"part-{number:05d}.parquet" for number in range(9)]  # 60 users by 7
    assert {name: summary[name] for name in ("rows", "ranked", "written", "users", "parts", "served")} == {
        "rows": 300,
        "ranked": 300,
        "written": 300,
        "users": 60,
        "parts": 9,
        "served": ["baseline"],
    }
    assert summary["unknown_users"] == 60  # the bundle calls them u0, u1, ...
    assert summary == json.loads((folder / "out" / "summary.json").read_text())
    assert rejected(folder).empty
    assert sum(part["rows"] for part in manifest(folder)["parts"]) == 300


def test_the_llm_gives_the_same_scores_part_by_part(bundle, folder, candidates):
    offline(bundle, folder, order="fused", part_users=25).run()
    expected = Reranker.load(bundle).rerank(candidates, order="fused").to_frame()
    pd.testing.assert_series_equal(ranking(folder)["score"], expected["score"])


def test_k_cuts_what_is_written_and_not_what_is_counted(bundle, folder):
    summary = offline(bundle, folder, k=2).run()
    assert (summary["ranked"], summary["written"]) == (300, 120)
    assert ranking(folder).groupby("user_id").size().eq(2).all()


@pytest.mark.parametrize("row_group_size", [1, 3, 1000])
def test_files_in_a_folder_are_one_table_whatever_their_row_groups(bundle, tmp_path, candidates, row_group_size):
    folder = tmp_path / "in"
    (folder / "deeper").mkdir(parents=True)
    write(candidates[:133], folder / "a.parquet", row_group_size)  # the cut goes through a user
    write(candidates[133:], folder / "deeper" / "b.parquet", row_group_size)
    (folder / "_SUCCESS").touch()
    (folder / ".hidden.parquet").write_text("not a table")
    offline(bundle, tmp_path, "in").run()
    same(ranking(tmp_path), in_memory(bundle, candidates))


def test_unsorted_rows_are_sorted_and_keep_the_order_of_equal_scores(bundle, folder, candidates):
    shuffled = candidates.sample(frac=1, random_state=1).assign(score=1.0)
    write(shuffled, folder / "candidates.parquet")
    offline(bundle, folder, order="first_stage").run()
    expected = shuffled.sort_values("user_id", kind="stable")[["user_id", "item_id"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(ranking(folder)[["user_id", "item_id"]], expected)
    assert not (folder / "out" / "_run" / "candidates").exists()  # the sorted copy is gone


def test_whole_numbers_stay_what_they_are(bundle, folder):
    rows = [(2**60 + user, item, 1.0) for user in (5, 3) for item in ("g0i1", "g1i1")]
    table = pd.DataFrame(rows, columns=["user_id", "item_id", "score"])
    write(table, folder / "candidates.parquet")
    write(table[["user_id", "item_id"]], folder / "newer.parquet")  # the bundle's users have texts for ids
    offline(bundle, folder, order="first_stage", interactions=folder / "newer.parquet").run()
    assert ranking(folder)["user_id"].tolist() == [2**60 + 3] * 2 + [2**60 + 5] * 2


@pytest.mark.parametrize("rows", [[("u1", 7, 1.0), ("u1", 8, 1.0)], [(1, "g0i1", 1.0), (1, "g1i1", 1.0)]])
def test_ids_of_another_type_than_the_bundles_are_refused(bundle, folder, rows):
    write(pd.DataFrame(rows, columns=["user_id", "item_id", "score"]), folder / "candidates.parquet")
    with pytest.raises(RerankerError, match="of kind number, those known so far of kind text, so none would be found"):
        offline(bundle, folder).run()


def test_own_names_of_columns(bundle, folder, candidates):
    own = candidates.rename(columns={"user_id": "customer", "item_id": "sku", "score": "s"}).assign(rank="no number")
    write(own, folder / "candidates.parquet")
    offline(bundle, folder, columns=Columns(user="customer", item="sku", score="s")).run()
    same(ranking(folder), in_memory(bundle, candidates))


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        (Columns(user="customer"), "lacks the column 'customer'"),
        (Columns(score="no_such"), "lacks the column 'no_such'"),
    ],
)
def test_a_missing_column_is_named(bundle, folder, columns, words):
    with pytest.raises(DataError, match=words):
        offline(bundle, folder, columns=columns).run()


def test_no_score_and_no_rank(bundle, folder, candidates):
    write(candidates.drop(columns="score"), folder / "candidates.parquet")
    with pytest.raises(DataError, match="needs a 'score' or a 'rank' column"):
        offline(bundle, folder).run()


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".tsv"])
def test_csv_gives_what_parquet_gives(bundle, folder, candidates, suffix):
    name = f"candidates{suffix}"
    candidates.to_csv(folder / name, index=False, sep="\t" if suffix == ".tsv" else ",")
    offline(bundle, folder, name).run()
    same(ranking(folder), in_memory(bundle, candidates))


def test_csv_ids_that_are_all_numbers_are_texts_where_the_bundles_are(bundle, tmp_path):
    (tmp_path / "c.csv").write_text("user_id,item_id,score\n1,7,0.5\n1,g0i1,0.25\n2,g1i1,0.5\n")
    offline(bundle, tmp_path, "c.csv", order="first_stage").run()
    assert ranking(tmp_path)["user_id"].tolist() == ["1", "1", "2"]
    assert ranking(tmp_path)["item_id"].tolist() == ["7", "g0i1", "g1i1"]


def test_csv_ids_with_leading_zeros_stay_texts(bundle, tmp_path):
    (tmp_path / "c.csv").write_text("user_id,item_id,score\n007,7,0.5\n7,07,0.25\n8,g0i1,1\n8,g1i1,0.5\n")
    offline(bundle, tmp_path, "c.csv", order="first_stage").run()
    assert ranking(tmp_path)["user_id"].tolist() == ["007", "7", "8", "8"] and rejected(tmp_path).empty
    assert ranking(tmp_path)["item_id"].tolist() == ["7", "07", "g0i1", "g1i1"]


def test_newer_histories_replace_those_of_the_bundle(bundle, folder, candidates):
    users = candidates["user_id"].unique()[::2]
    newer = pd.DataFrame(
        [(user, f"g{number % 4}i{step}", step) for number, user in enumerate(users) for step in range(4)],
        columns=["user_id", "item_id", "timestamp"],
    ).sample(frac=1, random_state=0)
    write(newer, folder / "newer.parquet")
    summary = offline(bundle, folder, interactions=folder / "newer.parquet").run()
    assert summary["unknown_users"] == 30
    with_newer = in_memory(bundle, candidates, interactions=newer)
    same(ranking(folder), with_newer)
    assert not np.allclose(with_newer["score"], in_memory(bundle, candidates)["score"])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda frame: frame.assign(user_id=range(len(frame))), "nobody would be found"),
        (lambda frame: frame.assign(item_id=[None, *frame["item_id"][1:]]), "1 rows of .* have no item_id"),
        (
            lambda frame: frame.assign(item_id="z" + frame["item_id"]),
            "interactions .*is not in the bundle's item table",
        ),
    ],
)
def test_interactions_that_cannot_be_used_stop_the_run_before_it_begins(bundle, folder, candidates, change, words):
    write(change(candidates[["user_id", "item_id"]]), folder / "newer.parquet")
    with pytest.raises(DataError, match=words):
        offline(bundle, folder, interactions=folder / "newer.parquet").run()
    assert not (folder / "out" / "ranking").exists()


def test_engine_options_reach_the_engine(bundle, folder):
    with pytest.raises(ConfigError, match="no_such_option"):
        offline(bundle, folder, order="fused", engines=Engines(options={"no_such_option": 1})).run()
    offline(bundle, folder, order="fused", engines=Engines(options={"max_length": 4096})).run(resume=True)


@pytest.mark.parametrize("settings", [{"part_users": 0}, {"k": 0}, {"workers": 0}])
def test_impossible_settings(bundle, folder, settings):
    with pytest.raises(ConfigError, match="must be at least 1"):
        offline(bundle, folder, **settings)


def test_an_empty_table_and_a_missing_one(bundle, folder, candidates):
    write(candidates[:0], folder / "candidates.parquet")
    with pytest.raises(DataError, match="is empty"):
        offline(bundle, folder).run()
    with pytest.raises(DataError, match="does not exist"):
        offline(bundle, folder, "no.parquet").run()


def test_a_folder_that_holds_something_else_is_left_alone(bundle, folder):
    (folder / "out").mkdir()
    (folder / "out" / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="is no offline run"):
        offline(bundle, folder).run(force=True)
    assert [path.name for path in (folder / "out").iterdir()] == ["thesis.txt"]


def test_parts_hold_whole_users(bundle, folder):
    offline(bundle, folder).run()
    for part in sorted((folder / "out" / "ranking").iterdir())[:-1]:
        assert pd.read_parquet(part).groupby("user_id").size().tolist() == [5] * PART_USERS


@pytest.mark.parametrize(("out", "refused"), [("in/out", True), ("in", True), ("in/_out", False), ("beside", False)])
def test_a_run_whose_rankings_would_be_read_as_candidates_is_refused(bundle, tmp_path, candidates, out, refused):
    (tmp_path / "in").mkdir()
    write(candidates, tmp_path / "in" / "a.parquet")
    if refused:
        with pytest.raises(ConfigError, match="lies in the folder of the candidates"):
            offline(bundle, tmp_path, "in", out)
    else:
        offline(bundle, tmp_path, "in", out).run()
        assert len(ranking(tmp_path, out)) == len(candidates)


def test_a_quote_that_would_swallow_rows_costs_its_own_line(bundle, tmp_path):
    """Once: 2 of 4 rows, no user 259, exit 0."""
    rows = 'user_id,item_id,score,title\n817,g0i1,0.9,A\n817,g1i1,0.8,"B\n259,g0i1,0.9,C\n259,g1i1,0.8,D\n'
    (tmp_path / "in.csv").write_text(rows)
    summary = offline(bundle, tmp_path, "in.csv", order="first_stage").run()
    assert (summary["rows"], summary["ranked"], summary["rejected_rows"]) == (4, 3, 1)
    assert ranking(tmp_path)["user_id"].tolist() == ["259", "259", "817"]
    found = rejected(tmp_path).iloc[0]
    assert (found["row"], found["line_number"], found["line"]) == (1, 3, '817,g1i1,0.8,"B')
