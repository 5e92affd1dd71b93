"""A language model small enough to make in a test: 2 layers, 32 wide, random weights, a byte-level tokenizer."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

from reranker.types import ScoringRequest

TINY: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "vocab_size": 264,  # the tokenizer's
    "max_position_embeddings": 512,
    "initializer_range": 0.3,
}
"""What configurations of tiny models have in common."""


def save_tiny_model(directory: Path, config: Any = None, seed: int = 0) -> Path:
    vocabulary = {byte: number for number, byte in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<|im_end|>"])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|im_end|>").save_pretrained(directory)
    torch.manual_seed(seed)
    config = config or LlamaConfig(**TINY, num_attention_heads=4, num_key_value_heads=2)
    AutoModelForCausalLM.from_config(config).save_pretrained(directory)
    return directory


def naive_scores(lm: Any, request: ScoringRequest, labels: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """One plain forward pass a candidate, nothing shared: ((n,) sums, (n, n_labels) log-probabilities)."""
    sums, label_rows = [], []
    for candidate in request.candidates:
        ids = np.concatenate([request.prefix.token_ids, candidate.sequence.token_ids])
        with torch.inference_mode():
            log_probs = lm(torch.from_numpy(ids)[None]).logits[0].double().log_softmax(dim=-1)
        start = len(request.prefix) + candidate.scored_from
        sums.append(sum(log_probs[position - 1, ids[position]].item() for position in range(start, len(ids))))
        label_rows.append(log_probs[-1, labels].numpy())
    return np.array(sums), np.array(label_rows)


def naive_states(lm: Any, request: ScoringRequest, layer: int | None = None) -> np.ndarray:
    """(n, dim) means of the hidden states that scored tokens follow, one plain forward pass a candidate.

    The last ones, or those of another layer behind the last norm.
    """
    rows = []
    for candidate in request.candidates:
        ids = np.concatenate([request.prefix.token_ids, candidate.sequence.token_ids])
        with torch.inference_mode():
            found = lm(torch.from_numpy(ids)[None], output_hidden_states=True).hidden_states
            states = found[-1][0] if layer is None else lm.model.norm(found[layer])[0]
        rows.append(states[len(request.prefix) + candidate.scored_from - 1 : -1].mean(dim=0).numpy())
    return np.array(rows)
