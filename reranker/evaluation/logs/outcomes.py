"""The score log joined with what users chose afterwards."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from reranker.data.schema import ITEM, TIMESTAMP, USER, WEIGHT, require_columns
from reranker.errors import DataError
from reranker.pipeline.logged_bundles import RankedBy, bundles_of, ranked_by, told
from reranker.pipeline.manifest import BundleIdentity

COLUMNS = ("request_id", "time", "domain", USER, "kind", ITEM, "first_stage_rank", "rank", "score", "shown", "served")
"""Columns that every score log has."""

REWARD, PLACE, PROPENSITY, ARM, TEAM = "reward", "place", "propensity", "arm", "team"


@dataclass(frozen=True, kw_only=True, eq=False)
class JoinedLog:
    """Rankings of items, with what was chosen of each.

    Attributes:
        rows: one a candidate: the log's columns, `place` (1-based, where the caller got it; 0 where it was not shown),
            `propensity` (that of this item at this place) and `reward` (what was chosen of it afterwards).
        rankings: how many lists.
        outcomes: rows of the outcomes table.
        used: outcomes that were joined to a ranking.
        too_early: outcomes from before any ranking that showed the item to the user.
        too_late: outcomes that came later than `within_hours` after the last such ranking.
        not_shown: outcomes of items, or of users, that no ranking showed.
        left_out: rankings without a user, of texts, or in shadow mode, of which nothing can be learned here.
        bundles: that ranked what is judged, oldest first.
        others: bundles of the same domain that were not asked for, whose rankings are left out.
    """

    rows: pd.DataFrame
    rankings: int
    outcomes: int
    used: int
    too_early: int
    too_late: int
    not_shown: int
    left_out: int
    bundles: tuple[RankedBy, ...] = ()
    others: tuple[RankedBy, ...] = ()

    def summary(self) -> str:
        lines = [self._counts()]
        if any(one.identity is not None for one in self.bundles):
            lines.append(f"ranked by the bundle: {told(self.bundles)}")
        if self.others:
            lines.append(f"left out, for other bundles ranked them: {told(self.others)}")
        return "\n".join(lines)

    def _counts(self) -> str:
        return (
            f"{self.rankings} rankings of {self.rows[USER].nunique()} users, {self.used} of {self.outcomes} outcomes "
            f"joined ({self.not_shown} were not shown, {self.too_early} came before the ranking, {self.too_late} too "
            f"late); {self.left_out} rankings are left out: without a user, of texts, or in shadow mode"
        )


def read_score_log(folder: Path) -> pd.DataFrame:
    """The rows of a score log.

    Raises:
        DataError: the folder holds none, or a file cannot be read or is no score log.
    """
    files = sorted(folder.glob("scores-*.parquet")) if folder.is_dir() else []
    if not files:
        raise DataError(f"{folder} holds no score log: give the folder that `reranker serve --score-log` writes to")
    tables = []
    for file in files:
        try:
            tables.append(pq.read_table(file).to_pandas())
        except (OSError, pa.ArrowException) as error:
            raise DataError(f"the score log's file {file} cannot be read: {error}") from error
        require_columns(tables[-1], list(COLUMNS), str(file))
    log: pd.DataFrame = pd.concat(tables, ignore_index=True)
    return log


def join_outcomes(
    log: pd.DataFrame,
    outcomes: pd.DataFrame,
    *,
    within_hours: float = 24.0,
    domain: str | None = None,
    bundle: BundleIdentity | None = None,
) -> JoinedLog:
    """Gives each shown candidate what its user chose of it afterwards.

    An outcome belongs to the last ranking before it that showed the item to the user. Without a `timestamp`, it belongs
    to the last ranking of all.

    Args:
        log: of `read_score_log`.
        outcomes: `user_id, item_id`, optional `timestamp` (a time, or seconds since 1970) and `weight` (what it is
            worth; 1 by default).
        within_hours: outcomes that come later are not counted.
        domain: whose rankings; needed where the log holds several.
        bundle: whose rankings, of all bundles that the domain had; all by default.

    Raises:
        DataError: a column is missing, the log holds several domains or none of this name, no ranking is by the bundle,
            or nothing can be joined.
    """
    require_columns(outcomes, [USER, ITEM], "outcomes")
    domains = sorted(log["domain"].unique())
    if domain is None and len(domains) > 1:
        raise DataError(f"the score log holds rankings of {', '.join(map(repr, domains))}: say which (--domain)")
    if domain is not None and domain not in domains:
        raise DataError(
            f"the score log holds no ranking of the domain {domain!r}, but of {', '.join(map(repr, domains))}: it is "
            "the log of another bundle"
        )
    mine = log if domain is None else log[log["domain"] == domain]
    every = mine
    if bundle is not None:
        mine = ranked_by(mine, bundle)
    shadow = mine["shadow"].to_numpy(dtype=bool) if "shadow" in mine else np.zeros(len(mine), dtype=bool)
    usable = (mine["kind"] == "items").to_numpy() & mine[USER].notna().to_numpy() & ~shadow
    rows = mine[usable].reset_index(drop=True)
    left_out = mine["request_id"].nunique() - rows["request_id"].nunique()
    if rows.empty:
        raise DataError(f"the score log holds no ranking of items for a named user ({left_out} are of other kinds)")
    rows[PLACE] = rows[PLACE].fillna(0).astype(np.int64) if PLACE in rows else rows["rank"].where(rows["shown"], 0)
    rows[PROPENSITY] = rows[PROPENSITY].astype(np.float64) if PROPENSITY in rows else np.nan
    rows[PROPENSITY] = rows[PROPENSITY].fillna(1.0)
    rows["time"] = pd.to_datetime(rows["time"], utc=True)
    chosen, counts = _joined(rows, outcomes, within_hours)
    rows["reward"] = np.bincount(chosen[0], weights=chosen[1], minlength=len(rows))
    return JoinedLog(
        rows=rows,
        rankings=rows["request_id"].nunique(),
        outcomes=len(outcomes),
        left_out=int(left_out),
        bundles=bundles_of(rows),
        others=() if bundle is None else bundles_of(every.drop(mine.index)),
        **counts,
    )


def _joined(
    rows: pd.DataFrame, outcomes: pd.DataFrame, within_hours: float
) -> tuple[tuple[np.ndarray, np.ndarray], dict[str, int]]:
    """Rows and weights of the joined outcomes, and how many of the others there are of each kind."""
    shown = rows[rows[PLACE] > 0].sort_values("time", kind="stable")
    where: dict[tuple[str, str], list[tuple[pd.Timestamp, int]]] = {}
    for user, item, time, row in zip(shown[USER], shown[ITEM], shown["time"], shown.index, strict=True):
        where.setdefault((str(user), str(item)), []).append((time, row))
    times = _times(outcomes[TIMESTAMP]) if TIMESTAMP in outcomes else [None] * len(outcomes)
    weights = outcomes[WEIGHT].astype(float) if WEIGHT in outcomes else [1.0] * len(outcomes)
    at, worth, counts = [], [], {"used": 0, "too_early": 0, "too_late": 0, "not_shown": 0}
    limit = pd.Timedelta(hours=within_hours)
    for user, item, time, weight in zip(outcomes[USER], outcomes[ITEM], times, weights, strict=True):
        found = where.get((str(user), str(item)))
        if found is None:
            counts["not_shown"] += 1
            continue
        before = found if time is None else [one for one in found if one[0] <= time]
        if not before:
            counts["too_early"] += 1
        elif time is not None and time - before[-1][0] > limit:
            counts["too_late"] += 1
        else:
            counts["used"] += 1
            at.append(before[-1][1])
            worth.append(float(weight))
    return (np.array(at, dtype=np.int64), np.array(worth, dtype=np.float64)), counts


def _times(column: pd.Series) -> list[pd.Timestamp]:
    try:
        if pd.api.types.is_numeric_dtype(column):
            return list(pd.to_datetime(column, utc=True, unit="s"))
        return list(pd.to_datetime(column, utc=True))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"table 'outcomes', column {TIMESTAMP!r}: not times ({error}); give times, or seconds since 1970"
        ) from error
