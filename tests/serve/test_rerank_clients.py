"""The real clients of Cohere and LiteLLM, and the programs of examples/clients, against a live server.

`make test-clients` installs them; they are skipped elsewhere.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reranker.serve.app import create_app
from reranker.serve.auth import Keys, new_key, read_keys
from reranker.stores import SqliteUserStore
from tests.pipeline import toys
from tests.serve.live import serving, wait_until_ready

EXAMPLES = Path(__file__).parents[2] / "examples" / "clients"
DOCUMENTS = ["mipfen mippel 7", "zorblax zomzik 7", "vantow vanvik 7"]


@pytest.fixture(scope="module")
def reranker():
    return toys.fitted()


@pytest.fixture(scope="module")
def server(reranker, tmp_path_factory):
    """Base URL and a key that may do everything."""
    folder = tmp_path_factory.mktemp("server")
    secret = new_key(folder / "keys.json", "client", ["admin"])
    app = create_app(reranker, store=SqliteUserStore(folder / "u.db"), keys=Keys(read_keys(folder / "keys.json")))
    with serving(app) as url:
        wait_until_ready(url)
        yield url, secret


@pytest.fixture(scope="module")
def expected(reranker):
    return [one.index for one in reranker.rank("zorblax", DOCUMENTS)]


def test_cohere(server, expected):
    cohere = pytest.importorskip("cohere")
    url, key = server
    client = cohere.ClientV2(api_key=key, base_url=url, max_retries=0)
    answer = client.rerank(model="toy", query="zorblax", documents=DOCUMENTS)
    assert [one.index for one in answer.results] == expected
    assert answer.id and answer.meta.api_version.version == "2"
    best = client.rerank(model="toy", query="zorblax", documents=DOCUMENTS, top_n=1, max_tokens_per_doc=50)
    assert [one.index for one in best.results] == expected[:1]
    with pytest.raises(cohere.errors.NotFoundError):
        client.rerank(model="gpt", query="", documents=DOCUMENTS)
    with pytest.raises(cohere.errors.UnauthorizedError):
        cohere.ClientV2(api_key="wrong", base_url=url).rerank(model="toy", query="", documents=DOCUMENTS)
    with pytest.raises(cohere.errors.UnprocessableEntityError):
        client.rerank(model="toy", query="", documents=[])


@pytest.mark.filterwarnings("ignore")  # LiteLLM's own
@pytest.mark.parametrize(
    ("provider", "path"), [("cohere", "/v2/rerank"), ("jina_ai", "/v1/rerank"), ("hosted_vllm", "")]
)
def test_litellm(server, expected, monkeypatch, provider, path):
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else it fetches prices when imported
    litellm = pytest.importorskip("litellm")
    url, key = server
    answer = litellm.rerank(
        model=f"{provider}/toy", query="zorblax", documents=DOCUMENTS, api_base=f"{url}{path}", api_key=key
    )
    assert [one["index"] for one in answer.results] == expected
    assert [one["document"]["text"] for one in answer.results] == [DOCUMENTS[at] for at in expected]
    with pytest.raises(Exception, match="API key"):
        litellm.rerank(
            model=f"{provider}/toy", query="q", documents=DOCUMENTS, api_base=f"{url}{path}", api_key="wrong"
        )


@pytest.mark.parametrize("module", ["openai", "cohere"])
def test_the_python_examples(server, module):
    if importlib.util.find_spec(module) is None:
        pytest.skip(f"{module} is not installed")
    url, key = server
    arguments = [url, "toy", key] if module == "cohere" else [url, key]
    done = subprocess.run(
        [sys.executable, EXAMPLES / f"{module}_client.py", *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Blade Runner" in done.stdout or "Aliens" in done.stdout


def test_the_curl_example(server):
    if shutil.which("curl") is None or os.name != "posix":
        pytest.skip("curl is not installed")
    done = subprocess.run([EXAMPLES / "curl.sh", *server], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"forgotten":true' in done.stdout and '"relevance_score"' in done.stdout
