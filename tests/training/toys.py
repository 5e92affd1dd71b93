"""A domain that a tiny random model can learn something of."""

from pathlib import Path

import pandas as pd

from reranker.data.dataset import Dataset
from reranker.data.table_io import write_table

TITLES = ["alpha", "beta", "gamma", "delta", "omega", "sigma", "kappa", "theta"]


def circle(users: int = 24) -> Dataset:
    """Everyone goes round the same items in the same order, from a place of their own."""
    rows = [(f"u{user}", f"i{(user + step) % 8}", 10 * user + step) for user in range(users) for step in range(6)]
    interactions = pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"])
    items = pd.DataFrame({"item_id": [f"i{n}" for n in range(8)], "title": TITLES, "category": ["c"] * 8})
    return Dataset(interactions=interactions, items=items, domain="generic")


def saved(folder: Path, users: int = 24) -> Path:
    """The tables of `circle` on disk."""
    data = circle(users)
    write_table(data.interactions, folder / "interactions.parquet")
    write_table(data.items, folder / "items.parquet")
    return folder
