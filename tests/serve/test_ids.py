"""Ids over HTTP: numbers as text, users whom a later bundle knows, and what a key may see of a user."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from candidate_gen import PopularityGenerator
from reranker import Dataset, Reranker
from reranker.serve.app import create_app
from reranker.serve.auth import Keys, new_key, read_keys
from reranker.serve.domains import Domain
from reranker.serve.ids import as_known, forms_of
from reranker.stores import SqliteUserStore
from tests.pipeline import toys
from tests.serve.live import serving, wait_until_ready


@pytest.mark.parametrize(
    ("given", "known", "found"),
    [
        (7, {7}, 7),
        ("7", {7}, 7),
        (7, {"7"}, "7"),
        ("007", {7}, "007"),
        ("+7", {7}, "+7"),
        (8, {7}, "8"),
        ("8", {7}, "8"),
        (str(2**64 - 5), {2**64 - 5}, 2**64 - 5),
        ("9" * 5000, {7}, "9" * 5000),
        ("u1", {"u1"}, "u1"),
        ("-7", {-7}, -7),
        (-7, {"-7"}, "-7"),
        ("-0", {0}, "-0"),
        ("--7", {-7, 7}, "--7"),
        (str(-(2**63)), {-(2**63)}, -(2**63)),
    ],
)
def test_the_id_is_the_bundles_or_text(given, known, found):
    assert as_known(given, known) == found and type(as_known(given, known)) is type(found)


def test_forms():
    assert [forms_of(one) for one in (7, "7", "007", "u7")] == [[7, "7"], ["7", 7], ["007"], ["u7"]]
    assert [forms_of(one) for one in (-7, "-7", "-07", "-")] == [[-7, "-7"], ["-7", -7], ["-07"], ["-"]]


def numbered(users):
    """Fitted on users and items that are numbers: item 13 is g1i3, user 5 is u5."""
    data = toys.taste_dataset(users=users)
    chosen, table = data.interactions.copy(), data.items.copy()
    chosen["user_id"] = chosen["user_id"].str[1:].astype(int)
    for frame in (chosen, table):
        frame["item_id"] = frame["item_id"].str[1].astype(int) * 10 + frame["item_id"].str[3].astype(int)
    data = Dataset(interactions=chosen, items=table, domain="toy")
    return Reranker(toys.config()).fit(data, PopularityGenerator().fit(data.interactions))


def best(url, user):
    answer = httpx.post(f"{url}/v1/rerank", json={"user": user, "item_ids": [11, 1, 21, 31]}).json()
    return answer["results"][0]["item_id"]


def did(url, user, *items, **headers):
    rows = {"interactions": [{"item_id": item} for item in items]}
    return httpx.post(f"{url}/v1/users/{user}/interactions", json=rows, headers=headers).json()


def test_a_stranger_is_one_user_as_number_and_as_text(tmp_path):
    with serving(create_app(numbered(40), store=SqliteUserStore(tmp_path / "users.db"))) as url:
        wait_until_ready(url)
        nobody = best(url, "someone")
        for group in (0, 1, 2, 3):
            did(url, 900 + group, *(10 * group + number for number in (2, 3, 4, 5)))  # of fewer the guard knows nothing
        found = [(best(url, 900 + group), best(url, str(900 + group))) for group in (0, 1, 2, 3)]
        assert all(number == text for number, text in found)
        assert {number for number, _ in found} >= {11, 21, 31}
        assert best(url, "0900") == nobody
        for unknown in ([999, 998], ["new"]):
            answer = httpx.post(f"{url}/v1/rerank", json={"user": 5, "item_ids": unknown})
            assert answer.status_code == 200 and answer.json()["meta"]["unknown_items"] == len(unknown)


def test_who_is_known_to_a_later_bundle_keeps_what_was_stored_and_is_forgotten(tmp_path):
    database = tmp_path / "users.db"
    with serving(create_app(numbered(40), store=SqliteUserStore(database))) as url:
        wait_until_ready(url)
        did(url, 45, 22, 23)
        did(url, 46, 22)
    with serving(create_app(numbered(48), store=SqliteUserStore(database))) as url:
        wait_until_ready(url)

        def kept(user):
            found = httpx.get(f"{url}/v1/users/{user}").json()["domains"]["toy"]
            assert found["in_bundle"]
            return [one["item_id"] for one in found["interactions"]]

        assert kept(45) == [22, 23] and kept(46) == [22]
        did(url, 45, 24)
        assert kept(45) == [22, 23, 24]
        assert [httpx.delete(f"{url}/v1/users/{user}").json()["forgotten"] for user in (45, 46)] == [True, True]
        assert kept(45) == kept(46) == []


class SlowStore(SqliteUserStore):
    """Takes its time between reading and writing."""

    def __init__(self, path):
        super().__init__(path)
        self.appending = threading.Event()

    def append(self, user_id, interactions, last=None):
        self.appending.set()
        time.sleep(0.2)
        return super().append(user_id, interactions)


def test_what_was_stored_under_the_other_form_moves_once(tmp_path):
    store = SqliteUserStore(tmp_path / "users.db")
    store.append("45", [(22, None), (23, None)])  # of a bundle that had the user as text
    store.close()
    domain = Domain(numbered(48), SlowStore(tmp_path / "users.db"))
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda item: domain.append(45, [(item, None)]), (11, 12, 13)))
    kept = domain.store.get([45, "45"])
    assert list(kept) == [45]
    items = [item for item, _ in kept[45].interactions]
    assert items.count(22) == items.count(23) == 1 and sorted(items) == [11, 12, 13, 22, 23]
    domain.store.close()


def test_who_is_forgotten_while_it_moves_is_forgotten(tmp_path):
    database = tmp_path / "users.db"
    store = SqliteUserStore(database)
    store.append("45", [(22, None)])
    store.close()
    store = SlowStore(database)
    with serving(create_app(numbered(48), store=store)) as url, ThreadPoolExecutor(1) as pool:
        wait_until_ready(url)
        written = pool.submit(did, url, 45, 23)
        assert store.appending.wait(10)
        assert httpx.delete(f"{url}/v1/users/45").json()["forgotten"]
        assert written.result()["appended"]
        assert store.get([45, "45"]) == {}


def test_keys_that_are_made_at_once_are_all_kept(tmp_path):
    file = tmp_path / "deep" / "keys.json"
    together = threading.Barrier(8)

    def made(number):
        together.wait()
        return new_key(file, f"shop{number}", ["rank"])

    with ThreadPoolExecutor(8) as pool:
        secrets = list(pool.map(made, range(8)))
    keys = Keys(read_keys(file))
    assert [keys.find(secret).name for secret in secrets] == [f"shop{number}" for number in range(8)]
    assert file.stat().st_mode & 0o777 == 0o600


def test_only_admin_sees_what_others_stored(tmp_path):
    file = tmp_path / "keys.json"
    bearer = {scope: f"Bearer {new_key(file, scope, [scope])}" for scope in ("rank", "adapt", "admin")}
    app = create_app(toys.fitted(), store=SqliteUserStore(tmp_path / "users.db"), keys=Keys(read_keys(file)))
    with serving(app) as url:
        wait_until_ready(url)
        did(url, "u1", "g1i1", "g1i2", authorization=bearer["admin"])
        told = did(url, "u1", "g2i1", authorization=bearer["adapt"])
        assert [one["item_id"] for one in told["appended"]] == ["g2i1"] and "g1i1" not in str(told)

        def shown(scope, path, **params):
            return httpx.get(f"{url}/playground/{path}", params=params, headers={"authorization": bearer[scope]})

        assert shown("rank", "users").json()["users"] == [] and len(shown("admin", "users").json()["users"]) == 48
        refused = shown("rank", "list", user="u1")
        assert refused.status_code == 403 and refused.json()["error"]["param"] == "user"
        assert shown("rank", "list").json()["new_user"] and shown("admin", "list", user="u1").json()["history"]


def test_a_long_user_is_refused(tmp_path):
    with serving(create_app(toys.fitted(), store=SqliteUserStore(tmp_path / "users.db"))) as url:
        wait_until_ready(url)
        assert httpx.get(f"{url}/v1/users/{'9' * 5000}").json()["error"]["param"] == "user"


@pytest.mark.parametrize("path", ["%FF", "%FE", "Am%E9lie", "a%C3", "%ED%A0%80"])
def test_a_user_whose_name_is_no_utf_8_is_refused_and_not_one_of_all_such(tmp_path, path):
    with serving(create_app(numbered(40), store=SqliteUserStore(tmp_path / "users.db"))) as url:
        wait_until_ready(url)
        for answer in (
            httpx.post(f"{url}/v1/users/{path}/interactions", json={"interactions": [{"item_id": 11}]}),
            httpx.get(f"{url}/v1/users/{path}"),
            httpx.delete(f"{url}/v1/users/{path}"),
        ):
            assert answer.status_code == 400 and answer.json()["error"]["code"] == "invalid_path"
        assert did(url, "Am%C3%A9lie", 11)["user"] == "Amélie"
