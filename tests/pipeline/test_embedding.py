"""The default scorer, end to end on the scripted engine."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from candidate_gen import PopularityGenerator
from reranker import Reranker
from reranker.data.catalog import Catalog
from reranker.data.schema import validate_candidates
from reranker.engines.scripted import ScriptedEngine
from reranker.errors import DataError
from reranker.fusion import Choices, FusionModel
from reranker.fusion.statistics import interaction_statistics
from reranker.pipeline.windows import window_from_generator, windows_from_generator
from tests.pipeline import toys


@pytest.fixture
def engine() -> toys.WatchedEngine:
    return toys.WatchedEngine(dim=64)


def fitted(engine: ScriptedEngine) -> Reranker:
    data = toys.taste_dataset()
    reranker = Reranker.from_pretrained(engine=engine, prompt=toys.PROMPT, n_candidates=12, fit_users=None)
    return reranker.fit(data, PopularityGenerator().fit(data.interactions))


def test_it_is_the_default_where_the_engine_shows_states(engine: toys.WatchedEngine) -> None:
    assert Reranker.from_pretrained(engine=engine).config.scorer == "embedding"
    assert Reranker.from_pretrained(engine="torch").config.scorer == "embedding"
    assert Reranker.from_pretrained(engine="openai").config.scorer == "likelihood"
    assert Reranker.from_pretrained(engine=engine, scorer="labels").config.scorer == "labels"


def test_known_items_cost_no_pass_of_the_model(engine: toys.WatchedEngine) -> None:
    reranker = fitted(engine)
    items = len(toys.items())
    assert engine.states_read == items and not engine.calls
    lists = reranker.generator.recommend(["u0", "u1", "nobody"], 12)
    ranked = reranker.rerank(lists, order="fused").to_frame()
    assert sorted(ranked["item_id"]) == sorted(lists["item_id"])
    assert engine.states_read == items and not engine.calls


def test_taste_shows_in_the_titles(engine: toys.WatchedEngine) -> None:
    """Popularity cannot tell the four tastes apart, the letters of the titles can."""
    reranker = fitted(engine)
    users = [f"u{number}" for number in range(8)]
    scores = reranker.score_all(lists := reranker.generator.recommend(users, 12)).to_frame()
    own = lists["user_id"].str[1:].astype(int) % 4 == lists["item_id"].str[1].astype(int)
    assert scores["llm"][own].mean() > scores["llm"][~own].mean() + 1.0


def test_tastes_are_learned_from_everything_once_the_weights_are(engine: toys.WatchedEngine) -> None:
    data = toys.taste_dataset()
    reranker = fitted(engine)
    served = reranker.llm_scorer.hidden_states.cf_projection
    before_last = window_from_generator(
        data, reranker.generator, 12, reranker.config.min_history, reranker.config.seed
    ).statistics
    everything = interaction_statistics(data.interactions, data.items, reranker.generator)
    learned = []
    for statistics in (before_last, everything):
        learned.append(
            reranker.llm_scorer.for_window(Catalog(data.items), statistics).hidden_states.cf_projection.weights
        )
    assert not np.allclose(learned[0], learned[1])
    np.testing.assert_array_equal(served.weights, learned[1])


def test_every_window_is_read_with_what_was_known_before_it(
    engine: toys.WatchedEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: dict[str, Any] = {}
    fit = FusionModel.fit

    def watched(choices: Choices, components: Mapping[int, Any], *rest: Any) -> FusionModel:
        taken.update(choices=choices, components=components)
        return fit(choices, components, *rest)

    monkeypatch.setattr(FusionModel, "fit", watched)
    data, reranker = toys.taste_dataset(), fitted(engine)
    config = reranker.config
    folds = windows_from_generator(data, reranker.generator, 12, config.min_history, config.seed, config.windows)
    assert len(folds) > 2
    begin, seen = 0, []
    for fold in folds:
        reader = reranker.llm_scorer.for_window(Catalog(data.items), fold.statistics)
        expected = reader.components(reader.lists(fold.candidates, Catalog(data.items), fold.statistics.history, {}))
        for number in fold.choices.covered_lists().tolist():
            np.testing.assert_array_equal(taken["components"][begin + number], expected[number])
            seen.append(begin + number)
        begin += len(fold.users)
    assert seen == sorted(taken["components"]) == taken["choices"].covered_lists().tolist()


def test_a_bundle_keeps_states_and_space(engine: toys.WatchedEngine, tmp_path: Path) -> None:
    reranker = fitted(engine)
    lists = reranker.generator.recommend(["u0", "u5"], 12)
    reranker.save(tmp_path / "bundle")
    fresh = toys.WatchedEngine(dim=64)
    again = Reranker.load(tmp_path / "bundle", engine=fresh)
    assert again.config.scorer == "embedding"
    np.testing.assert_array_equal(again.score_all(lists).to_frame(), reranker.score_all(lists).to_frame())
    assert fresh.states_read == 0


def new_items() -> pd.DataFrame:
    return pd.DataFrame({"item_id": ["g1new", "g2new"], "title": ["mipfen mippel 99", "quxard quxley 99"]})


def tied(rows: list[str]) -> pd.DataFrame:
    return validate_candidates(toys.table([(*row.split(), 1.0) for row in rows]))


def test_items_that_came_after_fit_are_known_by_their_text(engine: toys.WatchedEngine, tmp_path: Path) -> None:
    reranker = fitted(engine)
    lists = tied(["u1 g2new", "u1 g1new", "u2 g1new", "u2 g2new"])  # u1 likes what is like g1, u2 what is like g2
    assert reranker.rerank(lists).report.unknown_items == 4
    assert reranker.score_all(lists).to_frame()["llm"].groupby(lists["user_id"]).nunique().eq(1).all()
    before = engine.states_read
    assert reranker.add_items(new_items()) == 2 and engine.states_read == before + 2
    llm = reranker.score_all(lists).to_frame()["llm"]
    assert llm[1] > llm[0] and llm[3] > llm[2]
    assert reranker.rerank(lists).report.unknown_items == 0 and engine.states_read == before + 2
    after = reranker.score_all(
        lists, histories=reranker.fitted()[0].statistics.histories_with({"u1": ["g2new"]})
    ).to_frame()
    assert after["llm"][0] > after["llm"][1]  # they count in histories, too
    reranker.save(tmp_path / "bundle")
    again = Reranker.load(tmp_path / "bundle", engine=toys.WatchedEngine(dim=64))
    np.testing.assert_array_equal(again.score_all(lists).to_frame(), reranker.score_all(lists).to_frame())


def test_an_item_with_a_new_text_is_read_anew(engine: toys.WatchedEngine) -> None:
    reranker = fitted(engine)
    lists = tied(["u1 g2i0", "u1 g2i1"])
    assert reranker.add_items(pd.DataFrame({"item_id": ["g2i1"], "title": ["mipfen mippel 77"]})) == 0
    assert reranker.titles(["g2i1"]) == ["mipfen mippel 77"] and len(reranker.item_ids) == len(toys.items())
    scores = reranker.score_all(lists).to_frame()["llm"]
    assert scores[1] > scores[0]


def test_items_with_ids_of_another_type_are_refused(engine: toys.WatchedEngine) -> None:
    reranker = fitted(engine)
    with pytest.raises(DataError, match="the ids are of kind number, those known so far of kind text"):
        reranker.add_items(pd.DataFrame({"item_id": [7], "title": ["mipfen"]}))
    with pytest.raises(DataError, match="more than once"):
        reranker.add_items(pd.concat([new_items(), new_items()]))
    assert len(reranker.item_ids) == len(toys.items())
    with pytest.raises(DataError, match="call fit"):
        Reranker.from_pretrained(engine=engine).add_items(new_items())


def test_texts_of_no_catalogue_are_read_by_likelihood(engine: toys.WatchedEngine) -> None:
    reranker = fitted(engine)
    before = engine.states_read
    texts = ["quxard quxley 99", "mipfen mippel 99"]
    best = reranker.rank("", texts, history=["mipfen mippel 1", "mipfen mippel 2"])
    assert best[0].document == "mipfen mippel 99"
    assert engine.calls and engine.states_read == before
    by_likelihood = Reranker.from_pretrained(engine=engine, prompt=toys.PROMPT, scorer="likelihood")
    alone = by_likelihood.rank("", texts, history=["mipfen mippel 1", "mipfen mippel 2"])
    assert [one.score for one in alone] == [one.score for one in best]


def test_explained(engine: toys.WatchedEngine) -> None:
    reranker = fitted(engine)
    explanation = reranker.inspect(reranker.generator.recommend(["u0"], 12))
    assert explanation.components[0] == "llm_near_last" and explanation.values.shape == (12, 11)
    titles = reranker.titles(explanation.ranked["item_id"].tolist())
    assert [text.strip() for text in explanation.candidate_texts] == titles
