import logging
import threading

import numpy as np
import pandas as pd
import pytest
from tqdm.auto import tqdm

from candidate_gen import ALSGenerator, PopularityGenerator
from reranker import Reranker
from reranker.errors import ConfigError, DataError
from reranker.pipeline.windows import window_from_generator, windows_of
from reranker.utils import progress
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
    began, ended = caplog.messages
    assert (began, ended) == ("lists of 5 users ...", "lists of 5 users: 0.0 s")
    assert capsys.readouterr().err == ""
    with step("lists of 5 users", shown=True):
        pass
    assert "lists of 5 users: 00:00" in capsys.readouterr().err


def test_a_step_that_fails_is_not_done(caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ConfigError), caplog.at_level(logging.INFO, logger="reranker"), step("lists", shown=False):
        raise ConfigError("no")
    assert caplog.messages == ["lists ..."]


def test_the_seconds_of_a_long_step_go_on_where_somebody_looks(capsys, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_TICK_SECONDS", 0.01)
    drawn, refresh, three = 0, tqdm.refresh, threading.Event()

    def counted(bar, *given, **named):
        nonlocal drawn
        drawn += 1
        if drawn > 3:
            three.set()
        return refresh(bar, *given, **named)

    monkeypatch.setattr(tqdm, "refresh", counted)
    with step("lists", shown=True):
        assert three.wait(30)
    assert not [thread for thread in threading.enumerate() if thread.name == "progress"]


def test_lean_windows_hold_what_fit_needs_and_no_more() -> None:
    data = toys.taste_dataset(users=60)
    generator = ALSGenerator(factors=4, iterations=2)
    whole = window_from_generator(data, generator, 12, 1)
    lean = window_from_generator(data, generator, 12, 1, lean=True)
    np.testing.assert_array_equal(lean.features, whole.features)
    np.testing.assert_array_equal(lean.n_known, whole.n_known)
    assert lean.statistics.columns == whole.statistics.columns
    assert lean.statistics.history("u3") == whole.statistics.history("u3")
    np.testing.assert_array_equal(lean.statistics.vectors, whole.statistics.vectors)
    with pytest.raises(DataError, match="pairs of items"):
        lean.statistics.features(lean.candidates)
    with pytest.raises(ConfigError, match="not fitted"):
        lean.generator.recommend(["u3"], 2)


def test_lean_windows_teach_the_same() -> None:
    data, settings = toys.taste_dataset(users=60), {"scorer": "baseline", "engine": "lexical", "soft_tokens": 0}
    generator, config = PopularityGenerator(), toys.config(**settings)
    weights = []
    for lean in (False, True):
        windows = windows_of(data, generator.clone(), None, None, config, lean=lean)
        fitted = Reranker(config).fit_windows(data, windows, generator.clone().fit(data.interactions))
        weights.append(fitted.fusion_model.features.logit.weights)
    np.testing.assert_array_equal(*weights)
