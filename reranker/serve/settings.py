"""Settings of the endpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from reranker.drift.settings import DriftSettings
from reranker.errors import ConfigError
from reranker.serve.exploration import Experiment, Explore


class ServeSettings(BaseModel):
    """Limits of the endpoint. Unknown keys are refused.

    Attributes:
        max_documents: of one request; more is answered with 413.
        max_body_bytes: of one request; more is answered with 413.
        max_history: inline history items, and interactions of one call.
        queue: requests that may wait for the engine; the next is answered with 503 and retry-after.
        batch: requests given to the engine together, at most.
        max_request_tokens: that the model would read for one list, about; more is answered with 413.
        slice_tokens: lists of more are read in slices of so many, between which shorter ones have their turn.
        slice_seconds: that a slice may take: `slice_tokens` follow what is measured; 0 leaves them as they are.
        batch_wait_ms: how long a lone request waits for company.
        timeout_seconds: for one answer, waiting included; then 504.
        body_seconds: in which a request's body has to arrive; then 408.
        store_seconds: for one call of a user store, waiting included; then 504.
        store_calls: calls of user stores at once.
        on_store_failure: "refuse" answers a ranking with 503 or 504 where its user's state cannot be read; "stateless"
            ranks by what the bundle knows of the user, and says so in `meta.state`.
        drain_seconds: that shutting down waits for requests, texts and adaptations in work, all together.
        allowed_hosts: names and addresses, without a port, that requests may give as Host; by default any, but only
            those of loopback where the server knows no keys and the connection is to loopback.
        max_generated_tokens: of one text; more is answered with 422.
        generations: texts written at once, beside the ranking.
        generation_queue: texts that may wait; the next is answered with 503 and retry-after.
        generation_seconds: for one text, waiting included; then 504.
        grammar_seconds: for compiling the grammar of a text, in a process of its own; more is answered with 422.
        tool_call_parser: how the model writes tool calls, one of vLLM's names (`vllm serve --tool-call-parser`); with
            it, chats on the vllm engine may call tools.
        shadow: answer the order that came in; the score log says what would have been served.
        score_log_rows: the score log writes a file when this many rows wait.
        score_log_seconds: and at least this often.
        score_log_users: whether the score log names users.
        score_log_key: file with a secret key: the score log names users by pseudonyms under it (HMAC-SHA256), and finds
            and forgets them by the key.
        explore: a share of the lists of items is answered with its first places shuffled; the score log keeps the
            propensities. Off by default. Lists whose order the request names, and shadow mode, are never explored.
        experiment: divides users among arms of orders, or mixes two orders in each list; requests without a user, or
            that name an order, are in none.
        drift: windows of the lists of items that are answered are compared with those that the bundle was fitted for;
            metrics and log lines tell of shifts. Off by default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_documents: int = Field(default=2000, ge=1)
    max_body_bytes: int = Field(default=4_000_000, ge=1000)
    max_history: int = Field(default=1000, ge=1)
    queue: int = Field(default=256, ge=1)
    batch: int = Field(default=32, ge=1)
    max_request_tokens: int = Field(default=200_000, ge=1)
    slice_tokens: int = Field(default=1024, ge=1)
    slice_seconds: float = Field(default=0.1, ge=0)
    batch_wait_ms: float = Field(default=2.0, ge=0)
    timeout_seconds: float = Field(default=60.0, gt=0)
    body_seconds: float = Field(default=10.0, gt=0)
    store_seconds: float = Field(default=5.0, gt=0)
    store_calls: int = Field(default=8, ge=1)
    on_store_failure: Literal["refuse", "stateless"] = "refuse"
    drain_seconds: float = Field(default=30.0, ge=0)
    allowed_hosts: tuple[str, ...] | None = None
    max_generated_tokens: int = Field(default=4096, ge=1)
    generations: int = Field(default=4, ge=1)
    generation_queue: int = Field(default=64, ge=0)
    generation_seconds: float = Field(default=300.0, gt=0)
    grammar_seconds: float = Field(default=5.0, gt=0)
    tool_call_parser: str | None = None
    shadow: bool = False
    score_log_rows: int = Field(default=50_000, ge=1)
    score_log_seconds: float = Field(default=60.0, gt=0)
    score_log_users: bool = True
    score_log_key: Path | None = None
    explore: Explore | None = None
    experiment: Experiment | None = None
    drift: DriftSettings | None = None

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> "ServeSettings":
        """Settings from YAML.

        Raises:
            ConfigError: an unknown key or an impossible value.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, first["loc"]))
            raise ConfigError(f"setting {place!r} of the endpoint: {first['msg']}") from error
