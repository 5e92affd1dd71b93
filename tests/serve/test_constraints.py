"""Template arguments and grammars that would hold the engine are refused with their field."""

import pytest

from reranker.serve.errors import ProblemError
from reranker.serve.generation.constraints import check_constraints
from reranker.serve.schemas.generation import ChatRequest


def body(**fields):
    return ChatRequest(model="m", messages=[{"role": "user", "content": "hi"}], **fields)


def schema(inner):
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": inner}}}


def nested(levels):
    inner = {"type": "string"}
    for _ in range(levels):
        inner = {"type": "array", "items": inner}
    return inner


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"chat_template_kwargs": {"tokenize": True, "max_length": 10**9}}, "chat_template_kwargs.tokenize"),
        ({"chat_template_kwargs": {"enable_thinking": [1]}}, "chat_template_kwargs.enable_thinking"),
        ({"chat_template_kwargs": {"thinking": "x" * 101}}, "chat_template_kwargs.thinking"),
        ({"chat_template_kwargs": "tokenize"}, "chat_template_kwargs"),
        (schema({"enum": [str(number) for number in range(40_000)]}), "response_format"),
        (schema({"anyOf": [{"enum": list(range(251))}, {"enum": list(range(250))}]}), "response_format"),
        (schema({"type": "string", "maxLength": 10**9}), "response_format"),
        (schema({"description": "x" * 40_000}), "response_format"),
        (schema(nested(2000)), "response_format"),
        ({"structured_outputs": {"choice": ["a"] * 501}}, "structured_outputs"),
        ({"structured_outputs": {"grammar": "x" * 40_000}}, "structured_outputs"),
        ({"bad_words": ["a"] * 1001}, "bad_words"),
        ({"bad_words": ["a", "x" * 1001]}, "bad_words"),
        ({"tools": [{"type": "function", "function": {"parameters": {"minItems": 5000}}}]}, "tools"),
    ],
)
def test_refused_with_the_field(fields, param):
    with pytest.raises(ProblemError) as caught:
        check_constraints(body(**fields))
    assert (caught.value.status, caught.value.param) == (422, param) and str(caught.value).startswith(param)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"chat_template_kwargs": {"enable_thinking": False}},
        schema({"enum": [str(number) for number in range(500)]}),
        schema({"type": "object", "properties": {"city": {"type": "string", "maxLength": 1000}}}),
        schema(nested(10)),
        {"bad_words": ["x" * 1000] * 1000},
    ],
)
def test_taken(fields):
    check_constraints(body(**fields))
