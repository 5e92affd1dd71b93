"""Whether the LLM pays on some data, from a sample of it: before a catalogue is read, or a GPU bought."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from reranker.data.dataset import Dataset
from reranker.data.schema import ITEM
from reranker.engines.encoder import LLM
from reranker.errors import ConfigError, DataError
from reranker.fusion.ladder import METRIC, Ladder
from reranker.pipeline.ladder import fit_rungs_on_windows
from reranker.pipeline.reranker import Reranker
from reranker.pipeline.windows import windows_of
from reranker.protocols import CandidateGenerator
from reranker.utils.spaces import NEWEST

SAMPLED_USERS = 300
FEWEST_USERS = 20

_POWER = 2.80  # standard errors: a two-sided test at 5 % sees a difference of so many with a power of 80 %


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """The ladder on a sample.

    Attributes:
        ladder: rungs on the lists of the sampled users.
        users: how many were sampled: of those whose next choice the first stage proposed.
        items_read: texts that the model read for that.
        items: in the catalogue.
        detectable: the difference in NDCG@10 between LLM and words that this sample shows with a power of 80 %.
        catalog_seconds: what reading the whole catalogue would take at the same speed.
    """

    ladder: Ladder
    users: int
    items_read: int
    items: int
    detectable: float
    catalog_seconds: float

    def summary(self) -> str:
        """What was seen, what could have been seen, and what a fit on everything costs, for people."""
        return "\n".join(
            (
                f"estimate on {self.users} users whose choice was proposed; the model read {self.items_read} of "
                f"{self.items} items' texts",
                self.ladder.summary(),
                f"a difference between LLM and words of {self.detectable:.4f} {METRIC} or more would be seen on such a "
                "sample with a power of 80 %; take more users to see less",
                f"reading the whole catalogue takes {self.catalog_seconds / 60:.0f} min at this speed",
            )
        )


def estimate(
    llm: Reranker,
    data: Dataset,
    generator: CandidateGenerator | None = None,
    *,
    candidates: pd.DataFrame | None = None,
    held_out: pd.DataFrame | None = None,
    users: int = SAMPLED_USERS,
    progress: bool = False,
) -> Estimate:
    """Fits words and the LLM on the newest lists of a few users, reading only the texts that these lists need.

    Statistics and first-stage lists are those of all data; texts outside the sample are not read, so the spaces that
    texts are compared in are learned from fewer of them than `fit` has.

    Args:
        llm: an unfitted Reranker with the LLM's settings.
        data: interactions and items of the domain.
        generator: a fitted candidate generator; or `candidates` and `held_out`, as for `Reranker.fit`.
        candidates: lists served at one time.
        held_out: interactions after that.
        users: how many to sample, at most.
        progress: show progress bars on stderr.

    Raises:
        DataError: a table is wrong, or too few users have their choice among the candidates.
        ConfigError: neither a generator nor lists were given, or both; or no LLM can be loaded.
    """
    newest = windows_of(data, generator, candidates, held_out, llm.config.model_copy(update={"windows": 1}))[0]
    lists = newest.choices.covered_lists(users, llm.config.seed)
    if len(lists) < FEWEST_USERS:
        raise DataError(
            f"only {len(lists)} users have what they chose next among their candidates, and an estimate needs "
            f"{FEWEST_USERS}: propose longer lists, or give more interactions"
        )
    sample = newest.only(lists)
    histories = [item for user in sample.users for item in sample.statistics.history(user)[-NEWEST:]]
    needed = pd.Index(sample.candidates[ITEM]).union(pd.Index(histories, dtype=object))
    few = replace(data, items=data.items[data.items[ITEM].isin(needed)].reset_index(drop=True), users=None)
    climbed = fit_rungs_on_windows(llm, few, [sample], generator, with_pages=False, progress=progress)
    if climbed.llm is None:
        raise ConfigError(f"there is no LLM to estimate: {climbed.ladder.left_out[LLM]}")
    models = climbed.llm.fusion_model, climbed.words.fusion_model
    fused_llm, fused_words = (model.validation["fused"] for model in models if model is not None)
    differences = fused_llm - fused_words
    return Estimate(
        ladder=climbed.ladder,
        users=len(lists),
        items_read=len(few.items),
        items=len(data.items),
        detectable=_POWER * float(differences.std(ddof=1)) / float(np.sqrt(len(differences))),
        catalog_seconds=climbed.ladder.rungs[-1].seconds / len(few.items) * len(data.items),
    )
