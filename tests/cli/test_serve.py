"""`reranker serve` as a process: starts, answers, stops on a signal, survives a kill with what it had promised."""

import gc
import json
import logging
import shutil
import signal

import httpx
import pytest
from typer.testing import CliRunner

from reranker.cli.app import app
from reranker.cli.serve import _keep_for_good, _require_different
from reranker.errors import ConfigError
from reranker.serve.auth import read_keys
from reranker.serve.observability.logging import LaterLines
from tests.pipeline import toys
from tests.serve.process import Process

ITEMS = ["g1i1", "g0i1", "g2i1", "g3i1"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    path = tmp_path_factory.mktemp("serve") / "bundle"
    toys.fitted().save(path)
    return path


def test_what_was_kept_for_good_is_let_go_at_the_end(bundle, monkeypatch):
    """What is frozen when the interpreter ends is reported as leaked by libraries that count their objects."""
    seen = []
    kept = signal.getsignal(signal.SIGTERM)

    def run(self):
        _keep_for_good()
        seen.append(gc.get_freeze_count())

    monkeypatch.setattr("reranker.serve.draining.DrainingServer.run", run)
    try:
        assert CliRunner().invoke(app, ["serve", "--bundle", str(bundle)]).exit_code == 1  # it never began
    finally:
        signal.signal(signal.SIGTERM, kept)
    assert seen[0] > 0 and gc.get_freeze_count() == 0


def test_answers_logs_and_stops(bundle):
    server = Process(bundle)
    body = {"user": "u0", "item_ids": ITEMS}
    answer = httpx.post(f"{server.url}/rerank", json=body).json()
    log = server.end(signal.SIGTERM)
    assert answer["results"][0]["item_id"] == "g0i1"
    assert '"route":"/rerank","status":200' in log and "u0" not in log
    lines = [json.loads(line) for line in log.splitlines()]
    said = " ".join(line.get("message", "") for line in lines)
    assert "running on" in said and "Finished server process" in said and all("time" in line for line in lines)
    assert server.process.returncode in (0, -signal.SIGTERM)


def test_what_a_user_did_survives_a_kill(bundle, tmp_path):
    users = tmp_path / "users.db"
    server = Process(bundle, "--users-db", users)
    rows = {"interactions": [{"item_id": f"g2i{number}"} for number in (2, 3, 4, 5)]}
    assert httpx.post(f"{server.url}/v1/users/new/interactions", json=rows).status_code == 200
    server.end(signal.SIGKILL)
    server = Process(bundle, "--users-db", users)
    answer = httpx.post(f"{server.url}/rerank", json={"user": "new", "item_ids": ITEMS}).json()
    server.end(signal.SIGTERM)
    assert answer["results"][0]["item_id"] == "g2i1"


def test_a_bundle_that_cannot_be_loaded_leaves_no_empty_store(bundle, tmp_path):
    damaged = tmp_path / "damaged"
    shutil.copytree(bundle, damaged)
    (damaged / "fusion.json").write_text("{}")
    users = tmp_path / "users.db"
    refused = CliRunner().invoke(app, ["serve", "--bundle", str(damaged), "--users-db", str(users)])
    assert refused.exit_code == 1 and "is damaged" in str(refused.exception)
    assert [path.name for path in tmp_path.iterdir()] == ["damaged"]


@pytest.mark.parametrize(
    ("one", "other", "place"),
    [
        ("redis://h:6379", "redis://h:6379/0", "database 0 of Redis at h:6379"),
        ("redis://h/2", "redis://H:6379/?db=2", "database 2 of Redis at h:6379"),
        ("redis://:secret@h/1", "redis://name:secret@h:6379/1", "database 1 of Redis at h:6379"),
        ("redis:///3", "redis://localhost/3", "database 3 of Redis at localhost:6379"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock?db=0", "database 0 of Redis at /run/redis.sock"),
    ],
)
def test_a_database_given_twice_is_refused_however_it_is_written(one, other, place):
    pytest.importorskip("redis")
    with pytest.raises(ConfigError, match=f"--users-db: {place} is given twice"):
        _require_different([one, "x.db", other])


def test_databases_that_differ_are_taken():
    _require_different(
        ["redis://h/0", "redis://h/1", "redis://h:6380/0", "redis://i/0", "unix:///a", "unix:///a?db=1", "0", "1"]
    )


def test_keys_are_made_and_bad_files_refused(bundle, tmp_path):
    keys = tmp_path / "keys.json"
    made = CliRunner().invoke(app, ["keys", "add", "--file", str(keys), "--name", "shop"])
    assert made.exit_code == 0 and made.output.startswith("rr-") and made.output.strip() not in keys.read_text()
    again = CliRunner().invoke(app, ["keys", "add", "--file", str(keys), "--name", "shop"])
    assert again.exit_code == 1 and "already has a key called 'shop'" in str(again.exception)
    link = tmp_path / "link.json"
    link.symlink_to(keys)
    assert CliRunner().invoke(app, ["keys", "add", "--file", str(link), "--name", "second"]).exit_code == 0
    assert link.is_symlink() and len(read_keys(keys)) == 2
    odd = CliRunner().invoke(app, ["keys", "add", "--file", str(keys), "--name", "x", "--scope", "fly"])
    assert odd.exit_code == 1 and "choose of rank, adapt, admin" in str(odd.exception)
    limits = tmp_path / "limits.yaml"
    limits.write_text("max_documents: 0\n")
    flags = ["serve", "--bundle", str(bundle)]
    for more, message in (
        (["--config", str(limits)], "setting 'max_documents'"),
        (["--api-key-file", str(limits)], "cannot read API keys"),
        (["--api-key-file", str(tmp_path / "none")], "cannot read API keys"),
        (["--bundle", "other", "--users-db", "a.db", "--users-db", "./a.db"], "a.db is given twice"),
    ):
        refused = CliRunner().invoke(app, [*flags, *more])
        assert refused.exit_code == 1 and message in str(refused.exception)
        assert logging.getLogger("reranker.access").propagate  # logging is left as it was
        assert not any(isinstance(one, LaterLines) for one in logging.getLogger().handlers)
