"""Hand-made data sets and candidate lists."""

from dataclasses import replace

import pandas as pd

from reranker.data.dataset import Dataset
from reranker.data.schema import validate_candidates
from reranker.data.splits import Fold, leave_last_k
from reranker.pipeline.lists import FoldLists


def dataset(rows, ordered=True, titles=None):
    """`rows` is "user: item item item" lines, oldest first; every interaction has its own time."""
    pairs = []
    for line in rows:
        user, chosen = line.split(":")
        pairs += [(user.strip(), item) for item in chosen.split()]
    frame = pd.DataFrame(pairs, columns=["user_id", "item_id"])
    if ordered:
        frame["timestamp"] = frame.groupby("user_id").cumcount() * 100 + frame.groupby("user_id").ngroup()
    ids = sorted(frame.item_id.unique()) if titles is None else list(titles)
    items = pd.DataFrame({"item_id": ids, "title": [f"Title {item}" for item in ids]})
    return Dataset(interactions=frame, items=items, domain="toy")


def lists_of(proposals, targets, history=None, items=None):
    """Candidate lists from {user: "a b c"} proposals and {user: "b"} targets; scores fall with the rank."""
    history = history or dict.fromkeys(targets, "h")
    train = pd.DataFrame(
        [(u, i) for u, chosen in history.items() for i in chosen.split()], columns=["user_id", "item_id"]
    )
    held = pd.DataFrame(
        [(u, i) for u, chosen in targets.items() for i in chosen.split()], columns=["user_id", "item_id"]
    )
    rows = [(u, i, rank) for u, chosen in proposals.items() for rank, i in enumerate(chosen.split(), 1)]
    table = validate_candidates(pd.DataFrame(rows, columns=["user_id", "item_id", "rank"]))
    known = sorted({*train.item_id, *held.item_id, *table.item_id}) if items is None else items
    fold = Fold(
        domain="toy",
        split="hand_made",
        ordered=False,
        seed=0,
        items=pd.DataFrame({"item_id": known, "title": known}),
        train=train,
        history=train,
        held_out=held,
        resplit=leave_last_k,
    )
    return FoldLists(fold=fold, candidates=table, n=int(table["rank"].max()))


def with_targets(lists, targets):
    """The same lists with other answers."""
    held = pd.DataFrame(list(targets.items()), columns=["user_id", "item_id"])
    return replace(lists, fold=replace(lists.fold, held_out=held))
