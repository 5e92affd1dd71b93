"""What every user store must do. A test class inherits `StoreContract` and gives it a `place` fixture.

`place` is a new, empty path or URL that `open_user_store` understands.
"""

import math
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reranker.errors import DataError, StoreError
from reranker.protocols import UserStore
from reranker.stores import open_user_store
from reranker.types import Signal, UserState

ids = st.recursive(
    st.one_of(st.text(), st.integers(), st.booleans(), st.binary(), st.floats(allow_nan=False)),
    lambda inner: st.tuples(inner, inner),
    max_leaves=4,
)
times = st.none() | st.floats(allow_nan=False, allow_infinity=False)
vectors = st.lists(st.floats(-1e6, 1e6, width=32), max_size=64).map(lambda v: np.array(v, dtype=np.float32))

SHARED = (HealthCheck.function_scoped_fixture, HealthCheck.differing_executors)
ROOT = Path(__file__).parents[2]
APPENDER = """
import sys
from reranker.stores import open_user_store
store = open_user_store(sys.argv[1])
for number in range(int(sys.argv[3])):
    store.append("u", [(f"{sys.argv[2]}-{number}", float(number))])
"""
PUT_AND_HANG = """
import sys, time
from reranker.stores import open_user_store
from reranker.types import Signal, UserState
store = open_user_store(sys.argv[1])
store.put([UserState(user_id=f"u{n}", support=n) for n in range(100)])
store.append("u3", [("item", 1.0)])
print("done", flush=True)
time.sleep(600)
"""


def python(code: str, *arguments: str) -> "subprocess.Popen[str]":
    return subprocess.Popen([sys.executable, "-c", code, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)


def state(user_id: object = "u", **fields: object) -> UserState:
    return UserState(
        **{
            "user_id": user_id,
            "vector": np.array([0.5, -2.0, 3.25], dtype=np.float32),
            "support": 7,
            "support_loss": 1.25,
            "step_scale": 2.0,
            "interactions": (("Alien", 10.0), (42, None), (("a", 1), 11.5)),
            "updated_at": 1_700_000_000.25,
            **fields,
        }
    )


def same(one: UserState, other: UserState) -> bool:
    def plain(value: UserState) -> tuple[object, ...]:
        loss = "nan" if math.isnan(value.support_loss) else value.support_loss
        return (
            repr(value.user_id), value.vector.tolist(), value.vector.dtype, value.support, loss, value.step_scale,
            repr(value.interactions), value.updated_at,
        )  # fmt: skip

    return plain(one) == plain(other)


class StoreContract:
    @pytest.fixture
    def store(self, place: str) -> Iterator[UserStore]:
        store = open_user_store(place)
        yield store
        store.close()

    def test_is_a_store_and_starts_empty(self, store: UserStore) -> None:
        assert isinstance(store, UserStore)
        assert store.get(["nobody"]) == {}
        assert store.get([]) == {}
        assert list(store.user_ids()) == []
        assert store.forget(["nobody"]) == 0
        assert store.forget([]) == 0
        store.put([])

    def test_one_text_is_not_a_list_of_users(self, store: UserStore) -> None:
        """Its characters are other users."""
        store.append("1", [("item", None)])
        for call in (store.get, store.forget):
            with pytest.raises(DataError, match="user_ids must be a list of user ids, got the single text '19'"):
                call("19")
        assert list(store.user_ids()) == ["1"]

    def test_what_was_put_comes_back(self, store: UserStore, place: str) -> None:
        states = [state("full"), UserState(user_id="bare"), state("lost", support_loss=float("inf"))]
        store.put(states)
        reopened = open_user_store(place)
        for reader in (store, reopened):
            found = reader.get(["lost", "unknown", "full", "bare"])
            assert set(found) == {"full", "bare", "lost"}
            assert all(same(found[one.user_id], one) for one in states)
        reopened.close()
        found["full"].vector[0] = 9.0  # a copy of the caller's own
        assert store.get(["full"])["full"].vector[0] == 0.5

    def test_what_interactions_say_is_kept_beside_plain_ones(self, store: UserStore, place: str) -> None:
        rows = [
            ("a", 1.0),
            ("b", None, Signal("dislike")),
            ("c", 2.0, Signal(rating=4.5)),
            ("d", 3.0),
            ("e", 4.0, Signal(weight=-0.5)),
            ("f", None, Signal("purchase", weight=3.0)),
        ]
        store.append("u", rows[:2])
        assert store.append("u", rows[2:]).interactions == tuple(rows)
        store.put([state("v", interactions=tuple(rows))])
        reopened = open_user_store(place)
        assert all(one.interactions == tuple(rows) for one in reopened.get(["u", "v"]).values())
        assert reopened.get(["u"], last=3)["u"].interactions == tuple(rows[3:])
        reopened.close()
        with pytest.raises(StoreError, match="has the rating nan"):
            store.append("u", [("a", None, Signal(rating=math.nan))])
        with pytest.raises(StoreError, match="has the weight inf"):
            store.append("u", [("a", None, Signal(weight=math.inf))])

    @settings(max_examples=60, deadline=None, suppress_health_check=SHARED)
    @given(user=ids, items=st.lists(st.tuples(ids, times), max_size=4), vector=vectors)
    def test_round_trip_of_any_ids(
        self, store: UserStore, user: object, items: list[tuple[object, float | None]], vector: np.ndarray
    ) -> None:
        one = state(user, interactions=tuple(items), vector=vector)
        store.put([one])
        assert same(store.get([user])[user], one)
        assert repr(user) in map(repr, store.user_ids())
        assert store.forget([user]) == 1
        assert store.get([user]) == {}

    def test_ids_that_python_calls_equal_are_different_users(self, store: UserStore) -> None:
        for support, user in enumerate([1, 1.0, True, "1"]):
            store.put([state(user, support=support)])
        assert [store.get([user])[user].support for user in [1, 1.0, True, "1"]] == [0, 1, 2, 3]
        assert store.get([np.int64(1)])[1].support == 0  # but numpy's numbers are plain numbers
        assert sorted(map(repr, store.user_ids())) == ["'1'", "1", "1.0", "True"]

    def test_put_replaces(self, store: UserStore) -> None:
        store.put([state(support=1), state("other")])
        store.put([state(support=2, interactions=())])
        assert same(store.get(["u"])["u"], state(support=2, interactions=()))
        assert same(store.get(["other"])["other"], state("other"))

    def test_put_is_all_or_nothing(self, store: UserStore) -> None:
        def broken() -> Iterator[UserState]:
            yield state("first")
            raise KeyError("source")

        with pytest.raises(KeyError):
            store.put(broken())
        with pytest.raises(StoreError):
            store.put([state("first"), state("second", vector=np.zeros(65, dtype=np.float32))])
        assert list(store.user_ids()) == []

    def test_the_newest_interactions_alone_can_be_read(self, store: UserStore) -> None:
        for number in range(3):
            store.append("u", [(f"{number}-{at}", float(at)) for at in range(3)])
        whole = store.get(["u"])["u"].interactions
        assert [item for item, _ in whole] == [f"{number}-{at}" for number in range(3) for at in range(3)]
        for last in (0, 1, 3, 4, 9, 10):
            assert store.get(["u"], last=last)["u"].interactions == whole[max(0, 9 - last) :]

    def test_append_adds_after_what_is_there(self, store: UserStore) -> None:
        store.put([state(interactions=(("a", 1.0),))])
        before = time.time()
        returned = store.append("u", [("b", None), (3, 2.5)])
        expected = (("a", 1.0), ("b", None), (3, 2.5))
        assert returned.interactions == expected
        found = store.get(["u"])["u"]
        assert same(found, returned)
        assert (found.support, found.step_scale, found.vector.tolist()) == (7, 2.0, [0.5, -2.0, 3.25])
        assert before <= found.updated_at <= time.time()

    def test_append_tells_the_newest_and_keeps_all(self, store: UserStore) -> None:
        store.put([state("u", interactions=(("a", 1.0),))])
        assert store.append("u", [("b", None), ("c", 3.0)], last=2).interactions == (("b", None), ("c", 3.0))
        assert store.append("u", [("d", None)], last=0).interactions == ()
        assert [item for item, _ in store.get(["u"])["u"].interactions] == ["a", "b", "c", "d"]

    def test_contexts_leave_interactions_alone(self, store: UserStore) -> None:
        store.put([state("u", interactions=(("a", 1.0),)), state("other")])
        read = store.get(["u"])["u"]
        store.append("u", [("b", None)])  # while the context is adapted
        changed = replace(read, vector=np.array([1.0, 2.0], dtype=np.float32), support=1, support_loss=0.5)
        store.put_contexts([changed, state("new", interactions=())])
        store.append("u", [("c", 3.0)])
        found = store.get(["u"])["u"]
        assert found.interactions == (("a", 1.0), ("b", None), ("c", 3.0))
        assert (found.vector.tolist(), found.support, found.support_loss) == ([1.0, 2.0], 1, 0.5)
        assert same(store.get(["other"])["other"], state("other"))
        assert store.get(["new"])["new"].support == 7

    def test_contexts_do_not_bring_the_forgotten_back(self, store: UserStore) -> None:
        store.append("u", [("a", 1.0)])
        read = store.get(["u"])["u"]
        store.forget(["u"])
        store.put_contexts([replace(read, vector=np.ones(2, dtype=np.float32), support=1)])
        assert store.get(["u"]) == {}

    def test_append_to_a_stranger(self, store: UserStore) -> None:
        store.append("new", [("a", 1.0)])
        found = store.append("new", [("a", 1.0)])
        assert found.interactions == (("a", 1.0), ("a", 1.0))
        assert found.vector.shape == (0,)
        assert found.support == 0
        assert math.isnan(found.support_loss)
        assert list(store.user_ids()) == ["new"]

    @pytest.mark.parametrize(
        "vector",
        [np.zeros(65), np.zeros((2, 2)), np.array([1.0, np.nan]), np.array([np.inf])],
        ids=["65 floats", "matrix", "nan", "inf"],
    )
    def test_refuses_vectors_that_are_none(self, store: UserStore, vector: np.ndarray) -> None:
        with pytest.raises(StoreError, match=r"'u'.*dim <= 64"):
            store.put([state(vector=vector.astype(np.float32))])
        store.put([state(vector=np.ones(64, dtype=np.float32))])
        assert store.get(["u"])["u"].vector.nbytes == 256

    def test_refuses_what_it_could_not_give_back(self, store: UserStore) -> None:
        with pytest.raises(DataError, match="pickle"):
            store.put([state(frozenset({1}))])
        with pytest.raises(DataError, match="pickle"):
            store.append("u", [(frozenset({1}), None)])
        with pytest.raises(StoreError, match="timestamp nan"):
            store.append("u", [("a", float("nan"))])
        assert list(store.user_ids()) == []

    def test_forget(self, store: UserStore) -> None:
        store.put(state(user) for user in ["a", "b", "c"])
        assert store.forget(["a", "c", "nobody", "a"]) == 2
        assert list(store.user_ids()) == ["b"]
        assert store.forget(["a"]) == 0
        assert store.append("a", [("x", None)]).interactions == (("x", None),)

    def test_ten_thousand_users_in_one_batch(self, store: UserStore) -> None:
        store.put(state(number, support=number) for number in range(10_000))
        asked = [*range(9_999, -1, -1), "nobody"]
        started = time.perf_counter()
        found = store.get(asked)
        assert time.perf_counter() - started < 5.0  # s; the machine may be busy, it takes 0.3
        assert len(found) == 10_000
        assert all(found[number].support == number for number in range(10_000))

    def test_export_is_user_ids_and_get(self, store: UserStore, place: str) -> None:
        store.put(state(f"u{number}", support=number) for number in range(2_500))
        exported = store.get(list(store.user_ids()))
        assert {user: one.support for user, one in exported.items()} == {f"u{n}": n for n in range(2_500)}

    def test_threads_lose_nothing(self, store: UserStore) -> None:
        barrier = threading.Barrier(8)

        def work(worker: int) -> None:
            barrier.wait()
            for number in range(25):
                store.append("shared", [((worker, number), float(number))])
                store.put([state(("own", worker), support=number)])

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        interactions = [item for item, _ in store.get(["shared"])["shared"].interactions]
        assert sorted(interactions) == [(worker, number) for worker in range(8) for number in range(25)]
        for worker in range(8):  # each writer's own order is kept
            assert [n for w, n in interactions if w == worker] == list(range(25))
            assert store.get([("own", worker)])[("own", worker)].support == 24

    def test_processes_lose_nothing(self, place: str) -> None:
        """Nobody has opened the store before: they also race to make it."""
        workers = [python(APPENDER, place, str(worker), "40") for worker in range(4)]
        for worker in workers:
            with worker:
                assert worker.wait(timeout=120) == 0
        store = open_user_store(place)
        interactions = [item for item, _ in store.get(["u"])["u"].interactions]
        assert sorted(interactions) == sorted(f"{worker}-{number}" for worker in range(4) for number in range(40))
        store.close()

    def test_a_write_that_returned_survives_kill_9(self, place: str) -> None:
        worker = python(PUT_AND_HANG, place)
        with worker:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "done\n"
            worker.kill()
        store = open_user_store(place)
        assert len(list(store.user_ids())) == 100
        assert store.get(["u3"])["u3"].support == 3
        assert store.get(["u3"])["u3"].interactions == (("item", 1.0),)
        store.close()

    def test_states_expire(self, place: str) -> None:
        store = open_user_store(place, ttl_seconds=0.6)
        store.put([state("put"), state("renewed")])
        store.append("appended", [("a", 1.0)])
        assert set(store.get(["put", "renewed", "appended"])) == {"put", "renewed", "appended"}
        time.sleep(0.35)
        store.append("renewed", [("b", 2.0)])
        time.sleep(0.35)
        assert set(store.get(["put", "renewed", "appended"])) == {"renewed"}
        assert list(store.user_ids()) == ["renewed"]
        assert store.forget(["put"]) == 0
        time.sleep(0.35)
        assert store.append("renewed", [("c", 3.0)]).interactions == (("c", 3.0),)
        assert store.get(["renewed"])["renewed"].support == 0
        store.close()

    def test_a_ttl_must_be_positive(self, place: str) -> None:
        with pytest.raises(StoreError, match="ttl_seconds"):
            open_user_store(place, ttl_seconds=0.0)

    def test_closed(self, place: str) -> None:
        store = open_user_store(place)
        store.close()
        store.close()
        with pytest.raises(StoreError, match="closed"):
            store.get(["u"])
        with pytest.raises(StoreError, match="closed"):
            store.put([state()])
