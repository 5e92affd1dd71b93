"""One report on a score log and its outcomes."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from reranker.data.schema import USER, require_columns
from reranker.evaluation.logs.estimators import OffPolicyValue, estimate
from reranker.evaluation.logs.experiments import ArmComparison, compare_arms
from reranker.evaluation.logs.interleaving import InterleavingResult, judge_interleaving
from reranker.evaluation.logs.outcomes import ARM, PLACE, REWARD, TEAM, JoinedLog, join_outcomes, read_score_log
from reranker.pipeline.manifest import BundleIdentity
from reranker.utils.pseudonyms import Pseudonyms
from reranker.utils.statistics import Interval, mean_interval


@dataclass(frozen=True, kw_only=True)
class LogReport:
    """What a log tells.

    Attributes:
        log: how log and outcomes were joined, in words.
        by_order: order served -> mean reward in the first k places of a ranking, by user; the users differ from order
            to order, so these are no comparison.
        values: what each order would have brought, where the server explored; from lists that were not interleaved.
        arms: of the experiment; empty without one.
        notes: what could not be said, and why.
        interleaving: which of two orders wins in lists of both; None without such.
    """

    log: str
    by_order: dict[str, Interval]
    values: tuple[OffPolicyValue, ...]
    arms: tuple[ArmComparison, ...]
    notes: tuple[str, ...]
    interleaving: InterleavingResult | None = None

    def summary(self) -> str:
        """Lines for a terminal."""
        lines = [self.log, "", "as served (users differ between orders, so this is no comparison):"]
        lines += [
            f"  {name:12s} {value.mean:.4f} [{value.low:.4f}, {value.high:.4f}] a ranking, {value.n} users"
            for name, value in self.by_order.items()
        ]
        if self.values:
            lines += ["", f"{'had it been served':20s} {'IPS':>26s} {'SNIPS':>26s} {'DR':>26s} {'effective':>10s}"]
            for one in self.values:
                cells = "".join(f" {_cell(value):>26s}" for value in (one.ips, one.snips, one.dr))
                lines.append(f"  {one.order:18s}{cells} {one.effective:10.0f}")
        if self.interleaving is not None:
            lines += ["", f"interleaved: {self.interleaving}"]
        if self.arms:
            lines += ["", "experiment:", *(f"  {one}" for one in self.arms)]
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def judge_log(
    folder: Path,
    outcomes: pd.DataFrame,
    *,
    k: int = 10,
    within_hours: float = 24.0,
    domain: str | None = None,
    control: str | None = None,
    bundle: BundleIdentity | None = None,
    pseudonyms: Pseudonyms | None = None,
) -> LogReport:
    """Joins a score log with outcomes and judges orders and arms.

    Args:
        folder: of the score log.
        outcomes: as `join_outcomes` has them.
        k: places that count.
        within_hours: outcomes that come later are not counted.
        domain: whose rankings.
        control: the arm that the others are compared with.
        bundle: whose rankings, of all bundles that the domain had; all by default.
        pseudonyms: under which the log names users; the outcomes have their ids.

    Raises:
        DataError: the log or the outcomes cannot be used, or a control was named and there is no experiment.
    """
    if pseudonyms is not None:
        require_columns(outcomes, [USER], "outcomes")
        outcomes = outcomes.assign(**{USER: outcomes[USER].map(pseudonyms.of)})
    log = read_score_log(folder)
    joined = join_outcomes(log, outcomes, within_hours=within_hours, domain=domain, bundle=bundle)
    rows = joined.rows
    notes = [] if joined.used else ["no outcome was joined: check that ids and times of both tables are the same"]
    mixed = rows[TEAM].notna() if TEAM in rows else pd.Series(False, index=rows.index)
    interleaving = judge_interleaving(rows, k) if mixed.any() else None
    rows, values = rows[~mixed], []  # where an interleaved item stood was drawn with chances that are not kept
    orders = (("served ranking", "rank"), ("first stage", "first_stage_rank")) if len(rows) else ()
    for order, column in orders:
        value = estimate(rows, rows[column].to_numpy(dtype=np.float64), order, k)
        if value.warning:
            notes.append(value.warning)
        values.append(value)
    has_arms = ARM in rows and rows[ARM].notna().any()
    arms = compare_arms(rows, control) if has_arms or control is not None else []
    return LogReport(
        log=joined.summary(),
        by_order=_by_order(joined, k),
        values=tuple(values),
        arms=tuple(arms),
        notes=tuple(notes),
        interleaving=interleaving,
    )


def _by_order(joined: JoinedLog, k: int) -> dict[str, Interval]:
    rows = joined.rows
    counted = rows[REWARD].where((rows[PLACE] > 0) & (rows[PLACE] <= k), 0.0)
    lists = counted.groupby([rows["served"], rows[USER], rows["request_id"]]).sum()
    by_user = lists.groupby(level=[0, 1]).mean()
    return {
        str(name): mean_interval(by_user[name].to_numpy(dtype=np.float64))
        for name in by_user.index.get_level_values(0).unique()
    }


def _cell(value: Interval) -> str:
    return f"{value.mean:.4f} [{value.low:.4f}, {value.high:.4f}]"
