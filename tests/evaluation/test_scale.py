"""How `fit` grows, measured on tables that are small."""

from pathlib import Path

import pytest

pytest.importorskip("implicit")

from eval import scale
from eval.scale import fitted, growth_checks


@pytest.mark.slow
def test_a_fit_is_measured_in_a_process_of_its_own(tmp_path: Path) -> None:
    one = fitted(tmp_path, 1000, 4000)
    assert one.seconds > 0 and one.processor_seconds > 0 and 0.05 < one.gib < 4
    assert any(line.startswith("candidate generator") for line in one.steps)
    assert (tmp_path / "bundle").is_dir()


def test_growth_is_told_as_ratios(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = iter((10.0, 60.0))

    def measured(out: Path, items: int, interactions: int) -> scale.Fitted:
        seconds = next(taken)
        assert (items, interactions) == (scale.PART if seconds == 10 else tuple(4 * one for one in scale.PART))
        return scale.Fitted(seconds=1.0, processor_seconds=seconds, gib=seconds / 30, said=[], steps=[])

    monkeypatch.setattr(scale, "fitted", measured)
    processor, memory, told = growth_checks(tmp_path)
    assert processor.value == pytest.approx(6.0) and not processor.passed and processor.target == "<= 5"
    assert memory.value == pytest.approx(6.0) and told.value == pytest.approx(2.0)


def test_what_passes_outside_of_steps_is_told() -> None:
    steps = ["tables: 1.5 s", "lists of 5,000 of 5,000 users: 20.0 s"]
    one = scale.Fitted(seconds=23.0, processor_seconds=20.0, gib=1.0, said=[], steps=steps)
    assert one.unnamed_seconds == pytest.approx(1.5)


@pytest.mark.slow
def test_a_fit_that_fails_says_why(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="scorer"):
        fitted(tmp_path, 1000, 4000, scorer="nonsense")
