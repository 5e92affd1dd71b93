"""Climbing the ladder: words and the LM read the same windows, and the dearer reader has to earn its price."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from reranker.data.dataset import Dataset
from reranker.engines.lexical import LEXICAL
from reranker.errors import ConfigError, ModelError
from reranker.fusion.ladder import Ladder
from reranker.pipeline.reranker import Reranker
from reranker.pipeline.windows import ValidationFold, windows_of
from reranker.protocols import CandidateGenerator

logger = logging.getLogger(__name__)

LLM = "llm"


def lexical_reranker(llm: Reranker) -> Reranker:
    """A Reranker that reads words where the other reads with an LM, with the same settings otherwise."""
    same = llm.config.model_dump(
        include={"n_candidates", "windows", "window_users", "min_history", "fit_users", "l2", "seed"}
    )
    return Reranker.from_pretrained("untrained", engine=LEXICAL, scoring="embedding", **same)


@dataclass(frozen=True, kw_only=True, eq=False)
class Climbed:
    """Both readers, fitted on the same windows, and what they were worth.

    Attributes:
        words: the Reranker that reads words.
        llm: the one that reads with the LM; None where it could not be loaded.
        ladder: the comparison.
    """

    words: Reranker
    llm: Reranker | None
    ladder: Ladder

    @property
    def served(self) -> Reranker:
        """The Reranker to serve, with `ladder` set."""
        served = self.llm if self.ladder.serves == LLM and self.llm is not None else self.words
        served.ladder = self.ladder
        return served


def climb(
    llm: Reranker,
    data: Dataset,
    generator: CandidateGenerator | None = None,
    *,
    candidates: pd.DataFrame | None = None,
    held_out: pd.DataFrame | None = None,
    progress: bool | None = None,
) -> Reranker:
    """The Reranker to serve of words and the LM, fitted on the same windows, with `ladder` set.

    Takes what `fit_rungs` takes, and raises what it raises.
    """
    rungs = fit_rungs(llm, data, generator, candidates=candidates, held_out=held_out, progress=progress)
    return rungs.served


def fit_rungs(
    llm: Reranker,
    data: Dataset,
    generator: CandidateGenerator | None = None,
    *,
    candidates: pd.DataFrame | None = None,
    held_out: pd.DataFrame | None = None,
    progress: bool | None = None,
) -> Climbed:
    """Fits words and the LM on the same windows.

    The LM is served only where its 95 % interval over the best cheaper rung (first-stage order, features, words) lies
    above 0. Where it cannot be loaded it is left out, and `ladder.left_out` says why.

    Args:
        llm: an unfitted Reranker with the LM's settings.
        data: interactions and items of the domain.
        generator: a fitted candidate generator; or `candidates` and `held_out`, as for `Reranker.fit`.
        candidates: lists served at one moment.
        held_out: interactions after that moment.
        progress: show progress bars on stderr; None does on a terminal and in a notebook.

    Raises:
        DataError: a table is wrong, or there is nothing to learn from.
        ConfigError: neither a generator nor lists were given, or both.
    """
    windows = windows_of(data, generator, candidates, held_out, llm.config, progress)
    return fit_rungs_on_windows(llm, data, windows, generator, progress=progress)


def fit_rungs_on_windows(
    llm: Reranker,
    data: Dataset,
    windows: Sequence[ValidationFold],
    generator: CandidateGenerator | None = None,
    *,
    with_llm: bool = True,
    progress: bool | None = None,
) -> Climbed:
    """`fit_rungs` on windows that are made already.

    Args:
        llm, data, generator, progress: as for `fit_rungs`.
        windows: newest first, as `windows_of` makes them.
        with_llm: climb the LM's rung, too.

    Raises:
        DataError: there is nothing to learn from.
    """
    words = lexical_reranker(llm)
    began = time.perf_counter()
    words.fit_windows(data, windows, generator, progress=progress)
    seconds = {LEXICAL: time.perf_counter() - began}
    assert words.fusion_model is not None
    below = words.fusion_model.validation
    scores = {"first stage": below["first_stage"], "baseline": below["baseline"], LEXICAL: below["fused"]}
    left_out = {} if with_llm else {LLM: "nobody asked for it"}
    began = time.perf_counter()
    try:
        if with_llm:
            llm.fit_windows(data, windows, generator, progress=progress)
    except (ConfigError, ModelError) as error:  # no torch, or the model cannot be fetched: words can be served
        left_out[LLM] = str(error)
        logger.warning("the LLM is left out of the ladder: %s", error)
    if LLM not in left_out:
        seconds[LLM] = time.perf_counter() - began
        assert llm.fusion_model is not None
        scores[LLM] = llm.fusion_model.validation["fused"]
    ladder = Ladder.of(scores, seconds, len(data.items), left_out, llm.config.seed)
    return Climbed(words=words, llm=None if LLM in left_out else llm, ladder=ladder)
