"""vLLM's own chat and completions behind our endpoint: the openai client, the real model, rankings beside them."""

import json
import signal
import threading
import time

import httpx
import numpy as np
import pydantic
import pytest

from candidate_gen import PopularityGenerator
from reranker import Reranker
from reranker.errors import ConfigError
from reranker.serve.app import create_app
from reranker.serve.generation.vllm import VLLMTexts
from reranker.serve.settings import ServeSettings
from reranker.types import CandidateSpan, GenerationRequest, ScoringRequest, TokenSequence
from tests.pipeline import toys
from tests.serve.live import serving, wait_until_ready
from tests.serve.process import Process

openai = pytest.importorskip("openai")
pytest.importorskip("vllm")

pytestmark = [pytest.mark.model, pytest.mark.filterwarnings("default")]

BASE = "smollm2-135m"
TALE = "The three largest cities of France are"
TALK = [{"role": "user", "content": "What is the capital of France?"}]
LIST = {"user": "u0", "item_ids": ["g1i1", "g0i1", "g2i1", "g3i1"]}
PENALTIES = {"none": {}, "frequency": {"frequency_penalty": 2}}
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "strict": True,
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "maxLength": 12}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}


def fitted_on(engine, **options):
    data = toys.taste_dataset()
    settings = {"engine": engine, "model": BASE, "dtype": "float32", "soft_tokens": 8, "fit_users": 10}
    reranker = Reranker(toys.config(**settings, engine_options=options))
    return reranker.fit(data, PopularityGenerator().fit(data.interactions))


@pytest.fixture(scope="module")
def fitted():
    reranker = fitted_on("vllm", slots=64, max_length=1024, disable_log_stats=False)
    yield reranker
    reranker.llm_scorer.close()


@pytest.fixture(scope="module")
def engine(fitted):
    return fitted.llm_scorer.engine


@pytest.fixture(scope="module")
def url(fitted):
    with serving(create_app(fitted, settings=ServeSettings(tool_call_parser="hermes"))) as url:
        wait_until_ready(url, seconds=120)
        yield url


@pytest.fixture(scope="module")
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="x", max_retries=0) as client:
        yield client


def completed(client, **fields):
    return client.completions.create(**{"model": BASE, "prompt": TALE, "max_tokens": 8, "temperature": 0, **fields})


def chatted(client, **fields):
    return client.chat.completions.create(
        **{"model": BASE, "messages": TALK, "max_tokens": 8, "temperature": 0, **fields}
    )


def idle(engine):
    for _ in range(200):
        if not engine.front.has_unfinished_requests():
            return True
        time.sleep(0.05)
    return False


def test_texts_are_those_of_the_engine_with_and_without_the_soft_prompt(client, fitted, engine):
    tokens = engine.tokenizer.encode_prompt(TALE)
    plain, soft = TokenSequence.from_tokens(tokens), fitted.llm_scorer.soft_prompt()
    for model, prompt in ((BASE, plain), ("toy", TokenSequence.concatenate([soft, plain]))):
        ours = completed(client, model=model)
        pieces = engine.generate(GenerationRequest(prompt=prompt, max_tokens=8, temperature=0.0))
        assert ours.choices[0].text == "".join(piece.text for piece in pieces)
        assert (ours.model, ours.usage.prompt_tokens, ours.usage.completion_tokens) == (model, len(prompt), 8)


def test_a_chat_is_answered_and_known_by_its_request_id(url):
    body = {"model": "toy", "messages": TALK, "max_tokens": 8, "temperature": 0}
    answer = httpx.post(f"{url}/v1/chat/completions", json=body, headers={"x-request-id": "mine"}, timeout=60)
    assert "Paris" in answer.json()["choices"][0]["message"]["content"]
    assert (answer.headers["x-request-id"], answer.json()["id"]) == ("mine", "chatcmpl-mine")


def test_log_probabilities_are_those_that_rank(client, engine):
    """vLLM's, of an echoed prompt and of what follows it, against the sums that the worker reads for rankings."""
    found = completed(client, echo=True, logprobs=2).choices[0].logprobs
    tokens = engine.tokenizer.encode_prompt(TALE + "".join(found.tokens[-8:]))
    assert found.token_logprobs[0] is None and len(found.tokens) == len(tokens)
    span = CandidateSpan(sequence=TokenSequence.from_tokens(tokens[1:]), scored_from=1)
    request = ScoringRequest(prefix=TokenSequence.from_tokens(tokens[:1]), candidates=(span,))
    (theirs,) = engine.span_log_likelihoods([request])
    np.testing.assert_allclose(sum(found.token_logprobs[2:]), theirs.sums[0], atol=1e-3)
    assert all(len(top) >= 2 for top in found.top_logprobs[1:])
    talk = chatted(client, logprobs=True, top_logprobs=3).choices[0]
    assert "".join(one.token for one in talk.logprobs.content).startswith(talk.message.content)
    assert all(len(one.top_logprobs) == 3 for one in talk.logprobs.content)


def test_several_texts_stops_penalties_and_biases(client, engine):
    drawn = [[one.text for one in completed(client, n=2, temperature=1, seed=5).choices] for _ in range(2)]
    assert drawn[0] == drawn[1] and drawn[0][0] != drawn[0][1]
    pair = completed(client, prompt=["1 2 3 4", "a b c d"]).choices
    assert [one.index for one in pair] == [0, 1] and pair[0].text.startswith(" 5") and pair[1].text.startswith(" e")
    whole = completed(client).choices[0].text
    cut = completed(client, stop=[whole[4:7]]).choices[0]
    assert (cut.text, cut.finish_reason) == (whole[: whole.find(whole[4:7])], "stop")
    (the,) = engine.tokenizer.encode("The")
    biased = completed(client, logit_bias={str(the): 100}, max_tokens=3)
    assert biased.choices[0].text == "TheTheThe"
    longer = {name: completed(client, max_tokens=16, **more).choices[0].text for name, more in PENALTIES.items()}
    assert len(set(longer.values())) == len(PENALTIES)


class City(pydantic.BaseModel):
    """What the model is made to answer."""

    model_config = pydantic.ConfigDict(extra="forbid")

    city: str = pydantic.Field(max_length=12)
    river: str = pydantic.Field(max_length=12)


@pytest.mark.parametrize("model", [BASE, "toy"])
def test_structured_outputs(client, model):
    asked = {"model": model, "messages": TALK, "max_tokens": 80, "temperature": 0}
    parsed = client.chat.completions.parse(**asked, response_format=City).choices[0].message.parsed
    assert isinstance(parsed, City)
    chosen = chatted(client, model=model, extra_body={"structured_outputs": {"choice": ["left", "right"]}})
    assert chosen.choices[0].message.content in ("left", "right")


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({"structured_outputs": {"grammar": "root ::= ((("}}, "grammar"),
        ({"structured_outputs": {"regex": "(((("}}, "regex"),
        ({"structured_outputs": {"regex": "((a{1000}){1000}){1000}"}}, ""),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 7}}}}, ""),
    ],
)
def test_a_grammar_that_does_not_compile_is_refused_with_its_field(url, fields, why):
    answer = httpx.post(
        f"{url}/v1/chat/completions", json={"model": BASE, "messages": TALK, "max_tokens": 2, **fields}, timeout=300
    )
    error = answer.json().get("error")
    if why or error:
        assert (answer.status_code, error["param"]) == (422, next(iter(fields))) and why in error["message"].lower()
    assert httpx.post(f"{url}/v1/rerank", json=LIST, timeout=60).status_code == 200


def test_tools(client):
    asked = {"messages": [{"role": "user", "content": "The weather in Rome?"}], "tools": [WEATHER], "max_tokens": 60}
    called = chatted(client, **asked, tool_choice="required").choices[0]
    (call,) = called.message.tool_calls
    assert called.finish_reason == "tool_calls" and call.function.name == "weather"
    assert list(json.loads(call.function.arguments)) == ["city"]
    told = [
        *asked["messages"],
        {"role": "assistant", "tool_calls": [call.model_dump()]},
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    assert chatted(client, messages=told, tools=[WEATHER], tool_choice="none").choices[0].message.content


def test_streams(client, url):
    events = list(completed(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(one.choices[0].text for one in events[:-1]) == completed(client).choices[0].text
    assert (events[-1].choices, events[-1].usage.completion_tokens) == ([], 8)
    parts = {0: "", 1: ""}
    for event in chatted(client, n=2, temperature=1, seed=3, stream=True):
        parts[event.choices[0].index] += event.choices[0].delta.content or ""
    assert [parts[0], parts[1]] == [one.message.content for one in chatted(client, n=2, temperature=1, seed=3).choices]
    body = {"model": BASE, "prompt": TALE, "max_tokens": 2, "stream": True}
    lines = httpx.post(f"{url}/v1/completions", json=body, timeout=60).text.strip().split("\n\n")
    assert lines[-1] == "data: [DONE]" and all(line.startswith("data: {") for line in lines[:-1])


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("field", "status", "body"),
    [
        ("kv_transfer_params", 422, {"kv_transfer_params": {"reranker_tail": 0, "reranker_prefix_length": 3}}),
        ("vllm_xargs", 422, {"vllm_xargs": {"reranker_scored_from": 1}}),
        ("prompt_embeds", 422, {"prompt_embeds": "AAAA"}),
        ("frobnicate", 422, {"frobnicate": 1}),
        ("prompt", 422, {"prompt": [5, 49152]}),
        ("prompt", 422, {"prompt": []}),
        ("prompt", 422, {"prompt": ["a", "b", "c"], "n": 4}),
        ("prompt", 400, {"prompt": "a " * 3000}),
        ("max_tokens", 422, {"max_tokens": 5000}),
        ("seed", 422, {"seed": 2**70}),
        ("logprobs", 400, {"logprobs": 999}),
        ("stop_token_ids", 400, {"stop_token_ids": [10**6]}),
        ("prompt_logprobs", 422, {"model": "toy", "echo": True, "logprobs": 1}),
        ("model", 404, {"model": "other"}),
    ],
)
def test_what_is_refused_names_the_field(url, stream, field, status, body):
    """Slots hold other users' vectors: nothing that a client sends may name one, or what scoring keeps."""
    asked = {"model": BASE, "prompt": TALE, "max_tokens": 4, "stream": stream, **body}
    answer = httpx.post(f"{url}/v1/completions", json=asked, timeout=60)
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, field), answer.text


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_stops_the_text(url, engine, stream):
    body = {"model": BASE, "prompt": TALE, "max_tokens": 900, "ignore_eos": True, "stream": stream}
    with httpx.Client() as client:
        if stream:
            with client.stream("POST", f"{url}/v1/completions", json=body, timeout=60) as answer:
                next(answer.iter_lines())
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post(f"{url}/v1/completions", json=body, timeout=1)
    assert idle(engine)


@pytest.mark.slow
def test_rankings_go_on_while_texts_are_written(url, client):
    def ranking():
        return httpx.post(f"{url}/v1/rerank", json=LIST, timeout=60).json()["results"]

    before, alone = ranking(), completed(client, max_tokens=60).choices[0].text
    texts, ends = [], []

    def write():
        texts.append(completed(client, max_tokens=60).choices[0].text)
        ends.append(time.monotonic())

    writers = [threading.Thread(target=write) for _ in range(4)]
    for writer in writers:
        writer.start()
    time.sleep(0.2)
    during = [ranking() for _ in range(2)]
    ranked = time.monotonic()
    for writer in writers:
        writer.join()
    assert during == [before] * 2 and ranked < max(ends)
    assert texts == [alone] * 4


def test_vllms_own_counters_stand_beside_ours(url, client):
    def read():
        text = httpx.get(f"{url}/metrics").text
        counted = [line for line in text.splitlines() if line.startswith("vllm:prompt_tokens_total")]
        assert len(counted) == 1 and "reranker_requests_total" in text
        return float(counted[0].split()[-1])

    before = read()
    assert client.completions.create(model=BASE, prompt=TALE, max_tokens=2).usage.prompt_tokens > 0
    assert read() > before


@pytest.mark.slow
def test_limits_are_ours(fitted):
    settings = ServeSettings(generations=1, generation_queue=0, generation_seconds=1.0, max_generated_tokens=900)
    body = {"model": BASE, "prompt": TALE, "ignore_eos": True, "max_tokens": 900}
    with serving(create_app(fitted, settings=settings)) as url:
        wait_until_ready(url, seconds=120)
        slow = []
        writer = threading.Thread(
            target=lambda: slow.append(httpx.post(f"{url}/v1/completions", json=body, timeout=60))
        )
        writer.start()
        time.sleep(0.3)
        full = [httpx.post(f"{url}/v1/completions", json={**body, "stream": stream}) for stream in (False, True)]
        writer.join()
        late = httpx.post(f"{url}/v1/completions", json={**body, "stream": True}, timeout=60)
        while late.status_code == 503:  # the text before takes one more step to end
            late = httpx.post(f"{url}/v1/completions", json={**body, "stream": True}, timeout=60)
        metrics = httpx.get(f"{url}/metrics").text
    assert {(one.status_code, one.json()["error"]["code"]) for one in full} == {(503, "overloaded")}
    assert all("retry-after" in one.headers for one in full)
    assert (slow[0].status_code, slow[0].json()["error"]["code"]) == (504, "timeout")
    *_, failed, done = late.text.strip().split("\n\n")
    assert json.loads(failed.removeprefix("data: "))["error"]["code"] == "timeout" and done == "data: [DONE]"
    counted = next(line for line in metrics.splitlines() if line.startswith("reranker_generated_tokens_total"))
    assert float(counted.split()[1]) > 0


def test_an_unknown_tool_call_parser_is_a_setting_that_is_wrong(engine):
    with pytest.raises(ConfigError, match=r"tool_call_parser.*nonsense"):
        VLLMTexts(engine, BASE, None, "nonsense")


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_server_that_is_stopped_or_killed_leaves_no_process(tmp_path, how):
    psutil = pytest.importorskip("psutil")
    fitted_on("torch").save(tmp_path / "bundle")
    server = Process(tmp_path / "bundle", "--engine", "vllm", seconds=300)
    children = psutil.Process(server.process.pid).children(recursive=True)
    ranked = httpx.post(f"{server.url}/rerank", json=LIST, timeout=60).json()["results"]
    body = {"model": "toy", "messages": TALK, "max_tokens": 8, "temperature": 0}
    text = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=60).json()
    server.end(how)
    assert ranked[0]["item_id"] == "g0i1" and "Paris" in text["choices"][0]["message"]["content"]
    _, left = psutil.wait_procs(children, timeout=20)
    assert children and not [child for child in left if child.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.slow
def test_a_server_whose_model_process_is_killed_ends_with_an_error(tmp_path):
    psutil = pytest.importorskip("psutil")
    fitted_on("torch").save(tmp_path / "bundle")
    server = Process(tmp_path / "bundle", "--engine", "vllm", seconds=300)
    children = psutil.Process(server.process.pid).children(recursive=True)
    max(children, key=lambda child: child.memory_info().rss).kill()  # the one that holds the model, as the kernel would
    lines = server.wait()
    assert server.process.returncode == 1 and "the model's process is gone" in lines
    _, left = psutil.wait_procs(children, timeout=20)
    assert children and not [child for child in left if child.status() != psutil.STATUS_ZOMBIE]
