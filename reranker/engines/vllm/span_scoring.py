"""Likelihoods of spans inside vLLM's worker: one pass over the output head for all candidates of a step.

vLLM's own prompt log-probabilities read each request apart, in float32, and send an object a token to the front-end.
Here the states before the scored tokens of every request in the step are read together, and one number a request goes
back: the sum, in the place of the prompt's first log-probability.
"""

import inspect
from collections.abc import Callable, Collection
from typing import Any

import torch

from reranker.engines.lm_head import Head
from reranker.engines.vllm.backends.layers import LayerStop
from reranker.engines.vllm.wire import FOLLOWERS, KEPT, LAST_TOKEN, LAYER, SCORED_FROM, STATES, UNREAD

_RUNNER_METHOD = "_get_prompt_logprobs_dict"
_RUNNER_PARAMETERS = ["self", "hidden_states", "num_scheduled_tokens"]
_RUNNER_STATE = ("num_prompt_logprobs", "requests", "input_batch", "query_start_loc")


class SpanReader:
    """Takes the place of the model runner's prompt log-probabilities.

    A request for a span says in `SamplingParams.extra_args` where scoring starts (`SCORED_FROM`) and which token
    follows the prompt (`LAST_TOKEN`). That token is scored, too, and never computed. A request with `STATES` has the
    states themselves summed instead. A request with `FOLLOWERS` has the log-probability of each of them after its
    prompt read: the first tokens of many spans, from one state; it may be scored itself, without a last token. Other
    requests get vLLM's own.

    Args:
        runner: vLLM's model runner.
        head: the model's output head.

    Attributes:
        kept: number -> (dim,) sum of the states that the scored tokens follow, or (n,) log-probabilities of followers,
            in nats; whoever asked takes it out.
        stop: what stops the model below its last layer; None where nothing does.
    """

    def __init__(self, runner: Any, head: Head) -> None:
        self._runner = runner
        self._head = head
        self.kept: dict[int, torch.Tensor] = {}
        self.stop: LayerStop | None = None
        self._plain = getattr(runner, _RUNNER_METHOD)

    def read(self, hidden_states: torch.Tensor, num_scheduled_tokens: dict[str, int]) -> dict[str, Any]:
        """vLLM's tensors for each request whose prompt is complete."""
        spans: dict[str, int] = {}
        plain: dict[str, int] = {}
        for name, count in self._runner.num_prompt_logprobs.items():
            arguments = self._runner.requests[name].sampling_params.extra_args or {}
            (spans if SCORED_FROM in arguments or FOLLOWERS in arguments else plain)[name] = count
        if not plain:
            return self._read_spans(hidden_states, num_scheduled_tokens)
        self._runner.num_prompt_logprobs = plain
        results = self._plain(hidden_states, num_scheduled_tokens)
        self._runner.num_prompt_logprobs = spans
        results |= self._read_spans(hidden_states, num_scheduled_tokens)
        self._runner.num_prompt_logprobs = spans | plain
        return dict(results)

    def layers_asked(self) -> Collection[int | None]:
        """For whose states the requests of the coming step ask; None for the last one's, or for other things."""
        return {arguments.get(LAYER) for arguments in _arguments(self._runner)}

    def log_prob(self, state: torch.Tensor, token: int) -> float:
        """log p of a token after one state, in nats."""
        states = state.to(self._runner.model_config.dtype)[None]
        return float(self._head.log_probs(states, torch.tensor([token], device=states.device))[0])

    def remove(self) -> None:
        """Gives the runner its own method back, and the model its logits."""
        setattr(self._runner, _RUNNER_METHOD, self._plain)
        if self.stop is not None:
            self.stop.remove()
        model = self._runner.get_model()
        if isinstance(model.compute_logits, UnreadLogits):
            model.compute_logits = model.compute_logits.compute

    def _read_spans(self, hidden_states: torch.Tensor, num_scheduled_tokens: dict[str, int]) -> dict[str, Any]:
        """Per request whose prompt is complete: vLLM's tensors of one row, which holds Σ log p of a span.

        Args:
            hidden_states: (scheduled tokens, dim) of this step.
            num_scheduled_tokens: per request.
        """
        waiting = [name for name in self._runner.num_prompt_logprobs if name in num_scheduled_tokens]
        reads = _Reads()
        results = {}
        for name in waiting:
            request = self._runner.requests[name]
            arguments = request.sampling_params.extra_args
            prompt, computed = request.prompt_token_ids, request.num_computed_tokens
            end = min(computed + num_scheduled_tokens[name], len(prompt))
            offset = int(self._runner.query_start_loc.np[self._runner.input_batch.req_id_to_index[name]]) - computed
            complete = end == len(prompt)
            if request.in_progress_prompt_logprobs_cpu is None:
                request.in_progress_prompt_logprobs_cpu = _one_row()
            result = request.in_progress_prompt_logprobs_cpu
            begin = max(computed, arguments.get(SCORED_FROM, end + 1) - 1)
            if STATES in arguments:
                layer = arguments.get(LAYER)
                states = hidden_states if self.stop is None else self.stop.states(layer, hidden_states)
                part = states[offset + begin : offset + max(begin, end)].float().sum(dim=0).cpu()
                self.kept[arguments[KEPT]] = self.kept.get(arguments[KEPT], 0) + part
            elif begin < end:
                last = [arguments[LAST_TOKEN]] if complete and LAST_TOKEN in arguments else []
                reads.add_span(offset + begin, prompt[begin + 1 : end + 1] + last, result.logprobs)
            if complete and FOLLOWERS in arguments:
                self.kept[arguments[KEPT]] = torch.zeros(len(arguments[FOLLOWERS]))
                reads.add_followers(offset + end - 1, arguments[FOLLOWERS], self.kept[arguments[KEPT]])
            if complete:
                results[name] = result
                request.in_progress_prompt_logprobs_cpu = None
                del self._runner.num_prompt_logprobs[name]
        reads.carry_out(self._head, hidden_states)
        return results


class _Reads:
    """Log-probabilities wanted of one step, for one pass over the head."""

    def __init__(self) -> None:
        self._rows: list[int] = []  # of the step's states
        self._reads: list[int] = []  # for each target, its place among `_rows`
        self._targets: list[int] = []
        self._goals: list[tuple[torch.Tensor, int]] = []  # where values go, and how many

    def add_span(self, row: int, targets: list[int], goal: torch.Tensor) -> None:
        """Each target after the state before it, the first after `row`; their sum is added to `goal`, (1, 1)."""
        self._reads += range(len(self._rows), len(self._rows) + len(targets))
        self._rows += range(row, row + len(targets))
        self._targets += targets
        self._goals.append((goal, len(targets)))

    def add_followers(self, row: int, targets: list[int], goal: torch.Tensor) -> None:
        """All targets after the state `row`; each is added to its place in `goal`, (len(targets),)."""
        if not targets:
            return
        self._reads += [len(self._rows)] * len(targets)
        self._rows.append(row)
        self._targets += targets
        self._goals.append((goal, len(targets)))

    def carry_out(self, head: Head, hidden_states: torch.Tensor) -> None:
        if not self._rows:
            return
        device = hidden_states.device
        rows, reads, targets = (torch.tensor(one, device=device) for one in (self._rows, self._reads, self._targets))
        values = head.log_probs(hidden_states[rows], targets, reads).double().cpu()
        for (goal, _), part in zip(self._goals, torch.split(values, [count for _, count in self._goals]), strict=True):
            goal.add_(part if goal.ndim == 1 else part.sum())


class UnreadLogits:
    """Takes the place of the model's `compute_logits`: where no request of a step has its token read, none is computed.

    vLLM draws a token after every prompt, with a pass over the vocabulary, and a span's or a prefix's is thrown away.

    Args:
        runner: vLLM's model runner.
        compute: the model's own method.

    Attributes:
        compute: it.
    """

    def __init__(self, runner: Any, compute: Callable[..., Any]) -> None:
        self._runner = runner
        self.compute = compute

    def __call__(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """(n, vocabulary) logits, or (n, 1) zeros: token 0 is drawn for all."""
        if all(arguments.get(UNREAD) for arguments in _arguments(self._runner)):
            return hidden_states.new_zeros((len(hidden_states), 1), dtype=torch.float32)
        return self.compute(hidden_states, *args, **kwargs)


def install(runner: Any) -> SpanReader | str:
    """Puts a `SpanReader` into vLLM's model runner, and `UnreadLogits` into its model.

    Returns:
        The reader, or what this vLLM or model lacks for it.
    """
    method = getattr(type(runner), _RUNNER_METHOD, None)
    if method is None or list(inspect.signature(method).parameters) != _RUNNER_PARAMETERS:
        return f"{type(runner).__name__} of this vLLM has no {_RUNNER_METHOD}({', '.join(_RUNNER_PARAMETERS)})"
    missing = [name for name in _RUNNER_STATE if not hasattr(runner, name)]
    if missing:
        return f"{type(runner).__name__} of this vLLM has no {', '.join(missing)}"
    head = head_of_runner(runner)
    if isinstance(head, str):
        return head
    reader = SpanReader(runner, head)
    setattr(runner, _RUNNER_METHOD, reader.read)
    model = runner.get_model()
    model.compute_logits = UnreadLogits(runner, model.compute_logits)
    return reader


def head_of_runner(runner: Any) -> Head | str:
    """The output head of a model runner's model, or why it cannot be read apart from vLLM's own logits."""
    model = runner.get_model()
    layer: Any = getattr(model, "lm_head", None)
    logits: Any = getattr(model, "logits_processor", None)
    if logits is None or getattr(layer, "tp_size", 0) != 1:
        return f"{type(model).__name__} has no whole lm_head on one device"
    if getattr(layer.weight, "dtype", None) != runner.model_config.dtype:
        return "the output head is quantised"
    bias = getattr(layer, "bias", None)
    weight = layer.weight[: logits.org_vocab_size]
    return Head(
        weight, bias if bias is None else bias[: logits.org_vocab_size], scale=logits.scale, softcap=logits.soft_cap
    )


def _arguments(runner: Any) -> list[dict[str, Any]]:
    """What each request of the step says in its extra_args."""
    requests = [runner.requests[name] for name in runner.input_batch.req_id_to_index]
    return [one.sampling_params.extra_args or {} for one in requests]


def _one_row() -> Any:
    from vllm.v1.outputs import LogprobsTensors

    return LogprobsTensors(
        logprob_token_ids=torch.zeros((1, 1), dtype=torch.int32),
        logprobs=torch.zeros((1, 1), dtype=torch.float32),
        selected_token_ranks=torch.zeros(1, dtype=torch.int32),
    )
