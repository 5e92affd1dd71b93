"""A small OpenAI server as vLLM's is seen from outside: scores given tokens with a real model, and can be busy."""

import contextlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch

from reranker.engines.loading import HubTokenizer, load_causal_lm
from reranker.engines.torch.engine import TorchEngine
from reranker.types import GenerationRequest, TokenSequence

ALL_WAYS = frozenset({"prompt_logprobs", "echo", "logprob_token_ids", "tokenize"})


@dataclass
class Server:
    """What the tests set and read.

    Attributes:
        ways: what the server offers.
        key: the bearer token it wants; "" for none.
        failures: (status, headers) answered to the next completions, one each.
        calls: bodies of the completions it answered.
        at_once: most completions that were in work together.
        breaks_off: ends its streams without the last event.
    """

    directory: Path
    model: str = "tiny"
    ways: frozenset[str] = ALL_WAYS
    key: str = ""
    failures: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    calls: list[dict[str, Any]] = field(default_factory=list)
    at_once: int = 0
    breaks_off: bool = False
    base_url: str = ""

    def __post_init__(self) -> None:
        self.lm: Any = load_causal_lm(self.directory, "float32", "cpu")
        self.tokenizer = HubTokenizer(self.directory)
        self.lock = threading.Lock()
        self.in_work = 0

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        return {"choices": [self._choice(number, prompt, body) for number, prompt in enumerate(body["prompt"])]}

    @cached_property
    def writer(self) -> TorchEngine:
        return TorchEngine(self.directory, dtype="float32")

    def events(self, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """A text as it is written, then its token counts."""
        settings = {name: body[name] for name in ("max_tokens", "temperature", "top_p", "seed") if name in body}
        prompt = TokenSequence.from_tokens(body["prompt"])
        tokens = 0
        request = GenerationRequest(prompt=prompt, stop=tuple(body.get("stop", ())), **settings)
        for piece in self.writer.generate(request):
            tokens += piece.tokens
            if piece.text or piece.finish_reason:
                yield {"choices": [{"index": 0, "text": piece.text, "finish_reason": piece.finish_reason}]}
        yield {"choices": [], "usage": {"completion_tokens": tokens}}

    def _choice(self, index: int, prompt: list[int], body: dict[str, Any]) -> dict[str, Any]:
        with torch.inference_mode():
            log_probs = self.lm(torch.tensor([prompt])).logits[0].double().log_softmax(dim=-1)
        each = [log_probs[at, token].item() for at, token in enumerate(prompt[1:])]
        if "prompt_logprobs" in body:
            found = [{str(token): {"logprob": value}} for token, value in zip(prompt[1:], each, strict=True)]
            return {"index": index, "prompt_logprobs": [None, *found]}
        if body.get("echo"):
            tokens = [f"token_id:{token}" for token in prompt]
            return {"index": index, "logprobs": {"tokens": tokens, "token_logprobs": [None, *each]}}
        labels = {f"token_id:{label}": log_probs[-1, label].item() for label in body["logprob_token_ids"]}
        return {"index": index, "logprobs": {"top_logprobs": [labels]}}


@contextmanager
def running(server: Server) -> Iterator[Server]:
    """Serves on a free port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self._allowed():
                models = [{"id": server.model, "max_model_len": 512}]
                self._answer(200, {"data": models} if self.path == "/v1/models" else {"ready": True})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            if not self._allowed():
                return
            if self.path == "/tokenize" and "tokenize" in server.ways:
                self._answer(200, {"tokens": server.tokenizer.encode(body["prompt"])})
            elif self.path == "/v1/completions":
                self._complete(body)
            else:
                self._answer(404, {"error": {"message": "no such path"}})

        def _complete(self, body: dict[str, Any]) -> None:
            if body.get("stream"):
                self._stream(body)
                return
            answer: tuple[Any, ...]
            with server.lock:
                failure = server.failures.pop(0) if server.failures else None
                server.in_work += 1
                server.at_once = max(server.at_once, server.in_work)
            try:
                way = next(way for way in ("prompt_logprobs", "echo", "logprob_token_ids") if way in body)
                if failure is not None:
                    answer = (failure[0], {"error": {"message": "try later"}}, failure[1])
                elif way not in server.ways:
                    answer = (400, {"error": {"message": f"{way} is not supported"}})
                else:
                    answer = (200, server.complete(body))
                    server.calls.append(body)
            finally:  # before the answer: a client that has it may send its next call
                with server.lock:
                    server.in_work -= 1
            self._answer(*answer)

        def _stream(self, body: dict[str, Any]) -> None:
            self.send_response(200)
            self.send_header("content-type", "text/event-stream")
            self.end_headers()
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                for event in server.events(body):
                    self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
                self.wfile.write(b"" if server.breaks_off else b"data: [DONE]\n\n")

        def _allowed(self) -> bool:
            if server.key and self.headers.get("authorization") != f"Bearer {server.key}":
                self._answer(401, {"error": {"message": "wrong key"}})
                return False
            return True

        def _answer(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
            content = json.dumps(body).encode()
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *arguments: object) -> None:
            """Quiet."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever)
    thread.start()
    server.base_url = f"http://127.0.0.1:{http.server_port}/v1"
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()
