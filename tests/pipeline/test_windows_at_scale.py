import logging

import numpy as np
import pandas as pd
import pytest

from candidate_gen import PopularityGenerator
from reranker import Reranker
from reranker.errors import ConfigError
from reranker.pipeline.windows import window_from_generator
from reranker.utils.progress import step
from tests.pipeline import toys


def test_lists_are_made_for_a_part_of_the_users(caplog: pytest.LogCaptureFixture) -> None:
    data = toys.taste_dataset(users=300)
    with caplog.at_level(logging.INFO, logger="reranker"):
        part = window_from_generator(data, PopularityGenerator(), 12, 1, most=100)
    whole = window_from_generator(data, PopularityGenerator(), 12, 1)
    assert (len(part.users), len(whole.users)) == (100, 300)
    assert "for 100 of 300 users" in caplog.text
    pd.testing.assert_frame_equal(part.known, whole.known)
    mine = np.isin(whole.users, part.users)[whole.list_index]
    np.testing.assert_array_equal(part.features, whole.features[mine])
    again = window_from_generator(data, PopularityGenerator(), 12, 1, most=100)
    assert part.users == again.users


def test_without_a_read_out_interactions_decide(tmp_path) -> None:
    data = toys.taste_dataset()
    generator = PopularityGenerator().fit(data.interactions)
    settings = {"scorer": "baseline", "engine": "lexical", "soft_tokens": 0}
    fitted = Reranker(toys.config(**settings)).fit(data, generator)
    with_words = Reranker(toys.config(scorer="embedding", engine="lexical")).fit(data, generator)
    assert fitted.fusion_model is not None and with_words.fusion_model is not None
    assert fitted.fusion_model.guard.serve in ("first_stage", "baseline")
    lists = toys.lists_for(["u0", "u5"], ["g0i1", "g1i1", "g2i1", "g3i0"])
    expected = with_words.rerank(lists, order="baseline").to_frame()
    pd.testing.assert_frame_equal(fitted.rerank(lists, order="baseline").to_frame(), expected)
    pd.testing.assert_frame_equal(fitted.rerank(lists, order="fused").to_frame(), expected)
    fitted.save(tmp_path / "bundle")
    loaded = Reranker.load(tmp_path / "bundle")
    pd.testing.assert_frame_equal(loaded.rerank(lists, order="fused").to_frame(), expected)


def test_steps_are_logged_with_their_seconds(caplog: pytest.LogCaptureFixture, capsys) -> None:
    with caplog.at_level(logging.INFO, logger="reranker"), step("lists of 5 users", shown=False):
        pass
    assert "lists of 5 users: 0.0 s" in caplog.text
    assert capsys.readouterr().err == ""
    with step("lists of 5 users", shown=True):
        pass
    assert "lists of 5 users: 00:00" in capsys.readouterr().err


def test_a_step_that_fails_is_not_done(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError), caplog.at_level(logging.INFO, logger="reranker"), step("lists", shown=False):
        raise ConfigError("no")
    assert "lists" not in caplog.text
