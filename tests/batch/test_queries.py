"""Offline runs of lists with queries: the same as `Reranker.rerank` with them."""

import pandas as pd
import pytest

from reranker import Reranker
from tests.batch.helpers import offline, ranking
from tests.cli.command import refused, run

WORDS = ("zorblax", "mipfen", None)


@pytest.fixture
def asked(candidates):
    """The first third of the users asks for one taste, the second for another, the rest for nothing."""
    number = candidates["user_id"].str[1:].astype(int)
    return candidates.assign(query=[WORDS[user // 20] for user in number])


@pytest.fixture
def expected(bundle, candidates, asked):
    queries = {user: text for user, text in zip(asked["user_id"], asked["query"], strict=True) if isinstance(text, str)}
    return Reranker.load(bundle).rerank(candidates, order="baseline", queries=queries).to_frame()


@pytest.mark.parametrize("name", ["asked.parquet", "asked.csv"])
def test_an_offline_run_reads_the_column(bundle, folder, asked, expected, candidates, name):
    (asked.to_csv if name.endswith("csv") else asked.to_parquet)(folder / name, index=False)
    summary = offline(bundle, folder, name).run()
    assert summary["unused_columns"] == []
    pd.testing.assert_frame_equal(ranking(folder), expected, check_dtype=False)
    without = Reranker.load(bundle).rerank(candidates, order="baseline").to_frame()
    differs = (expected["item_id"] != without["item_id"]).to_numpy()
    of_none = (expected["user_id"].str[1:].astype(int) >= 40).to_numpy()
    assert differs[~of_none].any() and not differs[of_none].any()


def test_rerank_of_a_table_reads_the_column(bundle, folder, asked, expected):
    asked.to_csv(folder / "asked.csv", index=False)
    flags = ("--bundle", bundle, "--candidates", folder / "asked.csv", "--order", "baseline")
    said, _ = run("rerank", *flags, "--out", folder / "ranked.parquet")
    assert "not used" not in said
    pd.testing.assert_frame_equal(pd.read_parquet(folder / "ranked.parquet"), expected, check_dtype=False)
    asked.assign(query=range(len(asked))).to_csv(folder / "many.csv", index=False)
    message = refused("rerank", *flags[:2], "--candidates", folder / "many.csv", "--out", folder / "other.parquet")
    assert "a list has one query" in message


def test_texts_of_digits_are_queries_as_they_are(bundle, folder, candidates):
    digits = candidates.assign(query="007")
    digits.to_csv(folder / "digits.csv", index=False)
    offline(bundle, folder, "digits.csv").run()
    queries = dict.fromkeys(candidates["user_id"], "007")
    expected = Reranker.load(bundle).rerank(candidates, order="baseline", queries=queries).to_frame()
    pd.testing.assert_frame_equal(ranking(folder), expected, check_dtype=False)
