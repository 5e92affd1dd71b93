"""Each candidate generator against the contract, and what is particular to it."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from candidate_gen import (
    METHODS,
    ALSGenerator,
    ItemKNNGenerator,
    PopularityGenerator,
    ReciprocalRankFusion,
    load_generator,
    make_generator,
    register_generator,
)
from reranker.errors import BundleError, ConfigError
from tests.contracts.generator import GeneratorContract, checkerboard, random_interactions


class TestALS(GeneratorContract):
    @pytest.fixture
    def stage(self) -> ALSGenerator:
        return ALSGenerator(factors=8)

    def test_the_seed_decides(self) -> None:
        table = random_interactions()
        first, same, other = (ALSGenerator(factors=8, seed=seed).fit(table).item_factors([1, 2]) for seed in (0, 0, 1))
        np.testing.assert_array_equal(first, same)
        assert np.abs(first - other).max() > 1e-3

    def test_scores_are_products_of_the_factors(self) -> None:
        stage = ALSGenerator(factors=8).fit(random_interactions())
        frame = stage.recommend([4, 9], n=6)
        expected = (stage.user_factors(frame["user_id"]) * stage.item_factors(frame["item_id"])).sum(axis=1)
        np.testing.assert_allclose(frame["score"], expected, atol=1e-6)

    def test_unknown_ids_have_zero_factors(self) -> None:
        stage = ALSGenerator(factors=8).fit(checkerboard())
        factors = stage.item_factors(["nowhere", "i3"])
        assert factors.shape == (2, 8)
        assert not factors[0].any()
        assert factors[1].any()
        assert stage.user_factors(["nobody"]).tolist() == [[0.0] * 8]
        assert stage.item_factors([]).shape == (0, 8)

    def test_factors_survive_saving(self, tmp_path: Path) -> None:
        stage = ALSGenerator(factors=8).fit(checkerboard())
        stage.save(tmp_path)
        loaded = ALSGenerator.load(tmp_path)
        np.testing.assert_array_equal(loaded.item_factors(stage.item_ids), stage.item_factors(stage.item_ids))
        np.testing.assert_array_equal(loaded.user_factors(stage.user_ids), stage.user_factors(stage.user_ids))
        assert loaded.settings == stage.settings

    def test_weights_count_unless_they_are_told_not_to(self) -> None:
        table = random_interactions()
        weighted = table.assign(weight=np.arange(len(table)) % 5 + 1.0)
        users = table["user_id"].unique()
        plain = ALSGenerator(factors=8).fit(table).user_factors(users)
        ignored = ALSGenerator(factors=8, use_weights=False).fit(weighted).user_factors(users)
        np.testing.assert_array_equal(ignored, plain)
        heavy = ALSGenerator(factors=8).fit(weighted).user_factors(users)
        assert np.abs(heavy - plain).max() > 1e-3

    def test_a_weight_of_zero_is_seen_but_no_evidence(self) -> None:
        table = checkerboard().assign(weight=1.0)
        table.loc[table["user_id"] == 0, "weight"] = 0.0
        stage = ALSGenerator(factors=8, use_weights=True).fit(table)
        assert not set(table[table["user_id"] == 0]["item_id"]) & set(stage.recommend([0], n=20)["item_id"])
        np.testing.assert_allclose(stage.user_factors([0]), 0.0, atol=1e-6)

    @pytest.mark.parametrize("setting", [{"factors": 0}, {"iterations": 0}, {"alpha": -1.0}, {"regularization": -0.1}])
    def test_impossible_settings_are_refused(self, setting: dict[str, int]) -> None:
        with pytest.raises(ConfigError, match=next(iter(setting))):
            ALSGenerator(**setting)


@pytest.mark.parametrize("similarity", ["cosine", "bm25"])
class TestItemKNN(GeneratorContract):
    @pytest.fixture
    def stage(self, similarity: str) -> ItemKNNGenerator:
        return ItemKNNGenerator(neighbours=10, similarity=similarity)


def test_item_knn_score_is_the_mean_cosine_to_the_history() -> None:
    # a is chosen by {1, 2, 3}, b by {1, 2}, c by {3}; user 3 has chosen a and c, user 4 only d.
    rows = [(1, "a"), (1, "b"), (2, "a"), (2, "b"), (3, "a"), (3, "c"), (4, "d")]
    stage = ItemKNNGenerator().fit(pd.DataFrame(rows, columns=["user_id", "item_id"]))
    frame = stage.recommend([3], n=5)
    assert frame["item_id"].tolist() == ["b", "d"]
    cosine_a_b = 2 / np.sqrt(3 * 2)
    np.testing.assert_allclose(frame["score"], [cosine_a_b / 2, 0.0], rtol=1e-6)


def test_item_knn_refuses_impossible_settings() -> None:
    with pytest.raises(ConfigError, match="neighbours"):
        ItemKNNGenerator(neighbours=0)
    with pytest.raises(ConfigError, match="cosine, bm25"):
        ItemKNNGenerator(similarity="jaccard")


class TestPopularity(GeneratorContract):
    personal = False

    @pytest.fixture
    def stage(self) -> PopularityGenerator:
        return PopularityGenerator()


def test_popularity_is_the_share_of_users_with_ties_in_order_of_appearance() -> None:
    rows = [(1, "late"), (1, "late"), (1, "hit"), (2, "hit"), (3, "hit"), (3, "tie"), (4, "new")]
    frame = PopularityGenerator().fit(pd.DataFrame(rows, columns=["user_id", "item_id"])).recommend(["x"], n=4)
    assert frame["item_id"].tolist() == ["hit", "late", "tie", "new"]
    assert frame["score"].tolist() == [0.75, 0.25, 0.25, 0.25]


class TestReciprocalRankFusion(GeneratorContract):
    @pytest.fixture
    def stage(self) -> ReciprocalRankFusion:
        return ReciprocalRankFusion([ALSGenerator(factors=8), ItemKNNGenerator(neighbours=10)])


class FixedOrder(PopularityGenerator):
    """Proposes what it was told to, so that a fusion can be worked out by hand."""

    def __init__(self, items: str = "") -> None:
        self.items = items

    @property
    def settings(self) -> dict[str, str]:
        return {"items": self.items}

    def recommend(self, user_ids: object, n: int, exclude_seen: bool = True) -> pd.DataFrame:
        listed = list(self.items)[:n]
        ranks = range(1, len(listed) + 1)
        return pd.DataFrame({"user_id": "u", "item_id": listed, "score": 1.0, "rank": ranks})


def test_blend_is_reciprocal_rank_fusion() -> None:
    frame = ReciprocalRankFusion([FixedOrder("abc"), FixedOrder("cd")], k=60).recommend(["u"], n=4)
    assert frame["item_id"].tolist() == ["c", "a", "b", "d"]  # b and d tie: the first stage goes first
    np.testing.assert_allclose(frame["score"], [1 / 63 + 1 / 61, 1 / 61, 1 / 62, 1 / 62])
    assert frame["rank"].tolist() == [1, 2, 3, 4]


def test_blend_of_blends_and_its_settings_survive_saving(tmp_path: Path) -> None:
    stage = ReciprocalRankFusion(
        [ReciprocalRankFusion([ALSGenerator(factors=4), PopularityGenerator()], k=3), ItemKNNGenerator()], k=7
    )
    stage.fit(random_interactions()).save(tmp_path)
    loaded = ReciprocalRankFusion.load(tmp_path)
    assert [type(inner).__name__ for inner in loaded.stages] == ["ReciprocalRankFusion", "ItemKNNGenerator"]
    assert loaded.k == 7
    pd.testing.assert_frame_equal(loaded.recommend(range(9), n=8), stage.recommend(range(9), n=8))


def test_fusion_refuses_what_is_no_generator() -> None:
    with pytest.raises(ConfigError, match="at least one"):
        ReciprocalRankFusion([])
    with pytest.raises(ConfigError, match="'als' is no candidate generator"):
        ReciprocalRankFusion(["als"])


def test_a_stage_of_your_own_loads_once_registered(tmp_path: Path) -> None:
    class RegisteredHere(PopularityGenerator):
        pass

    RegisteredHere().fit(checkerboard()).save(tmp_path)
    with pytest.raises(BundleError, match="'RegisteredHere'"):
        load_generator(tmp_path)
    register_generator(RegisteredHere)
    assert type(load_generator(tmp_path)) is RegisteredHere


def test_the_wrong_class_is_refused(tmp_path: Path) -> None:
    PopularityGenerator().fit(checkerboard()).save(tmp_path)
    with pytest.raises(BundleError, match="holds PopularityGenerator, not ALSGenerator"):
        ALSGenerator.load(tmp_path)


def test_importing_loads_no_implicit() -> None:
    code = "import sys, candidate_gen; sys.exit('implicit' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_reserved_places_are_the_last_and_go_to_what_is_not_listed_otherwise() -> None:
    """d is most popular of all, and nobody's item-kNN lists it first; two of four places are kept for popular ones."""
    rows = [(user, item) for user in range(6) for item in ("ab" if user < 3 else "cd")]
    rows += [(6, "a"), (7, "c"), *((user, "e") for user in range(3, 6))]
    table = pd.DataFrame(rows, columns=["user_id", "item_id"])
    fused = ReciprocalRankFusion([ItemKNNGenerator(), PopularityGenerator()], reserved=[0, 0.5]).fit(table)
    frame = fused.recommend([6], n=4)
    # Alike to a is b alone; the others follow by popularity: c, d, e. All are listed, and popular ones add nothing new.
    assert frame["item_id"].tolist()[:2] == ["b", "c"]
    assert sorted(frame["item_id"]) == ["b", "c", "d", "e"]
    assert (frame["score"].diff().dropna() < 0).all()


def test_each_candidate_keeps_score_and_rank_of_every_stage() -> None:
    fused = ReciprocalRankFusion([FixedOrder("abc"), FixedOrder("cd")], k=60)
    assert fused.part_names == ["popularity", "popularity_2"]
    frame = fused.recommend(["u"], n=4)
    assert frame["item_id"].tolist() == ["c", "a", "b", "d"]
    assert frame["popularity_rank"].fillna(0).tolist() == [3, 1, 2, 0]
    assert frame["popularity_2_rank"].fillna(0).tolist() == [1, 0, 0, 2]
    assert frame["popularity_score"].fillna(0).tolist() == [1, 1, 1, 0]
    assert frame["popularity_2_score"].isna().tolist() == [False, True, True, False]


def test_the_default_says_what_als_and_co_visits_gave(tmp_path: Path) -> None:
    table = random_interactions()
    fused = make_generator().fit(table)
    frame = fused.recommend([1, 2], n=5)
    assert list(frame.columns)[4:] == ["als_score", "als_rank", "co_visit_score", "co_visit_rank"]
    for stage in fused.stages:  # type: ignore[attr-defined]
        own = stage.recommend([1, 2], n=5)
        both = frame.merge(own, on=["user_id", "item_id"], suffixes=("", "_own"))
        assert len(both) == frame[f"{stage.name}_rank"].notna().sum() > 0
        assert both[f"{stage.name}_score"].tolist() == both["score_own"].tolist()
        assert both[f"{stage.name}_rank"].tolist() == both["rank_own"].tolist()
    frame.to_csv(tmp_path / "c.csv", index=False)
    assert pd.read_csv(tmp_path / "c.csv", dtype={"als_rank": "Int64"})["als_rank"].equals(frame["als_rank"])


def test_reserved_places_survive_saving_and_cloning(tmp_path: Path) -> None:
    fused = ReciprocalRankFusion([ItemKNNGenerator(), PopularityGenerator()], reserved=[0, 0.5])
    fused.fit(random_interactions())
    fused.save(tmp_path)
    expected = fused.recommend(range(9), n=6)
    for other in (load_generator(tmp_path), fused.clone().fit(random_interactions())):
        pd.testing.assert_frame_equal(other.recommend(range(9), n=6), expected)


@pytest.mark.parametrize("reserved", [[0.5], [0.5, 0.5], [-0.1, 0], [0, 1], [0.1, 0.1]])
def test_shares_that_leave_nothing_to_the_fusion_are_refused(reserved: list[float]) -> None:
    with pytest.raises(ConfigError, match="reserved must be"):
        ReciprocalRankFusion([ItemKNNGenerator(), PopularityGenerator()], reserved=reserved)


def test_generators_are_made_by_name() -> None:
    assert [stage.name for stage in make_generator().stages] == ["als", "co_visit"]  # type: ignore[attr-defined]
    for method in METHODS:
        made = make_generator(method, seed=3).fit(random_interactions()).recommend([1], n=5)
        assert len(made) == 5
    assert make_generator("als", seed=3).settings["seed"] == 3  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match="unknown candidate generator 'gold'; there are als"):
        make_generator("gold")
    with pytest.raises(ConfigError, match="need the item table"):
        make_generator(new_share=0.1)


def test_new_items_get_their_share_of_the_default_list() -> None:
    table = random_interactions().assign(timestamp=range(900))
    items = pd.DataFrame({"item_id": [*range(40), "new"], "title": [f"item {number}" for number in range(41)]})
    frame = make_generator(items=items, new_share=0.1).fit(table).recommend(range(5), n=10)
    assert (frame[frame["rank"] == 10]["item_id"] == "new").all()
