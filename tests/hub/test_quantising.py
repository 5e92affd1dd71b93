"""An int8 model: weights within half a level, everything else as it was."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig

from reranker.engines.loading import HubTokenizer
from reranker.engines.torch.engine import TorchEngine
from reranker.errors import ConfigError, ModelError
from reranker.hub import quantise, resolve_model
from tests.engines.models import TINY, save_tiny_model


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A tiny model with a row of zeros."""
    base = save_tiny_model(tmp_path / "tiny")
    weights = load_file(base / "model.safetensors")
    weights["model.layers.0.mlp.up_proj.weight"][3] = 0
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    return base


def test_layers_are_rounded_and_the_rest_stays(base: Path, tmp_path: Path) -> None:
    out = quantise(resolve_model(base), tmp_path / "int8")
    before, after = load_file(base / "model.safetensors"), load_file(out / "model.safetensors")
    for name, weight in before.items():
        if not name.endswith("proj.weight"):
            torch.testing.assert_close(after[name], weight, rtol=0, atol=0)
            continue
        scale = after[name.replace("weight", "weight_scale")]
        assert after[name].dtype == torch.int8 and scale.shape == (len(weight), 1)
        assert bool(((after[name].float() * scale - weight).abs() <= scale / 2 + 1e-7).all())
        assert int(after[name].abs().amax()) == 127
    assert not after["model.layers.0.mlp.up_proj.weight"][3].any()
    settings = json.loads((out / "config.json").read_text())["quantization_config"]
    assert settings["quant_method"] == "compressed-tensors" and settings["ignore"] == ["lm_head"]
    assert HubTokenizer(out).encode("Heat") == HubTokenizer(base).encode("Heat")


def test_a_table_that_is_head_and_embeddings_keeps_the_embeddings_name(tmp_path: Path) -> None:
    base = save_tiny_model(tmp_path / "tiny", LlamaConfig(**TINY, num_attention_heads=4, tie_word_embeddings=True))
    out = quantise(resolve_model(base), tmp_path / "int8")
    names = load_file(out / "model.safetensors")
    assert "model.embed_tokens.weight" in names and "lm_head.weight" not in names


def test_a_folder_that_exists_is_left_alone(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="exists"):
        quantise(resolve_model(base), tmp_path)


def test_a_quantised_model_is_refused(base: Path, tmp_path: Path) -> None:
    out = quantise(resolve_model(base), tmp_path / "int8")
    with pytest.raises(ModelError, match="quantised already"):
        quantise(resolve_model(out), tmp_path / "again")


def test_the_torch_engine_names_the_engine_that_reads_it(base: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="engine='vllm'"):
        TorchEngine(quantise(resolve_model(base), tmp_path / "int8"))


@pytest.mark.slow
@pytest.mark.model
@pytest.mark.filterwarnings("default")
def test_vllm_ranks_nearly_alike(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    from scipy.stats import kendalltau

    from reranker.engines.vllm.engine import VLLMEngine
    from tests.contracts.engine import random_request

    out = quantise(resolve_model("smollm2-135m"), tmp_path / "int8")
    requests = [random_request(seed, candidates=30, prefix=40) for seed in range(4)]
    engine = VLLMEngine(out, max_length=1024, slots=64)
    try:
        ours = engine.span_log_likelihoods(requests)
    finally:
        engine.close()
    theirs = TorchEngine("smollm2-135m", dtype="float32").span_log_likelihoods(requests)
    taus = [kendalltau(one.sums, other.sums).statistic for one, other in zip(ours, theirs, strict=True)]
    assert float(np.mean(taus)) > 0.85
