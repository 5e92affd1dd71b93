"""What the vLLM engine asks of vLLM for a list: a prompt for each candidate, and one for what they all begin with."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from reranker.engines.slots import Aliases, SlotTable
from reranker.engines.vllm_arguments import FOLLOWERS, KEPT, LAST_TOKEN, LENGTH, SCORED_FROM, STATES, TAIL, UNREAD
from reranker.types import ScoringRequest

_LOG_PROBS: dict[str, Any] = {"prompt_logprobs": 0, "skip_reading_prefix_cache": False}

Call = tuple[list[int], dict[str, Any]]
"""Token ids and options of SamplingParams."""


@dataclass(kw_only=True, eq=False)
class Prompt:
    """A candidate behind what all candidates of its list begin with.

    Attributes:
        prefix: that beginning.
        own: the candidate's tokens.
        scored_from: where scoring starts within `own`.
        arguments: SamplingParams.extra_args.
        first: log p of a scored token that was read with the prefix, in nats.
    """

    prefix: list[int]
    own: list[int]
    scored_from: int
    arguments: dict[str, Any]
    first: float = 0.0

    @property
    def start(self) -> int:
        """Where scoring starts within the whole prompt."""
        return len(self.prefix) + self.scored_from

    @property
    def scored(self) -> list[int]:
        """The tokens that are still to be scored."""
        return self.own[self.scored_from :]


@dataclass(kw_only=True, eq=False)
class PromptList:
    """The prompts of one list.

    Attributes:
        prompts: one a candidate.
        before: computes the prefix; runs before the prompts. None where vLLM's cache is enough.
        kept: number under which the worker keeps log p of the first scored tokens, read with the prefix; None if not.
        read: the prompts that these belong to.
    """

    prompts: list[Prompt]
    before: Call | None = None
    kept: int | None = None
    read: list[Prompt] = field(default_factory=list)


class PromptWriter:
    """Writes prompts.

    Args:
        slots: ids of vectors.
        aliases: other ids of tokens.
        block: tokens of a cache block whose beginning can be shared (`vllm_tails`); 0 where only whole ones can.
        reads_spans: whether the worker has a `vllm_spans.SpanReader`.

    Attributes:
        numbers: for what the worker or the connector keeps.
    """

    def __init__(self, slots: SlotTable, aliases: Aliases, block: int, *, reads_spans: bool) -> None:
        self.numbers = count()
        self._slots, self._aliases = slots, aliases
        self._block = block
        self._reads_spans = reads_spans

    def write(self, request: ScoringRequest, *, likelihood: bool) -> PromptList:
        """A prompt a candidate. What all candidates begin with joins the prefix, but for the last unscored token.

        A prefix that does not fill its last cache block is computed before the candidates. For a likelihood, where all
        candidates are scored from behind the same tokens, these join the prefix whole, and the first scored token of
        every candidate is read there: no candidate computes the state that it follows again.
        """
        owns = [self._slots.token_ids(candidate.sequence) for candidate in request.candidates]
        starts = [candidate.scored_from for candidate in request.candidates]
        shared = min(_common_length(owns), min(starts))
        scored = [place for place, own in enumerate(owns) if len(own) > shared]
        reads = self._reads_spans and self._block > 0  # else each candidate computes the prefix's last block anyway
        together = likelihood and reads and len(scored) > 1 and shared == max(starts)
        if not together:
            shared = min(shared, min(starts) - 1)
        prefix = self._slots.token_ids(request.prefix) + owns[0][:shared]
        arguments: dict[str, Any] = {}
        if self._block and len(owns) > 1 and len(prefix) % self._block:
            arguments = {"kv_transfer_params": {TAIL: next(self.numbers), LENGTH: len(prefix)}}
        result = PromptList(
            prompts=[
                Prompt(prefix=prefix, own=own[shared:], scored_from=start - shared + together, arguments=arguments)
                for own, start in zip(owns, starts, strict=True)
            ]
        )
        if together:
            result.kept = next(self.numbers)
            result.read = [result.prompts[place] for place in scored]
            followers = {FOLLOWERS: [one.own[0] for one in result.read], KEPT: result.kept}
            result.before = prefix, {**_LOG_PROBS, "extra_args": arguments | followers | {UNREAD: True}}
        elif arguments:
            result.before = prefix, {"extra_args": arguments | {UNREAD: True}}
        return result

    def span(self, prompt: Prompt) -> Call:
        """For the sum of the scored tokens' log-probabilities."""
        if not self._reads_spans:
            return prompt.prefix + prompt.own, {**_LOG_PROBS, "extra_args": prompt.arguments}
        first, *middle, last = prompt.own
        arguments = prompt.arguments | {SCORED_FROM: prompt.start, LAST_TOKEN: last, UNREAD: True}
        return [*prompt.prefix, self._aliases.fresh(first), *middle], {**_LOG_PROBS, "extra_args": arguments}

    def states(self, prompt: Prompt, number: int) -> Call:
        """For the sum of the states that the scored tokens follow, kept under a number."""
        token_ids, options = self.span(prompt)
        return token_ids, {**options, "extra_args": options["extra_args"] | {STATES: True, KEPT: number}}

    def labels(self, prompt: Prompt, labels: list[int]) -> Call:
        """For the log-probabilities of labels behind the candidate."""
        return prompt.prefix + prompt.own, {"logprob_token_ids": labels, "extra_args": prompt.arguments}


def _common_length(sequences: Sequence[Sequence[int]]) -> int:
    """How many items all sequences begin with."""
    columns = zip(*sequences, strict=False)
    return next((place for place, column in enumerate(columns) if len(set(column)) > 1), min(map(len, sequences)))
