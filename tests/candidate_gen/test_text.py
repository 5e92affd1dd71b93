"""Text candidates: the contract of candidate generators, new items and their places, content of one's own."""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from candidate_gen import ALSGenerator, TextGenerator, load_generator, nearest
from candidate_gen.item_texts import WordSpace, part_texts
from candidate_gen.nearest import ExactIndex, index_of
from reranker.engines.lexical import LexicalEngine
from reranker.errors import ConfigError, DataError
from reranker.utils.spaces import CFProjection, PopularityProjection
from tests.contracts.generator import SIZE, GeneratorContract
from tests.pipeline import toys

IDS = [*(f"i{number}" for number in range(SIZE)), *range(40), *"abcdx", "10", 0.5, ("a", (1, None)), 10]


def contract_items() -> pd.DataFrame:
    """Texts of every item of the contract's tables; those of the checkerboard say their colour."""
    ids = list(dict.fromkeys(IDS))
    titles = [f"{'white' if number % 2 else 'black'} {item}" for number, item in enumerate(ids)]
    column = np.empty(len(ids), dtype=object)
    column[:] = ids
    return pd.DataFrame({"item_id": pd.Series(column), "title": titles})


class TestText(GeneratorContract):
    @pytest.fixture
    def stage(self) -> TextGenerator:
        return TextGenerator(contract_items(), factors=8)


def world(ordered: bool = True):  # type: ignore[no-untyped-def]
    """Users of four tastes, and three new items of each taste that nobody chose."""
    data = toys.taste_dataset(users=80, ordered=ordered)
    new = [
        {"item_id": f"new-g{group}i{number}", "title": f"{words} {100 + number}"}
        for group, words in enumerate(toys.GROUPS)
        for number in range(3)
    ]
    return data, pd.concat([data.items, pd.DataFrame(new)], ignore_index=True)


def tastes(frame: pd.DataFrame) -> pd.Series:
    return frame["item_id"].str.extract(r"g(\d)")[0].astype(int)


def test_new_items_of_the_users_taste_get_their_places():
    data, items = world()
    generator = TextGenerator(items, new_share=0.25, factors=8).fit(data.interactions)
    frame = generator.recommend([f"u{user}" for user in range(8)], n=8)
    new = frame[frame["item_id"].str.startswith("new-")]
    assert (new.groupby("user_id").size() == 2).all()  # a quarter of eight
    assert (tastes(new) == new["user_id"].str[1:].astype(int) % 4).all()
    assert len(generator.new_item_ids) == 12
    assert (frame.groupby("user_id")["score"].diff().dropna() <= 0).all()


def test_without_a_share_no_new_item_is_proposed():
    data, items = world()
    frame = TextGenerator(items, factors=8).fit(data.interactions).recommend(["u0"], n=1000)
    assert not frame["item_id"].str.startswith("new-").any()


def test_a_share_of_one_proposes_nothing_else():
    data, items = world()
    frame = TextGenerator(items, new_share=1, factors=8).fit(data.interactions).recommend(["u0", "u1"], n=3)
    assert frame["item_id"].str.startswith("new-").all()
    assert tastes(frame).tolist() == [0, 0, 0, 1, 1, 1]


def test_items_older_than_the_newest_interaction_are_not_new():
    data, items = world()
    newest = data.interactions["timestamp"].max()
    came = [newest + 1 if item == "new-g0i1" else newest for item in items["item_id"]]
    generator = TextGenerator(items.assign(timestamp=came), new_share=1, factors=8).fit(data.interactions)
    assert generator.new_item_ids == ["new-g0i1"]


def test_items_that_come_after_fit_join_the_new_ones_also_after_loading(tmp_path: Path):
    data, items = world()
    generator = TextGenerator(data.items, new_share=1, factors=8).fit(data.interactions)
    assert generator.recommend(["u0"], n=3).empty
    generator.save(tmp_path)
    loaded = load_generator(tmp_path)
    assert isinstance(loaded, TextGenerator)
    for one in (generator, loaded):
        assert one.add_items(items) == 12
        assert tastes(one.recommend(["u2"], n=3)).tolist() == [2, 2, 2]
    pd.testing.assert_frame_equal(generator.recommend(["u1"], n=9), loaded.recommend(["u1"], n=9), check_exact=True)
    with pytest.raises(ConfigError, match="new_share above 0"):
        TextGenerator(data.items, factors=8).fit(data.interactions).add_items(items)


def test_vectors_of_ones_own_stand_in_for_words():
    data, items = world()
    vectors = np.eye(4)[items["item_id"].str.extract(r"g(\d)")[0].astype(int)]
    table = pd.DataFrame({"item_id": items["item_id"], "vector": list(vectors)})
    frame = TextGenerator(vectors=table, new_share=1, factors=8).fit(data.interactions).recommend(["u3"], n=3)
    assert tastes(frame).tolist() == [3, 3, 3]


def test_a_clone_keeps_the_items_and_a_loaded_one_can_be_fitted_again(tmp_path: Path):
    data, items = world()
    generator = TextGenerator(items, new_share=0.5, factors=8).fit(data.interactions)
    generator.save(tmp_path)
    again = load_generator(tmp_path).clone().fit(data.interactions)
    pd.testing.assert_frame_equal(again.recommend(["u1"], n=6), generator.recommend(["u1"], n=6), check_exact=True)


def test_misuse_is_refused():
    data, items = world()
    with pytest.raises(ConfigError, match="nothing to read"):
        TextGenerator().fit(data.interactions)
    with pytest.raises(ConfigError, match="not both"):
        TextGenerator(items, vectors=items)
    with pytest.raises(ConfigError, match="new_share must be in"):
        TextGenerator(items, new_share=2)
    with pytest.raises(DataError, match="no item of the interactions"):
        TextGenerator(items.assign(item_id=range(len(items)))).fit(data.interactions)
    with pytest.raises(DataError, match="neither numbers nor times"):
        TextGenerator(items.assign(timestamp="yesterday"))


def test_rarer_words_weigh_more():
    table = pd.DataFrame({"item_id": range(4), "title": ["the cat", "the dog", "the cat", "the owl"]})
    texts = part_texts(table)
    space = WordSpace().fit(texts)
    vectors = np.concatenate([placed for _, placed in space.blocks(texts)])
    assert vectors.shape == (4, space.width)
    np.testing.assert_allclose(vectors[0], vectors[2])
    assert vectors[0] @ vectors[1] < 0.5  # "the" is in all of them


def test_the_approximate_search_finds_what_the_exact_one_finds(monkeypatch: pytest.MonkeyPatch):
    pytest.importorskip("faiss")
    data, items = world()
    exact = TextGenerator(items, new_share=0.25, factors=8).fit(data.interactions)
    monkeypatch.setattr(nearest, "EXACT_UP_TO", 10)
    assert index_of(np.eye(10, dtype=np.float32)) is None
    near = TextGenerator(items, new_share=0.25, factors=8).fit(data.interactions)
    users = [*(f"u{user}" for user in range(40)), "stranger"]
    ours, theirs = near.recommend(users, n=4), exact.recommend(users, n=4)
    assert (ours["user_id"] == theirs["user_id"]).all()
    np.testing.assert_allclose(ours["score"], theirs["score"], atol=1e-5)


@pytest.mark.parametrize(("items", "asked"), [(3, 5), (40, 7), (100, 100), (500, 20)])
def test_an_exact_search_by_blocks_finds_the_best(items: int, asked: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(nearest, "_ITEMS", 32)
    monkeypatch.setattr(nearest, "_QUERIES", 3)
    rng = np.random.default_rng(items)
    vectors, queries = (rng.integers(-3, 4, (n, 5)).astype(np.float32) for n in (items, 8))  # with many ties
    scores, rows = ExactIndex(vectors).search(queries, asked)
    products = queries @ vectors.T
    order = np.argsort(-products, axis=1, kind="stable")[:, :asked]
    found = min(items, asked)
    np.testing.assert_array_equal(rows[:, :found], order)
    np.testing.assert_array_equal(scores[:, :found], np.take_along_axis(products, order, axis=1))
    assert (rows[:, found:] == -1).all()


def test_a_big_catalogue_without_faiss_is_searched_exactly(monkeypatch: pytest.MonkeyPatch):
    data, items = world()
    users = [*(f"u{user}" for user in range(40)), "stranger"]
    expected = TextGenerator(items, new_share=0.25, factors=8).fit(data.interactions).recommend(users, n=4)
    monkeypatch.setattr(nearest, "EXACT_UP_TO", 10)
    monkeypatch.setitem(sys.modules, "faiss", None)
    found = TextGenerator(items, new_share=0.25, factors=8).fit(data.interactions).recommend(users, n=4)
    pd.testing.assert_frame_equal(found, expected)


def test_a_part_that_no_item_has_takes_no_place():
    table = pd.DataFrame({"item_id": range(3), "title": ["a cat", "a dog", ""], "description": ["old", "", ""]})
    texts = part_texts(table)
    space = WordSpace().fit(texts)
    (placed,) = (placed for _, placed in space.blocks(texts))
    assert placed.shape == (3, 2 * LexicalEngine().model.dim)
    assert [part.any() for part in np.split(placed[1], 2)] == [True, False]
    assert not placed[2].any()
    again = WordSpace.restored(space.arrays())
    np.testing.assert_array_equal(next(iter(again.blocks(texts)))[1], placed)


def test_the_map_is_that_of_the_scorer_under_the_ridge_that_tells_left_out_items_best():
    data, items = world()
    generator = TextGenerator(items, factors=8).fit(data.interactions)
    chosen = [item for item in generator.item_ids if not str(item).startswith("new-")]
    texts = part_texts(items.set_index("item_id").loc[chosen].reset_index())
    (placed,) = (placed for _, placed in WordSpace().fit(part_texts(items)).blocks(texts))
    counts = data.interactions["item_id"].value_counts()[chosen].to_numpy(dtype=np.float64)
    als = ALSGenerator(factors=8).fit(data.interactions).item_factors(chosen)
    expected = CFProjection.fit(placed, als, counts).place(placed)
    np.testing.assert_allclose(generator._vectors[: len(chosen), :-1], expected, atol=1e-4)
    popular = PopularityProjection.fit(placed, counts).of(placed)
    np.testing.assert_allclose(generator._vectors[: len(chosen), -1], 0.4 * popular, atol=1e-4)
