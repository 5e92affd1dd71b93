"""What OpenAI's clients send to have a text written."""

from collections.abc import Collection
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, FiniteFloat, StrictInt, StrictStr

from reranker.serve.errors import ProblemError
from reranker.serve.schemas.rerank import Text, readable

_HARMLESS = frozenset(
    {"user", "store", "metadata", "service_tier", "safety_identifier", "prompt_cache_key", "parallel_tool_calls"}
)
_DEFAULTS: dict[str, Any] = {
    "best_of": 1,
    "modalities": ["text"],
    "response_format": {"type": "text"},
    "tool_choice": "none",
    "skip_special_tokens": True,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "top_logprobs": 0,
    "repetition_penalty": 1,
    "min_p": 0,
    "top_k": -1,
    "min_tokens": 0,
}
TEXT_FIELDS = (
    _HARMLESS
    | _DEFAULTS.keys()
    | {"logprobs", "logit_bias", "tools", "functions", "function_call", "prediction", "reasoning_effort", "verbosity"}
    | {"web_search_options", "ignore_eos", "stop_token_ids", "session_id"}
)
"""Fields of OpenAI's and vLLM's requests that are about how a text is written; a ranking has no use for them."""


def _some_text(text: str) -> str:
    if not text:
        raise ValueError("is empty")
    return text


StopText = Annotated[Text, AfterValidator(_some_text), Field(max_length=1000)]


def _readable_texts(value: Any) -> Any:
    """A prompt or a message's content: text, or a list of texts, parts or other things."""
    if isinstance(value, str):
        return readable(value)
    for number, one in enumerate(value):
        text = one.get("text") if isinstance(one, dict) else one
        try:
            readable(text if isinstance(text, str) else "")
        except ValueError as error:
            raise ValueError(f"text {number} {error}") from None
    return value


class StreamOptions(BaseModel):
    """OpenAI's; `include_usage` asks for a last event with token counts."""

    model_config = ConfigDict(extra="allow")

    include_usage: bool = False


class SamplingFields(BaseModel):
    """Fields that completions and chats share. Others are refused, unless they change nothing.

    Attributes:
        model: a name of GET /v1/models.
        max_tokens: tokens written, at most; 0 is for vLLM's `echo`.
        temperature: 0 takes the likeliest token each time.
        top_p: draws from the likeliest tokens only.
        stop: texts that end the answer.
        seed: the same seed draws the same text.
        n: texts wanted.
        stream: send pieces as server-sent events.
        stream_options: of the stream.
    """

    model_config = ConfigDict(extra="allow")

    model: str
    max_tokens: int | None = Field(default=None, ge=0)
    temperature: FiniteFloat | None = Field(default=None, ge=0, le=2)
    top_p: FiniteFloat | None = Field(default=None, gt=0, le=1)
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None
    seed: int | None = None
    n: int | None = Field(default=None, ge=1, le=8)
    stream: bool | None = False
    stream_options: StreamOptions | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def with_usage(self) -> bool:
        return self.stream_options is not None and self.stream_options.include_usage

    @property
    def prompt_count(self) -> int:
        return 1

    def refuse_others(self, known: Collection[str] = ()) -> None:
        """Raises ProblemError (422) for the first field that asks for what is not done here.

        Args:
            known: further fields that are done.
        """
        for name, value in (self.model_extra or {}).items():
            if name in _HARMLESS or name in known or value is None or value is False or value in ({}, [], ""):
                continue
            if name not in _DEFAULTS or value != _DEFAULTS[name]:
                message = f"{name}: not supported where this server writes text; leave it out"
                raise ProblemError(422, message, param=name, code="not_supported")


class CompletionRequest(SamplingFields):
    """POST /v1/completions: `prompt` as text or token ids, or several of one kind."""

    prompt: Annotated[
        StrictStr | list[StrictInt] | list[StrictStr] | list[list[StrictInt]], AfterValidator(_readable_texts)
    ]

    @property
    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        tokens = [one for one in self.prompt if isinstance(one, int)]
        several = [one for one in self.prompt if not isinstance(one, int)]
        return several or [tokens]

    @property
    def prompt_count(self) -> int:
        return len(self.prompts)


class ChatMessage(BaseModel):
    """One message; its content is text, or parts of text."""

    model_config = ConfigDict(extra="allow")

    role: str
    content: Annotated[StrictStr | list[dict[str, Any]], AfterValidator(_readable_texts)] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(str(part.get("text", "")) for part in self.content or ())


class ChatRequest(SamplingFields):
    """POST /v1/chat/completions: a conversation, or a list to rank (see `chat_routes`)."""

    messages: list[ChatMessage]
    max_completion_tokens: int | None = Field(default=None, ge=1)
