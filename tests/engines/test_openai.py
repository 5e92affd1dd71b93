"""The remote engine against a small server with the same model as the torch engine, and against what goes wrong."""

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from typer.testing import CliRunner

from reranker.cli.app import app
from reranker.engines import load_engine
from reranker.engines.openai.engine import OpenAIEngine, probe_server
from reranker.engines.torch.engine import TorchEngine
from reranker.errors import ConfigError, EngineError, ModelError
from reranker.protocols import Engine
from reranker.types import GenerationRequest, ScoringRequest, TokenSequence
from tests.contracts.engine import TokenEngineContract, plain, random_request, span
from tests.contracts.generation import GeneratorContract, asked
from tests.engines.models import save_tiny_model
from tests.engines.server import ALL_WAYS, Server, running


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def server(tiny: Path) -> Iterator[Server]:
    with running(Server(tiny)) as server:
        yield server


def connect(server: Server, **options: object) -> OpenAIEngine:
    settings = {"base_url": server.base_url, "tokenizer": server.directory, "backoff_seconds": 0.001, **options}
    return OpenAIEngine(server.model, **settings)  # type: ignore[arg-type]


class TestOverPromptLogprobs(TokenEngineContract, GeneratorContract):
    ways = ALL_WAYS

    @pytest.fixture
    def engine(self, tiny: Path) -> Iterator[Engine]:
        with running(Server(tiny, ways=self.ways)) as server:
            engine = connect(server)
            yield engine
            engine.close()

    def test_agrees_with_torch(self, engine: Engine, tiny: Path) -> None:
        local = TorchEngine(tiny, dtype="float32")
        requests = [random_request(seed, candidates=20) for seed in range(3)]
        for ours, theirs in zip(
            engine.span_log_likelihoods(requests), local.span_log_likelihoods(requests), strict=True
        ):
            np.testing.assert_allclose(ours.sums, theirs.sums, atol=1e-4, rtol=0)
            assert (ours.counts == theirs.counts).all()
        for ours, theirs in zip(
            engine.label_log_probs(requests, [10, 20]), local.label_log_probs(requests, [10, 20]), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)


class TestOverEcho(TestOverPromptLogprobs):
    ways = frozenset({"echo"})


def test_texts_that_cannot_be_had_are_errors(server: Server, tiny: Path) -> None:
    engine = connect(server)
    soft = TokenSequence.from_vectors(TorchEngine(tiny, dtype="float32").embed_tokens([1, 2]))
    with pytest.raises(EngineError, match="cannot send vectors"):
        engine.generate(GenerationRequest(prompt=soft, max_tokens=1))
    server.breaks_off = True
    with pytest.raises(EngineError, match="broke off"):
        list(engine.generate(asked(engine)))
    server.key = "secret"
    with pytest.raises(EngineError, match="401"):
        list(engine.generate(asked(engine)))
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        list(engine.generate(asked(engine)))


def test_the_probe_says_what_works(tiny: Path) -> None:
    with running(Server(tiny, ways=frozenset({"echo", "tokenize"}))) as server:
        found = probe_server(server.base_url)
        assert (found.model, found.likelihood, found.labels, found.max_length) == ("tiny", "echo", "appended", 512)
        shown = CliRunner().invoke(app, ["models", "show", "--probe", server.base_url]).output
    assert "likelihood        yes  echo" in shown
    assert "soft prompts      no" in shown
    assert found.reasons["prompt_logprobs"].endswith("400: prompt_logprobs is not supported")


def test_a_server_that_scores_no_given_tokens_is_refused_with_the_table(tiny: Path) -> None:
    with (
        running(Server(tiny, ways=frozenset({"tokenize"}))) as server,
        pytest.raises(EngineError, match=r"cannot score given tokens(.|\n)*echo is not supported"),
    ):
        connect(server)


def test_labels_only(tiny: Path) -> None:
    with running(Server(tiny, ways=frozenset({"logprob_token_ids"}))) as server:
        engine = connect(server)
        assert engine.label_log_probs([random_request(0)], [1, 2])[0].shape == (7, 2)
        with pytest.raises(EngineError, match="use scorer='labels'"):
            engine.span_log_likelihoods([random_request(0)])
        engine.close()


def test_it_asks_again_when_the_server_is_busy(server: Server) -> None:
    engine = connect(server)
    expected = engine.span_log_likelihoods([random_request(0)])[0].sums
    server.failures += [(503, {}), (429, {"retry-after": "0"}), (500, {})]
    assert np.array_equal(engine.span_log_likelihoods([random_request(0)])[0].sums, expected)
    assert server.failures == []
    engine.close()


def test_it_waits_as_long_as_the_server_asks(server: Server) -> None:
    engine = connect(server)
    server.failures += [(429, {"retry-after": "0.5"})]
    started = time.monotonic()
    engine.span_log_likelihoods([random_request(0)])
    assert time.monotonic() - started >= 0.5
    engine.close()


def test_it_gives_up_and_says_why(server: Server) -> None:
    engine = connect(server, attempts=2, max_wait_seconds=5.0)
    server.failures += [(503, {}), (503, {})]
    with pytest.raises(EngineError, match=r"503: try later \(tried 2 times\)"):
        engine.span_log_likelihoods([random_request(0)])
    server.failures += [(429, {"retry-after": "3600"})]
    with pytest.raises(EngineError, match="asks to wait 3600 s, more than max_wait_seconds=5"):
        engine.span_log_likelihoods([random_request(0)])
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.span_log_likelihoods([random_request(0)])


def test_so_many_calls_at_once_and_so_many_prompts_a_call(server: Server) -> None:
    engine = connect(server, concurrency=2, prompts_a_request=4)
    server.calls.clear()
    server.at_once = 0
    engine.span_log_likelihoods([random_request(seed, candidates=10) for seed in range(4)])
    assert [len(call["prompt"]) for call in server.calls] == [4] * 10
    assert server.at_once == 2
    engine.close()


def test_nothing_is_sent_where_nothing_is_scored(server: Server) -> None:
    engine = connect(server)
    server.calls.clear()
    request = ScoringRequest(prefix=plain([1, 2]), candidates=(span([7, 20], 2),))
    assert engine.span_log_likelihoods([request])[0].sums.tolist() == [0.0]
    assert server.calls == []
    engine.close()


def test_vectors_cannot_be_sent(server: Server) -> None:
    engine = connect(server)
    soft = TokenSequence.from_vectors(np.zeros((2, engine.model.dim), dtype=np.float32))
    request = ScoringRequest(prefix=soft, candidates=(span([7, 20]),))
    for ask in (lambda: engine.span_log_likelihoods([request]), lambda: engine.embed_tokens([1])):
        with pytest.raises(EngineError, match="soft_tokens=0"):
            ask()
    engine.close()


def test_the_key(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with running(Server(tiny, key="secret")) as server:
        with pytest.raises(EngineError, match=r"401: wrong key\. Set the key in OPENAI_API_KEY") as refused:
            connect(server, api_key="false-key")
        assert "false-key" not in str(refused.value)
        monkeypatch.setenv("OPENAI_API_KEY", "secret")
        monkeypatch.setenv("OPENAI_BASE_URL", server.base_url)
        engine = load_engine("openai", "tiny", tokenizer=tiny)
        assert engine.name == "openai"
        engine.close()


def test_another_tokenizer_is_refused(server: Server, tmp_path: Path) -> None:
    other = save_tiny_model(tmp_path / "other")
    table = (other / "tokenizer.json").read_text()
    (other / "tokenizer.json").write_text(
        table.replace('"A":', '"swap":').replace('"B":', '"A":').replace('"swap":', '"B":')
    )
    with pytest.raises(EngineError, match="is not the server's for 'tiny'"):
        connect(server, tokenizer=other)


def test_what_is_not_there(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(ConfigError, match="needs the server's address"):
        OpenAIEngine("tiny")
    with pytest.raises(EngineError, match="does not serve 'large'; it serves 'tiny'"):
        OpenAIEngine("large", base_url=server.base_url, tokenizer=server.directory)
    with pytest.raises(EngineError, match="base_url ends in /v1"):
        OpenAIEngine("tiny", base_url=server.base_url.removesuffix("/v1"), tokenizer=server.directory)
    with pytest.raises(ModelError, match="no such directory"):
        connect(server, tokenizer="./nowhere")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
    with pytest.raises(EngineError, match=r"no answer from .*tried 2 times"):
        OpenAIEngine("tiny", base_url=f"http://127.0.0.1:{port}/v1", attempts=2, backoff_seconds=0.001)
    with pytest.raises(EngineError, match="is no URL"):
        OpenAIEngine("tiny", base_url="localhost:8000/v1")


@pytest.fixture(scope="module")
def vllm_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """vLLM's own server with the default model; its float32 is that of the torch engine.

    `vllm serve` itself asks for the version of a package "vllm", which the CPU build is not called.
    """
    pytest.importorskip("vllm")
    from reranker.hub import resolve_model

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    log = tmp_path_factory.mktemp("vllm") / "log"
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    command += [
        "--model",
        str(resolve_model("smollm2-135m").path),
        "--served-model-name",
        "smollm2-135m",
        "--dtype",
        "float32",
        "--port",
        str(port),
    ]
    command += ["--max-model-len", "1024", "--host", "127.0.0.1", "--enforce-eager"]
    command += ["--gpu-memory-utilization", "0.2"]  # of the machine's memory, on a CPU
    with log.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 400
        while True:
            try:
                if httpx.get(f"http://127.0.0.1:{port}/health", timeout=5).status_code == 200:
                    break
            except httpx.TransportError:
                pass
            assert process.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(1)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        process.terminate()
        process.wait(timeout=60)


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.filterwarnings("default")
class TestAgainstVLLM:
    def test_agrees_with_torch(self, vllm_server: str) -> None:
        engine = load_engine("openai", "smollm2-135m", base_url=vllm_server)
        assert engine.capabilities.likelihood == "prompt_logprobs"  # type: ignore[attr-defined]
        assert engine.capabilities.labels == "logprob_token_ids"  # type: ignore[attr-defined]
        local = TorchEngine("smollm2-135m", dtype="float32")
        requests = [random_request(seed, candidates=20, prefix=25 + 3 * seed) for seed in range(4)]
        for ours, theirs in zip(
            engine.span_log_likelihoods(requests), local.span_log_likelihoods(requests), strict=True
        ):
            np.testing.assert_allclose(ours.sums, theirs.sums, atol=1e-3, rtol=0)
        for ours, theirs in zip(
            engine.label_log_probs(requests, [10, 20]), local.label_log_probs(requests, [10, 20]), strict=True
        ):
            np.testing.assert_allclose(ours, theirs, atol=1e-3, rtol=0)
        engine.close()
