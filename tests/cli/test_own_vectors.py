"""`--item-vectors` in fit, data add-items, refresh and evaluate."""

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from reranker import Reranker
from reranker.cli.app import app
from reranker.errors import ConfigError, DataError
from tests.pipeline.test_own_vectors import silent, tasteful

QUICK = ("--scorer", "baseline", "--generator", "popularity", "--n", 48)


@pytest.fixture(scope="module")
def tables(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tables")
    data = silent()
    for name in ("interactions", "items"):
        getattr(data, name).to_csv(folder / f"{name}.csv", index=False)
    vectors = tasteful([*data.items["item_id"], "g1gone"])
    np.savez(folder / "clip.npz", item_id=vectors["item_id"].to_numpy("U"), vector=np.array(vectors["vector"].tolist()))
    return folder


def run(*arguments):
    """What a command prints, in this process; its error is raised."""
    done = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def flags(folder, *names):
    return [part for name in names for part in (f"--{name}", folder / f"{name}.csv")]


def test_fit_says_what_the_vectors_are_worth_and_new_items_bring_theirs(tables, tmp_path):
    known = flags(tables, "interactions", "items")
    bundle = tmp_path / "bundle"
    said = run("fit", *known, *QUICK, "--item-vectors", tables / "clip.npz", "--out", bundle)
    assert "item vectors of 8 numbers: 48 of 48 items have one; not used, of items in no table: 1" in said
    assert "item vectors are used: +" in said
    pd.DataFrame({"item_id": ["g0new", "g1new"], "title": "thing"}).to_csv(tmp_path / "new.csv", index=False)
    tasteful(["g0new"], seed=4).to_parquet(tmp_path / "new.parquet")
    new = ("--items", tmp_path / "new.csv", "--item-vectors", tmp_path / "new.parquet")
    said = run("data", "add-items", "--bundle", bundle, *new, "--overwrite")
    assert "1 of these 2 items have no item vector (--item-vectors)" in said
    assert Reranker.load(bundle).n_without_vector(["g0new", "g1new"]) == 1
    later = [(f"u{user}", f"g{user % 4}i11", 10**9) for user in range(8)]
    pd.DataFrame(later, columns=["user_id", "item_id", "timestamp"]).to_csv(tmp_path / "later.csv", index=False)
    run("refresh", "--bundle", bundle, "--interactions", tmp_path / "later.csv", *new)
    with pytest.raises(ConfigError, match="give the items table, too"):
        run(*("refresh", "--bundle", bundle, "--interactions", tmp_path / "later.csv"), *new[2:])


def test_fit_refuses_vectors_of_other_items(tables, tmp_path):
    tasteful(["g1zz"]).to_parquet(tmp_path / "other.parquet")
    known = flags(tables, "interactions", "items")
    with pytest.raises(DataError, match="1 of 1 rows hold an id that is not in the item table"):
        run("fit", *known, *QUICK, "--item-vectors", tmp_path / "other.parquet", "--out", tmp_path / "b")


@pytest.mark.parametrize("carries", [True, False])
def test_evaluate_judges_with_vectors_where_fit_would_use_them(tables, tmp_path, carries):
    known = flags(tables, "interactions", "items")
    asked = ("--generator", "popularity", "--n", 48, "--systems", "baseline", "--protocol", "end_to_end")
    with np.load(tables / "clip.npz") as file:
        ids, vectors = file["item_id"], file["vector"]
    if not carries:
        vectors = np.random.default_rng(9).normal(size=vectors.shape)
    np.savez(tmp_path / "given.npz", item_id=ids, vector=vectors)

    def ndcg(out, *more):
        said = run("evaluate", *known, *asked, "--out", tmp_path / out, *more)
        rows = pd.read_parquet(tmp_path / out / "results.parquet")
        found = rows[(rows["metric"] == "ndcg") & (rows["k"] == 10) & (rows["system"] == "baseline")]
        return float(found["value"].iloc[0]), said

    bare, _ = ndcg("bare")
    ours, said = ndcg("ours", "--item-vectors", tmp_path / "given.npz")
    assert f"item vectors {'are' if carries else 'are not'} used" in said
    assert (ours != bare) == carries
