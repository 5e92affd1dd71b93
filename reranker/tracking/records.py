"""What a tracker is told of each kind of run. Names of metrics hold letters, digits, `_`, `.` and `/` only."""

import pandas as pd

from reranker.evaluation.runner import Results
from reranker.fusion.guard import GuardDecision
from reranker.pipeline.reranker import Reranker
from reranker.refresh import RefreshReport
from reranker.tracking.tracker import Tracker
from reranker.utils.statistics import Interval


def log_fit(tracker: Tracker, reranker: Reranker) -> None:
    """Settings of a fitted Reranker, its guard's decision, the ladder and the head's weights.

    Raises:
        DataError: nothing was fitted.
    """
    data, fusion_model = reranker.fitted()
    config = reranker.config.model_dump(exclude_unset=True)
    tracker.settings({f"config.{name}": value for name, value in config.items()})
    tracker.settings(
        {"domain": reranker.llm_scorer.domain, "items": len(data.items), "users": len(data.statistics.histories)}
    )
    tracker.settings({"model": reranker.llm_scorer.model.model_id})
    _log_guard(tracker, fusion_model.guard)
    weights = zip(fusion_model.fused.columns, fusion_model.fused.logit.weights.tolist(), strict=True)
    tracker.metrics({f"weight/{name}": value for name, value in weights})
    if reranker.ladder is not None:
        tracker.settings({"ladder.serves": reranker.ladder.served})
        tracker.metrics({f"ladder/{rung.name}/ndcg_10": rung.ndcg for rung in reranker.ladder.rungs})


def log_refresh(tracker: Tracker, report: RefreshReport, reranker: Reranker) -> None:
    """What a refresh took in, and the guard's decision after it."""
    counts = ("new_interactions", "repeated", "late", "new_users", "new_items", "lists", "choices", "too_new")
    tracker.metrics({f"refresh/{name}": float(getattr(report, name)) for name in counts})
    tracker.metrics({"refresh/seconds": report.seconds})
    _log_guard(tracker, reranker.fitted()[1].guard)


def log_evaluation(tracker: Tracker, results: Results) -> None:
    """Every metric of every system and the comparisons, as `domain/system/protocol/metric_k`."""
    rows = results.rows
    cutoffs = rows["k"].map(lambda k: "" if pd.isna(k) else f"_{k}")
    named = rows.assign(name=rows["metric"] + cutoffs.astype(str))
    keys = ["domain", "system", "protocol", "candidates", "name"]
    means = named.groupby(keys, sort=False)["value"].mean().reset_index()
    places = means[keys].itertuples(index=False, name=None)
    tracker.metrics({_name(*place): float(value) for place, value in zip(places, means["value"], strict=True)})
    for one in results.comparisons:
        name = _name(one.domain, one.system, "over", one.versus, one.metric.replace("@", "_"))
        tracker.metrics({f"{name}/mean": one.mean, f"{name}/low": one.low, f"{name}/high": one.high})


def _log_guard(tracker: Tracker, guard: GuardDecision) -> None:
    tracker.settings({"guard.serves": guard.serve})
    gains: dict[str, Interval] = {
        "fused_minus_first_stage": guard.fused_minus_first_stage,
        "fused_minus_baseline": guard.fused_minus_baseline,
        "baseline_minus_first_stage": guard.baseline_minus_first_stage,
    }
    for name, gain in gains.items():
        tracker.metrics({f"guard/{name}/{bound}": value for bound, value in gain.to_dict().items()})


def _name(*parts: object) -> str:
    return "/".join("".join(c if c.isalnum() or c in "_.-" else "_" for c in str(part)) for part in parts)
