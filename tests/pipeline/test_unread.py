"""What nothing goes by is named: columns, fields of items; and what weights count for."""

import logging

import numpy as np
import pytest

from candidate_gen import PopularityGenerator
from reranker import Dataset, Reranker
from reranker.data.signals import told
from reranker.engines.scripted import ScriptedEngine
from reranker.pipeline.unread import unread
from tests.pipeline import toys


def with_columns(weights=None):
    plain = toys.taste_dataset()
    more = {} if weights is None else {"weight": np.resize(weights, len(plain.interactions))}
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
    lines = unread(data, fitted.llm_scorer)
    assert lines == [
        "columns of the interactions that were not used: shop",
        "columns of the items that are not read: brand, price",
    ]
    assert all(line in caplog.text for line in lines)


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ([5.0, 4.0], "weights count: 240 of 240 interactions are choices, 0 are about items that their user dislikes"),
        (
            [2.0, 0.0],
            "choices, 0 are about items that their user dislikes, 120 are neither",
        ),
        ([1.0, -1.0], "120 of 240 interactions are choices, 120 are about items that their user dislikes"),
        ([3.0], "the weight is the same in every row, so it tells nothing: every row counts as a choice"),
    ],
)
def test_what_weights_count_for_is_said(weights, said):
    """48 users of 5 different items each."""
    data = with_columns(weights)
    lines = told(data.interactions, data.signals)
    assert len(lines) == 1 and lines[0].endswith(said)
    assert told(with_columns().interactions, data.signals) == []


def test_all_is_used_where_there_is_nothing_else():
    plain = toys.taste_dataset()
    assert unread(plain, toys.fitted().llm_scorer) == []
