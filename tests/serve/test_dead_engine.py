"""kill -9 of each of vLLM's processes in each state of the server: exit code 1 soon, errors in JSON until then.

How fast the machine is matters little: the end is some two seconds of waiting, and loading may take what it takes.
"""

import re
import signal
import threading
import time

import httpx
import pytest

from candidate_gen import PopularityGenerator
from reranker import Reranker
from reranker.cli import serve as cli
from reranker.serve import state as watching
from tests.pipeline import toys
from tests.serve.process import Process

pytest.importorskip("vllm")

pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(4000)]

SECONDS = 5  # that the server gives itself, from the kill to the exit
BOUND = 60  # of the exit, on a machine that does other things, too: far below what anybody would wait for the dead
LONG = 1800
CHAT = {
    "messages": [{"role": "user", "content": "Count from 1 to 500."}],
    "max_tokens": 900,
    "ignore_eos": True,
    "temperature": 0,
}
TEXTS = {"query": "", "documents": [f"The {number}th film of a long series about trains" for number in range(1500)]}
STATES = {"idle": (), "chat": ("chat",), "ranking": ("rank",), "chat and ranking": ("chat", "rank")}


def test_the_server_gives_itself_less_than_five_seconds():
    assert watching._LOOK_SECONDS + cli._LEAVE_SECONDS + cli._FLUSH_SECONDS < SECONDS


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    data = toys.taste_dataset()
    config = toys.config(engine="torch", model="smollm2-135m", dtype="float32", soft_tokens=8, fit_users=10)
    path = tmp_path_factory.mktemp("dead") / "bundle"
    Reranker(config).fit(data, PopularityGenerator().fit(data.interactions)).save(path)
    return path


def wait_until_in_flight(url, what):
    """Until the server itself counts them as in work."""
    counted = {"chat": "reranker_texts", "rank": "reranker_rankings"}
    deadline = time.monotonic() + LONG
    while time.monotonic() < deadline:
        metrics = httpx.get(f"{url}/metrics", timeout=LONG).text
        if all(re.search(rf"^{counted[one]} 1.0$", metrics, re.MULTILINE) for one in what):
            return
        time.sleep(0.05)
    raise AssertionError(metrics)


@pytest.mark.parametrize("victim", ["model", "other"])
@pytest.mark.parametrize("state", STATES)
def test_the_server_ends_with_an_error(bundle, state, victim, monkeypatch):
    psutil = pytest.importorskip("psutil")
    monkeypatch.setenv("VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS", str(LONG))  # else vLLM gives up a busy machine after 300
    server = Process(bundle, "--engine", "vllm", seconds=LONG)
    children = psutil.Process(server.process.pid).children(recursive=True)
    by_size = sorted(children, key=lambda child: child.memory_info().rss, reverse=True)
    engines = [child for child in by_size if child.memory_info().rss > 100 << 20]  # not the resource tracker
    if victim == "other" and len(engines) < 2:
        server.end(signal.SIGKILL)
        pytest.skip("this vLLM runs the model in one process")
    answers = {}

    def ask(what):
        path, body = ("/v1/chat/completions", {"model": "toy", **CHAT}) if what == "chat" else ("/rerank", TEXTS)
        try:
            answers[what] = httpx.post(f"{server.url}{path}", json=body, timeout=None)
        except httpx.TransportError as error:
            answers[what] = error

    threads = [threading.Thread(target=ask, args=(what,)) for what in STATES[state]]
    for thread in threads:
        thread.start()
    wait_until_in_flight(server.url, STATES[state])
    assert not answers, {what: answer.text for what, answer in answers.items()}
    killed = time.monotonic()
    engines[0 if victim == "model" else 1].kill()
    lines = server.wait(BOUND)
    print(f"{state}, {victim}: {time.monotonic() - killed:.1f} s")
    for thread in threads:
        thread.join()
    assert server.process.returncode == 1 and "the model's process is gone" in lines
    for answer in answers.values():
        assert isinstance(answer, httpx.Response), answer
        assert answer.status_code in (500, 503)
        assert answer.json()["error"]["code"] in ("engine_failed", "engine_dead")
    _, left = psutil.wait_procs(children, timeout=LONG)
    assert not [child for child in left if child.status() != psutil.STATUS_ZOMBIE]
