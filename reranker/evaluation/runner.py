"""Runs systems over folds and turns their scores into results; a run that was killed goes on where it stopped.

Scores of each finished (domain, split, candidates, system, seed) are kept in `out/scores` (kept.py).
"""

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from reranker.data.schema import USER
from reranker.data.splits import Fold
from reranker.engines.encoder import LLM
from reranker.errors import ConfigError, DataError
from reranker.evaluation.base import HasDomains, HasFingerprint, HasPriors, ReadsLists, System
from reranker.evaluation.kept import read_scores, score_key, score_path, write_scores
from reranker.evaluation.leakage import check_fitting, check_fold, check_generator, check_priors
from reranker.evaluation.metrics import (
    CUTOFFS,
    catalogue_metrics,
    check_scores,
    metric_name,
    per_user_metrics,
    require_covered,
    require_trec,
)
from reranker.evaluation.significance import POOLED, Comparison, bootstrap_columns, compare, with_holm
from reranker.pipeline.fit_basis import with_worthy_columns
from reranker.pipeline.lists import PROTOCOLS, FoldLists, ListProtocol, propose
from reranker.protocols import CandidateGenerator
from reranker.utils.rolling_origin import DEFAULT_WINDOWS, rolling_origin

logger = logging.getLogger(__name__)

SystemFactory = Callable[[int], System]
"""Seed -> an unfitted system."""

ROW_COLUMNS = (
    *("domain", "system", "protocol", "split", "candidates", "seed"),
    *("metric", "k", "value", "low", "high", "n_users"),
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What is measured.

    Attributes:
        candidates: list lengths.
        ks: metric cutoffs.
        protocols: how misses count.
        seeds: stochastic systems run once a seed, the others with the first only.
        baseline: the system that the others are compared with.
        rivals: further pairs (system, versus) to compare, those of them that were run.
        compared: metrics with comparisons, in the first protocol and with the first list length.
        fitting_users: at most this many users in each fold that systems are fitted on; None for all.
        windows: how many of each user's newest choices before the target systems are fitted on, at most.
        inject: put missed targets into the lists; labelled.
        covered_only: score only lists that hold a target. No user's metric changes, for the others are 0 under every
            order; catalogue metrics then describe these lists only. Saves an LLM most of its work.
        fingerprint: any text that must change when the systems' settings do, so that old scores are not used again.
        reader: what reads texts: "llm", "encoder" or "lexical".
        allow_leaks: as `RerankerConfig.allow_leaks`: "item_vectors", where those are known to be honest.
    """

    candidates: tuple[int, ...] = (50,)
    ks: tuple[int, ...] = CUTOFFS
    protocols: tuple[ListProtocol, ...] = PROTOCOLS
    seeds: tuple[int, ...] = (0,)
    baseline: str = "first_stage"
    rivals: tuple[tuple[str, str], ...] = (
        ("fused", "baseline"),
        ("served", "baseline"),
        ("lexical_fused", "baseline"),
        ("fused", "lexical_fused"),
    )
    compared: tuple[str, ...] = ("ndcg@10", "hr@10", "mrr")
    fitting_users: int | None = None
    windows: int = DEFAULT_WINDOWS
    inject: bool = False
    covered_only: bool = False
    fingerprint: str = ""
    reader: str = LLM
    allow_leaks: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Run:
    """One system with one seed on one set of lists.

    Attributes:
        scores: (rows,) aligned with `lists.candidates`.
        fit_seconds: wall time of the fitting, without readings that an earlier system had made.
        score_seconds: wall time of the scoring; a reading shared with other systems counts in full for each.
        tokens: prompt tokens of the scoring, likewise; NaN for a system without a model that reads.
        fitting: the lists that the system was fitted on.
    """

    lists: FoldLists
    system: str
    seed: int
    scores: NDArray[np.float64]
    fit_seconds: float
    score_seconds: float
    tokens: float
    fitting: Sequence[FoldLists] = ()

    @property
    def cost(self) -> dict[str, float]:
        """Milliseconds and tokens a user."""
        users = max(1, self.lists.candidates[USER].nunique())
        return {"ms_per_user": 1000 * self.score_seconds / users, "tokens_per_user": self.tokens / users}


@dataclass(frozen=True, kw_only=True, eq=False)
class Results:
    """What an evaluation found.

    Attributes:
        rows: one row a (domain, system, protocol, split, candidates, seed, metric, k): value, low, high, n_users.
        comparisons: against the baseline; per domain and pooled.
        runs: the scores behind it all.
        settings: what was asked for.
    """

    rows: pd.DataFrame
    comparisons: list[Comparison]
    runs: list[Run]
    settings: Settings = field(default_factory=Settings)

    @classmethod
    def combined(cls, parts: Sequence["Results"]) -> "Results":
        """Several evaluations, of different splits for instance, as one table; their comparisons stay as they are."""
        return cls(
            rows=pd.concat([part.rows for part in parts], ignore_index=True),
            comparisons=[comparison for part in parts for comparison in part.comparisons],
            runs=[run for part in parts for run in part.runs],
            settings=parts[0].settings,
        )


def evaluate(
    folds: Sequence[Fold],
    generator: CandidateGenerator,
    systems: Mapping[str, SystemFactory],
    settings: Settings | None = None,
    out: Path | None = None,
    progress: Callable[[str], None] = logger.info,
) -> Results:
    """Leak checks, candidate lists, fitting on validation folds, scoring, metrics and comparisons.

    Args:
        folds: of one split, one a domain; they are pooled in the comparisons.
        systems: name -> factory; the built system must carry that name.
        out: where finished scores are kept for a later run; None keeps nothing.
        progress: called with one line as each system starts.

    Raises:
        ConfigError: the baseline is not among the systems, a compared metric is not computed, or pytrec-eval-terrier is
            not installed.
        DataError: a leak, two folds of one domain, scores that are not finite, or no target among the candidates where
            covered users alone count.
    """
    settings = settings or Settings()
    require_trec()
    _check(folds, systems, settings)
    runs: list[Run] = []
    for fold in folds:
        check_fold(fold)
        most = max(settings.candidates)
        longest = propose(fold, generator, most, inject=settings.inject)
        if settings.covered_only:
            longest = longest.of_users(longest.covered)
        fitting = [lists for source in fold.sources or (fold,) for lists in _fitting(source, generator, most, settings)]
        check_fitting(fitting, fold)
        if fold.item_vectors is not None:
            longest, fitting = _with_worthy_vectors(longest, fitting, progress, settings.allow_leaks)
        if longest.generator is not None:
            check_generator(longest.generator, fold)
        for n in settings.candidates:
            lists = longest if n == most else _shorter(longest, generator, n)
            if "end_to_end" not in settings.protocols:
                require_covered(lists)  # now, and not when all of it was read
            shorter = fitting if n == most else [_shorter(part, generator, n) for part in fitting]
            for name, build in systems.items():
                runs += _run_seeds(name, build, lists, shorter, settings, out, progress)
    per_user = {id(run): _per_user(run, settings) for run in runs}
    rows = pd.concat([_rows(run, per_user[id(run)], settings) for run in runs], ignore_index=True)
    return Results(rows=rows, comparisons=_compare(runs, per_user, settings), runs=runs, settings=settings)


def _check(folds: Sequence[Fold], systems: Mapping[str, SystemFactory], settings: Settings) -> None:
    if settings.baseline not in systems:
        raise ConfigError(f"baseline {settings.baseline!r} is not among the systems {sorted(systems)}")
    if not folds or not settings.seeds or not settings.candidates or not settings.protocols:
        raise ConfigError("an evaluation needs at least one fold, one seed, one list length and one protocol")
    domains = [fold.domain for fold in folds]
    if len(set(domains)) < len(domains):
        raise DataError(f"folds must be of different domains, got {domains}; evaluate one split at a time")
    for metric in settings.compared:
        k = metric_name(metric)[1]
        if k is not None and k not in settings.ks:
            raise ConfigError(f"compared metric {metric!r} needs the cutoff {k} among ks={settings.ks}")


def _fitting(fold: Fold, generator: CandidateGenerator, n: int, settings: Settings) -> list[FoldLists]:
    """Windows that systems are fitted on: lists of the training part, newest first, as `Reranker.fit` makes them.

    A temporal split is cut earlier and earlier. Of cold items there is one window: each would take further items out.
    """

    def propose_before(newer: Fold) -> tuple[Fold, FoldLists]:
        past = newer.validation()
        users = settings.fitting_users
        return past, propose(past if users is None else past.sample_users(users), generator, n)

    windows = rolling_origin(
        lambda: propose_before(fold),
        lambda newer: propose_before(newer[0]),
        lambda window: int(window[1].covered.sum()),
        1 if fold.cold_items and not fold.only_new else settings.windows,
    )
    return [lists for _, lists in windows]


def _with_worthy_vectors(
    lists: FoldLists, fitting: list[FoldLists], progress: Callable[[str], None], allow_leaks: Sequence[str]
) -> tuple[FoldLists, list[FoldLists]]:
    """The lists to judge and those to fit on, with item vectors where `fit` would use them, else without."""
    _, worth = with_worthy_columns(fitting, allow_leaks=allow_leaks)
    if worth.vectors is None:
        return lists, fitting
    progress(f"{lists.domain}: {worth.vectors.summary()}")
    if worth.vectors.keeps:
        return lists, fitting
    return lists.without_vectors(), [part.without_vectors() for part in fitting]


def _shorter(lists: FoldLists, generator: CandidateGenerator, n: int) -> FoldLists:
    """Heads of the longest lists, unless their tail matters (injected targets and cold items stand last)."""
    if lists.injected or lists.fold.cold_items:
        return propose(lists.fold, generator, n, inject=lists.injected)
    return lists.top(n)


def _run_seeds(
    name: str,
    build: SystemFactory,
    lists: FoldLists,
    fitting: Sequence[FoldLists],
    settings: Settings,
    out: Path | None,
    progress: Callable[[str], None],
) -> list[Run]:
    runs = []
    for seed in settings.seeds:
        system = build(seed)
        if system.name != name:
            raise ConfigError(f"the factory of {name!r} built a system called {system.name!r}; use one name")
        if isinstance(system, HasDomains) and lists.fold.domain not in system.domains:
            progress(f"{lists.fold.domain}: left out by {name}, which covers {', '.join(sorted(system.domains))}")
            return []
        own = system.fingerprint if isinstance(system, HasFingerprint) else ""
        key = score_key(lists, fitting, name, seed, settings.fingerprint + own)
        path = out and score_path(out, lists, name, seed)
        kept = read_scores(path, key) if path else None
        doing = f"{lists.fold.domain}: {name}, {lists.n} candidates, seed {seed}"
        progress(doing if kept is None else f"{doing}: scores of an earlier run are used, {path}")
        if kept is None:
            kept = _fit_and_score(system, lists, fitting)
            if path:
                write_scores(path, key, *kept)
        scores, (fit_seconds, score_seconds, tokens) = kept
        runs.append(
            Run(
                lists=lists,
                system=name,
                seed=seed,
                scores=scores,
                fit_seconds=fit_seconds,
                score_seconds=score_seconds,
                tokens=tokens,
                fitting=fitting,
            )
        )
        if not system.stochastic:
            break
    return runs


def _fit_and_score(
    system: System, lists: FoldLists, fitting: Sequence[FoldLists]
) -> tuple[NDArray[np.float64], list[float]]:
    """The scores, and seconds of fitting, seconds of scoring and tokens."""
    started = time.perf_counter()
    system.fit(fitting)
    fitted = time.perf_counter()
    shared = system.reading_cost(lists) if isinstance(system, ReadsLists) else None
    scores = check_scores(lists, system.score(lists), system.name)
    seconds = time.perf_counter() - fitted
    cost = system.reading_cost(lists) if isinstance(system, ReadsLists) else None
    if shared:  # it was read for another system
        seconds += shared.seconds
    elif cost:  # it was read now, or taken from disk in no time
        seconds = max(seconds, cost.seconds)
    if isinstance(system, HasPriors):
        check_priors(lists, system.priors(lists))
    return scores, [fitted - started, seconds, float(cost.tokens) if cost else float("nan")]


def _per_user(run: Run, settings: Settings) -> dict[ListProtocol, pd.DataFrame]:
    """Protocol -> per-user metrics; the covered one is left out of a fold in which nothing was found."""
    wanted = [protocol for protocol in settings.protocols if protocol == "end_to_end" or run.lists.covered.any()]
    return {protocol: per_user_metrics(run.lists, run.scores, protocol, settings.ks) for protocol in wanted}


def _rows(run: Run, per_user: Mapping[ListProtocol, pd.DataFrame], settings: Settings) -> pd.DataFrame:
    """Mean and interval of every metric. Users without candidates have NaN novelty: that mean is over the others."""
    rows: list[dict[str, object]] = []
    for protocol, frame in per_user.items():
        whole = frame.columns[frame.notna().all()]
        resampled = bootstrap_columns(frame[whole].to_numpy(dtype=np.float64))
        low, high = np.quantile(resampled, [0.025, 0.975], axis=0)
        limits = dict(zip(whole, zip(low, high, strict=True), strict=True)) if len(frame) > 1 else {}
        values = {str(name): (float(frame[name].mean()), int(frame[name].notna().sum())) for name in frame}
        catalogue = catalogue_metrics(run.lists, run.scores, protocol, settings.ks)
        shown = min(len(frame), run.lists.candidates[USER].nunique())
        values |= {name: (value, shown) for name, value in catalogue.items()}
        for name, (value, n_users) in values.items():
            metric, k = metric_name(name)
            lower, upper = limits.get(name, (np.nan, np.nan))
            rows.append({"protocol": run.lists.label(protocol), "metric": metric, "k": k, "value": value})
            rows[-1] |= {"low": lower, "high": upper, "n_users": n_users}
    fold = run.lists.fold
    result = pd.DataFrame(rows)
    result = result.assign(
        domain=fold.domain, system=run.system, split=fold.split, seed=run.seed, candidates=run.lists.n
    )
    return result[list(ROW_COLUMNS)].astype({"k": "Int64"})


def _compare(
    runs: Sequence[Run], per_user: Mapping[int, Mapping[ListProtocol, pd.DataFrame]], settings: Settings
) -> list[Comparison]:
    """In the first protocol and list length; a stochastic system enters with each user's mean over seeds."""
    protocol, n = settings.protocols[0], settings.candidates[0]
    means: dict[str, dict[str, pd.DataFrame]] = {}
    grouped: dict[tuple[str, str], list[pd.DataFrame]] = {}
    for run in runs:
        if run.lists.n == n and protocol in per_user[id(run)]:
            grouped.setdefault((run.system, run.lists.fold.domain), []).append(per_user[id(run)][protocol])
    for (system, domain), frames in grouped.items():
        means.setdefault(system, {})[domain] = sum(frames[1:], frames[0]) / len(frames)
    pairs = [(system, settings.baseline) for system in means if system != settings.baseline]
    pairs += [(system, versus) for system, versus in settings.rivals if system in means and versus in means]
    comparisons: list[Comparison] = []
    for metric in settings.compared:
        for system, versus in pairs:
            values = {
                domain: (
                    frame[metric].to_numpy(dtype=np.float64),
                    means[versus][domain][metric].to_numpy(dtype=np.float64),
                )
                for domain, frame in means[system].items()
            }
            comparisons += compare(values, system=system, versus=versus, metric=metric)
    splits = {run.lists.fold.domain: run.lists.fold.split for run in runs}
    splits[POOLED] = "+".join(dict.fromkeys(splits.values()))
    return with_holm([replace(comparison, split=splits[comparison.domain]) for comparison in comparisons])
