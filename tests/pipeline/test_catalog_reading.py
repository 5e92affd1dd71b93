"""States of a catalogue's texts: kept on disk for the next program, and read at the layer that was asked for."""

import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from candidate_gen import PopularityGenerator
from reranker import Reranker
from reranker.data.splits import leave_last_k
from reranker.errors import ConfigError
from reranker.evaluation.score_cache import ScoreCache
from reranker.pipeline.lists import propose
from reranker.protocols import LOWER_STATES
from reranker.scoring import ScoringList
from tests.pipeline import toys
from tests.scoring.readers import HashedEngine


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("RERANKER_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("RERANKER_STATES_GIB", raising=False)
    return tmp_path / "cache"


def fitted(engine: HashedEngine, **settings: object) -> Reranker:
    data = toys.taste_dataset()
    recall = PopularityGenerator().fit(data.interactions)
    return Reranker(toys.config(scorer="embedding", **settings), engine).fit(data, recall)


def test_a_second_fit_of_the_catalogue_reads_nothing(own_cache: Path) -> None:
    first, second = HashedEngine(), HashedEngine()
    before, after = fitted(first), fitted(second)
    assert (first.texts, second.calls) == (32, 0)
    assert before.llm_scorer.texts_read is not None and after.llm_scorer.texts_read is not None
    assert before.llm_scorer.texts_read.summary() == f"read 32 of 32 texts; 0 from the cache {own_cache}"
    assert after.llm_scorer.texts_read.summary() == f"read 0 of 32 texts; 32 from the cache {own_cache}"
    lists = toys.lists_for(["u0", "u1"], ["g0i1", "g1i1", "g2i1"])
    pd.testing.assert_frame_equal(
        before.rerank(lists, order="fused").to_frame(), after.rerank(lists, order="fused").to_frame()
    )


def test_evaluation_and_new_items_share_what_fit_read() -> None:
    fitted(HashedEngine())
    engine = HashedEngine()
    reranker = fitted(engine)
    reranker.add_items(pd.DataFrame({"item_id": ["n1", "n2"], "title": ["zorblax 3", "vantow new"]}))
    assert engine.texts == 2
    again = HashedEngine()
    fitted(again).add_items(pd.DataFrame({"item_id": ["n1"], "title": ["vantow new"]}))
    assert again.calls == 0
    data = toys.taste_dataset()
    fold = leave_last_k(data)
    ScoreCache(again, toys.config(scorer="embedding")).of(propose(fold, PopularityGenerator(), 12))
    assert again.calls == 0


def test_texts_that_changed_are_read_anew() -> None:
    fitted(HashedEngine())
    data, engine = toys.taste_dataset(), HashedEngine()
    data.items.loc[0, "title"] = "something else"
    Reranker(toys.config(scorer="embedding"), engine).fit(data, PopularityGenerator().fit(data.interactions))
    assert engine.texts == 1


def test_a_cache_of_no_size_keeps_nothing(own_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RERANKER_STATES_GIB", "0")
    engine = HashedEngine()
    assert fitted(engine).llm_scorer.texts_read.summary() == "read 32 of 32 texts"  # type: ignore[union-attr]
    assert not own_cache.exists()


def test_served_lists_put_nothing_on_disk(own_cache: Path) -> None:
    """Queries are what people typed; only a catalogue's texts are kept."""
    reranker = fitted(HashedEngine())
    (before,) = own_cache.iterdir()
    size = before.stat().st_size, before.stat().st_mtime_ns
    asked = ScoringList(query="what I typed", candidates=[{"title": "a text of a client"}], history=[])
    engine = reranker.llm_scorer.engine
    assert isinstance(engine, HashedEngine)
    read = engine.texts
    reranker.llm_scorer.scorer.read([asked])
    assert engine.texts == read + 2
    assert (before.stat().st_size, before.stat().st_mtime_ns) == size


def test_the_bundle_says_its_layer(tmp_path: Path) -> None:
    engine = HashedEngine(layers=30)
    reranker = fitted(engine, layer=18)
    assert engine.layers_read == {18}
    reranker.save(tmp_path / "bundle")
    manifest = yaml.safe_load((tmp_path / "bundle" / "bundle.yaml").read_text())
    assert manifest["states_layer"] == 18
    engine = HashedEngine(layers=30)
    loaded = Reranker.load(tmp_path / "bundle", engine=engine)
    loaded.add_items(pd.DataFrame({"item_id": ["n1"], "title": ["vantow new"]}))
    assert engine.layers_read == {18}
    needs = Reranker.load(tmp_path / "bundle").llm_scorer._engine.needs
    assert LOWER_STATES in needs  # "auto" on a GPU takes an engine that can stop there
    with pytest.raises(ConfigError, match="layer=18"):
        Reranker.load(tmp_path / "bundle", engine=engine, layer=12)


def test_states_of_another_layer_are_others() -> None:
    fitted(HashedEngine(layers=30), layer=18)
    engine = HashedEngine(layers=30)
    fitted(engine, layer=12)
    assert engine.layers_read == {12}
    last = HashedEngine(layers=30)
    fitted(last, layer=30)
    assert last.layers_read == {None}
    zero = HashedEngine(layers=30)
    fitted(zero, layer=0)
    assert zero.calls == 0  # 30 of 30 layers are the last one


def test_an_engine_that_cannot_stop_is_told() -> None:
    with pytest.raises(ConfigError, match="shows the states of the last layer only; layer=0"):
        fitted(HashedEngine(), layer=18)
    with pytest.raises(ConfigError, match="has 12 layers"):
        fitted(HashedEngine(layers=12), layer=18)


def test_a_bundle_of_a_middle_layer_needs_an_engine_that_stops_there(tmp_path: Path) -> None:
    fitted(HashedEngine(layers=30), layer=18).save(tmp_path / "bundle")
    loaded = Reranker.load(tmp_path / "bundle", engine=HashedEngine())
    lists = toys.lists_for(["u0"], ["g0i1", "g1i1"])
    assert len(loaded.rerank(lists, order="fused")) == 2  # all texts are known
    with pytest.raises(ConfigError, match="of layer 18"):
        loaded.add_items(pd.DataFrame({"item_id": ["n1"], "title": ["vantow new"]}))


def test_bars_are_for_those_who_look(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    fitted(HashedEngine())
    assert capsys.readouterr().err == ""
    monkeypatch.setenv("RERANKER_STATES_GIB", "0")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    fitted(HashedEngine())
    assert "reading texts: 100%" in capsys.readouterr().err
