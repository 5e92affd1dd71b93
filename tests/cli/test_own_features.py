"""`fit --features --users`, and `rerank` of a table with the columns that the bundle needs."""

import pandas as pd

from tests.cli.command import refused, run
from tests.pipeline.test_own_features import priced, served_lists


def test_fit_says_what_own_features_are_worth(tmp_path):
    data = priced()
    for name in ("interactions", "items", "users"):
        getattr(data, name).to_csv(tmp_path / f"{name}.csv", index=False)
    tables = [part for name in ("interactions", "items", "users") for part in (f"--{name}", tmp_path / f"{name}.csv")]
    asked = ("--scorer", "baseline", "--generator", "popularity", "--n", 48)
    said, _ = run("fit", *tables, *asked, "--features", "price, users.segment", "--out", tmp_path / "bundle")
    assert "own features are used: +" in said
    assert "columns that could be features (--features): items.brand" in said
    message = refused("fit", *tables, *asked, "--features", "prize", "--out", tmp_path / "other")
    assert "no table has a column 'prize'" in message


def test_rerank_reads_the_columns_of_candidates(tmp_path):
    data, lists, chosen = served_lists()
    data.interactions.to_parquet(tmp_path / "interactions.parquet")
    data.items.to_parquet(tmp_path / "items.parquet")
    lists.assign(other=1).to_csv(tmp_path / "lists.csv", index=False)
    lists.drop(columns="ctr").to_parquet(tmp_path / "bare.parquet")
    chosen.to_parquet(tmp_path / "chosen.parquet")
    tables = ("--interactions", tmp_path / "interactions.parquet", "--items", tmp_path / "items.parquet")
    served = ("--candidates", tmp_path / "lists.csv", "--held-out", tmp_path / "chosen.parquet")
    fit = ("fit", *tables, *served, "--scorer", "baseline", "--features", "ctr", "--out", tmp_path / "bundle")
    said, _ = run(*fit)
    assert "could be features" not in said  # the other column holds one value only
    lists.assign(other=range(len(lists))).to_csv(tmp_path / "more.csv", index=False)
    served = ("--candidates", tmp_path / "more.csv", *served[2:])
    said, _ = run("fit", *tables, *served, "--scorer", "baseline", "--out", tmp_path / "without")
    assert "columns that could be features (--features): candidates.ctr, candidates.other" in said
    flags = ("--bundle", tmp_path / "bundle", "--out", tmp_path / "ranked.parquet", "--order", "baseline")
    said, _ = run("rerank", *flags, "--candidates", tmp_path / "lists.csv")
    assert "columns of the candidates that were not used: other" in said
    ranked = pd.read_parquet(tmp_path / "ranked.parquet")
    first = ranked[ranked["rank"] == 1].merge(lists, on=["user_id", "item_id"])
    assert first["ctr"].mean() > lists["ctr"].mean()
    assert "lacks the column 'ctr'" in refused("rerank", *flags, "--candidates", tmp_path / "bare.parquet")
