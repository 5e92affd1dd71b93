"""Text over HTTP: the openai client against a live server, with the scripted engine and with the real model."""

import json
import threading
import time

import httpx
import pytest

from candidate_gen import PopularityGenerator
from reranker import Reranker
from reranker.engines.scripted import ScriptedEngine
from reranker.errors import EngineError
from reranker.serve.app import create_app
from reranker.serve.settings import ServeSettings
from reranker.soft_tokens.prompt import SoftPrompt
from reranker.soft_tokens.prompt_bank import PromptBank
from tests.pipeline import toys
from tests.serve.live import serving

openai = pytest.importorskip("openai")

PROMPT = "abcabcab"
CHAT = [{"role": "system", "content": "xyxy"}, {"role": "user", "content": "hello"}]


class Typist(ScriptedEngine):
    """Waits between tokens while the gate is shut, counts what it wrote, fails on demand."""

    def __init__(self):
        super().__init__(max_length=2000)
        self.open = threading.Event()
        self.open.set()
        self.tokens = self.left = 0
        self.fail_at = None

    def generate(self, request):
        pieces = super().generate(request)

        def typed():
            try:
                for number, piece in enumerate(pieces):
                    assert self.open.wait(20)
                    if number == self.fail_at:
                        raise EngineError("the engine is out of order")
                    self.tokens += 1
                    yield piece
            finally:
                self.left += 1

        return typed()


class Mute(ScriptedEngine):
    generate = None


def soft(*text):
    """A soft prompt that the scripted engine reads as this text."""
    return SoftPrompt(vectors=ScriptedEngine().embed_tokens(list("".join(text).encode())), name="toy")


def reranker_on(engine, vectors=None):
    data = toys.taste_dataset()
    bank = PromptBank()
    if vectors is not None:
        bank.add_domain("toy", vectors)
    return Reranker(toys.config(), engine, bank).fit(data, PopularityGenerator().fit(data.interactions))


@pytest.fixture(scope="module")
def fitted():
    return reranker_on(Typist(), soft("cZcZcZcZ"))


@pytest.fixture
def engine(fitted):
    engine = fitted.llm_scorer.engine
    engine.tokens = engine.left = 0
    yield engine
    engine.open.set()
    engine.fail_at = None


@pytest.fixture(scope="module")
def url(fitted):
    with serving(create_app(fitted, settings=ServeSettings(max_generated_tokens=1500))) as url:
        wait_until_ready(url)
        yield url


@pytest.fixture
def client(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0) as client:
        yield client


def wait_until_ready(url):
    for _ in range(500):
        if httpx.get(f"{url}/ready").status_code == 200:
            return
        time.sleep(0.01)
    raise AssertionError("never ready")


def test_a_completion(client):
    done = client.completions.create(model="scripted", prompt=PROMPT, max_tokens=4, temperature=0)
    assert done.object == "text_completion" and done.model == "scripted" and done.id.startswith("cmpl-")
    (choice,) = done.choices
    assert (choice.text, choice.finish_reason, choice.index) == ("cabc", "length", 0)
    assert (done.usage.prompt_tokens, done.usage.completion_tokens, done.usage.total_tokens) == (8, 4, 12)
    again = client.completions.create(model="scripted", prompt=list(PROMPT.encode()), max_tokens=4, temperature=0)
    assert again.choices[0].text == "cabc"
    ended = client.completions.create(model="scripted", prompt="xyz", max_tokens=50, temperature=0)
    assert (ended.choices[0].text, ended.choices[0].finish_reason) == ("", "stop")  # nothing ever followed a z
    assert len(client.completions.create(model="scripted", prompt=PROMPT, temperature=0).choices[0].text) == 16


def test_the_domains_model_reads_the_soft_prompt_first(client):
    base = client.completions.create(model="scripted", prompt="abc", max_tokens=3, temperature=0)
    domain = client.completions.create(model="toy", prompt="abc", max_tokens=3, temperature=0)
    assert domain.choices[0].text == "ZcZ" != base.choices[0].text
    assert (base.usage.prompt_tokens, domain.usage.prompt_tokens) == (3, 3 + 8)


def test_several_texts(client):
    asked = {"model": "scripted", "prompt": PROMPT, "max_tokens": 12, "temperature": 1.8}
    drawn = client.completions.create(**asked, n=4, seed=7)
    texts = [choice.text for choice in drawn.choices]
    assert [choice.index for choice in drawn.choices] == [0, 1, 2, 3] and len(set(texts)) > 1
    assert [choice.text for choice in client.completions.create(**asked, n=4, seed=7).choices] == texts
    assert drawn.usage.prompt_tokens == 8 and 4 <= drawn.usage.completion_tokens <= 48
    streamed = [""] * 4
    for event in client.completions.create(**asked, n=4, seed=7, stream=True):
        streamed[event.choices[0].index] += event.choices[0].text
    assert streamed == texts
    both = client.completions.create(model="scripted", prompt=["abab", "cdcd"], max_tokens=2, temperature=0)
    assert [choice.text for choice in both.choices] == ["ab", "cd"] and both.usage.prompt_tokens == 8


def test_stop_texts(client):
    asked = {"model": "scripted", "prompt": PROMPT, "max_tokens": 12, "temperature": 0}
    for stop in ("bc", ["zz", "bc"]):
        whole = client.completions.create(**asked, stop=stop).choices[0]
        assert (whole.text, whole.finish_reason) == ("ca", "stop")
        events = list(client.completions.create(**asked, stop=stop, stream=True))
        assert "".join(event.choices[0].text for event in events) == "ca"
        assert events[-1].choices[0].finish_reason == "stop"


def test_a_chat(client):
    done = client.chat.completions.create(model="scripted", messages=CHAT, max_completion_tokens=3, temperature=0)
    assert done.object == "chat.completion" and done.choices[0].message.role == "assistant"
    assert done.choices[0].finish_reason == "length" and len(done.choices[0].message.content) == 3
    parts = [{"type": "text", "text": "hel"}, {"type": "text", "text": "lo"}]
    same = client.chat.completions.create(
        model="scripted", messages=[CHAT[0], {"role": "user", "content": parts}], max_tokens=3, temperature=0
    )
    assert same.choices[0].message.content == done.choices[0].message.content
    assert same.usage == done.usage
    events = list(
        client.chat.completions.create(
            model="scripted",
            messages=CHAT,
            max_tokens=3,
            temperature=0,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert events[0].choices[0].delta.role == "assistant"
    assert "".join(one.choices[0].delta.content or "" for one in events[:-1]) == done.choices[0].message.content
    assert events[-2].choices[0].finish_reason == "length"
    assert events[-1].choices == [] and events[-1].usage == done.usage
    assert {one.id for one in events} == {events[0].id}


def test_the_raw_wire(url):
    body = {"model": "scripted", "prompt": PROMPT, "max_tokens": 2, "temperature": 0, "stream": True}
    answer = httpx.post(f"{url}/v1/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    lines = answer.text.split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""] and all(line.startswith("data: {") for line in lines[:-2])
    events = [json.loads(line[6:]) for line in lines[:-2]]
    assert [one["choices"][0]["text"] for one in events] == ["c", "a"] and "usage" not in events[0]
    body["stream_options"] = {"include_usage": True}
    lines = httpx.post(f"{url}/v1/completions", json=body).text.split("\n\n")
    events = [json.loads(line[6:]) for line in lines[:-2]]
    assert [one["usage"] for one in events[:-1]] == [None, None] and events[-1]["choices"] == []
    assert events[-1]["usage"] == {"prompt_tokens": 8, "completion_tokens": 2, "total_tokens": 10}


@pytest.mark.parametrize(
    ("field", "wrong", "status"),
    [
        ("logprobs", 1, 422),
        ("echo", True, 422),
        ("suffix", "end", 422),
        ("logit_bias", {"5": 1}, 422),
        ("presence_penalty", 1, 422),
        ("no_such_field", 1, 422),
        ("n", 9, 422),
        ("n", 0, 422),
        ("temperature", -1, 422),
        ("temperature", "hot", 422),
        ("top_p", 0, 422),
        ("max_tokens", 0, 422),
        ("max_tokens", 1501, 422),
        ("max_tokens", 1500, 400),
        ("stop", "", 422),
        ("prompt", "", 422),
        ("prompt", [], 422),
        ("prompt", [5, 256], 422),
        ("prompt", ["a"] * 9, 422),
        ("prompt", 5, 422),
        ("prompt", "a" * 2000, 400),
        ("model", "gpt", 404),
    ],
)
def test_errors_name_the_field(url, field, wrong, status):
    long = {"prompt": "a" * 1000} if (field, wrong) == ("max_tokens", 1500) else {}
    answer = httpx.post(f"{url}/v1/completions", json={"model": "scripted", "prompt": "a", **long, field: wrong})
    assert (answer.status_code, answer.json()["error"]["param"]) == (status, field), answer.text
    assert field in answer.json()["error"]["message"]


def test_harmless_fields_are_taken(url):
    body = {"model": "scripted", "prompt": "a", "max_tokens": 1, "user": "me", "echo": False, "logprobs": None}
    body |= {"frequency_penalty": 0, "best_of": 1, "stop": None, "temperature": None}
    assert httpx.post(f"{url}/v1/completions", json=body).status_code == 200


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("messages.0.role", {"messages": [{"role": "tool", "content": "x"}]}),
        ("messages.0.content.0", {"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}),
        ("messages", {"messages": []}),
        ("tools", {"tools": [{"type": "function"}]}),
        ("logprobs", {"logprobs": True}),
        ("response_format", {"response_format": {"type": "json_object"}}),
        ("max_completion_tokens", {"max_completion_tokens": 5000}),
    ],
)
def test_chat_errors_name_the_field(url, field, body):
    answer = httpx.post(f"{url}/v1/chat/completions", json={"model": "toy", "messages": CHAT, **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, field), answer.text


CUT = "half of an emoji: \ud83d"
TEXT = {"type": "text"}


def talk(content, **more):
    return {"messages": [CHAT[0], {"role": "user", "content": content}], **more}


@pytest.mark.parametrize(
    ("field", "body"),
    [
        ("prompt", {"prompt": CUT}),
        ("prompt", {"prompt": ["a", CUT]}),
        ("prompt", {"prompt": "a\0"}),
        ("stop.1", {"prompt": "a", "stop": ["b", CUT]}),
        ("messages.1.content", talk(CUT)),
        ("messages.1.content", talk([{**TEXT, "text": "a"}, {**TEXT, "text": CUT}])),
        ("messages.1.content", talk("a\0")),
        ("messages.1.content", talk([{**TEXT, "text": "a\0"}])),
        ("messages.1.content", talk([{**TEXT, "text": CUT}], documents=["a", "b"])),
        ("documents", talk("a", documents=["a", CUT])),
        ("messages.1.content.documents", talk(json.dumps({"documents": ["a", CUT]}))),
        ("query", talk(json.dumps({"documents": ["a", "b"]}), query=CUT)),
    ],
)
def test_texts_that_no_tokenizer_takes_are_refused_by_name(url, field, body):
    path = "chat/completions" if "messages" in body else "completions"
    content = json.dumps({"model": "scripted", "max_tokens": 4, **body})  # \\ud83d, as JavaScript sends it
    answer = httpx.post(f"{url}/v1/{path}", content=content, headers={"content-type": "application/json"})
    assert (answer.status_code, answer.json()["error"]["param"]) == (422, field), answer.text
    assert ("null byte" if "\\u0000" in content else "lone surrogate") in answer.json()["error"]["message"]


def test_whole_emoji_are_read(url):
    for content in ("\U0001f600", [{**TEXT, "text": "\U0001f600"}]):
        asked = {"model": "scripted", "max_tokens": 4, **talk(content)}
        assert httpx.post(f"{url}/v1/chat/completions", json=asked).status_code == 200


def test_an_over_long_chat_is_refused(url):
    long = [{"role": "user", "content": "a" * 2000}]
    answer = httpx.post(f"{url}/v1/chat/completions", json={"model": "toy", "messages": long})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
    assert answer.json()["error"]["param"] == "messages"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_away_stops_the_text(url, engine, stream):
    body = {"model": "scripted", "prompt": PROMPT, "max_tokens": 1400, "temperature": 0, "stream": stream}
    engine.open.clear()
    with httpx.Client() as client:
        if stream:
            engine.open.set()
            with client.stream("POST", f"{url}/v1/completions", json=body) as answer:
                next(answer.iter_lines())
                engine.open.clear()
        else:
            with pytest.raises(httpx.ReadTimeout):
                client.post(f"{url}/v1/completions", json=body, timeout=0.3)
    time.sleep(0.6)
    engine.open.set()
    for _ in range(300):
        if engine.left:
            break
        time.sleep(0.01)
    assert engine.left == 1 and engine.tokens < 1400


def test_rankings_are_answered_while_texts_are_written(url, engine):
    engine.open.clear()
    body = {"model": "scripted", "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
    answers = []

    def write():
        answers.append(httpx.post(f"{url}/v1/completions", json=body, timeout=30).json())

    writers = [threading.Thread(target=write) for _ in range(6)]  # four at once, two wait
    for writer in writers:
        writer.start()
    ranked = httpx.post(f"{url}/v1/rerank", json={"model": "scripted", "documents": ["a", "b"]}, timeout=10)
    assert ranked.status_code == 200 and not answers
    engine.open.set()
    for writer in writers:
        writer.join()
    assert [one["choices"][0]["text"] for one in answers] == ["cabcabca"] * 6


def test_a_full_queue_and_a_slow_text_are_errors(fitted, engine):
    settings = ServeSettings(generations=1, generation_queue=0, generation_seconds=0.5)
    with serving(create_app(fitted, settings=settings)) as url:
        wait_until_ready(url)
        engine.open.clear()
        body = {"model": "scripted", "prompt": PROMPT, "max_tokens": 8}
        slow = []
        writer = threading.Thread(target=lambda: slow.append(httpx.post(f"{url}/v1/completions", json=body)))
        writer.start()
        time.sleep(0.2)
        full = httpx.post(f"{url}/v1/completions", json=body)
        writer.join()
        engine.open.set()
    assert (full.status_code, full.json()["error"]["code"]) == (503, "overloaded") and "retry-after" in full.headers
    assert (slow[0].status_code, slow[0].json()["error"]["code"]) == (504, "timeout")


def test_a_failure_in_the_middle_of_a_stream_reaches_the_client(client, engine):
    engine.fail_at = 2
    asked = {"model": "scripted", "prompt": PROMPT, "max_tokens": 8, "temperature": 0}
    texts = []
    with pytest.raises(openai.APIError, match="out of order"):
        texts.extend(event.choices[0].text for event in client.completions.create(**asked, stream=True))
    with pytest.raises(openai.InternalServerError, match="out of order"):
        client.completions.create(**asked)


def test_an_engine_that_cannot_write_says_so():
    with serving(create_app(reranker_on(Mute()))) as url:
        wait_until_ready(url)
        answer = httpx.post(f"{url}/v1/completions", json={"model": "toy", "prompt": "a"})
        assert answer.status_code == 422 and "cannot write" in answer.json()["error"]["message"]
        chat = httpx.post(f"{url}/v1/chat/completions", json={"model": "toy", "messages": CHAT})
        assert (chat.status_code, chat.json()["error"]["code"]) == (422, "cannot_generate")


def test_texts_are_counted(url):
    def counted():
        lines = httpx.get(f"{url}/metrics").text.splitlines()
        return float(next(line for line in lines if line.startswith("reranker_generated_tokens_total")).split()[1])

    before = counted()
    httpx.post(f"{url}/v1/completions", json={"model": "scripted", "prompt": PROMPT, "max_tokens": 5, "temperature": 0})
    assert counted() == before + 5


@pytest.mark.model
def test_the_real_model_talks():
    transformers = pytest.importorskip("transformers")
    import torch

    from reranker.hub import resolve_model

    path = resolve_model("smollm2-135m").path
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    lm = transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()

    def theirs(inputs, count=12):
        with torch.inference_mode():
            written = lm.generate(inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=count, do_sample=False)
        return tokenizer.decode(written[0, inputs.shape[1] :], skip_special_tokens=True)

    data = toys.taste_dataset()
    settings = {"engine": "torch", "model": "smollm2-135m", "dtype": "float32", "soft_tokens": 8, "fit_users": 10}
    reranker = Reranker(toys.config(**settings)).fit(data, PopularityGenerator().fit(data.interactions))
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt")["input_ids"]
    with serving(create_app(reranker)) as url, openai.OpenAI(base_url=f"{url}/v1", api_key="x") as client:
        wait_until_ready(url)
        talk = {"messages": messages, "max_tokens": 12, "temperature": 0}
        base = client.chat.completions.create(model="smollm2-135m", **talk)
        assert base.choices[0].message.content == theirs(ids) and "Paris" in base.choices[0].message.content
        assert base.usage.prompt_tokens == ids.shape[1]
        domain = client.chat.completions.create(model="toy", **talk)
        assert domain.usage.prompt_tokens == ids.shape[1] + 8
        rows = torch.from_numpy(reranker.llm_scorer.soft_prompt().vectors)[None]
        with torch.inference_mode():
            embeds = torch.cat([rows, lm.get_input_embeddings()(ids)], dim=1)
            written = lm.generate(
                inputs_embeds=embeds,
                attention_mask=torch.ones(embeds.shape[:2], dtype=torch.int64),
                max_new_tokens=12,
                do_sample=False,
            )
        assert domain.choices[0].message.content == tokenizer.decode(written[0], skip_special_tokens=True)
        tale = {"prompt": "Once upon a time", "max_tokens": 12, "temperature": 0}
        told = [client.completions.create(model=name, **tale).choices[0].text for name in ("smollm2-135m", "toy")]
        assert told[0] != told[1]
        prompt = "The three largest cities of France are"
        streamed = client.completions.create(
            model="smollm2-135m", prompt=prompt, max_tokens=12, temperature=0, stream=True
        )
        assert "".join(one.choices[0].text for one in streamed) == theirs(
            tokenizer(prompt, return_tensors="pt").input_ids
        )
