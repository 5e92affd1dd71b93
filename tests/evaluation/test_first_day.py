"""The first day of a shop: what may be seen of it, and who reads its texts best."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from eval import first_day_table
from eval.first_day import LENGTH, FirstDay
from reranker import Dataset
from reranker.engines.lexical import LexicalEngine
from reranker.engines.scripted import ScriptedEngine
from reranker.errors import ConfigError

N_ITEMS, N_USERS, LONG = 160, 60, 12


@pytest.fixture(scope="module")
def data() -> Dataset:
    """Half of the users choose lamps, half chairs, and the titles say which is which."""
    rng = np.random.default_rng(0)
    kinds = ["lamp", "chair"]
    items = pd.DataFrame(
        {"item_id": np.arange(N_ITEMS), "title": [f"{kinds[item % 2]} number {item}" for item in range(N_ITEMS)]}
    )
    rows = [
        (user, int(item), time)
        for user in range(N_USERS)
        for time, item in enumerate(rng.choice(np.arange(user % 2, N_ITEMS, 2), LONG, replace=False))
    ]
    interactions = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    return Dataset(interactions=interactions, items=items, domain="shop")


def test_lists_hold_what_was_chosen_and_nothing_else_of_the_users(data: Dataset) -> None:
    day = FirstDay.of(data, draw=0)
    owned = data.interactions.groupby("user_id")["item_id"].apply(list)
    assert len(day.chosen) == N_USERS // 2
    for user, part in day.lists.groupby("user_id", sort=False):
        assert len(part) == LENGTH == part["item_id"].nunique()
        assert set(part["item_id"]) & set(owned[user]) == {day.chosen[user]} == {owned[user][-1]}
        assert day.histories[user] == owned[user][-6:-1]


def test_nothing_is_seen_of_test_users_and_more_users_are_seen_beside_the_first(data: Dataset) -> None:
    day = FirstDay.of(data, draw=1)
    few, more = (set(day.seen(n).interactions["user_id"]) for n in (5, 20))
    assert len(few) == 5 and few < more and not more & set(day.chosen)
    for fold in day.windows(20):
        assert set(fold.users) <= more


def test_draws_differ_and_repeat(data: Dataset) -> None:
    first, again, other = (FirstDay.of(data, draw) for draw in (0, 0, 1))
    pd.testing.assert_frame_equal(first.lists, again.lists)
    assert first.order == again.order
    assert set(first.chosen) != set(other.chosen)


def test_words_that_tell_the_taste_beat_an_engine_that_knows_nothing(data: Dataset, tmp_path: Path) -> None:
    lines: list[str] = []
    readers = {"lexical": (LexicalEngine, {}), "llm": (lambda: ScriptedEngine(dim=16), {"words": False})}
    checks = first_day_table.run([("shop", data)], readers, tmp_path, lines.append, seen=(0, 10, 99), draws=1)
    table = pd.read_csv(tmp_path / "first_day.csv").set_index(["seen", "known", "system"])["ndcg@10"]
    by_chance = sum(1 / np.log2(rank + 2) for rank in range(10)) / LENGTH
    assert table[0, 5, "texts.lexical"] > 1.5 * by_chance  # half of the list is of the other kind
    assert {system for n, _, system in table.index if n == 0} == {"texts.lexical", "texts.llm"}
    assert {"baseline", "fused.lexical", "fused.llm"} <= {system for n, _, system in table.index if n == 10}
    assert "shop, draw 0: only 30 users can be seen, so 99 is left out" in lines
    judged = [one for one in checks if one.target]
    assert [one.name for one in judged] == [
        "n = 0, k = 3: texts.llm over texts.lexical",
        "n = 10, k = 3: fused.llm over fused.lexical",
    ]


def test_it_needs_words_to_compare_with(data: Dataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="compares 'llm' with 'lexical'; readers are llm"):
        first_day_table.run([("shop", data)], {"llm": (ScriptedEngine, {})}, tmp_path, print)


def test_what_was_measured_is_kept(data: Dataset, tmp_path: Path) -> None:
    readers = {"lexical": (LexicalEngine, {}), "llm": (lambda: ScriptedEngine(dim=16), {"words": False})}

    def judged() -> list[str]:
        lines: list[str] = []
        first_day_table.run([("shop", data)], readers, tmp_path, lines.append, seen=(10,), draws=1)
        return lines

    first = judged()
    parts = sorted((tmp_path / "parts").iterdir())
    assert [one.name.rsplit("-", 1)[0] for one in parts] == ["shop-0-10-lexical", "shop-0-10-llm"]
    with np.load(parts[0]) as table:
        kept = dict(table)
    assert {"3|popularity", "3|als", "3|baseline", "3|texts.lexical", "3|fused.lexical"} <= set(kept)
    kept["3|popularity"] = np.ones(N_USERS // 2)
    np.savez(parts[0], **kept)
    again = judged()  # reads what is kept: of popularity what stands there now, of all others what was measured
    assert [new for old, new in zip(first, again, strict=True) if old != new] == [
        "   10  popularity           1.0000  "
    ]
