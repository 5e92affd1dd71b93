"""The worker's span reader on a runner made by hand: chunks, several requests in a step, positions from the cache."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

pytest.importorskip("vllm")

from reranker.engines.lm_head import Head
from reranker.engines.vllm.span_scoring import SpanReader, UnreadLogits, install
from reranker.engines.vllm.wire import FOLLOWERS, KEPT, LAST_TOKEN, SCORED_FROM, UNREAD

pytestmark = pytest.mark.filterwarnings("default")

DIM, VOCABULARY = 6, 12


class Runner:
    """What `SpanReader` reads of vLLM's model runner."""

    def __init__(self) -> None:
        self.num_prompt_logprobs: dict[str, int] = {}
        self.requests: dict[str, SimpleNamespace] = {}
        self.input_batch = SimpleNamespace(req_id_to_index={})
        self.query_start_loc = SimpleNamespace(np=np.zeros(8, dtype=np.int32))

    def add(self, name: str, prompt: list[int], scored_from: int, last: int, computed: int = 0) -> None:
        self.num_prompt_logprobs[name] = 0
        self.requests[name] = SimpleNamespace(
            sampling_params=SimpleNamespace(extra_args={SCORED_FROM: scored_from, LAST_TOKEN: last}),
            prompt_token_ids=prompt,
            num_computed_tokens=computed,
            in_progress_prompt_logprobs_cpu=None,
        )

    def add_followed(
        self, name: str, prompt: list[int], followers: list[int], number: int, scored_from: int | None = None
    ) -> None:
        """A request for the log-probability of each follower after its prompt, which may be scored itself."""
        self.add(name, prompt, scored_from=1, last=0)
        scored = {} if scored_from is None else {SCORED_FROM: scored_from}
        self.requests[name].sampling_params.extra_args = {FOLLOWERS: followers, KEPT: number} | scored

    def add_plain(self, name: str) -> None:
        """A request for vLLM's own prompt log-probabilities."""
        self.add(name, [1, 2, 3], scored_from=1, last=4)
        self.requests[name].sampling_params.extra_args = None

    def _get_prompt_logprobs_dict(self, hidden_states: torch.Tensor, counts: dict[str, int]) -> dict[str, str]:
        """vLLM's own, which reads whatever request it finds."""
        found = {name: f"vLLM's {name}" for name in self.num_prompt_logprobs if name in counts}
        for name in found:
            del self.num_prompt_logprobs[name]
        return found

    def place(self, counts: dict[str, int]) -> None:
        """The step's requests, in this order, with this many tokens each."""
        self.input_batch.req_id_to_index = {name: index for index, name in enumerate(counts)}
        self.query_start_loc.np = np.cumsum([0, *counts.values()])


@pytest.fixture
def head() -> Head:
    return Head(torch.randn((VOCABULARY, DIM), generator=torch.Generator().manual_seed(0)))


def states(count: int, seed: int) -> torch.Tensor:
    return torch.randn((count, DIM), generator=torch.Generator().manual_seed(seed))


def total(head: Head, hidden: torch.Tensor, targets: list[int]) -> float:
    return float(head.log_probs(hidden, torch.tensor(targets)).sum())


def read_in_two(reader: SpanReader, runner: Runner, hidden: torch.Tensor, cut: int) -> float:
    """Σ log p of request "a", whose prompt is computed in two steps."""
    runner.place({"a": cut})
    assert reader.read(hidden[:cut], {"a": cut}) == {}
    runner.requests["a"].num_computed_tokens = cut
    rest = {"a": len(hidden) - cut}
    runner.place(rest)
    found: float = reader.read(hidden[cut:], rest)["a"].logprobs.item()
    return found


def test_two_requests_of_one_step(head: Head) -> None:
    """Three tokens of "a" are cached; of its span [4, 5, 6] the last is not computed. "b" is a text being written."""
    runner = Runner()
    runner.add("a", [1, 2, 3, 4, 5], scored_from=4, last=6, computed=3)
    runner.add("c", [7, 8, 9], scored_from=2, last=10)
    counts = {"a": 2, "b": 4, "c": 3}
    runner.place(counts)
    hidden = states(9, seed=1)
    results = SpanReader(runner, head).read(hidden, counts)
    assert results["a"].logprobs.item() == pytest.approx(total(head, hidden[0:2], [5, 6]), abs=1e-5)
    assert results["c"].logprobs.item() == pytest.approx(total(head, hidden[7:9], [9, 10]), abs=1e-5)
    assert runner.num_prompt_logprobs == {}


@pytest.mark.parametrize("cut", [1, 2, 3, 4])
def test_a_prompt_in_two_chunks(head: Head, cut: int) -> None:
    hidden, runner = states(5, seed=2), Runner()
    runner.add("a", [1, 2, 3, 4, 5], scored_from=2, last=6)
    found = read_in_two(SpanReader(runner, head), runner, hidden, cut)
    assert found == pytest.approx(total(head, hidden[1:], [3, 4, 5, 6]), abs=1e-5)


def test_followers_are_read_after_the_whole_prompt(head: Head) -> None:
    """The prompt comes in two steps; beside its end, a span."""
    runner, hidden = Runner(), states(7, seed=5)
    reader = SpanReader(runner, head)
    runner.add_followed("prefix", [1, 2, 3, 4, 5], followers=[9, 3, 9], number=8)
    runner.place({"prefix": 3})
    assert reader.read(hidden[:3], {"prefix": 3}) == {} and reader.kept == {}
    runner.requests["prefix"].num_computed_tokens = 3
    runner.add("a", [1, 2], scored_from=1, last=4)
    counts = {"a": 2, "prefix": 2}
    runner.place(counts)
    results = reader.read(hidden[3:], counts)
    assert sorted(results) == ["a", "prefix"] and runner.num_prompt_logprobs == {}
    assert results["a"].logprobs.item() == pytest.approx(total(head, hidden[3:5], [2, 4]), abs=1e-5)
    assert reader.kept[8].tolist() == pytest.approx([total(head, hidden[6:], [one]) for one in (9, 3, 9)], abs=1e-5)


@pytest.mark.parametrize("cut", [1, 2, 3])
def test_followers_behind_a_span(head: Head, cut: int) -> None:
    """The span [3, 4] ends the prompt, and no token is scored behind it but the followers."""
    hidden, runner = states(4, seed=6), Runner()
    runner.add_followed("a", [1, 2, 3, 4], followers=[9, 5], number=8, scored_from=2)
    reader = SpanReader(runner, head)
    found = read_in_two(reader, runner, hidden, cut)
    assert found == pytest.approx(total(head, hidden[1:3], [3, 4]), abs=1e-5)
    assert reader.kept[8].tolist() == pytest.approx([total(head, hidden[3:], [one]) for one in (9, 5)], abs=1e-5)


def test_no_followers_behind_a_span(head: Head) -> None:
    """Its last token comes alone in a step, with nothing to be read of it."""
    hidden, runner = states(3, seed=7), Runner()
    runner.add_followed("a", [1, 2, 3], followers=[], number=8, scored_from=2)
    reader = SpanReader(runner, head)
    found = read_in_two(reader, runner, hidden, cut=2)
    assert found == pytest.approx(total(head, hidden[1:2], [3]), abs=1e-5)
    assert reader.kept[8].tolist() == []


def test_requests_that_name_no_span_get_vllms_own(head: Head) -> None:
    runner = Runner()
    runner.add_plain("b")
    runner.add("a", [1, 2, 3], scored_from=1, last=4)
    runner.add_plain("later")
    counts = {"b": 3, "a": 3}
    runner.place(counts)
    hidden = states(6, seed=4)
    results = SpanReader(runner, head).read(hidden, counts)
    assert results["b"] == "vLLM's b" and sorted(results) == ["a", "b"]
    assert results["a"].logprobs.item() == pytest.approx(total(head, hidden[3:], [2, 3, 4]), abs=1e-5)
    assert list(runner.num_prompt_logprobs) == ["later"]


def test_a_preempted_request_waits(head: Head) -> None:
    runner = Runner()
    runner.add("a", [1, 2, 3], scored_from=1, last=4)
    runner.place({})
    assert SpanReader(runner, head).read(states(0, seed=3), {}) == {}
    assert list(runner.num_prompt_logprobs) == ["a"]


def test_a_runner_of_another_vllm_is_left_as_it_is() -> None:
    assert "no _get_prompt_logprobs_dict" in install(SimpleNamespace(get_model=lambda: None))


def test_logits_that_nobody_reads_are_not_computed(head: Head) -> None:
    """ "b" is a text being written: beside it, all are computed."""
    runner = Runner()
    for name, extra in (("a", {UNREAD: True}), ("b", None)):
        runner.requests[name] = SimpleNamespace(sampling_params=SimpleNamespace(extra_args=extra))
    logits = UnreadLogits(runner, head.logits)
    hidden = states(2, seed=4)
    runner.place({"a": 1})
    assert logits(hidden[:1]).tolist() == [[0.0]]
    runner.place({"a": 1, "b": 1})
    torch.testing.assert_close(logits(hidden), head.logits(hidden))
