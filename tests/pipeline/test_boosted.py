"""`ranker: gradient_boosted` from `fit` to serving and explaining."""

import pandas as pd
import pytest

from candidate_gen import PopularityGenerator
from reranker import Reranker
from reranker.refresh import refresh
from tests.pipeline import toys

pytest.importorskip("lightgbm")

LISTS = toys.lists_for([f"u{number}" for number in range(8)], ["g0i0", "g1i0", "g2i0", "g3i0"])


@pytest.fixture(scope="module")
def boosted():
    data = toys.taste_dataset(per_group=12)
    config = toys.config(
        scorer="embedding", engine="lexical", soft_tokens=0, ranker="gradient_boosted", n_candidates=48
    )
    return Reranker(config).fit(data, PopularityGenerator().fit(data.interactions))


def test_trees_rank_and_the_verdicts_are_kept(boosted, tmp_path):
    model = boosted.fusion_model
    assert set(model.trees) == {"baseline", "fused"}
    assert model.features.trees is not None and model.fused.trees is not None
    boosted.save(tmp_path / "bundle")
    loaded = Reranker.load(tmp_path / "bundle")
    assert loaded.fusion_model.trees == model.trees
    for order in ("baseline", "fused"):
        expected = boosted.rerank(LISTS, order=order).to_frame()
        pd.testing.assert_frame_equal(loaded.rerank(LISTS, order=order).to_frame(), expected)


@pytest.mark.parametrize("order", ["baseline", "fused"])
def test_explanations_add_up(boosted, order):
    found = boosted.explain("u1", LISTS[LISTS["user_id"] == "u1"], order=order)
    for one in found.record("en")["items"]:
        assert sum(one["contributions"].values()) == pytest.approx(one["above_mean"])


def test_a_refresh_keeps_the_trees(boosted, tmp_path):
    boosted.save(tmp_path / "bundle")
    loaded = Reranker.load(tmp_path / "bundle")
    later = [(f"u{user}", f"g{user % 4}i11", 10**9) for user in range(12)]
    refresh(loaded, pd.DataFrame(later, columns=["user_id", "item_id", "timestamp"]))
    for before, after in ((boosted, loaded),):
        assert after.fusion_model.fused.trees.model == before.fusion_model.fused.trees.model
        assert after.fusion_model.trees == before.fusion_model.trees
