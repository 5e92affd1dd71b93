"""vLLM's V2 model runner: our step reader beside its own worker class on tensors, and the whole of it on a CPU.

The classes are those of the installed vLLM and, where the pinned CUDA wheel is at hand, those of its sources.
"""

import importlib.util
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("vllm")

from reranker.engines.vllm.backends.v2_worker import StepReader, install, make_room_for_slots
from reranker.engines.vllm.wire import KEPT, SCORED_FROM, STATES, UNREAD
from reranker.hub.cache import cache_dir

pytestmark = pytest.mark.filterwarnings("default")  # vLLM's own, at import

HERE = Path(__file__).parent
DIM, VOCABULARY = 6, 40
PROMPT_LOGPROB, INPUT_BATCH = "vllm.v1.worker.gpu.sample.prompt_logprob", "vllm.v1.worker.gpu.input_batch"


def from_wheel(name: str) -> ModuleType:
    """A module of the CUDA wheel that `python -m tools.check_vllm --wheel gpu` keeps; its imports are the installed."""
    wheels = sorted((cache_dir() / "wheels").glob("vllm-*.whl"))
    if not wheels:
        pytest.skip("the CUDA wheel is not at hand: python -m tools.check_vllm --wheel gpu fetches it (336 MB)")
    file = f"{name.replace('.', '/')}.py"
    module = ModuleType(f"wheel_{name.rpartition('.')[2]}")
    sys.modules[module.__name__] = module  # dataclasses look their module up
    with zipfile.ZipFile(wheels[-1]) as archive:
        exec(compile(archive.read(file), file, "exec"), module.__dict__)
    return module


@pytest.fixture(params=["installed", pytest.param("wheel", marks=pytest.mark.slow)])
def load(request: pytest.FixtureRequest) -> Callable[[str], ModuleType]:
    return importlib.import_module if request.param == "installed" else from_wheel


WEIGHT = torch.randn((VOCABULARY, DIM), generator=torch.Generator().manual_seed(0))


def log_probs(hidden: torch.Tensor, *_: Any) -> torch.Tensor:
    """What the model's logits are here: already normalised, so that vLLM's "raw_logits" are log-probabilities."""
    return (hidden @ WEIGHT.T).log_softmax(dim=-1)


class Runner:
    """What `install` reads of a V2 runner, with vLLM's own worker."""

    def __init__(self, load: Callable[[str], ModuleType], whole_head: bool = True) -> None:
        self.prompt_logprobs_worker: Any = load(PROMPT_LOGPROB).PromptLogprobsWorker(
            8, torch.device("cpu"), logprobs_mode="raw_logits"
        )
        self.own = self.prompt_logprobs_worker
        self.model_config = SimpleNamespace(dtype=torch.float32, get_vocab_size=lambda: VOCABULARY)
        self.model = SimpleNamespace(
            compute_logits=log_probs,
            lm_head=SimpleNamespace(weight=WEIGHT, tp_size=1 if whole_head else 2),
            logits_processor=SimpleNamespace(org_vocab_size=VOCABULARY, scale=1.0, soft_cap=None),
        )

    def get_model(self) -> Any:
        return self.model


@pytest.fixture(params=[True, False], ids=["whole head", "split head"])
def runner(load: Callable[[str], ModuleType], request: pytest.FixtureRequest) -> Runner:
    return Runner(load, request.param)


class Prompts:
    """Prompts that are computed in steps, as the scheduler cuts them."""

    def __init__(self, load: Callable[[str], ModuleType], seed: int, cached: int = 0) -> None:
        rng = np.random.default_rng(seed)
        self.input_batch = load(INPUT_BATCH)
        self.lengths = rng.integers(3, 12, 5)
        self.starts = np.array([rng.integers(0, length - 1) for length in self.lengths])
        self.ids = [rng.integers(0, VOCABULARY, (length - 1 - s, 1)) for length, s in self.pairs()]
        self.states = [torch.from_numpy(rng.standard_normal((length, DIM))).float() for length in self.lengths]
        self.done = np.full(5, cached)
        self.rng = rng

    def pairs(self) -> Iterator[tuple[int, int]]:
        return zip(self.lengths.tolist(), self.starts.tolist(), strict=True)

    def parameters(self, place: int, **extra: Any) -> Any:
        from vllm import SamplingParams

        made = SamplingParams(extra_args={SCORED_FROM: int(self.starts[place]) + 1, UNREAD: True, **extra})
        if STATES not in extra:
            made.prompt_logprob_token_ids = self.ids[place].astype(np.int32)  # as vLLM's own check leaves it
            made.prompt_logprob_start = int(self.starts[place])
        return made

    def step(self) -> tuple[torch.Tensor, Any, np.ndarray] | None:
        """States, batch and prompt lengths of the next step, of some prompts in any order; None when all are done."""
        left = [place for place in range(5) if self.done[place] < self.lengths[place]]
        if not left:
            return None
        chosen = self.rng.permutation(left)[: self.rng.integers(1, len(left) + 1)]
        counts = np.array([self.rng.integers(1, self.lengths[p] - self.done[p] + 1) for p in chosen], dtype=np.int32)
        buffers = self.input_batch.InputBuffers(8, 64, torch.device("cpu"))
        batch = self.input_batch.InputBatch.make_dummy(len(chosen), int(counts.sum()), buffers)
        batch.req_ids = [str(place) for place in chosen]
        batch.idx_mapping_np = chosen
        batch.num_scheduled_tokens = counts
        batch.query_start_loc_np = np.cumsum([0, *counts]).astype(np.int32)
        batch.num_computed_prefill_tokens_np = self.done[chosen].astype(np.int32)
        batch.prefill_len_np = self.lengths[chosen].astype(np.int32)
        rows = [self.states[p][self.done[p] : self.done[p] + n] for p, n in zip(chosen, counts, strict=True)]
        self.done[chosen] += counts
        return torch.cat(rows), batch, self.lengths.astype(np.int32)


def read(worker: Any, prompts: Prompts, **extra: Any) -> dict[str, torch.Tensor]:
    """All scores, over as many steps as the prompts take."""
    for place in range(5):
        numbered = {**extra, KEPT: place} if extra else {}
        worker.add_request(str(place), place, prompts.parameters(place, **numbered))
    found: dict[str, torch.Tensor] = {}
    while (step := prompts.step()) is not None:
        hidden, batch, lengths = step
        found |= worker.compute_prompt_token_id_logprobs(log_probs, hidden, batch, lengths)
    return found


@pytest.mark.parametrize("seed", range(12))
def test_scores_are_those_of_vllms_own_worker(load, runner, seed) -> None:
    reader = install(runner)
    assert isinstance(reader, StepReader) and runner.prompt_logprobs_worker is reader
    ours, theirs = read(reader, Prompts(load, seed)), read(Runner(load).own, Prompts(load, seed))
    assert ours.keys() == theirs.keys() == set("01234")
    prompts = Prompts(load, seed)
    for place, (name, scores) in enumerate(sorted(ours.items())):
        torch.testing.assert_close(scores, theirs[name], atol=1e-5, rtol=0.0)
        states = prompts.states[place][prompts.starts[place] : -1]
        by_hand = log_probs(states).gather(1, torch.from_numpy(prompts.ids[place]))
        torch.testing.assert_close(scores, by_hand, atol=1e-5, rtol=0.0)
    assert reader.token_id_scores == {} and not reader._spans


@pytest.mark.parametrize("seed", range(6))
def test_states_are_summed_from_where_scoring_starts(load, runner, seed) -> None:
    reader, prompts = install(runner), Prompts(load, seed)
    assert read(reader, prompts, **{STATES: True}) == {}
    for place, start in enumerate(prompts.starts):
        torch.testing.assert_close(reader.kept[place], prompts.states[place][start:].sum(dim=0), atol=1e-5, rtol=0.0)


def test_what_came_from_the_cache_is_dropped_as_vllm_does(load, runner) -> None:
    reader = install(runner)
    prompts = Prompts(load, 3, cached=2)
    covered = {str(place) for place, start in enumerate(prompts.starts) if start >= 2}
    assert 0 < len(covered) < 5
    assert read(reader, prompts).keys() == covered
    assert read(Runner(load).own, Prompts(load, 3, cached=2)).keys() == covered
    assert read(reader, Prompts(load, 3, cached=2), **{STATES: True}) == {}
    assert {str(number) for number in reader.kept} == covered


def test_requests_of_others_stay_vllms(load, runner) -> None:
    reader, prompts = install(runner), Prompts(load, 1)
    for place in range(5):
        asked = prompts.parameters(place)
        if place % 2:
            asked.extra_args = None
        reader.add_request(str(place), place, asked)
    assert set(runner.own.token_id_scores) == {"1", "3"}
    found: dict[str, torch.Tensor] = {}
    while (step := prompts.step()) is not None:
        found |= reader.compute_prompt_token_id_logprobs(log_probs, *step)
    expected = read(Runner(load).own, Prompts(load, 1))
    for name, scores in expected.items():
        torch.testing.assert_close(found[name], scores, atol=1e-5, rtol=0.0)


def test_logits_are_left_out_only_while_nobody_reads_a_token(load, runner) -> None:
    reader, prompts = install(runner), Prompts(load, 1)
    hidden = prompts.states[0]
    torch.testing.assert_close(runner.model.compute_logits(hidden), log_probs(hidden))  # no request at all
    reader.add_request("0", 0, prompts.parameters(0))
    assert not runner.model.compute_logits(hidden).any()
    assert runner.model.compute_logits(hidden).shape == (len(hidden), VOCABULARY)
    reader.add_request("1", 1, prompts.parameters(1, **{UNREAD: False}))
    torch.testing.assert_close(runner.model.compute_logits(hidden), log_probs(hidden))
    reader.remove_request("1")
    assert not runner.model.compute_logits(hidden).any()
    state = hidden[0]
    assert reader.log_prob(state, 3) == pytest.approx(float(log_probs(state[None])[0, 3]), abs=1e-5)


def test_a_removed_reader_leaves_the_runner_as_it_was(load, runner) -> None:
    install(runner).remove()
    assert runner.prompt_logprobs_worker is runner.own and runner.model.compute_logits is log_probs


def test_a_request_that_begins_again_is_summed_once(load, runner) -> None:
    """Preempted in the middle of its prompt: removed, and added anew."""
    reader, prompts = install(runner), Prompts(load, 2)
    prompts.starts[:] = 0
    place = int(np.argmax(prompts.lengths))
    step = None
    while step is None or str(place) not in step[1].req_ids or prompts.done[place] == prompts.lengths[place]:
        prompts.done[:] = 0
        step = prompts.step()
    reader.add_request(str(place), place, prompts.parameters(place, **{STATES: True, KEPT: 9}))
    reader.compute_prompt_token_id_logprobs(log_probs, *step)
    assert 9 in reader.kept
    reader.remove_request(str(place))
    reader.add_request(str(place), place, prompts.parameters(place, **{STATES: True, KEPT: 9}))
    prompts.done[:] = 0
    while (step := prompts.step()) is not None:
        reader.compute_prompt_token_id_logprobs(log_probs, *step)
    torch.testing.assert_close(reader.kept[9], prompts.states[place].sum(dim=0), atol=1e-5, rtol=0.0)


def test_a_slot_in_a_text_with_penalties_marks_no_other_requests_token() -> None:
    """V2 sets bit id % 32 of word id // 32 of the prompt's row, for the highest of 70 slots, too."""
    vocabulary, slots = 64, 70
    state = SimpleNamespace(prompt_bin_mask=torch.zeros((3, vocabulary // 32), dtype=torch.int32))
    make_room_for_slots(SimpleNamespace(sampler=SimpleNamespace(penalties_state=state)), slots)
    mask = state.prompt_bin_mask
    assert mask.shape == (3, 2)
    for token in range(vocabulary, vocabulary + slots):  # as the kernel does, by the stride
        for row in range(3):
            mask.as_strided((1,), (1,), row * mask.stride(0) + token // 32).fill_(-1)
    assert not mask.any()
    make_room_for_slots(SimpleNamespace(), slots)  # V1


def test_a_worker_that_moved_is_left_as_it_is(load) -> None:
    runner = Runner(load)
    runner.prompt_logprobs_worker = SimpleNamespace(add_request=lambda req_id, parameters: None)
    assert "no add_request(req_id, req_idx, sampling_params)" in install(runner)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_contracts_hold_on_v2() -> None:
    """On a CPU, where Triton's interpreter runs the runner's kernels."""
    if importlib.util.find_spec("triton") is None:
        pytest.skip("Triton is not installed")
    settings = {"TRITON_INTERPRET": "1", "VLLM_USE_V2_MODEL_RUNNER": "1"}
    path = os.pathsep.join(map(str, (HERE / "triton_on_cpu", HERE.parents[1])))
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(HERE / "v2_contract.py")],
        env=os.environ | settings | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=1700,
    )
    assert ran.returncode == 0, ran.stdout[-5000:]
