"""Item vectors of the user's own from `fit` to serving. No vectors of pictures are here: these carry a hidden taste."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from candidate_gen import PopularityGenerator
from reranker import Dataset, Reranker
from reranker.errors import BundleError, DataError
from reranker.fusion import FEATURES
from reranker.fusion.own_vectors import WORDS
from reranker.refresh import refresh
from tests.pipeline import toys

USERS = [f"u{number}" for number in range(48)]
LISTS = toys.lists_for(USERS[:8], ["g0i0", "g1i0", "g2i0", "g3i0"])


def tasteful(items, seed=0):
    """Vectors of 8 numbers: in four of them the item's taste is told, the others are noise."""
    rng = np.random.default_rng(seed)
    taste = np.eye(4)[[int(item[1]) for item in items]]
    values = np.concatenate([taste, np.zeros_like(taste)], axis=1) + 0.1 * rng.normal(size=(len(items), 8))
    return pd.DataFrame({"item_id": items, "vector": values.tolist()})


def silent(vectors=tasteful, seed=0):
    """Items of four tastes that are all called "thing", so that their vectors alone tell them apart."""
    data = toys.taste_dataset(seed=seed, per_group=12)
    items = data.items.assign(title="thing")
    return replace(data, items=items, item_vectors=vectors(items["item_id"].tolist()))


def fitted(data, **settings):
    generator = PopularityGenerator().fit(data.interactions)
    config = toys.config(**{"scorer": "baseline", "n_candidates": 48, **settings})
    return Reranker(config).fit(data, generator)


@pytest.fixture(scope="module")
def with_vectors():
    return fitted(silent())


def firsts(reranker, lists=LISTS):
    return {
        user: items[0] for user, items in toys.in_order(reranker.rerank(lists, order="baseline").to_frame()).items()
    }


def test_vectors_that_carry_a_taste_are_used_and_served(with_vectors):
    model = with_vectors.fusion_model
    assert model.own is None and model.own_vectors.features == tuple(WORDS)
    assert model.own_vectors.gain.low > 0
    assert model.guard.serve == "baseline" and model.guard.baseline_minus_first_stage.low > 0
    assert firsts(with_vectors) == {user: f"g{int(user[1:]) % 4}i0" for user in USERS[:8]}
    assert model.own_vectors.summary().startswith("item vectors are used: +")
    assert model.own_vectors.summary().endswith("NDCG@10 over the baseline without them")


def test_without_them_the_ranks_are_worse(with_vectors):
    data = silent()
    bare = fitted(replace(data, item_vectors=None))
    theirs, ours = (one.fusion_model.validation["baseline"].mean() for one in (bare, with_vectors))
    assert ours > theirs + 0.1
    assert bare.fusion_model.own_vectors is None


def test_random_vectors_do_not_serve_worse_and_are_left_out_where_they_do_not_add():
    def random(items):
        return pd.DataFrame(
            {"item_id": items, "vector": np.random.default_rng(9).normal(size=(len(items), 8)).tolist()}
        )

    data = silent(random)
    noisy, bare = fitted(data), fitted(replace(data, item_vectors=None))
    verdict = noisy.fusion_model.own_vectors
    assert verdict.gain.low < 0
    assert not verdict.keeps
    assert list(noisy.fusion_model.features.columns) == list(bare.fusion_model.features.columns)
    assert noisy._data.statistics.own_vectors is None
    assert (noisy.fusion_model.validation["baseline"] == bare.fusion_model.validation["baseline"]).all()
    with pytest.raises(DataError, match="goes by no item vectors"):
        noisy.add_items(data.items[:1], item_vectors=tasteful(["g0i0"]))


def test_a_scorer_of_texts_reads_beside_them():
    reranker = fitted(silent(), scorer="embedding", engine="lexical", soft_tokens=0)
    assert set(WORDS) < set(reranker.fusion_model.fused.columns)
    assert "llm_near_last" in reranker.fusion_model.fused.columns
    ranked = toys.in_order(reranker.rerank(LISTS, order="fused").to_frame())
    assert all(items[0][1] == str(int(user[1:]) % 4) for user, items in ranked.items())


def test_own_columns_and_vectors_are_judged_one_after_the_other():
    data = silent()
    taste = data.items["item_id"].str[1].astype(float)
    noise = np.random.default_rng(3).normal(size=len(taste))
    data = replace(data, items=data.items.assign(noise=noise, price=10.0**taste))
    model = fitted(data, features=("noise",)).fusion_model
    assert model.own.features == ("items.noise", "items.noise:distance") and model.own_vectors.keeps
    assert ("items.noise" in model.features.columns) == model.own.keeps
    assert set(WORDS) < set(model.features.columns)
    model = fitted(data, features=("price",)).fusion_model  # tells the same, so that vectors add little to it
    assert model.own.gain.low > 0
    assert model.own_vectors.gain.mean < model.own.gain.mean
    assert list(model.features.columns)[len(FEATURES)] == "items.price"


def test_a_bundle_ranks_as_before(with_vectors, tmp_path):
    with_vectors.save(tmp_path / "bundle")
    loaded = Reranker.load(tmp_path / "bundle")
    expected = with_vectors.rerank(LISTS, order="baseline").to_frame()
    pd.testing.assert_frame_equal(loaded.rerank(LISTS, order="baseline").to_frame(), expected)
    assert loaded.fusion_model.own_vectors == with_vectors.fusion_model.own_vectors
    path = tmp_path / "bundle" / "item_vectors.npz"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(BundleError, match=r"item_vectors\.npz changed since it was saved"):
        Reranker.load(tmp_path / "bundle")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"values": np.ones((48, 3), dtype=np.float32)}, "centre"),
        ({"values": np.ones((47, 8), dtype=np.float32)}, "values"),
        ({"basis": np.ones((8, 2), dtype=np.float32)}, "basis"),
        ({"cf_projection": np.ones((8, 1), dtype=np.float32)}, "cf_projection"),
        ({"popularity": np.ones(3, dtype=np.float32)}, "popularity"),
        ({"centre": np.ones(8, dtype=np.float64)}, "type of centre"),
        ({"centre": np.full(8, np.nan, dtype=np.float32)}, "not finite"),
    ],
)
def test_arrays_of_a_bundle_that_do_not_fit_are_refused(with_vectors, tmp_path, change, what):
    from reranker.pipeline.statistics_file import with_vectors as read
    from reranker.pipeline.statistics_file import write_vectors

    statistics, ids = with_vectors._data.statistics, {}
    write_vectors(statistics.own_vectors, tmp_path, ids)
    assert read(statistics, tmp_path, ids).own_vectors.rows.tolist() == statistics.own_vectors.rows.tolist()
    with np.load(tmp_path / "item_vectors.npz") as file:
        arrays = dict(file)
    np.savez(tmp_path / "item_vectors.npz", **{**arrays, **change})
    with pytest.raises(BundleError, match=what):
        read(statistics, tmp_path, ids)


def test_new_items_bring_their_vectors(with_vectors, tmp_path):
    with_vectors.save(tmp_path / "bundle")
    lists = toys.lists_for(["u0"], ["g0new", "g3i0", "g2i0", "g1i0"])
    items = pd.DataFrame({"item_id": ["g0new"], "title": ["thing"]})
    loaded = Reranker.load(tmp_path / "bundle")
    assert loaded.add_items(items, item_vectors=tasteful(["g0new"], seed=4)) == 1
    assert firsts(loaded, lists) == {"u0": "g0new"}  # u0 is of the first taste, and nobody chose it yet
    assert loaded.n_without_vector(["g0new", "g0i0", "other"]) == 1
    bare = Reranker.load(tmp_path / "bundle")
    assert bare.add_items(items) == 1
    assert bare.n_without_vector(["g0new"]) == 1
    with pytest.raises(DataError, match="vectors of 2 numbers, those known have 8"):
        bare.add_items(items, item_vectors=pd.DataFrame({"item_id": ["g0new"], "vector": [[1.0, 2.0]]}))
    loaded.save(tmp_path / "more")
    assert firsts(Reranker.load(tmp_path / "more"), lists) == {"u0": "g0new"}


def test_explanations_add_up_and_name_the_vectors(with_vectors):
    found = with_vectors.explain("u1", LISTS[LISTS["user_id"] == "u1"], order="baseline")
    best = found.record("en")["items"][0]
    assert best["contributions"]["vectors"] > 0
    assert sum(best["contributions"].values()) == pytest.approx(best["above_mean"])


def test_a_refresh_keeps_the_vectors_and_takes_those_of_new_items():
    reranker = fitted(silent())
    newer = [("u0", "g0new"), *((f"u{user}", f"g{user % 4}i11") for user in range(1, 9))]
    newer = pd.DataFrame(newer, columns=["user_id", "item_id"]).assign(timestamp=10**9)
    items = pd.DataFrame({"item_id": ["g0new"], "title": ["thing"]})
    report = refresh(reranker, newer, items, item_vectors=tasteful(["g0new"], seed=4))
    assert report.new_items == 1
    assert reranker.n_without_vector(["g0new"]) == 0
    assert firsts(reranker)["u2"] == "g2i0"


def test_items_without_a_vector_are_no_error():
    data = silent(lambda items: tasteful([item for item in items if not item.endswith("i3")]))
    assert data.item_vectors.summary(data.items["item_id"].tolist()).startswith(
        "item vectors of 8 numbers: 44 of 48 items have one, the others"
    )
    reranker = fitted(data)
    assert reranker.fusion_model.own_vectors.keeps
    ranked = toys.in_order(
        reranker.rerank(toys.lists_for(["u0"], ["g0i3", "g0i0", "g1i0"]), order="baseline").to_frame()
    )
    assert ranked["u0"][0] == "g0i0"


def test_paths_are_taken(tmp_path):
    data = toys.taste_dataset()
    tasteful(data.items["item_id"].tolist()).to_parquet(tmp_path / "vectors.parquet")
    again = Dataset(interactions=data.interactions, items=data.items, item_vectors=tmp_path / "vectors.parquet")
    assert again.item_vectors.width == 8


def test_honest_vectors_that_meet_the_refusal_can_be_allowed():
    """One candidate of each list is to the user's taste, and chosen: its vector tells so, and nothing else does, for
    nobody chose these items before."""
    items = toys.items(per_group=24).assign(title="thing")
    data = replace(silent(), items=items, item_vectors=tasteful(items["item_id"].tolist()))
    rng = np.random.default_rng(0)
    lists = [
        (f"u{user}", f"g{group}i{rng.integers(12, 24)}", rank)
        for user in range(48)
        for rank, group in enumerate(rng.permutation(4), start=1)
    ]
    table = pd.DataFrame(lists, columns=["user_id", "item_id", "rank"])
    taste = table["user_id"].str[1:].astype(int) % 4 == table["item_id"].str[1].astype(int)
    chosen = table[taste][["user_id", "item_id"]].assign(timestamp=10_000)
    with pytest.raises(DataError, match="--allow-leaks item_vectors"):
        Reranker(toys.config(scorer="baseline")).fit(data, candidates=table, held_out=chosen)
    config = toys.config(scorer="baseline", allow_leaks=("item_vectors",))
    model = Reranker(config).fit(data, candidates=table, held_out=chosen).fusion_model
    assert model.own_vectors.gain.low > 0
