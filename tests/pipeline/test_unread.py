"""What nothing goes by is named: columns, ratings, fields of items."""

import logging

import numpy as np
import pytest

from candidate_gen import PopularityGenerator
from reranker import Dataset, Reranker
from reranker.engines.scripted import ScriptedEngine
from reranker.pipeline.unread import unread, unweighted
from tests.pipeline import toys


def with_columns(weights=None):
    plain = toys.taste_dataset()
    more = {} if weights is None else {"rating": np.resize(weights, len(plain.interactions))}
    return Dataset(
        interactions=plain.interactions.assign(shop="x", **more),
        items=plain.items.assign(category="a", brand="b", price=1.0),
        domain="toy",
    )


@pytest.mark.parametrize("scorer", ["likelihood", "embedding"])
def test_columns_that_nothing_reads_are_named(scorer, caplog):
    data = with_columns()
    with caplog.at_level(logging.INFO, logger="reranker"):
        fitted = Reranker(toys.config(scorer=scorer), ScriptedEngine()).fit(
            data, PopularityGenerator().fit(data.interactions)
        )
    lines = unread(data, fitted.reader)
    assert lines == [
        "columns of the interactions that were not used: shop",
        "columns of the items that are not read: brand, price",
    ]
    assert all(line in caplog.text for line in lines)


@pytest.mark.parametrize(("weights", "low"), [([5.0, 4.0], 0), ([1.0, 0.0], 120), ([-1.0], 240)])
def test_ratings_that_change_nothing_are_said_to(weights, low):
    """48 users of 5 interactions each."""
    said = unweighted(with_columns(weights))
    assert said.startswith("weights (ratings) of the interactions are not used: every row counts as a choice")
    assert (f"the {low} of 240 with a weight of 0 or less" in said) == (low > 0)
    assert unweighted(with_columns()) == ""


def test_all_is_used_where_there_is_nothing_else():
    plain = toys.taste_dataset()
    assert unread(plain, toys.fitted().reader) == []
