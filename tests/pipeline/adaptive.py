"""A Reranker with a context map over a tiny random model: what adapting needs, in seconds."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from candidate_gen import PopularityGenerator
from reranker import Reranker
from reranker.soft_tokens import CONTEXT_FILE, ContextMap
from reranker.soft_tokens.peft_format import save_peft
from reranker.soft_tokens.prompt import SoftPrompt
from tests.engines.models import save_tiny_model
from tests.pipeline import toys

DIM = 32


def save_trained(folder: Path) -> Path:
    """As `train prompt` with `cavia` leaves it; the context matters much."""
    random = np.random.default_rng(0)
    save_peft(SoftPrompt(vectors=0.1 * random.standard_normal((2, DIM)).astype(np.float32)), folder)
    ContextMap(
        base=0.1 * random.standard_normal((2, DIM)),
        directions=random.standard_normal((4, 2, DIM)),
        amortise=random.standard_normal((DIM + 1, 4)),
        rates=np.full(4, 0.5),
        log_shrinkage=np.zeros(1),
    ).save(folder / CONTEXT_FILE)
    return folder


def fitted_with_contexts(tiny: Path, trained: Path) -> Reranker:
    """Fitted on the tastes of 16 users.

    Args:
        tiny: what `save_tiny_model` wrote.
        trained: what `save_trained` wrote.
    """
    data = toys.taste_dataset(users=16)
    reranker = Reranker.from_pretrained(
        trained, engine="torch", model=str(tiny), dtype="float32", soft_tokens=2, n_candidates=16,
        prompt={"instruction": False, "history_items": 2, "title_tokens": 8},
    )  # fmt: skip
    return reranker.fit(data, PopularityGenerator().fit(data.interactions))


def that_reads(folder: Path) -> Reranker:
    """All of it under `folder`; whatever was learned, the order that is served hangs on the LLM as on the features."""
    reranker = fitted_with_contexts(save_tiny_model(folder / "tiny"), save_trained(folder / "prompt"))
    assert reranker.fusion_model is not None
    fused, guard = reranker.fusion_model.fused, reranker.fusion_model.guard
    fused = replace(fused, logit=replace(fused.logit, weights=np.ones(len(fused.columns))))
    reranker.fusion_model = replace(reranker.fusion_model, fused=fused, guard=guard.overruled("fused"))
    return reranker
