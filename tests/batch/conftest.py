"""A bundle, and candidates of 60 users in the order of their users."""

import numpy as np
import pandas as pd
import pytest

from tests.pipeline import toys

PART_USERS = 7


@pytest.fixture(scope="session")
def bundle(tmp_path_factory):
    folder = tmp_path_factory.mktemp("batch") / "bundle"
    toys.fitted().save(folder)
    return folder


@pytest.fixture(scope="session")
def candidates():
    rng = np.random.default_rng(0)
    catalogue = toys.items()["item_id"].tolist()
    rows = [
        (f"u{user:03d}", item, float(score))
        for user in range(60)
        for item, score in zip(rng.choice(catalogue, 5, replace=False), rng.permutation(5), strict=True)
    ]
    return pd.DataFrame(rows, columns=["user_id", "item_id", "score"])


@pytest.fixture
def folder(tmp_path, candidates):
    """A folder with candidates.parquet."""
    candidates.to_parquet(tmp_path / "candidates.parquet", index=False)
    return tmp_path
