"""Grammars are tried before the engine sees them, one after the other, and known ones at once."""

import asyncio
import threading
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from reranker.errors import EngineError
from reranker.serve.errors import ProblemError
from reranker.serve.generation.constraints import grammar_field
from reranker.serve.generation.grammars import _WAITING, Grammars
from reranker.serve.schemas.generation import ChatRequest


@dataclass
class Grammar:
    grammar: str


def asking(grammar):
    return SimpleNamespace(structured_outputs=grammar and Grammar(grammar), all_stop_token_ids={2, 1})


@dataclass
class Host:
    """Compiles whatever does not begin with "bad"; waits for `go` first."""

    go: threading.Event = field(default_factory=threading.Event)
    tried: list = field(default_factory=list)

    def grammar_problem(self, parameters, seconds):
        self.go.wait(30)
        self.tried.append(parameters.structured_outputs.grammar)
        if self.tried[-1] == "dead":
            raise EngineError("the process that tries grammars is gone")
        return "no such rule" if self.tried[-1].startswith("bad") else ""


@pytest.fixture
def host():
    return Host()


def check(grammars, grammar):
    return grammars.check(asking(grammar), 5.0, "response_format")


def test_a_good_one_is_tried_once_and_a_bad_one_is_refused_with_the_field(host):
    async def work():
        grammars = Grammars(host)
        host.go.set()
        await check(grammars, None)
        await check(grammars, "good")
        await check(grammars, "good")
        for _ in range(2):
            with pytest.raises(ProblemError, match="response_format: no such rule") as caught:
                await check(grammars, "bad")
            assert (caught.value.status, caught.value.param) == (422, "response_format")
        with pytest.raises(EngineError):
            await check(grammars, "dead")
        await check(grammars, "another")

    asyncio.run(work())
    assert host.tried == ["good", "bad", "bad", "dead", "another"]


def test_known_grammars_do_not_wait_and_a_full_queue_is_said(host):
    async def work():
        grammars = Grammars(host)
        host.go.set()
        await check(grammars, "good")
        host.go.clear()
        many = [asyncio.create_task(check(grammars, f"slow {number}")) for number in range(_WAITING)]
        await asyncio.sleep(0)
        await check(grammars, "good")
        with pytest.raises(ProblemError) as caught:
            await check(grammars, "one more")
        assert caught.value.status == 503 and caught.value.retry_after
        for one in many[1:]:
            one.cancel()  # their clients went away
        host.go.set()
        await asyncio.gather(*many, return_exceptions=True)
        await check(grammars, "one more")

    asyncio.run(work())
    assert host.tried == ["good", "slow 0", "one more"]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"structured_outputs": {"regex": "a"}}, "structured_outputs"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({}, "response_format"),
    ],
)
def test_the_field_that_a_grammar_comes_from(fields, name):
    assert grammar_field(ChatRequest(model="m", messages=[], **fields)) == name
