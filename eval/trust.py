"""Do explanations hold, is a refresh as good as a fit, do estimates from logs hit the truth, does drift cry wolf?

`--table trust`.

On one data set with times: a bundle is fitted without each user's newest two choices, refreshed with the older of the
two, and compared with a full fit on the same data, on the newest choice. Words are read, no model. Estimates from
logs are made on simulated logs whose truth is known. Drift is looked for in windows of the bundle's own lists, as they
are and with a part of the users unknown.
"""

import time

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from candidate_gen import ALSGenerator
from eval.checks import Check, at_least, at_most, reported
from reranker import Reranker
from reranker.data.dataset import Dataset
from reranker.data.schema import ITEM, USER, validate_candidates
from reranker.data.splits import without_newest
from reranker.drift import DriftDetector, DriftSettings, ListValues, measure
from reranker.engines.lexical import LEXICAL
from reranker.evaluation.logs import estimate
from reranker.evaluation.membership import membership_auc
from reranker.explain import deletion_test
from reranker.pipeline.explaining import history_scores
from reranker.pipeline.ladder import cheaper_reranker
from reranker.pipeline.windows import windows_of
from reranker.refresh import refresh
from reranker.serve.exploration import Explore, explore
from reranker.utils.statistics import mean_interval, ndcg_by_list

NAME = "trust"
ASKS = "do explanations hold, is a refresh as good as a fit, do estimates from logs hit the truth?"
USERS = 300
LENGTH = 50
LOGS, RANKINGS, PLACES, SHOWN = 60, 1000, 20, 5
WINDOWS, COLD_SHARE = 200, 0.1


def run(data: Dataset, users: int = 0) -> list[Check]:
    """All numbers of the table.

    Args:
        data: with times.
        users: that are explained and tested, at most; `USERS` for 0.
    """
    return [*refreshed(data, users or USERS), *estimated()]


def refreshed(data: Dataset, users: int, windows: int = WINDOWS) -> list[Check]:
    """A refresh against a full fit, then the deletion test of what was refreshed."""
    whole, base = without_newest(data, 1), without_newest(data, 2)
    reranker = _fitted(base)
    new = _rows_not_in(whole.interactions, base.interactions)
    started = time.process_time()
    report = refresh(reranker, new)
    refreshed_at = time.process_time()
    full = _fitted(whole)
    share = (refreshed_at - started) / (time.process_time() - refreshed_at)
    newest = _rows_not_in(data.interactions, whole.interactions)
    drawn = np.random.default_rng(0).permutation(newest[USER].unique())[:users].tolist()
    assert full.generator is not None
    lists = validate_candidates(full.generator.recommend(drawn, LENGTH))
    chosen = pd.MultiIndex.from_frame(lists[[USER, ITEM]]).isin(pd.MultiIndex.from_frame(newest[[USER, ITEM]]))
    index = pd.factorize(lists[USER])[0].astype(np.int64)
    relevant = np.ones(index.max() + 1, dtype=np.int64)

    def ndcg(one: Reranker) -> NDArray[np.float64]:
        return ndcg_by_list(one.score_all(lists).fused, index, np.asarray(chosen), relevant)

    mine, theirs = ndcg(reranker), ndcg(full)
    gap = mean_interval(mine - theirs)
    own, other = (one.fitted()[0].statistics for one in (reranker, full))
    rows = [own.index[item] for item in other.item_ids]
    counts = float(np.abs(own.popularity[rows] - other.popularity).max())
    co_visits = float(np.abs(own.co_visits[rows][:, rows] - other.co_visits).max())
    scored = [(history_scores(reranker, part, "fused"), _rows_of(reranker, user)) for user, part in lists.groupby(USER)]
    deleted = deletion_test(scored)
    return [
        at_most("refresh: largest difference of a count from a full fit", counts, 0, "choices"),
        at_most("refresh: largest difference of a co-visit cosine", co_visits, 1e-9, ""),
        reported("refresh: NDCG@10 of a full fit", float(theirs.mean()), "ndcg@10"),
        reported("refresh: NDCG@10 minus that of a full fit", gap.mean, "ndcg@10"),
        reported("refresh: the same, low end of the interval", gap.low, "ndcg@10"),
        reported("refresh: the same, high end of the interval", gap.high, "ndcg@10"),
        reported("refresh: seconds", report.seconds, "s"),
        at_most("refresh: share of a full fit's CPU seconds", share, 0.1, ""),
        at_least("explain: deletion AUC, low end of the interval", deleted.auc.low, 0.5, ""),
        reported("explain: deletion AUC", deleted.auc.mean, ""),
        reported("explain: places lost without the named items", deleted.named_places, "places"),
        reported("explain: places lost without as many others", deleted.others_places, "places"),
        reported("explain: users", deleted.auc.n, "users"),
        *drifted(reranker, windows),
        *members(whole, reranker),
    ]


def members(data: Dataset, reranker: Reranker) -> list[Check]:
    """Whether a head's weights tell whose choices they were fitted on: half of the users, drawn twenty times."""
    one_window = reranker.config.model_copy(update={"windows": 1})
    found = membership_auc(windows_of(data, reranker.generator, None, None, one_window)[0].choices, one_window.l2)
    return [
        reported("privacy: membership AUC of the head (0.5 tells nothing)", found.mean, ""),
        reported("privacy: the same, low end of the divisions", found.low, ""),
        reported("privacy: the same, high end of the divisions", found.high, ""),
        reported("privacy: users", found.n, "users"),
    ]


def drifted(reranker: Reranker, windows: int = WINDOWS, lists: int = 200) -> list[Check]:
    """How often windows of the bundle's own lists are an alarm, and how often such with a tenth of cold users are.

    Reference and window are drawn anew each time, of different users.

    Args:
        reranker: fitted, with a candidate generator.
        windows: how many are drawn.
        lists: of reference and window, at most half of the users.
    """
    assert reranker.generator is not None
    users = np.random.default_rng(0).permutation(np.array(reranker.user_ids, dtype=object))[: 4 * lists].tolist()
    lists = min(lists, len(users) // 2)
    table = validate_candidates(reranker.generator.recommend(users, LENGTH))
    head, columns = reranker.head_columns(table, "baseline")
    scores = head.score(columns)
    usual = measure(reranker, table, scores)
    cold = measure(reranker, table, scores, {})
    false, found = 0, 0
    for seed in range(windows):
        drawn = np.random.default_rng(seed).permutation(usual.n_lists)
        detector = DriftDetector(usual.take(drawn[:lists]), DriftSettings())
        window = drawn[lists : 2 * lists]
        false += bool(detector.compare(usual.take(window)).alarms)
        few = round(COLD_SHARE * len(window))
        shifted = [cold.take(window[:few]), usual.take(window[few:])]
        found += bool(detector.compare(ListValues.joined(shifted)).alarms)
    return [
        at_most(f"drift: false alarms in windows of {lists} lists, no shift", false / windows, 0.02, ""),
        at_least(f"drift: windows found, {COLD_SHARE:.0%} of users unknown", found / windows, 0.95, ""),
    ]


def estimated(logs: int = LOGS, rankings: int = RANKINGS, share: float = 0.5) -> list[Check]:
    """Bias and coverage of estimates of an order that was never served, on simulated logs.

    The naive value counts what was chosen of the items that the order would have shown, wherever they stood.
    """
    errors: dict[str, list[float]] = {"ips": [], "snips": [], "dr": [], "naive": []}
    covered = dict.fromkeys(("ips", "snips", "dr"), 0)
    for seed in range(logs):
        rows, truth = _simulated(rankings, share, seed)
        found = estimate(rows, rows["target"].to_numpy(dtype=np.float64), "target", SHOWN, seed=seed)
        for name in covered:
            value = getattr(found, name)
            errors[name].append(value.mean / truth - 1)
            covered[name] += value.low <= truth <= value.high
        naive = rows["reward"].where(rows["target"] <= SHOWN, 0.0).sum() / rankings
        errors["naive"].append(naive / truth - 1)
    checks = [reported(f"logs: relative bias of {name}", float(np.mean(values)), "") for name, values in errors.items()]
    checks += [
        reported(f"logs: relative error of {name}, sd", float(np.std(values)), "") for name, values in errors.items()
    ]
    return checks + [at_least(f"logs: coverage of {name}", count / logs, 0.85, "") for name, count in covered.items()]


def _simulated(rankings: int, share: float, seed: int) -> tuple[pd.DataFrame, float]:
    """A log of a server that knows little and explores its first places; and the value of the best order of those."""
    rng = np.random.default_rng(seed)
    settings = Explore(share=share, first=SHOWN * 2)
    bias = 1.0 / np.log2(np.arange(PLACES) + 2)
    chance = rng.random((rankings, PLACES)) * 0.4  # of the item of each greedy rank
    target = np.full((rankings, PLACES), PLACES)
    first = SHOWN * 2
    target[:, :first] = np.argsort(np.argsort(-chance[:, :first], axis=1), axis=1) + 1
    shown = [explore(PLACES, settings, rng) for _ in range(rankings)]
    ranks = np.array([one.ranks for one in shown])
    reward = rng.random((rankings, PLACES)) < np.take_along_axis(chance, ranks, axis=1) * bias
    rows = pd.DataFrame(
        {
            "request_id": np.repeat(np.arange(rankings), PLACES),
            USER: np.repeat(np.arange(rankings) // 2, PLACES),
            ITEM: rng.integers(0, 500, rankings * PLACES),
            "place": np.tile(np.arange(1, PLACES + 1), rankings),
            "target": np.take_along_axis(target, ranks, axis=1).ravel(),
            "propensity": np.concatenate([one.propensities for one in shown]),
            "reward": reward.ravel().astype(np.float64),
        }
    )
    best = -np.sort(-chance[:, :first], axis=1)[:, :SHOWN]
    return rows, float((best * bias[:SHOWN]).sum(axis=1).mean())


def _fitted(data: Dataset) -> Reranker:
    words = cheaper_reranker(Reranker.from_pretrained("untrained"), LEXICAL)
    return words.fit(data, ALSGenerator(seed=0).fit(data.interactions))


def _rows_not_in(rows: pd.DataFrame, others: pd.DataFrame) -> pd.DataFrame:
    known = set(zip(others[USER], others[ITEM], strict=True))
    return rows[[pair not in known for pair in zip(rows[USER], rows[ITEM], strict=True)]].reset_index(drop=True)


def _rows_of(reranker: Reranker, user: object) -> list[int]:
    return [int(row) for row in reranker.fitted()[0].statistics.histories.get(user, ())]
