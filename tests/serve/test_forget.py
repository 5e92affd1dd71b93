"""After DELETE the database's files hold no byte of the user's."""

import httpx

from reranker.serve.app import create_app
from reranker.stores import SqliteUserStore
from tests.pipeline import toys
from tests.serve.live import serving, wait_until_ready


def bytes_of(database):
    files = [database.with_name(database.name + end) for end in ("", "-wal", "-shm")]
    return b"".join(file.read_bytes() for file in files if file.exists())


def test_nothing_of_a_forgotten_user_is_in_the_files(tmp_path):
    database = tmp_path / "users.sqlite"
    app = create_app(toys.fitted(), store=SqliteUserStore(database))

    def add(url, user, count):
        for number in range(count):
            rows = [{"item_id": f"{user}-chose-{number}-{part}", "timestamp": part} for part in range(5)]
            path = f"{url}/v1/users/{user}/interactions"
            assert httpx.post(path, json={"interactions": rows}).status_code == 200

    with serving(app) as url:
        wait_until_ready(url)
        for user, count in (("keeps", 40), ("leaver", 60), ("stays", 40)):  # several pages of the file
            add(url, user, count)
        assert b"leaver" in bytes_of(database) and b"leaver-chose-59-4" in bytes_of(database)
        assert httpx.delete(f"{url}/v1/users/leaver").json()["forgotten"]
        assert b"leaver" not in bytes_of(database)
        kept = httpx.get(f"{url}/v1/users/stays").json()["domains"]["toy"]["interactions"]
        assert len(kept) == 200 and b"stays-chose-39-4" in bytes_of(database)
        add(url, "leaver", 1)  # who comes back is a new user
        assert len(httpx.get(f"{url}/v1/users/leaver").json()["domains"]["toy"]["interactions"]) == 5
        assert httpx.delete(f"{url}/v1/users/leaver").json()["forgotten"]
    assert b"leaver" not in bytes_of(database)
