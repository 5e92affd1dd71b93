"""From folders of data to an adapted base model on disk."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from reranker.config import RerankerConfig
from reranker.data.builtin import load_dataset
from reranker.data.dataset import Dataset
from reranker.data.splits import without_newest
from reranker.engines.loading import HubTokenizer, load_causal_lm
from reranker.engines.precision import chosen_device
from reranker.hub import merge_lora, name_base, resolve_model
from reranker.prompting import PromptRenderer, family_for_domain
from reranker.soft_tokens.prompt import SoftPrompt
from reranker.training.lora.histories import DomainTexts, SequenceSampler
from reranker.training.lora.trainer import BaseTuner, BaseTuningConfig

_ENDS = 20  # steps averaged at each end of the curve


@dataclass(frozen=True, kw_only=True)
class TunedBase:
    """What `tune_base` wrote.

    Attributes:
        adapter: PEFT LoRA folder.
        model: the merged checkpoint: a model folder like any other.
        first_loss: mean of the first steps, nats a token.
        last_loss: mean of the last steps.
        tokens: tokens read.
    """

    adapter: Path
    model: Path
    first_loss: float
    last_loss: float
    tokens: int


def tune_base(
    sources: Sequence[tuple[str, str]],
    out: Path,
    config: BaseTuningConfig,
    reranker: RerankerConfig,
    *,
    hold_out: int = 2,
    history_items: int = 24,
    dtype: str = "auto",
    device: str = "auto",
    workers: int = 0,
    progress: bool = False,
) -> TunedBase:
    """Adapts the base model by next-title language modelling and saves it.

    Args:
        sources: (domain, folder or known data set); the domain picks the templates.
        out: folder for checkpoint, curve, `adapter/` and `model/`.
        config: of the training.
        reranker: base model, soft tokens and prompt settings that will be served.
        hold_out: newest interactions of each user that the model must not see.
        history_items: items a sequence, at most.
        dtype: the model computes in: "bfloat16", "float32" or "auto".
        device: "cpu", "cuda", ...; "auto" takes CUDA when there is one.
        workers: processes that write sequences ahead; 0 for none.
        progress: show a progress bar on stderr.

    Raises:
        DataError: a domain without usable histories.
        ConfigError: `out` holds a run with other settings, on other data or of another base.
    """
    source = resolve_model(reranker.model)
    lm: Any = load_causal_lm(source.path, dtype, chosen_device(device))
    tokenizer = HubTokenizer(source.path)
    domains: list[DomainTexts] = []
    reads: dict[str, object] = {"base": source.sha256, "dtype": str(lm.dtype), "soft_tokens": reranker.soft_tokens}
    reads |= {"prompt": reranker.prompt.model_dump(mode="json"), "hold_out": hold_out, "items": history_items}
    for domain, place in sources:
        data = load_dataset(place, domain=domain)
        reads[f"{len(domains)} {domain}"] = _sha256(data)
        settings = reranker.prompt.model_copy(
            update={
                "family": family_for_domain(domain, reranker.prompt.directory),
                "history_items": history_items,
                "history_tokens": 24 * history_items,
            }
        )
        renderer = PromptRenderer.from_settings(settings, tokenizer, lm.config.max_position_embeddings)
        domains.append(
            DomainTexts(
                data=without_newest(data, hold_out, config.seed),
                renderer=renderer,
                soft_prompt=_instruction_prompt(lm, renderer, reranker.soft_tokens),
            )
        )
    sampler = SequenceSampler(domains, config.temperature, config.category_dropout, config.seed)
    tuner = BaseTuner(lm, sampler, config, out, workers, json.dumps(reads))
    tuned = tuner.run(progress)
    tuned.save_pretrained(out / "adapter")
    name_base(out / "adapter", source.model_id, source.sha256)
    merge_lora(out / "adapter", source.path, out / "model")
    losses = tuner.curve.losses
    return TunedBase(
        adapter=out / "adapter",
        model=out / "model",
        first_loss=float(np.mean(losses[:_ENDS])),
        last_loss=float(np.mean(losses[-_ENDS:])),
        tokens=tuner.curve.tokens,
    )


def _sha256(data: Dataset) -> str:
    tables = (data.interactions, data.items)
    hashes = [pd.util.hash_pandas_object(table.astype(str), index=False).to_numpy().tobytes() for table in tables]
    return hashlib.sha256(b"".join(hashes)).hexdigest()


def _instruction_prompt(lm: Any, renderer: PromptRenderer, soft_tokens: int) -> Any:
    if soft_tokens == 0:
        return None
    import torch

    ids = torch.tensor(renderer.instruction_token_ids(), device=lm.device)
    vectors = lm.get_input_embeddings()(ids).detach().float().cpu().numpy()
    return SoftPrompt.from_token_embeddings(vectors, soft_tokens).as_sequence()
