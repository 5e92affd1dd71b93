"""Who is shown, who gains and what gains are made of, on lists that the user's own first stage served.

Every rung is fitted on some of the lists and judged on others: on the newest window after the older ones or, where
there is one window, on half of the users, drawn at random, after the other half.
"""

import time
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import pandas as pd

from reranker.data.dataset import Dataset
from reranker.data.schema import TIMESTAMP, USER
from reranker.data.splits import Fold
from reranker.engines.encoder import LLM
from reranker.errors import DataError
from reranker.evaluation.baselines import FirstStageOrder, LinearControl
from reranker.evaluation.llm_systems import Fused
from reranker.evaluation.runner import ROW_COLUMNS, Results, Run, Settings, SystemFactory
from reranker.evaluation.score_cache import ScoreCache
from reranker.pipeline.fit_basis import with_worthy_columns
from reranker.pipeline.ladder import READERS, cheaper_reranker
from reranker.pipeline.lazy_engine import engine_of
from reranker.pipeline.lists import CandidateLists, FoldLists
from reranker.pipeline.reranker import Reranker
from reranker.soft_tokens.checkpoint import Trained
from reranker.types import UserId

SPLIT = "your lists"


def rung_factories(llm: Reranker, domain: str, rungs: Sequence[str]) -> dict[str, SystemFactory]:
    """Rung -> factory of the system that ranks as it does; the first-stage order is always among them.

    Args:
        llm: with the settings of the rung "llm"; its engine reads there.
        domain: of the lists.
        rungs: of `own_lists.RUNGS`.
    """
    l2 = llm.config.l2
    found: dict[str, SystemFactory] = {"first_stage": lambda _: FirstStageOrder()}
    if "baseline" in rungs:
        found["baseline"] = lambda _: LinearControl(l2)
    return found | {name: _reading(llm, domain, name) for name in READERS if name in rungs}


def runs_on_lists(
    windows: Sequence[CandidateLists],
    data: Dataset,
    factories: Mapping[str, SystemFactory],
    seed: int = 0,
    allow_leaks: Collection[str] = (),
) -> Results:
    """Every system on lists that it was not fitted on; without rows of metrics and comparisons.

    Args:
        windows: of `OwnLists`, newest first.
        data: gives signals and item vectors.
        factories: of `rung_factories`.
        seed: of the halves, where there is one window.
        allow_leaks: as `RerankerConfig.allow_leaks`.

    Raises:
        DataError: no list that is judged, or none that is fitted on, holds a choice.
    """
    newest, *older = windows
    few = (
        f"lists of {len(newest.users)} users in {len(windows)} window(s) are too few to fit on some and judge others: "
        "give more, or leave --diagnose, --user-groups and --provider-column out"
    )
    if len(newest.users) < 4:
        raise DataError(few)
    if older:
        parts = [_of_users(window, data, window.users) for window in windows]
    else:
        drawn = np.random.default_rng(seed).permutation(len(newest.users))
        halves = np.array_split(drawn, 2)
        parts = [_of_users(newest, data, [newest.users[number] for number in half]) for half in halves]
    judged, *fitting = with_worthy_columns(parts, allow_leaks=allow_leaks)[0]
    if not judged.covered.any() or not any(part.covered.any() for part in fitting):
        raise DataError(few)
    runs = []
    for name, build in factories.items():
        began = time.perf_counter()
        system = build(seed).fit(fitting)
        fitted = time.perf_counter()
        scores = system.score(judged)
        runs.append(
            Run(
                lists=judged,
                system=name,
                seed=seed,
                scores=scores,
                fit_seconds=fitted - began,
                score_seconds=time.perf_counter() - fitted,
                tokens=float("nan"),
                fitting=fitting,
            )
        )
    settings = Settings(candidates=(judged.n,), protocols=("end_to_end",), seeds=(seed,))
    return Results(rows=pd.DataFrame(columns=list(ROW_COLUMNS)), comparisons=[], runs=runs, settings=settings)


def _reading(llm: Reranker, domain: str, rung: str) -> SystemFactory:
    readings: list[ScoreCache] = []

    def build(_: int) -> Fused:
        if not readings:  # the engine is loaded when the rung's turn comes
            config = llm.config if rung not in _WITHOUT_LLM else cheaper_reranker(llm, rung).config
            engine = engine_of(config) if rung in _WITHOUT_LLM else llm.llm_scorer.engine
            trained = {} if rung in _WITHOUT_LLM else {domain: Trained.default(config.scorer)}
            readings.append(ScoreCache(engine, config, trained=trained))
        system = Fused(readings[0], llm.config.lists_to_read, llm.config.l2)
        system.name = rung
        return system

    return build


_WITHOUT_LLM = tuple(name for name in READERS if name != LLM)


def _of_users(window: CandidateLists, data: Dataset, users: Collection[UserId]) -> FoldLists:
    """The lists of these users who chose something, as those of a fold."""
    held_out = window.held_out[window.held_out[USER].isin(users)].reset_index(drop=True)
    listed = window.candidates[window.candidates[USER].isin(held_out[USER])].reset_index(drop=True)
    fold = Fold(
        domain=window.domain,
        split=SPLIT,
        ordered=TIMESTAMP in window.known,
        seed=0,
        items=window.items,
        train=window.known,
        history=window.known[window.known[USER].isin(held_out[USER])].reset_index(drop=True),
        held_out=held_out,
        resplit=_no_other,
        item_vectors=data.item_vectors,
        signals=data.signals,
    )
    n = int(listed.groupby(USER, sort=False).size().max()) if len(listed) else 0
    return FoldLists(fold=fold, candidates=listed, n=n, learned=window.statistics)


def _no_other(data: Dataset) -> Fold:
    raise DataError("lists that were served cannot be split at another time")
