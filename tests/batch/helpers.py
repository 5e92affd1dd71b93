"""Short ways to begin runs and to look at what they wrote."""

import json

import pandas as pd

from reranker.batch import OfflineRun
from tests.batch.conftest import PART_USERS


def offline(bundle, folder, table="candidates.parquet", out="out", **settings):
    settings = {"part_users": PART_USERS, "order": "baseline", **settings}
    return OfflineRun(bundle=bundle, candidates=folder / table, out=folder / out, **settings)


def ranking(folder, out="out"):
    """All parts, one after another."""
    return pd.concat(
        [pd.read_parquet(part) for part in sorted((folder / out / "ranking").glob("part-*.parquet"))], ignore_index=True
    )


def rejected(folder, out="out"):
    return pd.read_parquet(folder / out / "rejected.parquet")


def manifest(folder, out="out"):
    return json.loads((folder / out / "manifest.json").read_text())


def write(frame, path, row_group_size=None):
    frame.to_parquet(path, index=False, row_group_size=row_group_size)
