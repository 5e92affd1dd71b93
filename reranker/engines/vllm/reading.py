"""Lists of prompts through vLLM: what they share is computed once, and what came from the prefix cache is read again.

How a prompt is written and its answer read is a backend's (`backends`); whoever asks has vLLM to himself.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from reranker.engines.vllm.backends.base import Backend, answered
from reranker.engines.vllm.calls import Call, Prompt, cache_salt
from reranker.engines.vllm.groups import grouped, sequences
from reranker.engines.vllm.prompts import Branch, PromptWriter
from reranker.engines.vllm.stepping import Steps
from reranker.engines.vllm.virtual_tokens import SlotTable
from reranker.engines.vllm.wire import TAIL_ROWS
from reranker.types import ScoringRequest

_P = TypeVar("_P", bound=Prompt)


class Rpc(Protocol):
    """Calls a method of vLLM's worker."""

    def __call__(self, method: str, *arguments: Any) -> Any:
        """What the first worker answers."""


class PromptReader:
    """Has lists of prompts read.

    Args:
        backend: how the worker is asked.
        writer: writes prompts for it.
        slots: holds vectors.
        steps: gives what runs vLLM, or raises where it was closed.
        rpc: calls the worker.
        dim: of hidden states.
        most_tokens: of prefixes that are held at once.
    """

    def __init__(
        self,
        backend: Backend,
        writer: PromptWriter,
        *,
        slots: SlotTable,
        steps: Callable[[], Steps],
        rpc: Rpc,
        dim: int,
        most_tokens: int,
    ) -> None:
        self.writer = writer
        self._backend, self._slots, self._steps, self._rpc = backend, slots, steps, rpc
        self._dim, self._most_tokens = dim, most_tokens

    def groups(self, requests: Sequence[ScoringRequest], most: int = TAIL_ROWS) -> Iterator[Sequence[ScoringRequest]]:
        """Requests in order, as many at once as slots and prefix cache serve, `most` at most; vectors are loaded."""
        for group in grouped(requests, self._slots.size, self._most_tokens, most):
            self._slots.load([sequence for request in group for sequence in sequences(request)])
            yield group

    def prompts(
        self, group: Sequence[ScoringRequest], *, likelihood: bool = False, layer: int | None = None
    ) -> list[Prompt]:
        """The prompts of all lists, one after the other, with what they share computed."""
        lists = [self.writer.write(request, likelihood=likelihood, layer=layer) for request in group]
        self.generate([one.before for one in lists if one.before])
        kept = {one.kept: one.read for one in lists if one.kept is not None}
        for read, values in zip(kept.values(), self._take(list(kept)), strict=True):
            for prompt, value in zip(read, values.tolist(), strict=True):
                prompt.first = value
        self._read_branches(self.writer.branches(lists))
        return [prompt for one in lists for prompt in one.prompts]

    def _read_branches(self, branches: Sequence[Branch]) -> None:
        prompts: dict[int, list[int]] = {}

        def call(branch: Branch) -> Call:
            token_ids, options = self.writer.branch(branch)
            prompts[branch.kept] = token_ids
            return token_ids, options

        outputs = self._uncached(branches, call)
        followers = self._take([branch.kept for branch in branches])
        for branch, output, values in zip(branches, outputs, followers, strict=True):
            branch.hand_on(prompts[branch.kept], answered(self._backend.sum(branch, output)), values.tolist())

    def _take(self, numbers: list[int]) -> list[NDArray[np.float32]]:
        """What the worker kept under these numbers."""
        kept = self._rpc("reranker_take", numbers) if numbers else []
        return [np.frombuffer(one, dtype=np.float32) for one in kept]

    def sums(self, prompts: Sequence[Prompt]) -> list[float]:
        """Σ log p of each prompt's scored tokens."""
        scored = [prompt for prompt in prompts if prompt.scored]
        outputs = self._uncached(scored, self.writer.span)
        sums = iter([self._backend.sum(prompt, output) for prompt, output in zip(scored, outputs, strict=True)])
        found = [next(sums) if prompt.scored else 0.0 for prompt in prompts]
        return [prompt.first + answered(value) for prompt, value in zip(prompts, found, strict=True)]

    def states(self, prompts: Sequence[Prompt]) -> NDArray[np.float32]:
        """(n_prompts, dim) mean of the states that each prompt's scored tokens follow."""
        numbers: dict[int, list[int]] = {id(prompt): [] for prompt in prompts}

        def call(prompt: Prompt) -> Call:
            number = next(self.writer.numbers)
            numbers[id(prompt)].append(number)
            return self.writer.states(prompt, number)

        self._uncached([prompt for prompt in prompts if prompt.scored], call)
        asked = [number for tried in numbers.values() for number in tried]
        sums = dict(zip(asked, self._take(asked), strict=True))
        states = np.zeros((len(prompts), self._dim), dtype=np.float32)
        for row, prompt in zip(states, prompts, strict=True):
            if tried := numbers[id(prompt)]:
                found = sums[tried[-1]]
                row[:] = answered(found if len(found) else None) / len(prompt.scored)
        return states

    def _uncached(self, prompts: Sequence[_P], call: Callable[[_P], Call]) -> list[Any]:
        """vLLM's outputs for prompts whose scored tokens were all computed.

        It computes nothing for what it takes from the cache. Where the cache reached into the scored tokens, the prompt
        runs again without it.
        """
        outputs = self.generate([call(prompt) for prompt in prompts])
        again = [
            place
            for place, (output, prompt) in enumerate(zip(outputs, prompts, strict=True))
            if (output.num_cached_tokens or 0) >= prompt.start
        ]
        calls = [call(prompts[place]) for place in again]
        fresh = self.generate([(ids, {**options, "skip_reading_prefix_cache": True}) for ids, options in calls])
        for place, output in zip(again, fresh, strict=True):
            outputs[place] = output
        return outputs

    def labels(self, prompts: Sequence[Prompt], labels: list[int]) -> NDArray[np.float64]:
        """(n_prompts, n_labels) log p(label | prompt)."""
        outputs = self.generate([self.writer.labels(prompt, labels) for prompt in prompts])
        return np.array([[output.outputs[0].logprobs[0][label].logprob for label in labels] for output in outputs])

    def generate(self, calls: Sequence[Call]) -> list[Any]:
        """vLLM's output of each call."""
        from vllm import SamplingParams

        steps = self._steps()
        parameters = [
            SamplingParams(max_tokens=1, temperature=0.0, detokenize=False, **options) for _, options in calls
        ]
        return steps.score([token_ids for token_ids, _ in calls], parameters, list(map(cache_salt, calls)))
