"""What rules cost, worked out by hand on two lists."""

import math

import numpy as np
import pandas as pd
import pytest

from reranker.evaluation.rules_price import price_table, rules_prices
from reranker.evaluation.runner import Results, Run, Settings
from reranker.rules import Rules
from tests.evaluation.toys import lists_of


@pytest.fixture
def results():
    lists = lists_of({"u": "a b c", "v": "c b a"}, {"u": "a", "v": "b"})
    run = Run(
        lists=lists, system="mine", seed=0, scores=np.array([3.0, 2, 1] * 2), fit_seconds=0, score_seconds=0, tokens=0
    )
    return Results(rows=pd.DataFrame(), comparisons=[], runs=[run], settings=Settings(candidates=(lists.n,)))


SECOND, THIRD = 1 / math.log2(3), 1 / math.log2(4)


@pytest.mark.parametrize(
    ("rules", "under"),
    [
        ({}, (1.0, SECOND)),
        ({"pin": {"item": "c", "place": 1}}, (SECOND, SECOND)),
        ({"exclude": {"items": ["a"]}}, (0.0, SECOND)),
        ({"exclude": {"items": ["a", "b"]}}, (0.0, 0.0)),
        ({"boost": {"where": {"title": "b"}, "by": 9}}, (SECOND, 1.0)),
        ({"pin": [{"item": "a", "place": 3}, {"item": "c", "place": 1}]}, (THIRD, SECOND)),
    ],
)
def test_the_price_is_the_difference_of_ndcg(results, rules, under):
    (price,) = rules_prices(results, Rules.from_mapping(rules))
    assert price.without == pytest.approx((1.0 + SECOND) / 2)
    assert price.under == pytest.approx(sum(under) / 2)
    assert price.gain.mean == pytest.approx(price.under - price.without)
    assert price.gain.low <= price.gain.mean <= price.gain.high


def test_the_table_says_what_the_rules_did(results):
    table = price_table(rules_prices(results, Rules.from_mapping({"exclude": {"items": ["a"]}})))
    assert "| toy | mine | 0.8155 | 0.3155 | -0.5000 [-1.0000, +0.0000] | -61.3% |" in table
    assert "mine: rules: 2 candidates excluded" in table
