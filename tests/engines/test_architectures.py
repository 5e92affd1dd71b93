"""Kinds of models in the torch engine: read as they read themselves, or refused when they are loaded."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import transformers
from transformers import AutoModelForCausalLM

from reranker.engines.torch.engine import TorchEngine
from reranker.engines.torch.packed_lm import TESTED
from reranker.errors import ModelError
from reranker.types import GenerationRequest
from tests.contracts.engine import plain, random_request
from tests.engines.models import TINY, naive_scores, naive_states, save_tiny_model

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated:DeprecationWarning")  # GPTBigCode's

HEADS: dict[str, Any] = TINY | {"num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 0}
WINDOW = {"head_dim": 8, "sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}

READ = {
    "ctrl": transformers.CTRLConfig(
        n_embd=32, dff=64, n_layer=2, n_head=4, vocab_size=264, n_positions=512, initializer_range=0.3
    ),
    "gemma2": transformers.Gemma2Config(**HEADS, **WINDOW, query_pre_attn_scalar=8, attn_logit_softcapping=1.0),
    "gemma2, default bound": transformers.Gemma2Config(**HEADS, **WINDOW, query_pre_attn_scalar=1),
    "gemma3_text": transformers.Gemma3TextConfig(**HEADS, **WINDOW),
    "gpt2": transformers.GPT2Config(
        n_embd=32, n_layer=2, n_head=4, vocab_size=264, n_positions=512, initializer_range=0.3
    ),
    "gpt_bigcode": transformers.GPTBigCodeConfig(
        n_embd=32, n_layer=2, n_head=4, vocab_size=264, n_positions=512, initializer_range=0.3
    ),
    "llama": transformers.LlamaConfig(**HEADS),
    "mistral": transformers.MistralConfig(**HEADS, sliding_window=4),
    "persimmon": transformers.PersimmonConfig(**TINY, num_attention_heads=4, pad_token_id=0),
    "phi": transformers.PhiConfig(**HEADS),
    "qwen2": transformers.Qwen2Config(**HEADS),
    "qwen3": transformers.Qwen3Config(**HEADS, head_dim=8),
    "vaultgemma": transformers.VaultGemmaConfig(**HEADS, **WINDOW, attn_logit_softcapping=1.0),
}
REFUSED = {
    "another head": (
        transformers.ModernBertDecoderConfig(**TINY, num_attention_heads=4, local_attention=16, pad_token_id=0),
        r"modernbert-decoder wrongly: log-probabilities .* nats from the model's own.*engine='vllm'",
    ),
    "recurrent layers": (
        transformers.RecurrentGemmaConfig(**HEADS | {"num_hidden_layers": 3}, lru_width=32, attention_window_size=64),
        r"cannot pack a model with attention, recurrent layers",
    ),
    "key heads that its settings do not tell of": (
        transformers.JetMoeConfig(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            vocab_size=264,
            num_key_value_heads=2,
            kv_channels=8,
            num_local_experts=4,
        ),
        r"cannot read packed rows with a model of type jetmoe \(The size of tensor",
    ),
}


def own(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32, attn_implementation="eager").eval()


def test_what_is_not_checked_at_load_is_checked_here() -> None:
    assert {config.model_type for config in READ.values()} >= TESTED


@pytest.mark.parametrize("name", READ)
def test_reads_as_the_model_itself(name: str, tmp_path: Path) -> None:
    """Alone, behind a common beginning, and written."""
    path = save_tiny_model(tmp_path, READ[name])
    lm, engine = own(path), TorchEngine(path, dtype="float32")
    request = random_request(2, candidates=9, prefix=30)
    other = replace(request, prefix=plain([*request.prefix.token_ids[:9], 3, 4]))
    np.testing.assert_allclose(
        engine.label_log_probs([request], [10])[0], naive_scores(lm, request, [10])[1], atol=1e-4
    )
    np.testing.assert_allclose(engine.span_states([request])[0], naive_states(lm, request), atol=1e-4)
    for scores, one in zip(engine.span_log_likelihoods([request, other]), (request, other), strict=True):
        np.testing.assert_allclose(scores.sums, naive_scores(lm, one, [10])[0], atol=1e-4)
    tokens = engine._tokens(GenerationRequest(prompt=request.prefix, max_tokens=8, temperature=0.0))
    ids = request.prefix.token_ids.tolist()
    for _ in range(8):
        with torch.inference_mode():
            ids.append(int(lm(torch.tensor([ids])).logits[0, -1].argmax()))
        assert next(tokens) == ids[-1]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", READ)
def test_loads_in_both_precisions(name: str, dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the comparison, which some are spared."""
    monkeypatch.setattr("reranker.engines.torch.packed_lm.TESTED", frozenset())
    TorchEngine(save_tiny_model(tmp_path, READ[name], seed=1), dtype=dtype)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", REFUSED)
def test_is_refused(name: str, dtype: str, tmp_path: Path) -> None:
    config, message = REFUSED[name]
    with pytest.raises(ModelError, match=message):
        TorchEngine(save_tiny_model(tmp_path, config), dtype=dtype)
