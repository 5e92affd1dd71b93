"""V2's runner, asked through fields of its own: `SamplingParams.prompt_logprob_token_ids` and `prompt_logprob_start`.

Row i of these ids is scored as what follows prompt token `start + i`; the prompt's last row cannot be scored, so the
last scored token is part of the prompt and computed. vLLM drops the scores of a request whose prefill starts behind
`start`, as one that found its span in the prefix cache does: it is asked again without the cache.
"""

from typing import Any, ClassVar

from reranker.engines.vllm.backends.base import Fresh
from reranker.engines.vllm.calls import Call, Prompt, extra, stopping
from reranker.engines.vllm.wire import KEPT, SCORED_FROM, STATES, UNREAD


class V2Native:
    """One row a scored token, one id a row. States are summed by the worker's `v2_worker.StepReader`."""

    name: ClassVar[str] = "v2_native"
    reads_states: ClassVar[bool] = True
    reads_followers: ClassVar[bool] = False

    def span(self, prompt: Prompt, fresh: Fresh) -> Call:
        first, *others = prompt.own
        options = {
            "prompt_logprob_token_ids": [[token] for token in prompt.scored],
            "prompt_logprob_start": prompt.start - 1,
            "skip_reading_prefix_cache": False,
        }
        arguments = extra(prompt.transfer, {SCORED_FROM: prompt.start, UNREAD: True})
        return [*prompt.prefix, fresh(first), *others], options | arguments

    def states(self, prompt: Prompt, number: int, fresh: Fresh) -> Call:
        first, *middle, _ = prompt.own
        arguments = {SCORED_FROM: prompt.start, STATES: True, KEPT: number, UNREAD: True} | stopping(prompt.layer)
        options = {"skip_reading_prefix_cache": False}
        return [*prompt.prefix, fresh(first), *middle], options | extra(prompt.transfer, arguments)

    def sum(self, prompt: Prompt, output: Any) -> float | None:
        scores = output.prompt_token_id_logprobs
        return None if scores is None else float(scores[:, 0].sum(dtype="float64"))
