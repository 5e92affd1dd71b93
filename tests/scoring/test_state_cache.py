from pathlib import Path

import numpy as np
import pytest

from reranker.errors import ConfigError
from reranker.scoring import StateCache, TextsRead
from reranker.scoring.state_cache import SIZE_VARIABLE
from tests.scoring.readers import HashedEngine

KEYS = [("prompt", "span"), ("prompt", "other span")]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RERANKER_CACHE", str(tmp_path))
    monkeypatch.delenv(SIZE_VARIABLE, raising=False)


def users_cache() -> StateCache:
    found = StateCache.of_user()
    assert found is not None
    return found


def test_states_are_known_by_weights_and_arithmetic(tmp_path: Path) -> None:
    engine, states = HashedEngine(), {KEYS[0]: np.arange(16, dtype=np.float16)}
    users_cache().put(engine, states)
    found = users_cache().get(engine, KEYS)
    assert list(found) == [KEYS[0]]
    np.testing.assert_array_equal(found[KEYS[0]], states[KEYS[0]])
    assert users_cache().directory == tmp_path
    assert users_cache().get(HashedEngine(arithmetic="float32"), KEYS) == {}


def test_a_state_of_another_width_is_none() -> None:
    users_cache().put(HashedEngine(), {KEYS[0]: np.zeros(8, dtype=np.float16)})
    assert users_cache().get(HashedEngine(), KEYS) == {}


def test_a_model_without_a_hash_is_left_out() -> None:
    assert StateCache.takes(HashedEngine())
    assert not StateCache.takes(HashedEngine(sha256=""))
    assert not StateCache.takes(HashedEngine(arithmetic=""))


@pytest.mark.parametrize("given", ["-1", "much", "nan", "inf"])
def test_a_size_must_be_one(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    monkeypatch.setenv(SIZE_VARIABLE, given)
    with pytest.raises(ConfigError, match=SIZE_VARIABLE):
        StateCache.of_user()


def test_no_size_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SIZE_VARIABLE, "0")
    assert StateCache.of_user() is None


def test_the_line(tmp_path: Path) -> None:
    counts = TextsRead(directory=tmp_path).more(read=100, kept=3339).more(read=20)
    assert counts.summary() == f"read 120 of 3,459 texts; 3,339 from the cache {tmp_path}"
    assert TextsRead(read=7).summary() == "read 7 of 7 texts"
