"""The demo: ml-100k, ALS top 50, a real LLM, and what each part adds, with intervals."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from candidate_gen import ALSGenerator, PopularityGenerator
from reranker.data.builtin import load_dataset
from reranker.data.schema import ITEM, RANK, RECALL_RANK, SCORE, USER
from reranker.data.splits import leave_last_k
from reranker.data.table_io import write_table
from reranker.evaluation.metrics import per_user_metrics, require_trec
from reranker.pipeline.lists import CandidateLists, propose
from reranker.pipeline.reranker import Reranker
from reranker.pipeline.results import ranking
from reranker.utils.statistics import Interval, mean_interval

N_CANDIDATES = 50
METRICS = {"ndcg@10": "NDCG@10", "hr@10": "HR@10", "mrr": "MRR"}
SYSTEMS = {
    "als": "ALS (the list that came in)",
    "popularity": "popularity",
    "llm": "LLM alone",
    "baseline": "fusion without the LLM",
    "fused": "fused",
}
Echo = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class DemoResult:
    """What the demo measured.

    Attributes:
        per_user: system -> one row a test user, one column a metric.
        summary: what summary.json holds.
        ranked: the ranking served, for the users the LLM scored.
    """

    per_user: dict[str, pd.DataFrame]
    summary: dict[str, Any]
    ranked: pd.DataFrame


class _Stopwatch:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started


def _as_served(reranker: Reranker, lists: CandidateLists, scores: pd.DataFrame) -> NDArray[np.float64]:
    """(rows,) of `scores` the column that each list's user is served."""
    if reranker.fusion_model is None:
        return scores["first_stage"].to_numpy()
    guard = reranker.fusion_model.guard
    n_known = np.array([len(reranker.history(user)) for user in lists.fold.users])
    return np.where(guard.holds_for(n_known)[lists.list_index], scores[guard.serve], scores["first_stage"])


def run_demo(
    out: Path,
    echo: Echo,
    *,
    users: int = 500,
    fit_users: int | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> DemoResult:
    """Fits on ml-100k without each user's last film, then ranks that film among ALS's top 50.

    Every test user counts. The LLM only scores lists that contain the held-out film: in the others every order of the
    list scores 0, so nothing would change but the wall time.

    Args:
        out: folder for ranked.parquet, candidates.parquet, bundle/ and summary.json.
        echo: takes each line of the report.
        users: test users, drawn at random; the statistics learn from all.
        fit_users: lists that the LLM scores for fitting the fusion head, at most; by default all.
        progress: show progress bars on stderr; None does on a terminal and in a notebook.
        settings: fields of `RerankerConfig`.
    """
    require_trec()
    watch = _Stopwatch()
    with watch.stage("data"):
        fold = leave_last_k(load_dataset("ml-100k"), 1).sample_users(users)
    with watch.stage("first_stage"):
        generator = ALSGenerator(factors=64).fit(fold.train)
        lists = propose(fold, generator, N_CANDIDATES)
    reranker = Reranker.from_pretrained("default", n_candidates=N_CANDIDATES, fit_users=fit_users, **settings)
    with watch.stage("model"):
        model = reranker.reader.engine.model
    with watch.stage("fit"):
        reranker.fit(fold.data, generator, progress=progress)
    covered = lists.of_users(lists.covered)
    with watch.stage("rerank"):
        scores = reranker.score_all(covered.candidates, progress=progress)
        served = reranker.fusion_model.guard.serve if reranker.fusion_model is not None else "first_stage"
        ranked = ranking(covered.candidates, _as_served(reranker, covered, scores))
    with watch.stage("save"):
        reranker.save(out / "bundle")
        write_table(ranked, out / "ranked.parquet")
        write_table(lists.candidates, out / "candidates.parquet")
    popular = PopularityGenerator().fit(fold.train).recommend(fold.users, len(fold.items))
    scores["popularity"] = covered.candidates.merge(popular, on=[USER, ITEM], how="left")[f"{SCORE}_y"].to_numpy()
    scores["als"] = scores["first_stage"]
    per_user = {
        system: per_user_metrics(covered, scores[system].to_numpy(), "end_to_end", (10,))[list(METRICS)]
        for system in SYSTEMS
    }
    summary = _summary(
        per_user, watch.seconds, reranker, served, model.model_id, len(covered.candidates[USER].unique())
    )
    result = DemoResult(per_user=per_user, summary=summary, ranked=ranked)
    (out / "summary.json").write_text(json.dumps(summary, indent=1))
    for line in _report(result, reranker, covered):
        echo(line)
    echo(f"\nwritten to {out}: ranked.parquet, candidates.parquet, bundle/, summary.json")
    return result


def _summary(
    per_user: dict[str, pd.DataFrame],
    seconds: dict[str, float],
    reranker: Reranker,
    served: str,
    model_id: str,
    llm_users: int,
) -> dict[str, Any]:
    def minus(other: str) -> dict[str, dict[str, float]]:
        return {metric: _difference(per_user, other, metric).to_dict() for metric in METRICS}

    return {
        "systems": {
            system: {metric: float(frame[metric].mean()) for metric in METRICS} for system, frame in per_user.items()
        },
        "fused_minus_als": minus("als"),
        "fused_minus_baseline": minus("baseline"),
        "seconds": {**seconds, "total": sum(seconds.values())},
        "n_users": len(per_user["als"]),
        "n_users_scored_by_llm": llm_users,
        "engine": reranker.reader.engine.name,
        "model": model_id,
        "served": served,
        "guard": reranker.fusion_model.guard.to_json() if reranker.fusion_model is not None else None,
    }


def _difference(per_user: dict[str, pd.DataFrame], other: str, metric: str) -> Interval:
    return mean_interval(np.asarray(per_user["fused"][metric] - per_user[other][metric], dtype=np.float64))


def _report(result: DemoResult, reranker: Reranker, lists: CandidateLists) -> Iterator[str]:
    summary, per_user = result.summary, result.per_user
    yield (
        f"\nml-100k: {summary['n_users']} users, their last film held out, ALS proposes {N_CANDIDATES}. ALS found the "
        f"film for {summary['n_users_scored_by_llm']} of them; the others count as 0 in every row."
    )
    yield f"Scored by {summary['model']} on the {summary['engine']} engine.\n"
    yield f"{'':30s}" + "".join(f"{title:>10s}" for title in METRICS.values())
    for system, title in SYSTEMS.items():
        values = summary["systems"][system]
        yield f"{title:30s}" + "".join(f"{values[metric]:10.4f}" for metric in METRICS)
    yield "\ndifference with 95 % interval (paired bootstrap over users)"
    for other, name in (("als", "fused - ALS"), ("baseline", "fused - fusion without the LLM")):
        for metric, title in METRICS.items():
            interval = _difference(per_user, other, metric)
            share = interval.mean / max(per_user[other][metric].mean(), 1e-12)
            yield f"{name:32s}{title:8s} {interval}  ({share:+.1%})"
    if (texts := reranker.reader.texts_read) is not None:
        yield f"\n{texts.summary()}"
    if reranker.fusion_model is not None:
        yield f"\n{reranker.fusion_model.guard.summary()}"
        yield "what the fusion weighs most:"
        yield from (f"  {line}" for line in reranker.fusion_model.fused.summary(most=6))
    yield from _examples(result, lists)
    yield "\nseconds: " + ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in summary["seconds"].items())


def _examples(result: DemoResult, lists: CandidateLists, n: int = 2, shown: int = 5) -> Iterator[str]:
    """The n users whose held-out film moved most, up and (if any) down: before and after, in titles."""
    titles = dict(zip(lists.fold.items[ITEM], lists.fold.items["title"], strict=True))
    targets = dict(zip(lists.fold.held_out[USER], lists.fold.held_out[ITEM], strict=True))
    ranked = result.ranked
    hits = ranked[ranked[ITEM] == ranked[USER].map(targets)]
    moved = hits[RECALL_RANK] - hits[RANK]
    picked = pd.concat([hits.loc[[moved.idxmax()]], hits.loc[[moved.idxmin()]]])[:n]
    for row in picked.to_dict("records"):
        user = row[USER]
        mine = ranked[ranked[USER] == user]
        history = lists.fold.history[lists.fold.history[USER] == user][ITEM].tolist()[-4:]
        yield f"\nuser {user}, last watched: {'; '.join(titles[item] for item in history)}"
        yield f"held-out film: {titles[targets[user]]}, place {row[RECALL_RANK]} before, {row[RANK]} after"
        yield f"  {'before (ALS)':42s}  after"
        before = mine.sort_values(RECALL_RANK)[ITEM].tolist()[:shown]
        after = mine[ITEM].tolist()[:shown]
        for place, (old, new) in enumerate(zip(before, after, strict=True), start=1):
            yield f"  {place}. {titles[old][:38]:39s}  {place}. {titles[new][:38]}"
