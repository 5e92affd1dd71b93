"""V2's side of `v2_native`, inside vLLM's worker: all spans of a step in one pass over the head, and their states.

vLLM scores `prompt_logprob_token_ids` request by request, each with a pass over the whole vocabulary's weights; here
the rows of every request of a step are read together. What else the runner asks of its prompt-log-probability worker
goes to vLLM's own.
"""

import inspect
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import torch

from reranker.engines.lm_head import Head
from reranker.engines.vllm.backends.layers import LayerStop
from reranker.engines.vllm.span_scoring import head_of_runner
from reranker.engines.vllm.wire import KEPT, LAYER, SCORED_FROM, STATES, UNREAD

_WORKER = "prompt_logprobs_worker"
_METHODS = {
    "add_request": ["req_id", "req_idx", "sampling_params"],
    "remove_request": ["req_id"],
    "compute_prompt_token_id_logprobs": ["logits_fn", "hidden_states", "input_batch", "prompt_lens"],
}
_ROWS = 1024  # whose logits are held at once, as many as vLLM's

_BITS = 32  # ids in a word of V2's rows of prompt tokens

_Sum = tuple[int, int, int]
"""Number, first row of the step's states, row after the last."""

LogitsFn = Callable[[torch.Tensor], torch.Tensor]


@dataclass(kw_only=True)
class _States:
    """A request whose states are summed: from this prompt row on, under this number, of this layer (None: the last)."""

    start: int
    number: int
    layer: int | None


class StepReader:
    """Takes the place of a V2 runner's `PromptLogprobsWorker`.

    Args:
        runner: vLLM's model runner.
        head: the model's output head; None where it is not whole here, and vLLM's own logits are taken.

    Attributes:
        kept: number -> (dim,) sum of the states that the scored tokens follow; whoever asked takes it out.
        stop: what stops the model below its last layer; None where nothing does.
    """

    def __init__(self, runner: Any, head: Head | None) -> None:
        self._runner = runner
        self._worker = getattr(runner, _WORKER)
        self._head = head
        self._logits: LogitsFn = runner.get_model().compute_logits
        self._spans: dict[str, Any] = {}  # vLLM's own record of what is to be scored
        self._states: dict[str, _States] = {}
        self._read: dict[str, bool] = {}  # whether somebody reads the request's generated token
        self._layers: dict[str, int | None] = {}  # how many of them a request needs
        self.stop: LayerStop | None = None
        self.kept: dict[int, torch.Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["_worker"], name)

    def add_request(self, req_id: str, req_idx: int, sampling_params: Any) -> None:
        self._worker.add_request(req_id, req_idx, sampling_params)
        arguments = sampling_params.extra_args or {}
        self._read[req_id] = not arguments.get(UNREAD)
        self._layers[req_id] = arguments.get(LAYER)
        if STATES in arguments:
            self.kept.pop(arguments[KEPT], None)  # of a request that begins again
            self._states[req_id] = _States(
                start=arguments[SCORED_FROM] - 1, number=arguments[KEPT], layer=arguments.get(LAYER)
            )
        elif SCORED_FROM in arguments and (span := self._worker.token_id_scores.pop(req_id, None)) is not None:
            self._spans[req_id] = span

    def remove_request(self, req_id: str) -> None:
        self._worker.remove_request(req_id)
        for kept in (self._spans, self._states, self._read, self._layers):
            kept.pop(req_id, None)

    def compute_prompt_token_id_logprobs(
        self, logits_fn: LogitsFn, hidden_states: torch.Tensor, input_batch: Any, prompt_lens: Any
    ) -> dict[str, torch.Tensor]:
        """(rows, ids) scores of each request whose prompt is complete, as vLLM gives them."""
        found = self._worker.compute_prompt_token_id_logprobs(logits_fn, hidden_states, input_batch, prompt_lens)
        return {**found, **self._read_step(hidden_states, input_batch, prompt_lens)}

    def layers_asked(self) -> Collection[int | None]:
        """For whose states the runner's requests ask; None for the last one's, or for other things."""
        return set(self._layers.values())

    def log_prob(self, state: torch.Tensor, token: int) -> float:
        """log p of a token after one state, in nats."""
        logits = self._logits(state.to(self._runner.model_config.dtype)[None])
        return float(logits.float().log_softmax(dim=-1)[0, token])

    @property
    def all_unread(self) -> bool:
        """Nobody reads the token that any request of the runner generates."""
        return bool(self._read) and not any(self._read.values())

    def remove(self) -> None:
        """Gives the runner its own worker back, and the model its logits."""
        setattr(self._runner, _WORKER, self._worker)
        if self.stop is not None:
            self.stop.remove()
        self._runner.get_model().compute_logits = self._logits

    def _read_step(self, hidden_states: torch.Tensor, input_batch: Any, prompt_lens: Any) -> dict[str, torch.Tensor]:
        step = _Step()
        for place, name in enumerate(input_batch.req_ids):
            if name not in self._spans and name not in self._states:
                continue
            length = int(prompt_lens[input_batch.idx_mapping_np[place]])
            begin = int(input_batch.num_computed_prefill_tokens_np[place])
            rows = _Rows(
                begin=begin,
                end=min(begin + int(input_batch.num_scheduled_tokens[place]), length),
                length=length,
                offset=int(input_batch.query_start_loc_np[place]) - begin,
            )
            if begin >= length or length < int(input_batch.prefill_len_np[place]):  # read before, as vLLM has it
                self._spans.pop(name, None)
                self._states.pop(name, None)
            elif name in self._states:
                self._add_states(name, rows, step)
            else:
                self._add_span(name, rows, step)
        self._fill(hidden_states, step)
        for layer, sums in step.sums.items():
            self._sum(hidden_states if self.stop is None else self.stop.states(layer, hidden_states), sums)
        return step.complete

    def _add_states(self, name: str, rows: "_Rows", step: "_Step") -> None:
        states = self._states[name]
        if rows.begin > states.start and states.number not in self.kept:
            del self._states[name]  # came from the cache: its sum would lack rows, so there is none
            return
        first = max(rows.begin, states.start)
        if first < rows.end:
            step.sums[states.layer].append((states.number, rows.offset + first, rows.offset + rows.end))

    def _add_span(self, name: str, rows: "_Rows", step: "_Step") -> None:
        span = self._spans[name]
        if span.scores is None:
            if rows.begin > span.start:
                del self._spans[name]  # as vLLM does: rows from the cache have no states
                return
            span.scores = torch.empty_like(span.token_ids, dtype=torch.float32)
        first, last = max(span.start, rows.begin), min(rows.end, rows.length - 1)
        if first < last:
            goal = span.scores[first - span.start : last - span.start, 0]
            step.spans.append((rows.offset + first, span.token_ids[first - span.start : last - span.start, 0], goal))
        if rows.end == rows.length:
            step.complete[name] = span.scores
            del self._spans[name]

    def _fill(self, hidden_states: torch.Tensor, step: "_Step") -> None:
        """One pass over the head for all spans."""
        if not step.spans:
            return
        device = hidden_states.device
        rows = torch.cat([torch.arange(row, row + len(ids)) for row, ids, _ in step.spans]).to(device)
        states, targets = hidden_states[rows], torch.cat([ids for _, ids, _ in step.spans]).to(device)
        if self._head is not None:
            values = self._head.log_probs(states, targets)
        else:
            chunks = zip(torch.split(states, _ROWS), torch.split(targets, _ROWS), strict=True)
            values = torch.cat([_log_probs(self._logits(part), chosen) for part, chosen in chunks])
        parts = torch.split(values, [len(ids) for _, ids, _ in step.spans])
        for (_, _, goal), part in zip(step.spans, parts, strict=True):
            goal.copy_(part)

    def _sum(self, hidden_states: torch.Tensor, asked: list[_Sum]) -> None:
        """One pass over one layer's states of all requests."""
        device = hidden_states.device
        counts = torch.tensor([end - first for _, first, end in asked])
        rows = torch.cat([torch.arange(first, end) for _, first, end in asked]).to(device)
        owners = torch.arange(len(asked)).repeat_interleave(counts).to(device)
        sums = hidden_states.new_zeros((len(asked), hidden_states.shape[1]), dtype=torch.float32)
        sums.index_add_(0, owners, hidden_states[rows].float())
        for (number, _, _), part in zip(asked, sums, strict=True):
            self.kept[number] = self.kept[number] + part if number in self.kept else part


@dataclass(frozen=True, kw_only=True)
class _Rows:
    """Prompt rows of one request that a step computes: from `begin` to `end` of `length`, row r at `offset + r`."""

    begin: int
    end: int
    length: int
    offset: int


@dataclass(kw_only=True)
class _Step:
    """What one step reads.

    Attributes:
        spans: (first row of the step's states, ids, where their log-probabilities go).
        sums: by layer, what is summed of its states.
        complete: the scores of each request whose prompt ends.
    """

    spans: list[tuple[int, torch.Tensor, torch.Tensor]] = field(default_factory=list)
    sums: defaultdict[int | None, list[_Sum]] = field(default_factory=lambda: defaultdict(list))
    complete: dict[str, torch.Tensor] = field(default_factory=dict)


class UnreadLogits:
    """Takes the place of the model's `compute_logits`: zeros while nobody reads any request's generated token.

    Args:
        reader: that knows the requests.
        compute: the model's own method.
        vocab_size: columns.
    """

    def __init__(self, reader: StepReader, compute: LogitsFn, vocab_size: int) -> None:
        self._reader, self._compute, self._vocab_size = reader, compute, vocab_size

    def __call__(self, hidden_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """(n, vocabulary) logits."""
        if self._reader.all_unread:
            return hidden_states.new_zeros((len(hidden_states), self._vocab_size), dtype=torch.float32)
        return self._compute(hidden_states, *args, **kwargs)


def install(runner: Any) -> StepReader | str:
    """Puts a `StepReader` into a V2 runner.

    Returns:
        The reader, or what this vLLM lacks for it.
    """
    from vllm import SamplingParams

    worker = getattr(runner, _WORKER, None)
    if worker is None:
        return f"{type(runner).__module__}.{type(runner).__name__} of this vLLM has no {_WORKER}"
    for name, wanted in _METHODS.items():
        method = getattr(worker, name, None)
        if method is None or list(inspect.signature(method).parameters) != wanted:
            return f"{type(worker).__name__} of this vLLM has no {name}({', '.join(wanted)})"
    if not hasattr(worker, "token_id_scores"):
        return f"{type(worker).__name__} of this vLLM has no token_id_scores"
    missing = {"prompt_logprob_token_ids", "prompt_logprob_start"} - set(inspect.signature(SamplingParams).parameters)
    if missing:
        return f"SamplingParams of this vLLM has no {', '.join(sorted(missing))}"
    head = head_of_runner(runner)
    reader = StepReader(runner, None if isinstance(head, str) else head)
    setattr(runner, _WORKER, reader)
    model = runner.get_model()
    model.compute_logits = UnreadLogits(reader, model.compute_logits, runner.model_config.get_vocab_size())
    return reader


def make_room_for_slots(runner: Any, slots: int) -> None:
    """Widens the rows in which V2 marks the tokens of a prompt, for texts with penalties: its kernel writes a bit for
    every id, and a slot's lies behind the vocabulary. A V1 runner has no such rows.

    Args:
        runner: vLLM's model runner.
        slots: ids behind the vocabulary.
    """
    state: Any = getattr(getattr(runner, "sampler", None), "penalties_state", None)
    if state is not None and hasattr(state, "prompt_bin_mask"):
        mask = state.prompt_bin_mask
        wide = mask.new_zeros((len(mask), mask.shape[1] + slots // _BITS + 1))
        state.prompt_bin_mask = wide[:, : mask.shape[1]]  # vLLM goes by the stride


def _log_probs(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """(n, vocabulary) logits, (n,) ids -> (n,) log p, float32."""
    return logits.float().log_softmax(dim=-1).gather(1, targets[:, None])[:, 0]
