"""Pages of items that are new by pretence, and what a fit makes of them."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from candidate_gen import PopularityGenerator
from reranker import Reranker
from reranker.data.schema import ITEM, USER
from reranker.errors import DataError
from reranker.pipeline.fit_basis import FitBasis
from reranker.pipeline.ladder import fit_rungs_on_windows
from reranker.pipeline.new_item_pages import new_item_pages
from reranker.pipeline.windows import windows_of
from tests.pipeline import toys


def basis_of(data, **settings) -> FitBasis:
    config = toys.config(scorer="embedding", **settings)
    generator = PopularityGenerator().fit(data.interactions)
    return FitBasis.of(data, windows_of(data, generator, None, None, config), generator, config)


def test_nothing_is_known_of_the_items_of_a_page_and_its_user_chose_one_of_them():
    data = toys.taste_dataset(users=400, per_group=20)
    basis = basis_of(data)
    pages = basis.pages
    assert pages is not None and len(pages.users) >= 50
    new = set(pages.candidates[ITEM])
    assert len(new) == 8  # a tenth of 80
    assert not new & set(pages.known[ITEM]) and pages.is_new.all()
    assert (pages.n_found == 1).all() and (pages.n_known > 0).all()
    assert pages.known[ITEM].isin(basis.windows[0].known[ITEM]).all()
    chosen = pages.held_out.merge(data.interactions, on=[USER, ITEM], how="inner")
    assert len(chosen) == len(pages.held_out)
    again = basis_of(data).pages
    assert again is not None
    pd.testing.assert_frame_equal(again.candidates, pages.candidates)
    other = basis_of(data, seed=1).pages
    assert other is not None and set(other.candidates[ITEM]) != new


def test_few_users_have_no_pages():
    assert basis_of(toys.taste_dataset(users=48)).pages is None


def test_lists_with_columns_of_their_own_have_no_pages():
    data = toys.taste_dataset(users=400, per_group=20)
    window = basis_of(data).windows[0]
    priced = window.candidates.assign(price=np.arange(len(window.candidates), dtype=float))
    reranker = Reranker.from_pretrained(**toys.config(features=("price",)).model_dump(exclude_unset=True))
    held_out = window.held_out.assign(timestamp=10**6)
    with_price = windows_of(data, None, priced, held_out, reranker.config)
    assert with_price[0].statistics.own is not None
    assert new_item_pages(with_price[0], data) is None


@pytest.mark.parametrize(
    ("scorer", "judges"), [("embedding", True), ("likelihood", False), ("likelihood+embedding", False)]
)
def test_pages_are_read_where_they_cost_no_pass_of_the_model(scorer, judges):
    data = toys.taste_dataset(users=400, per_group=20)
    reranker = Reranker.from_pretrained(**toys.config(scorer=scorer, fit_users=20).model_dump(exclude_unset=True))
    model = reranker.fit(data, PopularityGenerator().fit(data.interactions)).fusion_model
    assert model is not None and (model.new_items_verdict is not None) == judges


@pytest.mark.parametrize("error", [ValueError, DataError])
def test_a_generator_that_fails_on_fewer_items_costs_the_pages_and_not_the_fit(error, caplog):
    class Whole(PopularityGenerator):
        def fit(self, interactions):
            if interactions[ITEM].nunique() < 80:
                raise error("some items are missing")
            return super().fit(interactions)

    data = toys.taste_dataset(users=400, per_group=20)
    reranker = Reranker.from_pretrained("untrained", engine="lexical", scorer="embedding", n_candidates=12)
    with caplog.at_level("WARNING"):
        model = reranker.fit(data, Whole().fit(data.interactions)).fusion_model
    assert model is not None and model.new_items_verdict is None
    assert "new items are not judged" in caplog.text and "some items are missing" in caplog.text


def test_the_ladder_judges_new_items_by_readers_that_are_served_for_them_alone():
    """With lists of two, the words' guard keeps the first stage: words would be read for nothing."""
    data = toys.taste_dataset(users=400, per_group=20)
    reader = Reranker.from_pretrained("untrained", engine="lexical", scorer="embedding", n_candidates=2)
    windows = windows_of(data, PopularityGenerator().fit(data.interactions), None, None, reader.config)
    climbed = fit_rungs_on_windows(reader, data, windows, readers=())
    model = climbed.words.fusion_model
    assert model is not None and model.guard.serve == "first_stage" and model.new_items_verdict.gains
    assert climbed.ladder.new_items is None and climbed.ladder.served == climbed.ladder.serves


@pytest.fixture(scope="module")
def by_words():
    data = toys.taste_dataset(users=400, per_group=20)
    reranker = Reranker.from_pretrained("untrained", engine="lexical", scorer="embedding", n_candidates=12)
    return reranker.fit(data, PopularityGenerator().fit(data.interactions))


def test_words_of_the_users_taste_are_worth_something_on_pages_of_new_items(by_words, tmp_path):
    verdict = by_words.fusion_model.new_items_verdict
    assert verdict.gains and verdict.read > verdict.baseline
    by_words.save(tmp_path / "bundle")
    assert Reranker.load(tmp_path / "bundle").fusion_model.new_items_verdict == verdict


def test_lists_without_two_new_items_are_not_read_where_known_ones_are_ranked_by_the_baseline(by_words, monkeypatch):
    model = by_words.fusion_model
    served = replace(model, guard=model.guard.overruled("baseline"), new_items_verdict=model.new_items_verdict)
    monkeypatch.setattr(by_words, "fusion_model", served.guarded())
    titles = pd.DataFrame({"item_id": ["new0", "new1"], "title": [f"{toys.GROUPS[0]} 98", f"{toys.GROUPS[1]} 99"]})
    by_words.add_items(titles)
    lists = {"u0": ["g0i1", "new1", "new0"], "u1": ["g0i1", "new0", "g1i1"], "u4": ["new1", "new0"]}
    rows = [(user, item, rank) for user, items in lists.items() for rank, item in enumerate(items, 1)]
    candidates = pd.DataFrame(rows, columns=["user_id", "item_id", "rank"])
    asked = []
    read = type(by_words.ranker).read

    def noting(self, candidates, *further):
        asked.extend(candidates.users)
        return read(self, candidates, *further)

    monkeypatch.setattr(type(by_words.ranker), "read", noting)
    result = by_words.rerank(candidates)
    assert asked == ["u0", "u4"] and result.report.served == "fused"
    ranked = result.to_frame().groupby(USER, sort=False)[ITEM].agg(list)
    for user in ("u0", "u4"):  # whose taste is the first group
        assert ranked[user].index("new0") < ranked[user].index("new1")
    baseline = by_words.rerank(candidates, order="baseline").to_frame().groupby(USER, sort=False)[ITEM].agg(list)
    assert ranked["u1"] == baseline["u1"] and asked == ["u0", "u4"]
    explained = by_words.explain("u0", candidates[candidates[USER] == "u0"])
    shown = pd.Series({item.item_id: sum(item.contributions.values()) for item in explained.items})
    scores = result.to_frame()[lambda table: table[USER] == "u0"].set_index(ITEM)["score"]
    assert (shown - shown.mean()).to_numpy() == pytest.approx((scores - scores.mean())[shown.index].to_numpy())
