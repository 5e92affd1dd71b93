"""A running server takes a newer version of its bundle; nobody who asks meanwhile notices."""

import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import httpx
import pandas as pd
import pytest

from reranker import Reranker
from reranker.engines.scripted import ScriptedEngine
from reranker.evaluation.logs import read_score_log
from reranker.pipeline.manifest import bundle_identity
from reranker.pipeline.versions import current_version, rollback
from reranker.refresh import refresh
from reranker.serve.app import create_app
from reranker.serve.auth import Keys, new_key, read_keys
from reranker.serve.domains import Domain, _continued
from reranker.serve.reloading import BundleSource
from reranker.stores import SqliteUserStore
from tests.pipeline import toys
from tests.serve.live import serving, wait_until_ready
from tests.serve.process import Process

ITEMS = ["g0i1", "g1i1", "g2i1", "g3i1", "g1i6", "g2i6"]


@pytest.fixture(scope="module")
def fitted():
    return toys.fitted(ScriptedEngine(), scorer="embedding")


@pytest.fixture
def bundle(fitted, tmp_path):
    fitted.save(tmp_path / "bundle")
    return tmp_path / "bundle"


def domain(bundle, store=None):
    source = BundleSource(path=bundle, load=lambda folder: Reranker.load(folder, engine="scripted"))
    reranker, version = source.read()
    return Domain(reranker, store, source, version)


def add_day(bundle, item="g0i3", at=9000):
    newer = Reranker.load(bundle, engine="scripted")
    refresh(newer, pd.DataFrame({"user_id": ["u1"], "item_id": [item], "timestamp": [at]}))
    return newer.save_version(bundle)


def reload(url, **body):
    return httpx.post(f"{url}/v1/reload", json=body, timeout=120)


def history(url, user="u1"):
    return httpx.get(f"{url}/v1/users/{user}").json()["domains"]["toy"]["bundle_history"]


def test_the_score_log_says_which_bundle_ranked(bundle, tmp_path):
    before = bundle_identity(bundle)
    with serving(create_app([domain(bundle)], score_log=tmp_path / "log")) as url:
        wait_until_ready(url)
        body = {"user": "u1", "item_ids": ITEMS}
        first = httpx.post(f"{url}/v1/rerank", json=body).json()["id"]
        add_day(bundle)
        reload(url)
        second = httpx.post(f"{url}/v1/rerank", json=body).json()["id"]
        card = httpx.get(f"{url}/v1/models").json()["data"][0]["card"]
    after = bundle_identity(bundle)
    log = read_score_log(tmp_path / "log").drop_duplicates("request_id").set_index("request_id")
    assert log["bundle"].to_dict() == {first: before.fingerprint, second: after.fingerprint}
    assert [log.loc[one, "bundle_fitted"] for one in (first, second)] == [before.fitted, after.fitted]
    assert card["bundle"] == after.fingerprint and card["fitted"] == after.fitted.isoformat()


def test_a_newer_version_is_served_and_the_one_before_again(bundle):
    with serving(create_app([domain(bundle)])) as url:
        wait_until_ready(url, 60)
        before = history(url)
        add_day(bundle)
        assert history(url) == before
        answer = reload(url, domain="toy").json()
        assert answer["reloaded"][0] | {"serves": ""} == {
            "domain": "toy",
            "version": "000002",
            "before": "",
            "serves": "",
        }
        assert history(url) == [*before, "g0i3"]
        assert httpx.get(f"{url}/v1/models").json()["data"][0]["card"]["version"] == "000002"
        rollback(bundle)
        assert reload(url).json()["reloaded"][0]["before"] == "000002"
        assert history(url) == before
        assert 'reranker_reloads_total{domain="toy",outcome="done"} 2.0' in httpx.get(f"{url}/metrics").text


def test_no_request_is_lost(bundle, fitted):
    fitted.save_version(bundle)
    with serving(create_app([domain(bundle)])) as url, ThreadPoolExecutor(2) as threads:
        wait_until_ready(url, 60)
        done = threading.Event()

        def ask(user):
            codes = []
            with httpx.Client(timeout=120) as client:
                while not done.is_set() or len(codes) < 5:
                    codes.append(client.post(f"{url}/v1/rerank", json={"item_ids": ITEMS, "user": user}).status_code)
                    time.sleep(0.02)  # the reload needs the interpreter, too
            return codes

        asked = [threads.submit(ask, f"u{number}") for number in range(2)]
        try:
            for version in ("000001", "000002"):
                rollback(bundle, version)
                assert reload(url).json()["reloaded"][0]["version"] == version
        finally:
            done.set()
        codes = [code for one in asked for code in one.result()]
    assert len(codes) >= 10 and set(codes) == {200}


def test_a_damaged_bundle_leaves_the_old_one_going(bundle):
    with serving(create_app([domain(bundle)])) as url:
        wait_until_ready(url, 60)
        before = history(url)
        version = add_day(bundle)
        (version / "fusion.json").write_text("{}")
        refused = reload(url)
        assert refused.status_code == 409 and "fusion.json" in refused.json()["error"]["message"]
        assert history(url) == before
        answer = httpx.post(f"{url}/v1/rerank", json={"item_ids": ITEMS, "user": "u1"})
        assert answer.status_code == 200
        assert 'outcome="failed"} 1.0' in httpx.get(f"{url}/metrics").text


def test_what_cannot_be_taken_is_refused(bundle, fitted, tmp_path):
    with serving(create_app([domain(bundle)])) as url:
        wait_until_ready(url, 60)
        assert reload(url, domain="nobody's").status_code == 404
        toys.fitted(ScriptedEngine(), scorer="embedding", engine_options={"max_length": 4096}).save_version(bundle)
        assert "start the server anew" in reload(url).json()["error"]["message"]
    with serving(create_app(fitted)) as url:
        wait_until_ready(url, 60)
        assert "not from a bundle's folder" in reload(url).json()["error"]["message"]


def test_only_who_may_administer_reloads(bundle, tmp_path):
    key = new_key(tmp_path / "keys", "r", ["rank"])
    with serving(create_app([domain(bundle)], keys=Keys(read_keys(tmp_path / "keys")))) as url:
        wait_until_ready(url, 60)
        answer = httpx.post(f"{url}/v1/reload", json={}, headers={"authorization": f"Bearer {key}"})
    assert answer.status_code == 403


def test_what_the_bundle_knows_by_now_is_not_said_twice(bundle, tmp_path):
    store = SqliteUserStore(tmp_path / "users.db")
    served = domain(bundle, store)
    before = served.reranker.history("u1")
    served.append("u1", [("g0i3", 9000.0), ("g0i5", 9500.0)])
    state = store.get(["u1"])["u1"]
    assert served.history("u1", state) == [*before, "g0i3", "g0i5"]
    add_day(bundle)  # knows the first of the two
    newer = served.with_bundle(*served.source.read())
    assert newer.history("u1", state) == [*before, "g0i3", "g0i5"]
    assert _continued(["a", "b", "a"], ["a", "b"]) == ["a", "b", "a", "b"]
    assert _continued(["a"], []) == ["a"] and _continued([], ["a"]) == ["a"]


def test_sighup_reloads(bundle):
    server = Process(bundle)
    try:
        before = history(server.url)
        add_day(bundle)
        server.process.send_signal(signal.SIGHUP)
        deadline = time.monotonic() + 30
        while history(server.url) == before:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        assert current_version(bundle).name == "000002"
    finally:
        server.end(signal.SIGTERM)
