"""Attacks on items below the top: what each changes, and how far systems that can be moved are moved."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from reranker.evaluation.baselines import FirstStageOrder
from reranker.evaluation.robustness import (
    ATTACK_HEADER,
    ATTACKS,
    INSTRUCTION,
    attack_cells,
    attack_effects,
    attacked_items,
    attacked_lists,
)
from tests.evaluation.toys import lists_of

USERS = [f"u{number}" for number in range(20)]
ORDER = "a b c d e f"


def lists(titles=None):
    history = {user: "a b" if number % 2 else "a" for number, user in enumerate(USERS)}
    found = lists_of(dict.fromkeys(USERS, ORDER), dict.fromkeys(USERS, "b"), history)
    items = found.fold.items.assign(title=["apple pie", "berry tart", "cake", "donut", "eclair", "fudge bar"])
    return replace(found, fold=replace(found.fold, items=items))


class Obeys(FirstStageOrder):
    """Puts first whoever says so in the title."""

    def score(self, lists):
        title = lists.fold.items.set_index("item_id").title
        says = lists.candidates.item_id.map(title).str.contains(INSTRUCTION, regex=False)
        return np.where(says, 100.0, -lists.candidates["rank"])


class ByCount(FirstStageOrder):
    """By how often an item was chosen."""

    def score(self, lists):
        counts = lists.fold.train.item_id.value_counts()
        return lists.candidates.item_id.map(counts).fillna(0).to_numpy(dtype=float)


def test_items_below_the_top_are_attacked():
    assert set(attacked_items(lists())) == {"d", "e", "f"}  # the top of six is three
    assert attacked_items(lists(), n=1, seed=3) == attacked_items(lists(), n=1, seed=3)


def test_each_attack_changes_what_it_says_and_no_more():
    base, items = lists(), ["d"]
    changed = {name: attack(base, items, 0) for name, attack in ATTACKS.items()}
    title = {name: one.fold.items.set_index("item_id").title["d"] for name, one in changed.items()}
    assert title["typos"] == "dnout" and title["casing"] == "DONUT"
    assert title["stuffed titles"] == "donut apple pie berry tart"  # a was chosen 20 times, b 10 times, no other
    assert title["injected instruction"] == f"donut. {INSTRUCTION}"
    for name, one in changed.items():
        others = one.fold.items[one.fold.items["item_id"] != "d"]
        assert others.equals(base.fold.items[base.fold.items["item_id"] != "d"]), name
        assert one.candidates.equals(base.candidates) and one.fold.history.equals(base.fold.history), name
    poisoned = changed["poisoned histories"].fold.train
    fakes = poisoned[~poisoned["user_id"].isin(USERS)]
    assert fakes["user_id"].nunique() == 1 and set(fakes["item_id"]) == {"a", "b", "d"}
    assert poisoned["user_id"].dtype == base.fold.train["user_id"].dtype


def test_statistics_learn_from_fakes_though_those_of_the_lists_are_known():
    """Each of the 20 users and the fake one chose a; d was chosen by the fake one alone."""
    base = lists()
    base = replace(base, fold=replace(base.fold, train=base.fold.train.assign(stars=5)))
    before = base.statistics
    sample = base.of_users(np.arange(len(USERS)) < 5)
    poisoned = ATTACKS["poisoned histories"](sample, ["d"], 0)
    after = poisoned.statistics
    counts = [(one.popularity[one.index["a"]], one.popularity[one.index["d"]]) for one in (before, after)]
    assert counts == [(20, 0), (21, 1)]
    assert poisoned.fold.train["stars"].isna().sum() == 3  # a column that fakes know nothing of


def test_fakes_have_ids_of_the_users_kind_and_come_last():
    base = lists()
    train = base.fold.train.assign(user_id=base.fold.train["user_id"].str[1:].astype(int), timestamp=7)
    base = replace(base, fold=replace(base.fold, train=train))
    poisoned = ATTACKS["poisoned histories"](base, ["d"], 0).fold.train
    assert (
        poisoned["user_id"].tolist()[len(train) :] == [20] * 3 and poisoned["user_id"].dtype == train["user_id"].dtype
    )
    assert (poisoned["timestamp"] == 7).all()


def test_a_system_that_obeys_is_found_out():
    """d, e and f rise from 4, 5, 6 to 1, 2, 3: three places each, all into the top."""
    base = lists()
    found = {one.attack: one for one in attack_effects(Obeys(), base, attacked_lists(base))}
    obeyed = found["injected instruction"]
    assert obeyed.shift.mean == obeyed.moved.mean == 3 and obeyed.into_top.mean == 1 and obeyed.top == 3
    assert obeyed.shift.n == 20 and (obeyed.shift.low, obeyed.shift.high) == (3, 3)
    for name in ("typos", "casing", "stuffed titles", "poisoned histories"):
        assert found[name].shift.mean == found[name].moved.mean == found[name].into_top.mean == 0


def test_the_guard_is_asked_again_under_attack():
    """b is wanted and stands second: 1 / log2(3). What obeys puts d, e, f before it: fifth, 1 / log2(6)."""
    base = lists()
    found = {one.attack: one for one in attack_effects(Obeys(), base, attacked_lists(base))}
    obeyed, kept = found["injected instruction"], found["typos"]
    loss = 1 / np.log2(6) - 1 / np.log2(3)
    assert obeyed.margin.mean == pytest.approx(loss) and obeyed.margin.high < 0 and obeyed.guard == "stops"
    assert obeyed.margin_before.mean == kept.margin.mean == 0 and kept.guard == "not shown"
    assert obeyed.record()["guard"] == "stops" and obeyed.record()["margin"]["mean"] == pytest.approx(loss)

    class Knows(Obeys):
        """Puts b first whatever titles say."""

        def score(self, lists):
            return np.where(lists.candidates.item_id == "b", 1000.0, super().score(lists))

    better = attack_effects(Knows(), base, attacked_lists(base))
    assert {one.guard for one in better} == {"serves"}
    assert better[0].margin.mean == better[0].margin_before.mean == pytest.approx(1 - 1 / np.log2(3))
    rows = attack_cells("toy · obeys", [obeyed])
    assert len(rows[0]) == len(ATTACK_HEADER) and rows[0][-1] == "stops" and rows[0][-2].startswith(f"{loss:+.4f}")


def test_fake_users_move_what_counts_choices_and_nothing_else():
    """One fake user: d, e and f have a choice each, c none: they rise from 4, 5, 6 by one place."""
    base = lists()
    found = {one.attack: one for one in attack_effects(ByCount(), base, attacked_lists(base))}
    assert found["poisoned histories"].shift.mean == pytest.approx(1)
    assert found["poisoned histories"].into_top.mean == pytest.approx(1 / 3)
    assert found["casing"].moved.mean == 0
    first = attack_effects(FirstStageOrder(), base, attacked_lists(base))
    assert all(one.moved.mean == 0 for one in first)


def test_the_rows_say_places_and_shares():
    base = lists()
    rows = attack_cells("toy · obeys", attack_effects(Obeys(), base, attacked_lists(base)))
    row = next(row for row in rows if row[1] == "injected instruction")
    assert row == ["toy · obeys", "injected instruction", "20", *row[3:]] and row[3].startswith("+3.00 [+3.00")
    assert row[5].startswith("100.0%")


def test_lists_without_anything_below_the_top_are_not_attacked():
    short = lists_of({"u": "a"}, {"u": "a"})
    assert attacked_lists(short) == {} and attack_effects(FirstStageOrder(), short, {}) == []
    assert isinstance(short.candidates, pd.DataFrame)
