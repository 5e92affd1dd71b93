"""Rungs judged by hand-made users, and the file format."""

from dataclasses import replace

import numpy as np
import pytest

from reranker.errors import BundleError
from reranker.fusion.ladder import Ladder

RNG = np.random.default_rng(0)
BASE = RNG.uniform(0.1, 0.6, 200)


def ladder(llm_gain: float, lexical_gain: float = 0.1) -> Ladder:
    noise = RNG.normal(0, 0.02, 200)
    scores = {
        "first stage": BASE,
        "baseline": BASE + 0.05,
        "lexical": BASE + 0.05 + lexical_gain,
        "llm": BASE + 0.05 + lexical_gain + llm_gain + noise,
    }
    return Ladder.of(scores, {"lexical": 2.0, "llm": 100.0}, n_items=1000)


def test_a_rung_is_served_only_where_its_interval_is_above_the_best_cheaper_one() -> None:
    assert ladder(llm_gain=0.05).serves == "llm"
    assert ladder(llm_gain=0.0).serves == "lexical"  # noise around nothing
    assert ladder(llm_gain=-0.05).serves == "lexical"


def test_a_rung_that_failed_is_not_what_the_next_one_has_to_beat() -> None:
    found = ladder(llm_gain=0.2, lexical_gain=-0.1)
    assert [rung.over for rung in found.rungs] == ["", "first stage", "baseline", "baseline"]
    assert found.rungs[3].gain is not None
    assert found.rungs[3].gain.mean == pytest.approx(0.1, abs=0.01)
    assert found.serves == "llm"


def test_the_first_stage_is_served_where_nothing_beats_it() -> None:
    assert Ladder.of({"first stage": BASE, "baseline": BASE - 0.01, "lexical": BASE}, {}, 10).serves == "first stage"


def test_the_summary_says_what_is_served_what_it_cost_and_that_the_llm_does_not_pay() -> None:
    said = ladder(llm_gain=0.0).summary().splitlines()
    assert [line.split("  ")[0] for line in said[1:5]] == ["first stage", "baseline", "lexical", "llm"]
    assert said[3].endswith("<- served") and "500" in said[3]
    assert "does not pay" in said[-1]
    assert "does not pay" not in ladder(llm_gain=0.05).summary()


def test_what_is_saved_comes_back() -> None:
    found = ladder(llm_gain=0.05)
    assert Ladder.from_json(found.to_json()) == found
    with pytest.raises(BundleError, match="ladder"):
        Ladder.from_json({"rungs": [{}], "serves": "llm", "left_out": {}})


def test_new_items_can_pay_for_a_dearer_rung_alone() -> None:
    pages = {"baseline": BASE, "lexical": BASE + 0.1, "llm": BASE + 0.2 + RNG.normal(0, 0.02, 200)}
    of_new = Ladder.of(pages, {"lexical": 2.0, "llm": 100.0}, 1000)
    known = {"first stage": BASE, "baseline": BASE + 0.05, "lexical": BASE, "llm": BASE}
    found = Ladder.of(known, {"lexical": 2.0, "llm": 100.0}, 1000, new_items=of_new)
    assert (found.serves, of_new.serves, found.served) == ("baseline", "llm", "llm")
    assert "llm pays for new items alone" in found.summary() and "200 users" in found.summary()
    assert Ladder.from_json(found.to_json()) == found
    other_way = Ladder.of(pages | {"first stage": BASE}, {}, 1000)
    cheap = replace(other_way, new_items=Ladder.of({"baseline": BASE, "llm": BASE - 0.1}, {}, 1000))
    assert cheap.served == "llm"  # known items pay for it


def test_what_pays_for_neither_known_nor_new_items_is_not_served() -> None:
    """The features are the lowest rung of new items: served for nothing else, also where they lose on known ones."""
    of_new = Ladder.of({"baseline": BASE, "lexical": BASE}, {"lexical": 2.0}, 1000)
    known = {"first stage": BASE, "baseline": BASE - 0.1, "lexical": BASE - 0.1}
    found = Ladder.of(known, {"lexical": 2.0}, 1000, new_items=of_new)
    assert found.served == "first stage" and "pays for new items" not in found.summary()
