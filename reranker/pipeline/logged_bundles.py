"""Which bundles ranked what a score log holds: a domain has a new one after every fit and refresh."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from reranker.errors import DataError
from reranker.pipeline.manifest import BundleIdentity

BUNDLE, FITTED = "bundle", "bundle_fitted"


@dataclass(frozen=True, kw_only=True)
class RankedBy:
    """Rankings of one bundle.

    Attributes:
        identity: the bundle; None where the log does not say.
        rankings: how many.
    """

    identity: BundleIdentity | None
    rankings: int

    def __str__(self) -> str:
        return f"{self.rankings} by {'a bundle that is not named' if self.identity is None else self.identity}"


def bundles_of(log: pd.DataFrame) -> tuple[RankedBy, ...]:
    """The bundles that ranked a log's lists, oldest first; those that are not named at the end.

    Args:
        log: rows of a score log; one that an earlier version wrote names no bundle.
    """
    requests = log.drop_duplicates("request_id")
    if BUNDLE not in log:
        return (RankedBy(identity=None, rankings=len(requests)),) if len(requests) else ()
    found = []
    for mark, rows in requests.groupby(BUNDLE, sort=True):
        times = pd.to_datetime(rows[FITTED], utc=True).dropna() if FITTED in rows else rows.iloc[:0]
        fitted = None if times.empty else times.min().to_pydatetime()
        found.append((BundleIdentity(fingerprint=str(mark), fitted=fitted), len(rows)))
    found.sort(key=lambda one: str(one[0].fitted or ""))
    named = [RankedBy(identity=identity, rankings=n) for identity, n in found]
    unnamed = int(requests[BUNDLE].isna().sum())
    return (*named, *([RankedBy(identity=None, rankings=unnamed)] if unnamed else []))


def ranked_by(log: pd.DataFrame, bundle: BundleIdentity) -> pd.DataFrame:
    """The rows that this bundle ranked.

    Args:
        log: rows of a score log, of one domain.
        bundle: whose rows.

    Raises:
        DataError: there are none; the message names the bundles of the log.
    """
    rows = log[log[BUNDLE] == bundle.fingerprint] if BUNDLE in log else log.iloc[:0]
    if len(rows):
        return rows
    found = bundles_of(log)
    if all(one.identity is None for one in found):
        raise DataError(
            "the score log does not say which bundle ranked: an earlier version wrote it, or the bundle was never "
            "saved. Leave the bundle out to judge all of it"
        )
    raise DataError(
        f"the score log holds no ranking by the bundle {bundle}, but {told(found)}: give that bundle (of a refreshed "
        "one, a folder in versions/), or none to judge them all"
    )


def told(found: Sequence[RankedBy]) -> str:
    """Bundles and their rankings in a line."""
    return ", ".join(map(str, found))
