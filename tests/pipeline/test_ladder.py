"""Climbing on toy data: words and a scripted model on the same windows."""

import numpy as np
import pytest

from candidate_gen import ItemKNNGenerator
from reranker import Reranker
from reranker.errors import ConfigError
from reranker.pipeline.ladder import climb, lexical_reranker
from tests.evaluation import toys


def data():
    return toys.dataset([f"u{user}: " + " ".join(f"i{(user + step) % 12}" for step in range(6)) for user in range(40)])


def test_the_ladder_is_kept_with_the_bundle_and_users_are_the_same_on_every_rung(tmp_path):
    chain = data()
    generator = ItemKNNGenerator().fit(chain.interactions)
    served = climb(Reranker.from_pretrained(engine="scripted", scoring="embedding", n_candidates=8), chain, generator)
    assert served.ladder is not None and served.fusion_model is not None
    assert [rung.name for rung in served.ladder.rungs] == ["first stage", "baseline", "lexical", "llm"]
    assert served.ladder.rungs[0].ndcg == pytest.approx(np.mean(served.fusion_model.validation["first_stage"]))
    assert served.config.engine == ("scripted" if served.ladder.serves == "llm" else "lexical")
    served.save(tmp_path / "bundle")
    assert Reranker.load(tmp_path / "bundle").ladder == served.ladder


def test_a_model_that_cannot_be_had_is_left_out_and_named(tmp_path):
    chain = data()
    generator = ItemKNNGenerator().fit(chain.interactions)
    missing = Reranker.from_pretrained(model=str(tmp_path / "nowhere"), scoring="embedding", n_candidates=8)
    served = climb(missing, chain, generator)
    assert served.config.engine == "lexical" and served.ladder is not None
    assert "nowhere" in served.ladder.left_out["llm"]
    ranked = served.rerank(generator.recommend(["u1"], n=8)).to_frame()
    assert len(ranked) == len(generator.recommend(["u1"], n=8))


def test_words_keep_the_settings_that_make_the_windows():
    llm = Reranker.from_pretrained(engine="scripted", scoring="embedding", n_candidates=7, seed=3, windows=2)
    words = lexical_reranker(llm).config
    assert (words.n_candidates, words.seed, words.windows, words.engine) == (7, 3, 2, "lexical")


def test_climbing_needs_a_generator_or_lists():
    with pytest.raises(ConfigError, match="generator="):
        climb(Reranker.from_pretrained(engine="scripted"), data())
