"""The torch engine on a tiny random model (quick) and on the real one."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import torch._inductor.utils
from torch._dynamo.utils import counters
from transformers import AutoModelForCausalLM, DeepseekV2Config, Gemma3TextConfig

from reranker.engines import load_engine
from reranker.engines.loading import broken_packages, require_working_packages
from reranker.engines.torch.compiling import compile_layers
from reranker.engines.torch.engine import TorchEngine
from reranker.engines.torch.packing import pack
from reranker.errors import ConfigError, EngineError, ModelError
from reranker.hub import resolve_model
from reranker.protocols import Engine
from reranker.types import GenerationRequest, ScoringRequest
from tests.contracts.engine import EngineContract, plain, random_request, span
from tests.contracts.states import LayersContract, StatesContract
from tests.engines.models import TINY, naive_scores, naive_states, save_tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tiny_engine(tiny: Path) -> Iterator[TorchEngine]:
    engine = TorchEngine(tiny, dtype="float32")
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def real_engine() -> Iterator[TorchEngine]:
    engine = TorchEngine("smollm2-135m", dtype="float32")
    yield engine
    engine.close()


class TestTiny(EngineContract, StatesContract, LayersContract):
    @pytest.fixture
    def engine(self, tiny_engine: TorchEngine) -> Engine:
        return tiny_engine


@pytest.mark.model
class TestReal(EngineContract, StatesContract, LayersContract):
    tolerance = 2e-4

    @pytest.fixture
    def engine(self, real_engine: TorchEngine) -> Engine:
        return real_engine

    def test_equals_the_naive_loop(self, engine: Engine) -> None:
        encode = engine.tokenizer.encode
        titles = ["Alien (1979)", "Aliens (1986)", "The Lion King", "The Matrix", "Fargo", "Toy Story 2"]
        request = ScoringRequest(
            prefix=plain(encode("Chosen before:\n- Blade Runner (1982)\n- Heat")),
            candidates=tuple(span(encode(f"\n- {title}\n"), 2) for title in titles),
        )
        lm = AutoModelForCausalLM.from_pretrained(resolve_model("smollm2-135m").path, dtype=torch.float32).eval()
        sums, labels = naive_scores(lm, request, [10, 20])
        np.testing.assert_allclose(engine.span_log_likelihoods([request])[0].sums, sums, atol=1e-3)
        np.testing.assert_allclose(engine.label_log_probs([request], [10, 20])[0], labels, atol=1e-4)


def test_equals_the_naive_loop(tiny: Path, tiny_engine: TorchEngine) -> None:
    lm = AutoModelForCausalLM.from_pretrained(tiny, dtype=torch.float32).eval()
    request = random_request(1, candidates=9, prefix=30)
    sums, labels = naive_scores(lm, request, [10, 20])
    np.testing.assert_allclose(tiny_engine.span_log_likelihoods([request])[0].sums, sums, atol=1e-4)
    np.testing.assert_allclose(tiny_engine.label_log_probs([request], [10, 20])[0], labels, atol=1e-5)
    np.testing.assert_allclose(tiny_engine.span_states([request])[0], naive_states(lm, request), atol=1e-5)
    np.testing.assert_allclose(tiny_engine.span_states([request], 1)[0], naive_states(lm, request, 1), atol=1e-5)


def test_sliding_windows_and_soft_caps(tmp_path: Path) -> None:
    config = Gemma3TextConfig(
        **TINY,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention"],
        final_logit_softcapping=5.0,
    )
    path = save_tiny_model(tmp_path, config)
    lm = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    request = random_request(2, candidates=9, prefix=30)
    sums, labels = naive_scores(lm, request, [10, 20])
    engine = TorchEngine(path, dtype="float32")
    np.testing.assert_allclose(engine.span_log_likelihoods([request])[0].sums, sums, atol=1e-4)
    np.testing.assert_allclose(engine.label_log_probs([request], [10, 20])[0], labels, atol=1e-5)
    # Nine tokens are shared with another request, and computed apart: the window reaches back into them.
    other = replace(request, prefix=plain([*request.prefix.token_ids[:9], 3, 4]))
    together = engine.span_log_likelihoods([request, other])
    np.testing.assert_allclose(together[0].sums, sums, atol=1e-4)
    np.testing.assert_allclose(together[1].sums, naive_scores(lm, other, [10])[0], atol=1e-4)


@pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU takes a C++ compiler")
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch's own
def test_compiled_layers_score_the_same(tiny: Path, tiny_engine: TorchEngine) -> None:
    """Lists of several lengths, alone and behind a common beginning; gradients and texts go through plain layers."""
    engine = TorchEngine(tiny, dtype="float32", compiled=True)
    requests = [random_request(seed, candidates=3 + 4 * seed, prefix=10 + 9 * seed) for seed in range(4)]
    other = replace(requests[3], prefix=plain([*requests[3].prefix.token_ids[:9], 3, 4]))
    before, graphs = counters["stats"]["unique_graphs"], []
    for batch in ([requests[0]], requests, [requests[3], other]):
        for ours, theirs in zip(
            engine.span_log_likelihoods(batch), tiny_engine.span_log_likelihoods(batch), strict=True
        ):
            np.testing.assert_allclose(ours.sums, theirs.sums, atol=1e-4)
        graphs.append(counters["stats"]["unique_graphs"])
    np.testing.assert_allclose(engine.span_states(requests)[3], tiny_engine.span_states(requests)[3], atol=1e-5)
    assert before < graphs[0] == graphs[2] == counters["stats"]["unique_graphs"]  # once for both layers and all lengths
    list(engine.generate(GenerationRequest(prompt=plain([1, 2, 3]), max_tokens=3)))
    row = next(pack(requests[1], 0, 100, labels=False))
    leaves = [torch.zeros((0, 32), requires_grad=True)]
    ours, theirs = (one.packed_lm.differentiable_log_probs([row], leaves)[0] for one in (engine, tiny_engine))
    torch.testing.assert_close(ours, theirs)
    assert counters["stats"]["unique_graphs"] == graphs[2]


def test_a_model_of_other_layers_is_not_compiled() -> None:
    with pytest.raises(ModelError, match="Linear has no layers that can be compiled"):
        compile_layers(torch.nn.Linear(2, 2))


@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch's own
def test_a_compiler_that_fails_is_named(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", (None, "/nowhere/g++"))
    torch.compiler.reset()
    with torch._inductor.utils.fresh_cache(), pytest.raises(EngineError, match=r"could not be compiled.*leave"):
        TorchEngine(tiny, dtype="float32", compiled=True).span_log_likelihoods([random_request(1)])


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_beginning_of_latent_keys(tmp_path: Path) -> None:
    """Multi-head latent attention: what a KV cache of such a model holds is not what its attention gets."""
    config = DeepseekV2Config(
        **TINY,
        num_attention_heads=4,
        num_key_value_heads=4,
        q_lora_rank=None,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=8,
        v_head_dim=4,
        first_k_dense_replace=2,
    )
    path = save_tiny_model(tmp_path, config)
    lm = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    request = random_request(2, candidates=9, prefix=30)
    other = replace(request, prefix=plain([*request.prefix.token_ids[:9], 3, 4]))
    together = TorchEngine(path, dtype="float32").span_log_likelihoods([request, other])
    for scores, one in zip(together, (request, other), strict=True):
        np.testing.assert_allclose(scores.sums, naive_scores(lm, one, [10])[0], atol=1e-4)


def test_shuffled_candidates_score_bit_for_bit(tiny_engine: TorchEngine) -> None:
    request = random_request(8, candidates=40)
    order = np.random.default_rng(1).permutation(40)
    shuffled = ScoringRequest(prefix=request.prefix, candidates=tuple(request.candidates[i] for i in order))
    first = tiny_engine.span_log_likelihoods([request])[0].sums
    assert (tiny_engine.span_log_likelihoods([shuffled])[0].sums == first[order]).all()
    labels = tiny_engine.label_log_probs([request], [1, 2])[0]
    assert (tiny_engine.label_log_probs([shuffled], [1, 2])[0] == labels[order]).all()


def test_five_thousand_candidates(tiny_engine: TorchEngine) -> None:
    request = random_request(9, candidates=5000)
    sums = tiny_engine.span_log_likelihoods([request])[0].sums
    few = ScoringRequest(prefix=request.prefix, candidates=tuple(request.candidates[i] for i in (0, 2500, 4998)))
    np.testing.assert_allclose(sums[[0, 2500, 4998]], tiny_engine.span_log_likelihoods([few])[0].sums, atol=1e-4)


def test_bfloat16_is_near_float32(tiny: Path, tiny_engine: TorchEngine) -> None:
    request = random_request(10, candidates=30)
    exact = tiny_engine.span_log_likelihoods([request])[0].sums
    rounded = TorchEngine(tiny, dtype="bfloat16").span_log_likelihoods([request])[0].sums
    assert 0 < np.abs(rounded - exact).max() < 0.5
    assert np.corrcoef(rounded, exact)[0, 1] > 0.999


def test_threads_share_an_engine(tiny_engine: TorchEngine) -> None:
    requests = [random_request(seed) for seed in range(6)]
    expected = [tiny_engine.span_log_likelihoods([request])[0].sums for request in requests]
    results: dict[int, np.ndarray] = {}

    def work(number: int) -> None:
        results[number] = tiny_engine.span_log_likelihoods([requests[number]])[0].sums

    threads = [Thread(target=work, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for number, sums in enumerate(expected):
        assert (results[number] == sums).all()


def test_closed_engine_says_so(tiny: Path) -> None:
    engine = TorchEngine(tiny)
    engine.close()
    with pytest.raises(EngineError, match="closed"):
        engine.span_log_likelihoods([random_request(0)])


def test_wrong_settings(tiny: Path) -> None:
    with pytest.raises(ConfigError, match="float16"):
        load_engine("torch", tiny, dtype="float16")
    with pytest.raises(ConfigError, match="max_batch"):
        load_engine("torch", tiny, max_batch=3)


def test_special_tokens_in_text_are_text(tiny_engine: TorchEngine) -> None:
    assert len(tiny_engine.tokenizer.encode("<|im_end|>")) == len("<|im_end|>")


def test_code_in_a_models_folder_is_not_run_whatever_is_typed(tmp_path, monkeypatch) -> None:
    path = save_tiny_model(tmp_path / "model")
    config = json.loads((path / "config.json").read_text())
    names = {"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.Own", "AutoTokenizer": ["own.Own", None]}
    (path / "config.json").write_text(json.dumps({**config, "model_type": "own", "auto_map": names}))
    (path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    monkeypatch.setattr("builtins.input", lambda question: "y")
    with pytest.raises(ModelError, match="cannot load"):
        TorchEngine(path)
    assert not (tmp_path / "ran").exists()


def test_broken_packages_are_named() -> None:
    def fails(name: str) -> object:
        raise RuntimeError(f"operator {name}::nms does not exist")

    assert broken_packages(lambda name: None, find=lambda name: object()) == {}
    assert broken_packages(fails, find=lambda name: None) == {}  # not installed: not broken
    broken = broken_packages(fails, find=lambda name: object())
    assert broken["torchvision"] == "operator torchvision::nms does not exist"
    with pytest.raises(ModelError, match="pip uninstall -y torchvision torchaudio torchcodec"):
        require_working_packages(broken)
    require_working_packages({})
