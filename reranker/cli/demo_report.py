"""The demo's report for a terminal: three tables, what each part brought in words, lists before and after."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd

from reranker.data.schema import ITEM, RANK, USER
from reranker.types import UserId
from reranker.utils.statistics import Interval

if TYPE_CHECKING:
    from reranker.cli.demo_run import DemoResult, Part

NAMES = {
    "first stage": "first stage (the list that came in)",
    "baseline": "interaction features",
    "words": "features and words, without a model",
    "encoder": "features and a sentence encoder",
    "llm": "features and the LLM",
}
CAME_FROM = {
    "baseline": ("interaction features", "first stage"),
    "words": ("words of the titles", "baseline"),
    "encoder": ("a sentence encoder", "words"),
    "llm": ("the LLM", "words"),
}
"""System -> what it adds, and over which system. The LLM is compared with words: that is what is its own."""

COLUMN = 36
WIDTH = 108
"""Of a line of lists side by side."""

SHOWN = 5
BRANDS = {" (national brand)": "", " (store brand)": " (store)"}
"""What a title says and a narrow column need not, or can say shorter."""


def lines(result: DemoResult) -> Iterator[str]:
    """Every line of the report."""
    yield "\n1  KNOWN USERS: the next choice, among 50 of the first stage"
    yield from _table(result.known)
    yield from _came_from(result.known)
    yield from _example(result, result.known)
    yield f"\n2  NEW ITEMS: which of {_length(result.new)} that nobody had chosen did they choose? (in at random)"
    yield from _table(result.new)
    yield from _came_from(result.new)
    yield from _example(result, result.new)
    yield f"\n3  A NEW USER who likes {'; '.join(map(_short, result.likes))}"
    yield from _columns(result.newcomer)
    yield "\nWHAT `fit` SAYS, on other choices of all users, and what it would serve"
    yield from (f"  {line.rstrip()}" for line in result.rungs.ladder.summary().splitlines())
    model = result.rungs.served.fusion_model
    if model is not None:
        yield f"  guard: {model.guard.summary()}"
    total = sum(result.seconds.values())
    stages = ", ".join(f"{name} {seconds:.0f}" for name, seconds in result.seconds.items())
    yield f"\n{total:.0f} seconds: {stages}"


def _length(part: Part) -> int:
    return int(part.lists[RANK].max())


def _table(part: Part) -> Iterator[str]:
    n = len(next(iter(part.per_user.values())))
    yield f"   {f'{n} users':{COLUMN}s} {'NDCG@10':>8s} {'HR@10':>8s}"
    for name in part.systems:
        yield f"   {NAMES[name]:{COLUMN}s} {part.mean(name):8.4f} {part.mean(name, 'hr@10'):8.4f}"


def _came_from(part: Part) -> Iterator[str]:
    for name, (what, over) in CAME_FROM.items():
        if name in part.per_user:
            gain = part.gain(name, over)
            share = gain.mean / max(part.mean(over), 1e-12)
            yield f"   from {what + ':':24s} {share:+6.1%} over {over}, {gain}: {_verdict(gain)}"


def _verdict(gain: Interval) -> str:
    if gain.low > 0:
        return "a gain"
    return "a loss" if gain.high < 0 else "cannot be told from 0"


def _example(result: DemoResult, part: Part) -> Iterator[str]:
    """The list of the median user among those whom the system with the highest NDCG@10 moved up."""
    best = max(part.systems[1:], key=part.mean)
    user = _typical(part, part.ranked[best])
    target = part.targets[user]
    places = {name: _place(table, user, target) for name, table in part.ranked.items()}
    yield f"\n   for example user {user}, who chose last: {'; '.join(map(_short, result.histories[user]))}"
    place = ", ".join(f"{places[name]} {name}" for name in part.systems)
    yield f"   and then * {_short(result.titles[target])}; its place: {place}"
    shown = {
        name: [("* " if item == target else "") + result.titles[item] for item in _first(part.ranked[name], user)]
        for name in (part.systems[0], best)
    }
    yield from _columns(shown)


def _typical(part: Part, best: pd.DataFrame) -> UserId:
    """Of the users whose choice moved up into the first places, the one in the middle; else of all."""
    hits = best[best[ITEM] == best[USER].map(part.targets)].sort_values([RANK, USER], kind="stable")
    up = hits[(hits[RANK] < hits["place"]) & (hits[RANK] <= SHOWN)]
    chosen = up if len(up) else hits
    user: UserId = chosen[USER].iloc[len(chosen) // 2]
    return user


def _place(table: pd.DataFrame, user: UserId, item: object) -> int:
    return int(table[(table[USER] == user) & (table[ITEM] == item)][RANK].iloc[0])


def _first(table: pd.DataFrame, user: UserId) -> list[object]:
    mine = table[table[USER] == user].sort_values(RANK)
    return mine[ITEM].tolist()[:SHOWN]


def _columns(lists: dict[str, list[str]]) -> Iterator[str]:
    """Lists side by side."""
    names = list(lists)
    width = min(COLUMN, WIDTH // len(names))
    heads = [("before: " if name == names[0] else "after: ") + name for name in names]
    yield "      " + "  ".join(f"{head:{width}s}" for head in heads).rstrip()
    for place, row in enumerate(zip(*lists.values(), strict=True), start=1):
        cells = (_cut(_short(title), width) for title in row)
        yield f"   {place}. " + "  ".join(f"{cell:{width}s}" for cell in cells).rstrip()


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _short(title: str) -> str:
    for brand, said in BRANDS.items():
        title = title.replace(brand, said)
    return title
