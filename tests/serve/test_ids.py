"""Ids over HTTP: numbers as text, users whom a later bundle knows, and what a key may see of a user."""

import httpx
import pytest

from candidate_gen import PopularityRecall
from reranker import Dataset, Reranker
from reranker.serve.app import create_app
from reranker.serve.ids import as_known, forms_of
from reranker.serve.keys import Keys, new_key, read_keys
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
    ],
)
def test_the_id_is_the_bundles_or_text(given, known, found):
    assert as_known(given, known) == found and type(as_known(given, known)) is type(found)


def test_forms():
    assert [forms_of(one) for one in (7, "7", "007", "u7")] == [[7, "7"], ["7", 7], ["007"], ["u7"]]


def numbered(users):
    """Fitted on users and items that are numbers: item 13 is g1i3, user 5 is u5."""
    data = toys.taste_dataset(users=users)
    chosen, table = data.interactions.copy(), data.items.copy()
    chosen["user_id"] = chosen["user_id"].str[1:].astype(int)
    for frame in (chosen, table):
        frame["item_id"] = frame["item_id"].str[1].astype(int) * 10 + frame["item_id"].str[3].astype(int)
    data = Dataset(interactions=chosen, items=table, domain="toy")
    return Reranker(toys.config()).fit(data, PopularityRecall().fit(data.interactions))


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
        assert shown("rank", "list").json()["stranger"] and shown("admin", "list", user="u1").json()["history"]


def test_a_long_user_is_refused(tmp_path):
    with serving(create_app(toys.fitted(), store=SqliteUserStore(tmp_path / "users.db"))) as url:
        wait_until_ready(url)
        assert httpx.get(f"{url}/v1/users/{'9' * 5000}").json()["error"]["param"] == "user"
