"""Ranking metrics per test user, computed by pytrec_eval (the TREC evaluation program), and catalogue metrics.

Ties: equal scores keep the order that the first stage proposed. trec_eval would break them by document id, so it is
given our own ranks as strictly decreasing scores. A system with constant scores therefore equals the first-stage order.

Per user: ndcg@k (binary gain, log2 discount), recall@k, precision@k, f1@k, hr@k, mrr, map; user_auc (covered only, ties
count half); novelty@k and average_popularity@k of what is shown. Over the catalogue: coverage@k, gini@k, auc.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import rankdata

from reranker.data.schema import ITEM, RANK, USER
from reranker.errors import ConfigError, DataError
from reranker.pipeline.lists import FoldLists, ListProtocol
from reranker.types import IntArray

Scores = NDArray[np.float64]
CUTOFFS = (5, 10, 20)
_TREC = {"ndcg": "ndcg_cut", "recall": "recall", "precision": "P", "hr": "success"}
_TREC_WHOLE = {"mrr": "recip_rank", "map": "map"}


def metric_name(column: str) -> tuple[str, int | None]:
    """("ndcg", 10) of "ndcg@10", ("mrr", None) of "mrr"."""
    name, _, cutoff = column.partition("@")
    return name, int(cutoff) if cutoff else None


def check_scores(lists: FoldLists, scores: Scores, system: str) -> Scores:
    """The scores as float64.

    Raises:
        DataError: not one finite number per candidate row.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.shape != (len(lists.candidates),):
        raise DataError(f"system {system!r} gave scores of shape {values.shape} for {len(lists.candidates)} candidates")
    bad = np.flatnonzero(~np.isfinite(values))
    if len(bad):
        user, item = lists.candidates.iloc[int(bad[0])][:2]
        raise DataError(
            f"system {system!r}: {len(bad)} scores are not finite, first for user {user!r}, item {item!r}; every "
            "candidate needs a number"
        )
    return values


def ranks(lists: FoldLists, scores: Scores) -> IntArray:
    """(rows,) 1-based rank of each candidate in its user's list by descending score, ties in first-stage order."""
    order = np.lexsort((lists.candidates[RANK].to_numpy(), -scores, lists.list_index))
    starts = np.searchsorted(lists.list_index[order], lists.list_index[order])
    result = np.empty(len(order), dtype=np.int64)
    result[order] = np.arange(len(order)) - starts + 1
    return result


def require_trec() -> Any:
    """The module pytrec_eval; whoever measures at the end of a long run asks for it at the start.

    Raises:
        ConfigError: pytrec-eval-terrier is not installed.
    """
    try:
        import pytrec_eval
    except ImportError as error:
        raise ConfigError("metrics need pytrec-eval-terrier: pip install 'reranker[eval]'") from error
    return pytrec_eval


def require_covered(lists: FoldLists) -> None:
    """Raises DataError where the first stage found no target, so that the covered protocol has no user."""
    if not lists.covered.any():
        raise DataError(
            f"domain {lists.fold.domain!r}, split {lists.fold.split!r}: no list of {lists.n} holds a target, so "
            "the covered protocol has no user; ask the first stage for more candidates or use end_to_end"
        )


def per_user_metrics(
    lists: FoldLists, scores: Scores, protocol: ListProtocol, ks: Sequence[int] = CUTOFFS
) -> pd.DataFrame:
    """One row a test user that the protocol counts, indexed by position in `fold.users`; one column a metric.

    A user without a single candidate has NaN novelty, popularity and AUC: nothing was shown.

    Raises:
        ConfigError: pytrec-eval-terrier is not installed, or a cutoff is not positive.
        DataError: no user is covered.
    """
    if not ks or min(ks) < 1:
        raise ConfigError(f"metric cutoffs must be 1 or more, got {list(ks)}")
    ranked = ranks(lists, scores)
    if protocol == "covered":
        require_covered(lists)
    users = np.arange(len(lists.fold.users)) if protocol == "end_to_end" else np.flatnonzero(lists.covered)
    frame = _trec(lists, ranked, users, protocol, ks)
    shown = _shown(lists, ranked, ks)
    if protocol == "covered":
        shown["user_auc"] = user_auc(lists, scores)
    return frame.join(shown.reindex(users))


def catalogue_metrics(
    lists: FoldLists, scores: Scores, protocol: ListProtocol, ks: Sequence[int] = CUTOFFS
) -> dict[str, float]:
    """coverage@k: share of the catalogue that anyone is shown; gini@k: inequality of exposure over the catalogue.

    The covered protocol adds `auc`, the probability that a random target outscores a random other candidate, all users
    pooled. It compares scores across users, so a system that only orders lists has no reason to be good at it.
    """
    ranked = ranks(lists, scores)
    counted = np.ones(len(ranked), dtype=bool) if protocol == "end_to_end" else lists.covered[lists.list_index]
    size = max(len(lists.fold.items), lists.candidates[ITEM].nunique())
    result: dict[str, float] = {}
    for k in ks:
        exposure = lists.candidates.loc[counted & (ranked <= k), ITEM].value_counts().to_numpy(dtype=np.float64)
        result[f"coverage@{k}"] = len(exposure) / size
        result[f"gini@{k}"] = gini(np.concatenate([np.zeros(size - len(exposure)), exposure]))
    if protocol == "covered":
        result["auc"] = auc(scores[counted], lists.relevant[counted])
    return result


def auc(scores: Scores, relevant: NDArray[np.bool_]) -> float:
    """P(score of a relevant > score of another), ties count half (Mann-Whitney). NaN if one kind is missing."""
    positives = int(relevant.sum())
    negatives = len(relevant) - positives
    if not positives or not negatives:
        return float("nan")
    return float((rankdata(scores)[relevant].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def user_auc(lists: FoldLists, scores: Scores) -> Scores:
    """(users,) AUC within each list; NaN where a list has no target or nothing else."""
    position = pd.Series(scores).groupby(lists.list_index).rank(method="average").to_numpy()
    n_users = len(lists.fold.users)
    positives = lists.n_found.astype(np.float64)
    negatives = np.bincount(lists.list_index, minlength=n_users) - positives
    relevant = lists.relevant
    rank_sums = np.bincount(lists.list_index[relevant], weights=position[relevant], minlength=n_users)
    possible = (positives > 0) & (negatives > 0)
    pairs = np.where(possible, positives * negatives, 1.0)
    return np.where(possible, (rank_sums - positives * (positives + 1) / 2) / pairs, np.nan)


def gini(exposure: Scores) -> float:
    """0 when everything is shown equally often, near 1 when one item takes all (Gini 1912, mean-difference form)."""
    total = exposure.sum()
    if total == 0:
        return float("nan")
    n = len(exposure)
    weights = 2 * np.arange(1, n + 1) - n - 1
    return float((weights * np.sort(exposure)).sum() / (n * total))


def popularity(lists: FoldLists) -> NDArray[np.float64]:
    """(rows,) how many training interactions the candidate has."""
    counts = lists.fold.train[ITEM].value_counts()
    return np.asarray(lists.candidates[ITEM].map(counts).fillna(0.0), dtype=np.float64)


def _trec(
    lists: FoldLists, ranked: IntArray, users: IntArray, protocol: ListProtocol, ks: Sequence[int]
) -> pd.DataFrame:
    pytrec_eval = require_trec()
    run: dict[str, dict[str, float]] = {}
    qrels: dict[str, dict[str, int]] = {}
    rows = zip(lists.list_index.tolist(), ranked.tolist(), lists.relevant.tolist(), strict=True)
    for row, (user, rank, relevant) in enumerate(rows):
        run.setdefault(str(user), {})[str(row)] = -float(rank)
        if relevant:
            qrels.setdefault(str(user), {})[str(row)] = 1
    if protocol == "end_to_end":
        for user, missed in enumerate((lists.n_relevant - lists.n_found).tolist()):
            qrels.setdefault(str(user), {}).update({f"missed{number}": 1 for number in range(missed)})
    cutoffs = ",".join(str(k) for k in sorted(set(ks)))
    measures = {f"{name}.{cutoffs}" for name in _TREC.values()} | set(_TREC_WHOLE.values())
    found = pytrec_eval.RelevanceEvaluator(qrels, measures).evaluate(run)
    nothing: dict[str, float] = {}
    results = [found.get(str(user), nothing) for user in users.tolist()]
    columns: dict[str, list[float]] = {}
    for k in sorted(set(ks)):
        for name, trec in _TREC.items():
            columns[f"{name}@{k}"] = [result.get(f"{trec}_{k}", 0.0) for result in results]
        both = zip(columns[f"precision@{k}"], columns[f"recall@{k}"], strict=True)
        columns[f"f1@{k}"] = [2 * p * r / (p + r) if p + r else 0.0 for p, r in both]
    for name, trec in _TREC_WHOLE.items():
        columns[name] = [result.get(trec, 0.0) for result in results]
    return pd.DataFrame(columns, index=users)


def _shown(lists: FoldLists, ranked: IntArray, ks: Sequence[int]) -> pd.DataFrame:
    """Novelty (mean self-information in bits, Zhou et al. 2010) and mean popularity of each user's first k."""
    chosen = popularity(lists)
    n_users = max(2, lists.fold.train[USER].nunique())
    bits = -np.log2(np.clip(chosen / n_users, 1.0 / n_users, 1.0))
    size = len(lists.fold.users)
    columns: dict[str, Scores] = {}
    for k in sorted(set(ks)):
        top = ranked <= k
        shown = np.bincount(lists.list_index[top], minlength=size).astype(np.float64)
        for name, values in (("novelty", bits), ("average_popularity", chosen)):
            totals = np.bincount(lists.list_index[top], weights=values[top], minlength=size)
            columns[f"{name}@{k}"] = np.divide(totals, shown, out=np.full(size, np.nan), where=shown > 0)
    return pd.DataFrame(columns)
