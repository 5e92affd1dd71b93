"""What a request may pass on to vLLM's chat template and its grammar compiler."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from reranker.serve.errors import ProblemError
from reranker.serve.schemas.generation import SamplingFields

TEMPLATE_ARGUMENTS = frozenset({"enable_thinking", "thinking", "reasoning_effort"})
"""Of `chat_template_kwargs`: what templates read. Others reach the tokenizer (`tokenize`, `padding`, `max_length`)."""

_LONGEST_ARGUMENT = 100  # characters
_GRAMMAR_FIELDS = ("response_format", "structured_outputs", "tools")
_LARGEST = 32_768  # bytes of JSON
_MOST_CHOICES = 500  # of all enums together
_DEEPEST = 16
_MOST_REPEATS = 1_000  # xgrammar writes a bound out
_WORDS = "bad_words"
_MOST_WORDS, _LONGEST_WORD = 1_000, 1_000  # vLLM tokenises each twice while rankings wait
_BOUNDS = ("maxLength", "minLength", "maxItems", "minItems", "maxProperties", "minProperties")


def check_constraints(body: SamplingFields) -> None:
    """Raises ProblemError for what would hold the engine or fill the memory.

    Raises:
        ProblemError: 422 with the field: a template argument that is not on the list, or a schema, a grammar or words
            beyond the limits.
    """
    fields = body.model_extra or {}
    _check_template(fields.get("chat_template_kwargs"))
    _check_words(fields.get(_WORDS))
    for name in _GRAMMAR_FIELDS:
        if isinstance(fields.get(name), Mapping | list):
            _check_grammar(name, fields[name])


def grammar_field(body: SamplingFields) -> str:
    """The field that a request's grammar comes from."""
    fields = body.model_extra or {}
    return next((name for name in _GRAMMAR_FIELDS if fields.get(name)), _GRAMMAR_FIELDS[0])


def _check_template(given: Any) -> None:
    name = "chat_template_kwargs"
    if given is None:
        return
    if not isinstance(given, Mapping):
        raise _refused(name, "must be an object")
    for key, value in given.items():
        if key not in TEMPLATE_ARGUMENTS:
            raise _refused(f"{name}.{key}", f"not supported; there are {', '.join(sorted(TEMPLATE_ARGUMENTS))}")
        if not isinstance(value, bool | str | None) or (isinstance(value, str) and len(value) > _LONGEST_ARGUMENT):
            raise _refused(f"{name}.{key}", f"true, false or a text of at most {_LONGEST_ARGUMENT} characters")


def _check_words(given: Any) -> None:
    if not isinstance(given, list):  # vLLM says what is wrong with it
        return
    if len(given) > _MOST_WORDS:
        raise _refused(_WORDS, f"{len(given)} words, at most {_MOST_WORDS}")
    if any(isinstance(word, str) and len(word) > _LONGEST_WORD for word in given):
        raise _refused(_WORDS, f"a word of more than {_LONGEST_WORD} characters")


def _check_grammar(name: str, given: Any) -> None:
    choices = 0
    for depth, value in _containers(given):
        if depth > _DEEPEST:
            raise _refused(name, f"nests deeper than {_DEEPEST} levels")
        if not isinstance(value, Mapping):
            continue
        for key in ("enum", "choice"):
            if isinstance(value.get(key), list):
                choices += len(value[key])
                if choices > _MOST_CHOICES:
                    raise _refused(name, f"its enums have {choices} values or more, at most {_MOST_CHOICES}")
        for key in _BOUNDS:
            bound = value.get(key)
            if isinstance(bound, int | float) and bound > _MOST_REPEATS:
                raise _refused(name, f"{key} is {bound:g}, at most {_MOST_REPEATS}")
    size = len(json.dumps(given))
    if size > _LARGEST:
        raise _refused(name, f"{size} bytes of JSON, at most {_LARGEST}")


def _containers(top: Any) -> Iterator[tuple[int, Any]]:
    """Every object and list in a JSON value, with its depth; goes no deeper than what is refused."""
    stack = [(0, top)]
    while stack:
        depth, value = stack.pop()
        yield depth, value
        if depth <= _DEEPEST:
            inner = value.values() if isinstance(value, Mapping) else value
            stack += [(depth + 1, one) for one in inner if isinstance(one, Mapping | list)]


def _refused(field: str, why: str) -> ProblemError:
    return ProblemError(422, f"{field}: {why}", param=field, code="invalid_field")
