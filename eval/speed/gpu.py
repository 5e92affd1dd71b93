"""eval.speed.run --gpu: reranking and vLLM's own plain prefill of the same tokens, in the shapes of Llama 1B and 8B.

Weights are made up, for speed does not depend on them; the tokenizer is the default model's.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from statistics import median

import typer

from eval.checks import Check, at_least, reported
from eval.speed.load import LIKELIHOOD, PREFILL, Load
from eval.speed.machine import Engines
from reranker.engines.loading import HubTokenizer
from reranker.hub import DEFAULT_MODEL, resolve_model

SHAPES: Mapping[str, Mapping[str, int]] = {
    "llama-1b": {
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
    "llama-8b": {
        "hidden_size": 4096,
        "intermediate_size": 14336,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "vocab_size": 128256,
    },
}
TINY = {
    "llama-tiny": {
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 49152,  # the tokenizer's
    }
}
"""For seeing that the measurement itself runs, on any machine."""

WINDOW = 8192
SHARE = 0.85


def measure(out: Path, users: int, rounds: int, tiny: bool = False) -> list[Check]:
    """One check a shape: tokens/s of reranking, a soft prompt of its own for each user, over those of plain prefill.

    Raises:
        typer.BadParameter: there is no CUDA device, and `tiny` was not asked for.
    """
    import torch

    if not tiny and not torch.cuda.is_available():
        raise typer.BadParameter("--gpu needs a CUDA device, and there is none here")
    checks = []
    for name, shape in (TINY if tiny else SHAPES).items():
        folder = write_shape(out / name, shape)
        load = Load(users=users, history=5 if tiny else 50, soft=16)
        ratios, speeds = [], []
        with Engines(("vllm",), ("--dummy", str(folder)), model=folder) as engines:
            for number in range(rounds):
                asked = replace(load, seed=number)
                prefill, ours = (engines.time("vllm", readout, asked) for readout in (PREFILL, LIKELIHOOD))
                ratios.append(prefill["seconds"] / ours["seconds"])
                speeds.append(prefill["tokens"] / ours["seconds"])
        ratio = median(ratios)
        title = f"{name}: reranking over plain prefill, tokens/s"
        checks.append(reported(title, ratio, "x") if tiny else at_least(title, ratio, SHARE, "x"))
        checks.append(reported(f"{name}: reranking", median(speeds), "tokens/s"))
    return checks


def write_shape(folder: Path, shape: Mapping[str, int]) -> Path:
    """A folder with a Llama's config and the default model's tokenizer, without weights."""
    from transformers import LlamaConfig

    LlamaConfig(**shape, max_position_embeddings=WINDOW, architectures=["LlamaForCausalLM"]).save_pretrained(folder)
    HubTokenizer(resolve_model(DEFAULT_MODEL).path).save(folder)
    return folder
