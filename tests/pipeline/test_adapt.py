"""Users' contexts through the public face, on a tiny random model."""

from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from candidate_gen import PopularityGenerator
from reranker import Reranker
from reranker.errors import BundleError, ConfigError, PromptError
from reranker.soft_tokens import CONTEXT_FILE, ContextMap
from reranker.stores import SqliteUserStore
from tests.engines.models import save_tiny_model
from tests.pipeline import toys
from tests.pipeline.adaptive import fitted_with_contexts, save_trained


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_trained(tmp_path_factory.mktemp("run") / "prompt")


@pytest.fixture
def fitted(tiny: Path, trained: Path) -> Reranker:
    return fitted_with_contexts(tiny, trained)


def scores(reranker: Reranker, user: str = "u3", **options: object) -> np.ndarray:
    assert reranker.generator is not None
    return reranker.score_all(reranker.generator.recommend([user], 6), **options).llm  # type: ignore[arg-type]


def test_adapting_changes_the_scores_of_those_adapted(fitted: Reranker) -> None:
    before, other = scores(fitted), scores(fitted, "u4")
    report = fitted.adapt(["u3", "u3", "nobody"])
    assert (report.users, report.new_users) == (1, 1)
    assert np.abs(scores(fitted) - before).max() > 1e-3
    np.testing.assert_array_equal(scores(fitted, "u4"), other)
    assert fitted.states["u3"].support == len(fitted.history("u3"))
    assert fitted.forget(["u3", "u4"]) == 1
    np.testing.assert_array_equal(scores(fitted), before)


def test_everyone_is_adapted_by_default(fitted: Reranker) -> None:
    assert fitted.adapt().users == 16


def test_a_store_gets_contexts_and_gives_newer_interactions(fitted: Reranker, tmp_path: Path) -> None:
    store = SqliteUserStore(tmp_path / "users.sqlite")
    known = len(fitted.history("u3"))
    first = fitted.adapt(["u3"], store=store)
    assert fitted.states == {}
    store.append("u3", [("g1i0", 1.0)])
    store.append("new_user", [("g2i0", None)])
    second = fitted.adapt(["u3", "new_user"], store=store)
    found = store.get(["u3", "new_user"])
    assert (found["u3"].support, found["new_user"].support) == (known + 1, 1)
    assert found["u3"].interactions == (("g1i0", 1.0),)
    assert second.tokens < 2 * first.tokens  # two users with one title each
    assert fitted.adapt(["u3"], store=store).users == 0  # nothing new
    np.testing.assert_array_equal(scores(fitted), scores(fitted, states={}))
    assert np.abs(scores(fitted, states=found) - scores(fitted)).max() > 1e-3
    store.close()


def test_contexts_are_in_the_bundle(fitted: Reranker, tmp_path: Path) -> None:
    fitted.save(tmp_path / "bundle")
    again = Reranker.load(tmp_path / "bundle", model=fitted.config.model)
    np.testing.assert_array_equal(scores(again), scores(fitted))
    again.adapt(["u3"])
    fitted.adapt(["u3"])
    np.testing.assert_array_equal(scores(again), scores(fitted))
    (tmp_path / "bundle" / CONTEXT_FILE).write_bytes(b"something else")
    with pytest.raises(BundleError, match=CONTEXT_FILE):
        Reranker.load(tmp_path / "bundle", model=fitted.config.model)


def test_the_stranger_gets_the_base_and_the_told_a_start(fitted: Reranker) -> None:
    contexts = fitted.llm_scorer.contexts
    assert contexts is not None
    new_user = fitted.llm_scorer.user_tokens([], None)
    assert new_user is not None
    np.testing.assert_array_equal(new_user.vectors, contexts.base)
    told = fitted.llm_scorer.user_tokens([{"title": "zorblax", "category": ""}], None)
    assert told is not None
    assert np.abs(told.vectors - contexts.base).max() > 0.1


def test_without_a_map_nothing_can_be_adapted() -> None:
    with pytest.raises(ConfigError, match="algorithm: cavia"):
        toys.fitted().adapt(["u1"])


def test_steps_must_be_some(fitted: Reranker) -> None:
    with pytest.raises(ConfigError, match="steps"):
        fitted.adapt(["u1"], steps=0)


def test_a_map_for_another_width(tiny: Path, fitted: Reranker) -> None:
    fitted.llm_scorer.contexts = ContextMap.initial(np.zeros(8, dtype=np.float32), 2, 4)
    with pytest.raises(PromptError, match="width 8"):
        fitted.adapt(["u1"])
    with pytest.raises(PromptError, match="width 8"):
        scores(fitted)


def test_a_context_of_another_map_is_adapted_anew_and_not_read_before(fitted: Reranker, tmp_path: Path) -> None:
    """Other maps of the same sizes are told apart; a context of another one counts as none."""
    map_of = fitted.llm_scorer.contexts
    assert map_of is not None
    with closing(SqliteUserStore(tmp_path / "users.db")) as store:
        store.append("u3", [("g1i0", 1.0)])
        fitted.adapt(["u3"], store=store)
        old = store.get(["u3"])["u3"]
        assert not fitted.is_behind(old)
        fitted.llm_scorer.contexts = replace(map_of, directions=map_of.directions[::-1])
        try:
            candidates = fitted.generator.recommend(["u3"], 6)
            bare = fitted.score_all(candidates, states={}).llm
            np.testing.assert_array_equal(fitted.score_all(candidates, states={"u3": old}).llm, bare)
            assert fitted.is_behind(old)
            assert fitted.adapt(["u3"], store=store).users == 1
            assert store.get(["u3"])["u3"].support == old.support  # all of it was read again
            assert not fitted.is_behind(store.get(["u3"])["u3"])
        finally:
            fitted.llm_scorer.contexts = map_of


def test_after_a_fit_on_another_history_new_interactions_are_read(tiny: Path, trained: Path, tmp_path: Path) -> None:
    """A shorter history than the context was adapted on hides none of what comes later."""
    fitted = fitted_with_contexts(tiny, trained)
    with closing(SqliteUserStore(tmp_path / "users.db")) as store:
        store.append("u3", [("g1i0", 1.0)])
        fitted.adapt(["u3"], store=store)
        data = toys.taste_dataset(users=16)
        newest = data.interactions.groupby("user_id", sort=False).tail(3)
        fitted.fit(replace(data, interactions=newest), PopularityGenerator().fit(newest))
        assert len(fitted.history("u3")) == 3
        assert fitted.adapt(["u3"], store=store).users == 1
        assert store.get(["u3"])["u3"].support == 4
        for n in (2, 3):
            store.append("u3", [(f"g2i{n}", float(n))])
            assert fitted.adapt(["u3"], store=store).users == 1
        assert store.get(["u3"])["u3"].support == 6
        assert fitted.adapt(["u3"], store=store).users == 0
