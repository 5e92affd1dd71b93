"""What stops vLLM's model at a layer, on a trunk made by hand in vLLM's form; and how readers take its states."""

from collections.abc import Iterable
from itertools import islice
from types import SimpleNamespace
from typing import Any

import pytest
import torch

pytest.importorskip("vllm")

from reranker.engines.vllm.backends import layers
from reranker.engines.vllm.backends.layers import LayerStop
from reranker.engines.vllm.backends.worker import take
from reranker.engines.vllm.calls import LOG_PROBS, Prompt, cache_salt
from reranker.engines.vllm.span_scoring import SpanReader
from reranker.engines.vllm.wire import KEPT, LAYER, SCORED_FROM, STATES

pytestmark = pytest.mark.filterwarnings("default")  # vLLM's own, at import

DIM, COUNT = 4, 5


class Layer(torch.nn.Module):
    """A residual sum beside what is to be added to it, as vLLM's layers have; counts how often it ran."""

    def __init__(self, number: int, residual: bool) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.randn((DIM, DIM), generator=torch.Generator().manual_seed(number)))
        self.residual, self.ran = residual, 0

    def forward(self, hidden: torch.Tensor, residual: torch.Tensor | None) -> Any:
        self.ran += 1
        whole = hidden if residual is None else hidden + residual
        added = torch.tanh(whole @ self.weight)
        return (added, whole) if self.residual else whole + added


class Norm(torch.nn.Module):
    """Writes into what it is given, as the fused kernel does."""

    def forward(self, hidden: torch.Tensor, residual: torch.Tensor | None = None) -> Any:
        if residual is not None:
            residual += hidden
            hidden.copy_(residual)
        hidden /= hidden.norm(dim=-1, keepdim=True)
        return hidden if residual is None else (hidden, residual)


class Trunk(torch.nn.Module):
    def __init__(self, residual: bool = True) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(Layer(number, residual) for number in range(COUNT))
        self.norm = Norm()
        self.start_layer, self.end_layer = 0, COUNT

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        residual = None
        for layer in islice(self.layers, self.start_layer, self.end_layer):
            output = layer(hidden, residual)
            hidden, residual = output if isinstance(output, tuple) else (output, None)
        normed = self.norm(hidden) if residual is None else self.norm(hidden, residual)
        return normed[0] if isinstance(normed, tuple) else normed

    @property
    def ran(self) -> list[int]:
        counts = [layer.ran for layer in self.layers]
        for layer in self.layers:
            layer.ran = 0
        return counts


class Asked:
    """The layers that a step's requests ask for."""

    def __init__(self) -> None:
        self.layers: set[int | None] = set()

    def __call__(self) -> Iterable[int | None]:
        return self.layers


@pytest.fixture(params=[True, False], ids=["residual beside", "one sum"])
def trunk(request: pytest.FixtureRequest) -> Trunk:
    return Trunk(request.param).requires_grad_(False)


@pytest.fixture
def hidden() -> torch.Tensor:
    return torch.randn((7, DIM), generator=torch.Generator().manual_seed(9))


def shortened(trunk: Trunk, layer: int, hidden: torch.Tensor) -> torch.Tensor:
    other = Trunk(trunk.layers[0].residual).requires_grad_(False)
    other.end_layer = layer
    return other(hidden.clone())


def test_a_step_of_one_layer_ends_there(trunk: Trunk, hidden: torch.Tensor) -> None:
    asked = Asked()
    stop = LayerStop(trunk, asked)
    assert len(stop) == COUNT
    asked.layers = {2}
    found = trunk(hidden.clone())
    assert trunk.ran == [1, 1, 0, 0, 0]
    torch.testing.assert_close(found, shortened(trunk, 2, hidden))
    assert stop.states(2, found) is found
    asked.layers = {None}
    torch.testing.assert_close(trunk(hidden.clone()), shortened(trunk, COUNT, hidden))
    assert trunk.ran == [1] * COUNT
    with pytest.raises(KeyError):  # a step that nobody announced is no states of that layer
        stop.states(2, found)


@pytest.mark.parametrize("layers_asked", [{2, None}, {2, 4}, {2, 4, None}])
def test_a_mixed_step_computes_all_layers_and_gives_the_same(
    trunk: Trunk, hidden: torch.Tensor, layers_asked: set[int | None]
) -> None:
    asked = Asked()
    stop = LayerStop(trunk, asked)
    asked.layers = layers_asked
    last = trunk(hidden.clone())
    assert trunk.ran == [1] * COUNT
    torch.testing.assert_close(last, shortened(trunk, COUNT, hidden))
    for layer in layers_asked:
        torch.testing.assert_close(stop.states(layer, last), shortened(trunk, layer or COUNT, hidden))
    assert not any(layer._forward_hooks for layer in trunk.layers)


def test_a_stop_that_is_off_gives_the_same(trunk: Trunk, hidden: torch.Tensor) -> None:
    asked = Asked()
    stop = LayerStop(trunk, asked)
    stop.stops, asked.layers = False, {3}
    last = trunk(hidden.clone())
    assert trunk.ran == [1] * COUNT
    torch.testing.assert_close(stop.states(3, last), shortened(trunk, 3, hidden))


def test_a_step_that_fails_leaves_the_model_whole(trunk: Trunk, hidden: torch.Tensor) -> None:
    asked = Asked()
    stop = LayerStop(trunk, asked)
    asked.layers = {2}
    with pytest.raises(RuntimeError):
        trunk(hidden[:, :1])
    assert trunk.end_layer == COUNT
    stop.remove()
    torch.testing.assert_close(trunk(hidden.clone()), shortened(trunk, COUNT, hidden))


def runner(model: torch.nn.Module, eager: bool = True) -> SimpleNamespace:
    return SimpleNamespace(model_config=SimpleNamespace(enforce_eager=eager), get_model=lambda: model)


def wrapped(trunk: torch.nn.Module) -> torch.nn.Module:
    return torch.nn.Sequential(trunk)


def test_what_keeps_a_model_from_stopping_is_said() -> None:
    asked = Asked()
    assert isinstance(layers.install(runner(wrapped(Trunk())), asked), LayerStop)
    assert "enforce_eager" in str(layers.install(runner(wrapped(Trunk()), eager=False), asked))
    two = torch.nn.Sequential(Trunk(), Trunk())
    assert "has 2 modules with layers, start_layer" in str(layers.install(runner(two), asked))
    moved = Trunk()
    del moved.end_layer
    assert "has 0 modules" in str(layers.install(runner(wrapped(moved)), asked))
    part = Trunk()
    part.start_layer = 2  # the second half, on another GPU
    assert "pipeline parallelism" in str(layers.install(runner(wrapped(part)), asked))


def test_a_model_that_cannot_stop_keeps_its_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    from reranker.engines.vllm.backends import worker

    reader = SimpleNamespace(kept={}, stop=None, layers_asked=set)
    monkeypatch.setattr(worker, "_INSTALL", {"v2_native": lambda runner: reader})
    taken = take(SimpleNamespace(), [], slots=2)  # nothing of what is wanted of a runner
    assert taken.name == "v2_native" and taken.reader is reader and reader.stop is None
    assert "model_config" in taken.all_layers


def test_v1_reads_a_mixed_step_at_the_layers_that_were_asked_for(trunk: Trunk, hidden: torch.Tensor) -> None:
    """Three tokens of "low", whose states behind layer 2 are summed, beside four of "last"."""

    def request(layer: int | None, number: int) -> SimpleNamespace:
        arguments = {STATES: True, SCORED_FROM: 2, KEPT: number} | ({} if layer is None else {LAYER: layer})
        return SimpleNamespace(
            sampling_params=SimpleNamespace(extra_args=arguments),
            prompt_token_ids=[1, 2, 3] if layer else [1, 2, 3, 4],
            num_computed_tokens=0,
            in_progress_prompt_logprobs_cpu=None,
        )

    made = SimpleNamespace(
        num_prompt_logprobs={"low": 0, "last": 0},
        requests={"low": request(2, 5), "last": request(None, 6)},
        input_batch=SimpleNamespace(req_id_to_index={"low": 0, "last": 1}),
        query_start_loc=SimpleNamespace(np=[0, 3, 7]),
        _get_prompt_logprobs_dict=None,
    )
    reader = SpanReader(made, head=None)
    assert reader.layers_asked() == {2, None}
    reader.stop = LayerStop(trunk, reader.layers_asked)
    reader.read(trunk(hidden.clone()), {"low": 3, "last": 4})
    torch.testing.assert_close(reader.kept[5], shortened(trunk, 2, hidden)[1:3].sum(dim=0))
    torch.testing.assert_close(reader.kept[6], shortened(trunk, COUNT, hidden)[4:7].sum(dim=0))


@pytest.mark.parametrize("backend", ["v1_patched", "v2_native"])
def test_requests_of_a_layer_say_so_and_have_a_cache_of_their_own(backend: str) -> None:
    from reranker.engines.vllm.backends import BACKENDS

    asked = BACKENDS[backend]()
    made = {"prefix": [1, 2], "own": [3, 4], "scored_from": 1, "transfer": {}}
    low, last = (asked.states(Prompt(**made, layer=layer), 1, lambda token: token) for layer in (12, None))
    assert low[1]["extra_args"][LAYER] == 12 and LAYER not in last[1]["extra_args"]
    assert cache_salt(low) and cache_salt(last) is None and cache_salt(([1], LOG_PROBS)) is None
