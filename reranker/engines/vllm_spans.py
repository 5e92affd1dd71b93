"""Likelihoods of spans inside vLLM's worker: one pass over the output head for all candidates of a step.

vLLM's own prompt log-probabilities read each request apart, in float32, and send an object a token to the front-end.
Here the states before the scored tokens of every request in the step are read together, and one number a request goes
back: the sum, in the place of the prompt's first log-probability.
"""

import inspect
from collections.abc import Callable
from typing import Any

import torch

from reranker.engines.head import Head
from reranker.engines.vllm_arguments import LAST_TOKEN, SCORED_FROM, STATES, UNREAD

_RUNNER_METHOD = "_get_prompt_logprobs_dict"
_RUNNER_PARAMETERS = ["self", "hidden_states", "num_scheduled_tokens"]
_RUNNER_STATE = ("num_prompt_logprobs", "requests", "input_batch", "query_start_loc")


class SpanReader:
    """Takes the place of the model runner's prompt log-probabilities.

    A request for a span says in `SamplingParams.extra_args` where scoring starts (`SCORED_FROM`) and which token
    follows the prompt (`LAST_TOKEN`). That token is scored, too, and never computed. Other requests get vLLM's own.
    A request with `STATES` has the states themselves summed instead, and leaves them in `states`.

    Args:
        runner: vLLM's model runner.
        head: the model's output head.

    Attributes:
        states: number -> (dim,) sum of the states that the scored tokens follow; whoever asked takes it out.
    """

    def __init__(self, runner: Any, head: Head) -> None:
        self._runner = runner
        self._head = head
        self.states: dict[int, torch.Tensor] = {}
        self._plain = getattr(runner, _RUNNER_METHOD)

    def read(self, hidden_states: torch.Tensor, num_scheduled_tokens: dict[str, int]) -> dict[str, Any]:
        """vLLM's tensors for each request whose prompt is complete."""
        spans: dict[str, int] = {}
        plain: dict[str, int] = {}
        for name, count in self._runner.num_prompt_logprobs.items():
            arguments = self._runner.requests[name].sampling_params.extra_args
            (spans if arguments and SCORED_FROM in arguments else plain)[name] = count
        if not plain:
            return self._read_spans(hidden_states, num_scheduled_tokens)
        self._runner.num_prompt_logprobs = plain
        results = self._plain(hidden_states, num_scheduled_tokens)
        self._runner.num_prompt_logprobs = spans
        results |= self._read_spans(hidden_states, num_scheduled_tokens)
        self._runner.num_prompt_logprobs = spans | plain
        return dict(results)

    def _read_spans(self, hidden_states: torch.Tensor, num_scheduled_tokens: dict[str, int]) -> dict[str, Any]:
        """Per request whose prompt is complete: vLLM's tensors of one row that holds Σ log p of the span.

        Args:
            hidden_states: (scheduled tokens, dim) of this step.
            num_scheduled_tokens: per request.
        """
        waiting = [name for name in self._runner.num_prompt_logprobs if name in num_scheduled_tokens]
        if not waiting:
            return {}
        rows: list[int] = []
        targets: list[int] = []
        counts: list[int] = []
        read: list[str] = []
        complete = {}
        for name in waiting:
            request = self._runner.requests[name]
            arguments = request.sampling_params.extra_args
            prompt, computed = request.prompt_token_ids, request.num_computed_tokens
            end = min(computed + num_scheduled_tokens[name], len(prompt))
            begin = max(computed, arguments[SCORED_FROM] - 1)
            index = self._runner.input_batch.req_id_to_index[name]
            offset = int(self._runner.query_start_loc.np[index]) - computed
            if end == len(prompt):
                complete[name] = request
            if STATES in arguments:
                part = hidden_states[offset + begin : offset + max(begin, end)].float().sum(dim=0).cpu()
                self.states[arguments[STATES]] = self.states.get(arguments[STATES], 0) + part
            else:
                read.append(name)
                rows += range(offset + begin, offset + end)
                targets += prompt[begin + 1 : end + 1]
                if end == len(prompt):
                    targets += [arguments[LAST_TOKEN]] * (begin < end)
                counts.append(max(0, end - begin))
            if request.in_progress_prompt_logprobs_cpu is None:
                request.in_progress_prompt_logprobs_cpu = _one_row()
        if rows:
            device = hidden_states.device
            values = self._head.log_probs(
                hidden_states[torch.tensor(rows, device=device)], torch.tensor(targets, device=device)
            )
            for name, part in zip(read, torch.split(values.double().cpu(), counts), strict=True):
                self._runner.requests[name].in_progress_prompt_logprobs_cpu.logprobs.add_(part.sum())
        results = {}
        for name, request in complete.items():
            results[name] = request.in_progress_prompt_logprobs_cpu
            request.in_progress_prompt_logprobs_cpu = None
            del self._runner.num_prompt_logprobs[name]
        return results


class UnreadLogits:
    """Takes the place of the model's `compute_logits`: where no request of a step has its token read, none is computed.

    vLLM draws a token after every prompt, with a pass over the vocabulary, and a span's or a prefix's is thrown away.

    Args:
        runner: vLLM's model runner.
        compute: the model's own method.
    """

    def __init__(self, runner: Any, compute: Callable[..., Any]) -> None:
        self._runner = runner
        self._compute = compute

    def __call__(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """(n, vocabulary) logits, or (n, 1) zeros: token 0 is drawn for all."""
        requests = [self._runner.requests[name] for name in self._runner.input_batch.req_id_to_index]
        if all((one.sampling_params.extra_args or {}).get(UNREAD) for one in requests):
            return hidden_states.new_zeros((len(hidden_states), 1), dtype=torch.float32)
        return self._compute(hidden_states, *args, **kwargs)


def install(runner: Any) -> SpanReader | str:
    """Puts a `SpanReader` into vLLM's model runner, and `UnreadLogits` into its model.

    Returns:
        The reader, or what this vLLM or model lacks for it.
    """
    model = runner.get_model()
    method = getattr(type(runner), _RUNNER_METHOD, None)
    if method is None or list(inspect.signature(method).parameters) != _RUNNER_PARAMETERS:
        return f"{type(runner).__name__} of this vLLM has no {_RUNNER_METHOD}({', '.join(_RUNNER_PARAMETERS)})"
    missing = [name for name in _RUNNER_STATE if not hasattr(runner, name)]
    if missing:
        return f"{type(runner).__name__} of this vLLM has no {', '.join(missing)}"
    layer: Any = getattr(model, "lm_head", None)
    logits: Any = getattr(model, "logits_processor", None)
    if logits is None or getattr(layer, "tp_size", 0) != 1:
        return f"{type(model).__name__} has no whole lm_head on one device"
    if getattr(layer.weight, "dtype", None) != runner.model_config.dtype:
        return "the output head is quantised"
    bias = getattr(layer, "bias", None)
    weight = layer.weight[: logits.org_vocab_size]
    head = Head(
        weight, bias if bias is None else bias[: logits.org_vocab_size], scale=logits.scale, softcap=logits.soft_cap
    )
    reader = SpanReader(runner, head)
    setattr(runner, _RUNNER_METHOD, reader.read)
    model.compute_logits = UnreadLogits(runner, model.compute_logits)
    return reader


def _one_row() -> Any:
    from vllm.v1.outputs import LogprobsTensors

    return LogprobsTensors(
        logprob_token_ids=torch.zeros((1, 1), dtype=torch.int32),
        logprobs=torch.zeros((1, 1), dtype=torch.float32),
        selected_token_ranks=torch.zeros(1, dtype=torch.int32),
    )
