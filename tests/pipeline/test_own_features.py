"""Own features from `fit` to serving: in Python, in bundles, in offline runs."""

import numpy as np
import pandas as pd
import pytest

from candidate_gen import PopularityGenerator
from reranker import Dataset, Reranker
from reranker.batch import OfflineRun
from reranker.errors import BundleError, ConfigError, DataError
from reranker.refresh import refresh
from tests.pipeline import toys

USERS = [f"u{number}" for number in range(48)]


def priced(seed=0):
    """Items of four tastes at four prices, and users who always choose at theirs: only the price tells what is next."""
    data = toys.taste_dataset(seed=seed, per_group=12)
    taste = data.items["item_id"].str[1].astype(int)
    items = data.items.assign(price=[10.0**one for one in taste], title="thing", brand=np.where(taste < 2, "x", "y"))
    users = pd.DataFrame({"user_id": USERS, "segment": [f"s{number % 4}" for number in range(48)]})
    return Dataset(interactions=data.interactions, items=items, domain="toy", users=users)


def fitted(features, data=None, **settings):
    data = data or priced()
    generator = PopularityGenerator().fit(data.interactions)
    config = toys.config(scorer="baseline", features=tuple(features), n_candidates=48, **settings)
    return Reranker(config).fit(data, generator)


@pytest.fixture(scope="module")
def with_price():
    return fitted(["price", "users.segment"])


LISTS = toys.lists_for(USERS[:8], ["g0i0", "g1i0", "g2i0", "g3i0"])


def test_the_guard_judges_with_and_without(with_price):
    verdict = with_price.fusion_model.own
    assert verdict.features == ("items.price", "items.price:distance", "users.segment:lift")
    assert verdict.gain.low > 0
    assert "items.price:distance" in with_price.fusion_model.features.columns
    weights = toys.weights_of(with_price.fusion_model.features)
    assert weights["items.price:distance"] < 0


def test_what_does_not_add_is_left_out_and_needs_nothing_at_serving():
    data = priced()
    noise = np.random.default_rng(5).normal(size=len(data.items))
    noisy = Dataset(interactions=data.interactions, items=data.items.assign(noise=noise), domain="toy")
    fits = [fitted(["noise"], noisy, seed=seed) for seed in range(4)]
    for one in fits:
        verdict = one.fusion_model.own
        assert verdict.keeps == ("items.noise" in one.fusion_model.features.columns)
        assert (one._data.statistics.own is not None) == verdict.keeps


def test_a_bundle_ranks_as_before(with_price, tmp_path):
    with_price.save(tmp_path / "bundle")
    loaded = Reranker.load(tmp_path / "bundle")
    expected = with_price.rerank(LISTS, order="baseline").to_frame()
    pd.testing.assert_frame_equal(loaded.rerank(LISTS, order="baseline").to_frame(), expected)
    assert loaded.fusion_model.own == with_price.fusion_model.own
    (tmp_path / "bundle" / "own_features.json").write_text("[]")
    with pytest.raises(BundleError, match="own_features"):
        Reranker.load(tmp_path / "bundle")


def test_users_columns_go_by_the_user_whoever_the_list_is_named_after(with_price):
    one = LISTS[LISTS["user_id"] == "u1"]
    history = with_price.history("u1")
    renamed = one.assign(user_id="list 7")
    expected = with_price.rerank(one, order="baseline").to_frame()["score"]
    same = with_price.rerank(
        renamed, interactions={"list 7": history}, identities={"list 7": "u1"}, order="baseline"
    ).to_frame()["score"]
    other = with_price.rerank(renamed, interactions={"list 7": history}, order="baseline").to_frame()["score"]
    assert same.to_numpy() == pytest.approx(expected.to_numpy())
    assert other.to_numpy() != pytest.approx(expected.to_numpy())


def test_explanations_add_up(with_price):
    found = with_price.explain("u1", LISTS[LISTS["user_id"] == "u1"], order="baseline")
    scores = with_price.rerank(LISTS, order="baseline").to_frame().query("user_id == 'u1'")["score"]
    for one, score in zip(found.record("en")["items"], scores, strict=True):
        assert sum(one["contributions"].values()) == pytest.approx(one["above_mean"])
        assert one["above_mean"] == pytest.approx(score - scores.mean())


def test_new_items_bring_their_values(with_price, tmp_path):
    with_price.save(tmp_path / "bundle")
    loaded = Reranker.load(tmp_path / "bundle")
    loaded.add_items(pd.DataFrame({"item_id": ["new"], "title": ["thing"], "price": [1.0], "brand": ["x"]}))
    lists = toys.lists_for(["u0"], ["new", "g3i0", "g2i0"])
    assert toys.in_order(loaded.rerank(lists, order="baseline").to_frame())["u0"][0] == "new"  # u0 chooses at 1


def served_lists(leak=False):
    """Lists with a column `ctr` that is higher for what is chosen, or for that alone."""
    data, lists, chosen = toys.cold_logs()
    pairs = pd.MultiIndex.from_frame(chosen[["user_id", "item_id"]])
    hit = pd.MultiIndex.from_frame(lists[["user_id", "item_id"]]).isin(pairs)
    noise = np.random.default_rng(0).normal(size=len(lists))
    return data, lists.assign(ctr=hit if leak else hit + noise), chosen


def test_columns_of_candidates_are_needed_at_serving(tmp_path):
    data, lists, chosen = served_lists()
    reranker = Reranker(toys.config(scorer="baseline", features=("ctr",)))
    reranker.fit(data, candidates=lists, held_out=chosen)
    assert reranker.candidate_columns == ["ctr"]
    ranked = reranker.rerank(lists, order="baseline").to_frame()
    with pytest.raises(DataError, match="lacks the column 'ctr', which the ranker was fitted with"):
        reranker.rerank(lists.drop(columns="ctr"), order="baseline")
    reranker.save(tmp_path / "bundle")
    lists.to_csv(tmp_path / "lists.csv", index=False)
    run = OfflineRun(
        bundle=tmp_path / "bundle",
        candidates=tmp_path / "lists.csv",
        out=tmp_path / "out",
        order="baseline",
        part_users=9,
    )
    summary = run.run(reranker=reranker)
    assert summary["unused_columns"] == []
    parts = pd.concat([pd.read_parquet(path) for path in sorted((tmp_path / "out" / "ranking").iterdir())])
    assert toys.in_order(parts) == toys.in_order(ranked)
    lists.drop(columns="ctr").to_parquet(tmp_path / "bare.parquet")
    with pytest.raises(DataError, match="lacks the column 'ctr'"):
        OfflineRun(bundle=tmp_path / "bundle", candidates=tmp_path / "bare.parquet", out=tmp_path / "bare").run(
            reranker=reranker
        )


def test_a_column_that_knows_the_outcome_is_refused_by_name():
    data, lists, chosen = served_lists(leak=True)
    with pytest.raises(DataError, match=r"candidates\.ctr \(AUC 1\.000\).*written after the choice"):
        Reranker(toys.config(scorer="baseline", features=("ctr",))).fit(data, candidates=lists, held_out=chosen)
    with pytest.raises(DataError, match=r"allow it: --allow-leaks candidates\.ctr, or allow_leaks="):
        Reranker(toys.config(scorer="baseline", features=("ctr",))).fit(data, candidates=lists, held_out=chosen)


@pytest.mark.parametrize("name", ["ctr", "candidates.ctr"])
def test_a_column_known_to_be_honest_may_tell_the_choice(name, caplog):
    data, lists, chosen = served_lists(leak=True)
    config = toys.config(scorer="baseline", features=("ctr",), allow_leaks=(name,))
    reranker = Reranker(config).fit(data, candidates=lists, held_out=chosen)
    assert reranker.fusion_model.own.keeps and reranker.fusion_model.own.gain.low > 0
    assert "candidates.ctr (AUC 1.000) tells the choice almost without fail and is allowed to" in caplog.text
    for unknown in ("ctx", "item_vectors"):
        with pytest.raises(ConfigError, match=f"'{unknown}' is neither a feature .* there are candidates.ctr"):
            Reranker(toys.config(scorer="baseline", features=("ctr",), allow_leaks=(unknown,))).fit(
                data, candidates=lists, held_out=chosen
            )


def test_a_refresh_keeps_the_columns():
    reranker = fitted(["price", "users.segment"])
    newer = pd.DataFrame({"user_id": ["u0", "u1"], "item_id": ["g0i11", "g1i11"], "timestamp": [10**9] * 2})
    refresh(reranker, newer)
    assert list(reranker._data.statistics.own.words) == ["items.price", "items.price:distance", "users.segment:lift"]


@pytest.mark.parametrize(
    ("features", "message"),
    [(["prcie"], "no table has a column 'prcie'"), (["ctr"], "no table has a column 'ctr'")],
)
def test_columns_that_are_nowhere_are_refused(features, message):
    with pytest.raises(ConfigError, match=message):
        fitted(features)


def test_a_user_table_has_one_row_a_user():
    data = priced()
    twice = pd.concat([data.users, data.users.head(1)])
    with pytest.raises(DataError, match=r"table 'users', column 'user_id'.*keep one row a user"):
        Dataset(interactions=data.interactions, items=data.items, users=twice)
