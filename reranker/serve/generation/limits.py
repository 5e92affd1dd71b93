"""How much a request may have written, and how much was."""

from collections.abc import Sequence
from dataclasses import dataclass

from fastapi import Request

from reranker.serve.errors import ProblemError
from reranker.serve.observability.metrics import Metrics
from reranker.serve.schemas.generation import SamplingFields

MOST_TEXTS = 8


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a request says of its length.

    Attributes:
        prompt: name of the field that holds the prompt.
        tokens: name of the field that holds `most`.
        most: tokens to write; None for what `default` says.
        default: tokens to write where nothing is said; None for as many as there is room for.
    """

    prompt: str
    tokens: str
    most: int | None
    default: int | None

    def check(self, body: SamplingFields, cap: int) -> None:
        """Raises ProblemError (422) for more than `MOST_TEXTS` texts, or a longer one than `cap` tokens."""
        if body.prompt_count * (body.n or 1) > MOST_TEXTS:
            message = f"{body.prompt_count} prompts with n={body.n or 1}: at most {MOST_TEXTS} texts in one request"
            raise ProblemError(422, message, param=self.prompt, code="too_many")
        if self.most is not None and self.most > cap:
            message = f"{self.tokens}: {self.most}, at most {cap} are written here"
            raise ProblemError(422, message, param=self.tokens, code="too_many")

    def check_prompt(self, token_ids: Sequence[int], vocabulary: int) -> None:
        """Raises ProblemError (422) for no tokens, or ids that are none of the model's `vocabulary` tokens."""
        if not token_ids:
            raise ProblemError(422, f"{self.prompt} is empty", param=self.prompt, code="empty")
        if min(token_ids) < 0 or max(token_ids) >= vocabulary:
            message = f"{self.prompt}: token ids are 0 to {vocabulary - 1} in this model"
            raise ProblemError(422, message, param=self.prompt, code="invalid_field")


@dataclass(eq=False, kw_only=True)
class Tally:
    """Tokens read and written for a request, for its answer, the log and the counters."""

    metrics: Metrics
    request: Request
    prompt_tokens: int = 0
    tokens: int = 0

    def close(self) -> None:
        """To be called once, at the end."""
        self.metrics.generated.inc(self.tokens)
        counts = {"prompt_tokens": self.prompt_tokens, "completion_tokens": self.tokens}
        self.request.state.log = {**getattr(self.request.state, "log", {}), **counts}
