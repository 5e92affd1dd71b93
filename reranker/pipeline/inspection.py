"""One user's list, taken apart: what `reranker inspect` shows."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.schema import ITEM
from reranker.fusion import FusionModel, Order
from reranker.pipeline.results import RankingResult
from reranker.prompting import PromptRenderer, RenderedPrompt
from reranker.scoring import Scorer, ScoringList
from reranker.utils.spaces import NEWEST


@dataclass(frozen=True, kw_only=True, eq=False)
class Inspection:
    """A ranked list and everything that went into it.

    Attributes:
        served: the order that this list is served.
        ranked: the list as `Reranker.rerank` serves it.
        prompt: the rendered prompt; spans of the shared prefix and texts of the candidates, in the order that came in.
        components: names of the scorer's components.
        values: (rows of `ranked`, n_components) their values.
        candidate_texts, candidate_tokens: text and token ids of each row of `ranked`; empty for listwise prompts, where
            all candidates share one span.
        guard: what is served and why.
        weights: the fusion in words, strongest first.
        rules: what rules cost that `fit` was asked about; "" without such.
    """

    served: Order
    ranked: pd.DataFrame
    prompt: RenderedPrompt
    components: list[str]
    values: NDArray[np.float64]
    candidate_texts: list[str]
    candidate_tokens: list[list[int]]
    guard: str
    weights: list[str]
    rules: str = ""


def inspect_list(
    result: RankingResult,
    lists: pd.DataFrame,
    one: ScoringList,
    components: NDArray[np.float64],
    scorer: Scorer,
    renderer: PromptRenderer,
    fusion_model: FusionModel,
) -> Inspection:
    """Puts an inspection together; `components` are in the row order of `lists`, one user's candidates."""
    ranked = result.to_frame()
    name = scorer.name.split("+")[0]
    render = {"likelihood": renderer.likelihood, "labels": renderer.labels}.get(name)
    shown = one.candidates if render is not None else one.candidates[:2]
    if name == "embedding":
        prompt = replace(
            renderer.embedding(one.candidates),
            history_given=len(one.history),
            history_kept=min(len(one.history), NEWEST),
        )
    else:
        prompt = (render or renderer.listwise)(
            one.history,
            shown,
            soft_prompt=one.soft_prompt,
            user_tokens=one.user_tokens,
            query=one.query,
        )
    each = render is not None or name == "embedding"  # else all candidates share one span
    place = {item: row for row, item in enumerate(lists[ITEM])}
    rows = [place[item] for item in ranked[ITEM]]
    spans = prompt.request.candidates
    return Inspection(
        served=result.orders[0],
        ranked=ranked,
        prompt=prompt,
        components=list(scorer.components),
        values=components[rows],
        candidate_texts=[prompt.candidate_texts[row] if each else "" for row in rows],
        candidate_tokens=[spans[row].sequence.token_ids.tolist() if each else [] for row in rows],
        guard=fusion_model.guard.summary(),
        weights=fusion_model.fused.summary(),
        rules="" if fusion_model.rules is None else fusion_model.rules.summary(),
    )
