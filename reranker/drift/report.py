"""Windows of a score log, or of a table of lists, against what a bundle was fitted for."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from reranker.data.schema import ITEM, RANK, SCORE, USER, validate_candidates
from reranker.drift.detector import DriftDetector, WindowDrift
from reranker.drift.margin import Margin, margins
from reranker.drift.quantities import QUANTITIES, ListValues, can_make_reference, measure, reference_values
from reranker.drift.settings import DriftSettings
from reranker.errors import DataError
from reranker.pipeline.logged_bundles import RankedBy, bundles_of, told
from reranker.pipeline.reranker import Reranker
from reranker.utils.pseudonyms import Pseudonyms
from reranker.utils.team_draft import INTERLEAVED


@dataclass(frozen=True, kw_only=True)
class DriftReport:
    """Drift window by window.

    Attributes:
        reference: what the windows are compared with, in words.
        reference_lists: how many lists that is.
        windows: oldest first.
        begins: of each window, when its first list was ranked; "" where that is not known.
        left_out: lists that were not compared, in words; "" for none.
        guard: what the bundle's guard serves and why.
        margins: what the served order was worth on windows of the validation lists that the guard went by, newest
            first; empty where the first-stage order is served.
        others: bundles of the same domain that ranked some of the lists, or that are not named; their scores may differ
            from this bundle's without any drift.
    """

    reference: str
    reference_lists: int
    windows: tuple[WindowDrift, ...]
    begins: tuple[str, ...]
    left_out: str
    guard: str
    margins: tuple[Margin, ...]
    others: tuple[RankedBy, ...] = ()

    @property
    def alarms(self) -> int:
        """Windows with an alarm."""
        return sum(bool(one.alarms) for one in self.windows)

    def summary(self) -> str:
        """Lines for a terminal: a row a quantity, a column a window; alarms are marked."""
        width = max(map(len, QUANTITIES))
        rows = [
            f"compared with {self.reference} ({self.reference_lists} lists); PSI, * = alarm",
            f"{'window from':{width}s} " + " ".join(f"{begin or number:>16}" for number, begin in self._heads()),
            f"{'lists':{width}s} " + " ".join(f"{one.lists:16d}" for one in self.windows),
        ]
        for name in QUANTITIES:
            cells = [_cell(one, name) for one in self.windows]
            rows.append(f"{name:{width}s} " + " ".join(f"{cell:>16}" for cell in cells))
        rows += [f"window {number}: {one}" for number, window in enumerate(self.windows, 1) for one in window.alarms]
        rows += [f"guard: {self.guard}"]
        rows += [f"guard's margin, window {number} of its lists: {one}" for number, one in enumerate(self.margins, 1)]
        rows += [f"left out: {self.left_out}"] if self.left_out else []
        if self.others:
            rows.append(f"not ranked by this bundle: {told(self.others)}; their scores may differ without any drift")
        return "\n".join(rows)

    def _heads(self) -> list[tuple[int, str]]:
        return list(enumerate(self.begins, 1))


def drift_of_log(
    reranker: Reranker,
    log: pd.DataFrame,
    *,
    domain: str | None = None,
    settings: DriftSettings | None = None,
    pseudonyms: Pseudonyms | None = None,
) -> DriftReport:
    """Compares windows of a score log with the bundle that served it.

    Histories are those of the bundle as it is: use the bundle of the log's time. Lists that another one ranked are
    compared, too, and named.

    Args:
        reranker: fitted or loaded.
        log: of `reranker.evaluation.logs.read_score_log`.
        domain: whose rankings; the bundle's by default.
        settings: window, threshold, reference.
        pseudonyms: under which the log names users, if it does.

    Raises:
        DataError: the log holds no ranking of items of the domain, or too few lists.
    """
    name = domain or reranker.llm_scorer.domain
    mine = log[(log["domain"] == name) & (log["kind"] == "items")]
    left_out = int(log["request_id"].nunique() - mine["request_id"].nunique())
    if mine.empty:
        raise DataError(
            f"the score log holds no ranking of items of the domain {name!r}: it is the log of another bundle, or of "
            "texts alone"
        )
    order = mine.groupby("request_id")["time"].min().sort_values(kind="stable").index
    number = {request: place for place, request in enumerate(order)}
    rows = mine.assign(number=mine["request_id"].map(number)).sort_values(["number", "rank"], kind="stable")
    name_of = str if pseudonyms is None else pseudonyms.of
    known_users = {name_of(one): one for one in reranker.user_ids}
    known_items = {str(one): one for one in reranker.item_ids}
    users = rows.groupby("number")[USER].first()
    statistics = reranker.fitted()[0].statistics
    nobody = np.zeros(0, dtype=np.int64)
    histories = {at: statistics.histories.get(known_users.get(str(user)), nobody) for at, user in users.items()}
    given = rows["first_stage_score"].to_numpy(dtype=np.float64)
    table = pd.DataFrame(
        {
            USER: rows["number"].to_numpy(),
            ITEM: pd.Series([known_items.get(item, item) for item in rows[ITEM]], dtype=object),
            RANK: rows["first_stage_rank"].to_numpy(dtype=np.int64),
            SCORE: np.where(np.isnan(given), 1.0 / rows["first_stage_rank"].to_numpy(), given),
        }
    )
    scores = rows["score"].where(~rows["served"].isin(["first_stage", INTERLEAVED])).to_numpy(dtype=np.float64)
    values = measure(reranker, table, scores, histories)
    times = mine.groupby("request_id")["time"].min().reindex(order)
    begins = [str(one)[:16] for one in times]
    words = f"{left_out} rankings of texts or of other domains" if left_out else ""
    report = _report(reranker, values, begins, settings or DriftSettings(), words)
    this = reranker.identity and reranker.identity.fingerprint
    others = [one for one in bundles_of(mine) if one.identity is None or one.identity.fingerprint != this]
    return replace(report, others=tuple(others))


def drift_of_lists(reranker: Reranker, candidates: pd.DataFrame, settings: DriftSettings | None = None) -> DriftReport:
    """Compares a table of lists, ranked now, with what the bundle was fitted for.

    Args:
        reranker: fitted or loaded.
        candidates: `user_id, item_id` and `score` or `rank`, lists in the order of time.
        settings: window, threshold, reference.

    Raises:
        DataError: the table breaks its contract or holds too few lists.
    """
    table = validate_candidates(candidates)
    guard = reranker.fitted()[1].guard
    scores = np.full(len(table), np.nan)
    if guard.serve != "first_stage":
        head, columns = reranker.head_columns(table, guard.serve)
        scores = head.score(columns)
    values = measure(reranker, table, scores)
    return _report(reranker, values, [""] * values.n_lists, settings or DriftSettings(), "")


def _report(
    reranker: Reranker, values: ListValues, begins: list[str], settings: DriftSettings, left_out: str
) -> DriftReport:
    first, begin = settings.reference == "first" or not can_make_reference(reranker), 0
    if first:
        begin = min(settings.window, values.n_lists)
        words, reference = "the first window of lists", values.take(range(begin))
    else:
        words = "lists of the bundle's users by its candidate generator"
        reference = reference_values(reranker, settings.reference_lists)
    bounds = list(range(begin, values.n_lists, settings.window))
    windows = [(one, min(one + settings.window, values.n_lists)) for one in bounds]
    compared = [(one, end) for one, end in windows if end - one >= min(settings.fewest, settings.window)]
    if not compared:
        raise DataError(
            f"drift: {values.n_lists - begin} lists beside the reference, at least "
            f"{min(settings.fewest, settings.window)} are needed: give more, or a smaller window (--window)"
        )
    rest = values.n_lists - compared[-1][1]
    detector = DriftDetector(reference, settings)
    return DriftReport(
        reference=words,
        reference_lists=reference.n_lists,
        windows=tuple(detector.compare(values.take(range(*one))) for one in compared),
        begins=tuple(begins[one] for one, _ in compared),
        left_out="; ".join([*([left_out] if left_out else []), *([f"the last {rest} lists, too few"] if rest else [])]),
        guard=reranker.fitted()[1].guard.summary(),
        margins=tuple(margins(reranker, settings.window, settings.fewest)),
    )


def _cell(window: WindowDrift, name: str) -> str:
    found = next((one for one in window.shifts if one.quantity == name), None)
    return "-" if found is None else f"{found.psi:.3f}{'*' if found.alarm else ' '}"
