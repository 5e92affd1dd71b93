"""eval.speed.run's arithmetic: the least work of a list, ratios within a round, growth against the floor's."""

from pathlib import Path

import pandas as pd
import pytest
import typer

from eval.speed.load import LABELS, LIKELIHOOD, Work, least_work
from eval.speed.run import LONG, SYSTEMS, paid_once, ratios, slopes
from eval.speed.turns import FairLock
from reranker.types import ScoringRequest
from tests.contracts.engine import plain, span

REQUEST = ScoringRequest(prefix=plain([1, 2, 3]), candidates=(span([7, 20, 30]), span([7, 20, 40]), span([7, 50])))


def test_common_beginnings_and_last_tokens_of_spans_are_not_necessary_work() -> None:
    """Prefix 3, then 7 and 20; what follows them is predicted there and not computed."""
    assert least_work([REQUEST], LIKELIHOOD) == Work(tokens=5, reads=2)


def test_labels_are_read_after_each_candidates_last_token() -> None:
    """Prefix 3, then 7, 20, 30, 40 and 50."""
    assert least_work([REQUEST, REQUEST], LABELS) == Work(tokens=16, reads=6)


def test_flops() -> None:
    assert Work(tokens=5, reads=2).flops(layer_parameters=10, dim=4, vocabulary=6) == 2 * 10 * 5 + 2 * 4 * 6 * 2


def row(system: str, axis: str = "default", number: int = 0, **values: float) -> dict[str, object]:
    return {"system": system, "axis": axis, "round": number, "fraction": 0.5, "fraction_processor": 0.5, **values}


def test_ratios_are_taken_within_a_round() -> None:
    """The second round was ten times slower for everybody: 12 / 10 in each."""
    costs = dict.fromkeys(SYSTEMS, 10.0) | {"vllm likelihood": 12.0, "naive transformers": 60.0}
    table = pd.DataFrame(
        [row(name, number=k, seconds_per_user=cost * 10**k) for k in (0, 1) for name, cost in costs.items()]
    )
    checks = {one.name: one for one in ratios(table)}
    labels = checks["vllm likelihood, time over vllm labels"]
    assert labels.value == pytest.approx(1.2) and labels.passed
    naive = checks["vllm likelihood over naive"]
    assert naive.value == pytest.approx(5.0) and not naive.passed


@pytest.mark.parametrize(("cost", "slope", "passed"), [(4.0, 1.2, False), (3.0, 1.0, True), (2.0, 2 / 3, True)])
def test_slopes_are_measured_against_the_floors(cost: float, slope: float, passed: bool) -> None:
    """The floor rises by 200 around 200. A cost that rises from 1 to 4 rises by 3 around 2.5."""
    table = pd.DataFrame(
        [
            row(system, axis, candidates=at, history=at, floor_flops=floor, fraction=floor / 1000 / spent)
            for axis in ("candidates", "history")
            for system in ("torch likelihood", "vllm likelihood")
            for at, floor, spent in ((10, 100.0, 1.0), (50, 300.0, cost))
        ]
    )
    checks = slopes(table)
    assert [one.value for one in checks] == pytest.approx([slope] * 4)
    assert [one.passed for one in checks] == [passed] * 2 + [True] * 2  # along the history it is told only


def test_a_fixed_cost_makes_the_slope_smaller() -> None:
    """floor n, cost n + 100 over 50, 100, 150: 1 / 200 against 1 / 100."""
    at = [50, 100, 150]
    table = pd.DataFrame(
        [
            row(system, axis, candidates=n, history=n, floor_flops=float(n), fraction=n / (n + 100))
            for axis in ("candidates", "history")
            for system in ("torch likelihood", "vllm likelihood")
            for n in at
        ]
    )
    assert [one.value for one in slopes(table)] == pytest.approx([0.5] * 4)


@pytest.mark.parametrize(("many", "passed"), [(1.3, True), (5.0, False)])
def test_the_history_is_paid_once(many: float, passed: bool) -> None:
    table = pd.DataFrame(
        [
            row(system, LONG, number, candidates=candidates, history=100, seconds_per_user=seconds * 10**number)
            for system in ("torch likelihood", "vllm likelihood")
            for number in (0, 1)
            for candidates, seconds in ((10, 1.0), (50, many))
        ]
    )
    assert [(one.value, one.passed) for one in paid_once(table)] == [(pytest.approx(many), passed)] * 2


def test_turns_are_taken_once(tmp_path: Path) -> None:
    """A second run measures what the first did not; after a complete run everything is measured anew."""
    path, measured = tmp_path / "turns.jsonl", []

    def measure(key: str) -> str:
        measured.append(key)
        return key.upper()

    first = FairLock(path)
    assert first.take("a", lambda: measure("a")) == "A"
    second = FairLock(path)
    assert [second.take(key, lambda key=key: measure(key)) for key in ("a", "b", "a")] == ["A", "B", "A"]
    assert measured == ["a", "b"]
    second.forget()
    FairLock(path).take("a", lambda: measure("a"))
    assert measured == ["a", "b", "a"]


def test_turns_end_when_the_time_is_over(tmp_path: Path) -> None:
    turns = FairLock(tmp_path / "turns.jsonl", seconds=1e-9)
    with pytest.raises(typer.Exit):
        turns.take("a", lambda: 1)
