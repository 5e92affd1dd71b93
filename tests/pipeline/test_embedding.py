"""The default read-out, end to end on the scripted engine."""

from pathlib import Path

import numpy as np
import pytest

from candidate_gen import PopularityRecall
from reranker import Reranker
from reranker.catalog import Catalog, tastes
from reranker.engines.scripted import ScriptedEngine
from reranker.folds import evidence_model, fold_from_recall
from tests.pipeline import toys


@pytest.fixture
def engine() -> toys.WatchedEngine:
    return toys.WatchedEngine(dim=64)


def fitted(engine: ScriptedEngine) -> Reranker:
    data = toys.taste_dataset()
    reranker = Reranker.from_pretrained(engine=engine, prompt=toys.PROMPT, n_candidates=12, fit_users=None)
    return reranker.fit(data, PopularityRecall().fit(data.interactions))


def test_it_is_the_default_where_the_engine_shows_states(engine: toys.WatchedEngine) -> None:
    assert Reranker.from_pretrained(engine=engine).config.scoring == "embedding"
    assert Reranker.from_pretrained(engine="torch").config.scoring == "embedding"
    assert Reranker.from_pretrained(engine="openai").config.scoring == "likelihood"
    assert Reranker.from_pretrained(engine=engine, scoring="labels").config.scoring == "labels"


def test_known_items_cost_no_pass_of_the_model(engine: toys.WatchedEngine) -> None:
    reranker = fitted(engine)
    items = len(toys.items())
    assert engine.states_read == items and not engine.calls
    lists = reranker.recall.recommend(["u0", "u1", "nobody"], 12)
    ranked = reranker.rerank(lists, order="fused")
    assert sorted(ranked["item_id"]) == sorted(lists["item_id"])
    assert engine.states_read == items and not engine.calls


def test_taste_shows_in_the_titles(engine: toys.WatchedEngine) -> None:
    """Popularity cannot tell the four tastes apart, the letters of the titles can."""
    reranker = fitted(engine)
    users = [f"u{number}" for number in range(8)]
    scores = reranker.score_all(lists := reranker.recall.recommend(users, 12))
    own = lists["user_id"].str[1:].astype(int) % 4 == lists["item_id"].str[1].astype(int)
    assert scores["llm"][own].mean() > scores["llm"][~own].mean() + 1.0


def test_tastes_are_learned_from_everything_once_the_weights_are(engine: toys.WatchedEngine) -> None:
    data = toys.taste_dataset()
    reranker = fitted(engine)
    served = reranker.reader.states.taste
    before_last = fold_from_recall(
        data, reranker.recall, 12, reranker.config.min_history, reranker.config.seed
    ).evidence
    everything = evidence_model(data.interactions, data.items, reranker.recall)
    learned = []
    for evidence in (before_last, everything):
        reranker.reader.learn_taste(*tastes(Catalog(data.items), evidence))
        learned.append(reranker.reader.states.taste.weights)
    assert not np.allclose(learned[0], learned[1])
    np.testing.assert_array_equal(served.weights, learned[1])


def test_a_bundle_keeps_states_and_space(engine: toys.WatchedEngine, tmp_path: Path) -> None:
    reranker = fitted(engine)
    lists = reranker.recall.recommend(["u0", "u5"], 12)
    reranker.save(tmp_path / "bundle")
    fresh = toys.WatchedEngine(dim=64)
    again = Reranker.load(tmp_path / "bundle", engine=fresh)
    assert again.config.scoring == "embedding"
    np.testing.assert_array_equal(again.score_all(lists), reranker.score_all(lists))
    assert fresh.states_read == 0


def test_texts_of_no_catalogue_are_read_by_likelihood(engine: toys.WatchedEngine) -> None:
    reranker = fitted(engine)
    before = engine.states_read
    texts = ["quxard quxley 99", "mipfen mippel 99"]
    best = reranker.rank("", texts, history=["mipfen mippel 1", "mipfen mippel 2"])
    assert best[0].document == "mipfen mippel 99"
    assert engine.calls and engine.states_read == before
    by_likelihood = Reranker.from_pretrained(engine=engine, prompt=toys.PROMPT, scoring="likelihood")
    alone = by_likelihood.rank("", texts, history=["mipfen mippel 1", "mipfen mippel 2"])
    assert [one.score for one in alone] == [one.score for one in best]


def test_explained(engine: toys.WatchedEngine) -> None:
    reranker = fitted(engine)
    explanation = reranker.explain(reranker.recall.recommend(["u0"], 12))
    assert explanation.components[0] == "llm_near_last" and explanation.values.shape == (12, 10)
    titles = reranker.titles(explanation.ranked["item_id"].tolist())
    assert [text.strip() for text in explanation.candidate_texts] == titles
