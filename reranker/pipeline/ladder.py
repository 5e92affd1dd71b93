"""Climbing the ladder: words, sentence encoder and LM read the same windows, and a dearer one has to earn its price."""

import logging
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.dataset import Dataset
from reranker.engines.encoder import ENCODER, LLM
from reranker.engines.lexical import LEXICAL
from reranker.errors import ConfigError, ModelError
from reranker.fusion.ladder import Ladder
from reranker.pipeline.fit_basis import FitBasis
from reranker.pipeline.lists import CandidateLists
from reranker.pipeline.reranker import Reranker
from reranker.pipeline.windows import windows_of
from reranker.protocols import CandidateGenerator
from reranker.rules import Rules

READERS = (LEXICAL, ENCODER, LLM)
"""Rungs that read texts, cheapest first."""

logger = logging.getLogger(__name__)


def cheaper_reranker(llm: Reranker, engine: str) -> Reranker:
    """A Reranker by the engine `LEXICAL` or `ENCODER`, with the same settings otherwise."""
    same = llm.config.model_dump(
        include={
            "n_candidates",
            "windows",
            "window_users",
            "min_history",
            "fit_users",
            "features",
            "allow_leaks",
            "calibration_histories",
            "ranker",
            "l2",
            "seed",
        }
    )
    return Reranker.from_pretrained("untrained", engine=engine, scorer="embedding", **same)


@dataclass(frozen=True, kw_only=True, eq=False)
class Climbed:
    """All readers of texts, fitted on the same windows, and what they were worth.

    Attributes:
        words: the Reranker that reads words.
        encoder: the one that reads by a sentence encoder; None where it could not be loaded.
        llm: the one that reads with the LM; None where it could not be loaded, or nobody asked for it.
        ladder: the comparison.
    """

    words: Reranker
    encoder: Reranker | None
    llm: Reranker | None
    ladder: Ladder

    @property
    def served(self) -> Reranker:
        """The Reranker to serve, with `ladder` set."""
        served = {ENCODER: self.encoder, LLM: self.llm}.get(self.ladder.served) or self.words
        served.ladder = self.ladder
        return served


def climb(
    llm: Reranker,
    data: Dataset,
    generator: CandidateGenerator | None = None,
    *,
    candidates: pd.DataFrame | None = None,
    held_out: pd.DataFrame | None = None,
    rules: Rules | None = None,
    progress: bool | None = None,
) -> Reranker:
    """The Reranker to serve of words, encoder and LM, fitted on the same windows, with `ladder` set.

    Takes what `fit_rungs` takes, and raises what it raises.
    """
    rungs = fit_rungs(llm, data, generator, candidates=candidates, held_out=held_out, rules=rules, progress=progress)
    return rungs.served


def fit_rungs(
    llm: Reranker,
    data: Dataset,
    generator: CandidateGenerator | None = None,
    *,
    candidates: pd.DataFrame | None = None,
    held_out: pd.DataFrame | None = None,
    rules: Rules | None = None,
    progress: bool | None = None,
) -> Climbed:
    """Fits words, a sentence encoder and the LM on the same windows.

    A reader is served only where its 95 % interval over the best cheaper rung (first-stage order, features, words,
    encoder) lies above 0, on the windows or on pages of items that were new by pretence. Where encoder or LM cannot be
    loaded it is left out, and `ladder.left_out` says why.

    Args:
        llm: an unfitted Reranker with the LM's settings.
        data: interactions and items of the domain.
        generator: a fitted candidate generator; or `candidates` and `held_out`, as for `Reranker.fit`.
        candidates: lists served at one time.
        held_out: interactions after that.
        rules: whose price on the windows is worked out for each reader.
        progress: show progress bars on stderr; None does on a terminal and in a notebook.

    Raises:
        DataError: a table is wrong, or there is nothing to learn from.
        ConfigError: neither a generator nor lists were given, or both.
    """
    windows = windows_of(data, generator, candidates, held_out, llm.config, progress, lean=True)
    return fit_rungs_on_windows(llm, data, windows, generator, rules=rules, progress=progress)


def fit_rungs_on_windows(
    llm: Reranker,
    data: Dataset,
    windows: Sequence[CandidateLists],
    generator: CandidateGenerator | None = None,
    *,
    readers: Collection[str] = READERS,
    rules: Rules | None = None,
    with_pages: bool = True,
    progress: bool | None = None,
) -> Climbed:
    """`fit_rungs` on windows that are made already.

    Args:
        llm, data, generator, rules, progress: as for `fit_rungs`.
        windows: newest first, as `windows_of` makes them.
        readers: rungs that read texts, `READERS` or some of them; words are always among them.
        with_pages: judge new items, too.

    Raises:
        DataError: there is nothing to learn from.
    """
    basis = FitBasis.of(data, windows, generator, llm.config, progress, rules, with_pages)
    fitted = {LEXICAL: cheaper_reranker(llm, LEXICAL), ENCODER: cheaper_reranker(llm, ENCODER), LLM: llm}
    left_out = {name: "nobody asked for it" for name in READERS if name != LEXICAL and name not in readers}
    scores: dict[str, NDArray[np.float64]] = {}
    of_new: dict[str, NDArray[np.float64]] = {}
    seconds: dict[str, float] = {}
    for name, reader in fitted.items():
        if name in left_out:
            continue
        began = time.perf_counter()
        try:
            if reader.config.reads_texts:
                _ = reader.llm_scorer.engine  # loaded first: nothing is worked out for a rung that cannot be had
            reader.fit_on(basis, progress)
        except (ConfigError, ModelError) as error:  # a package is missing, or the model cannot be fetched
            if name == LEXICAL:  # which needs neither
                raise
            left_out[name] = str(error)
            logger.warning("%s is left out of the ladder: %s", name, error)
            continue
        seconds[name] = time.perf_counter() - began
        assert reader.fusion_model is not None
        found = reader.fusion_model.validation
        scores = scores or {"first stage": found["first_stage"], "baseline": found["baseline"]}
        scores[name] = found["fused"]
        pages = reader.fusion_model.new_items_validation
        if pages and not reader.fusion_model.reads_no_new_items:
            of_new = {"baseline": pages["baseline"], **of_new, name: pages["fused"]}
    n, seed = len(data.items), llm.config.seed
    new_items = Ladder.of(of_new, seconds, n, seed=seed) if of_new else None
    ladder = Ladder.of(scores, seconds, n, left_out, seed, new_items)
    return Climbed(
        words=fitted[LEXICAL],
        encoder=None if ENCODER in left_out else fitted[ENCODER],
        llm=None if LLM in left_out else llm,
        ladder=ladder,
    )
