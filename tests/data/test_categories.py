"""Several categories in one text are several, for features and for prompts."""

import pandas as pd
import pytest

from reranker.data.categories import readable_categories
from reranker.data.schema import validate_items


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("A|B|C", "A, B, C"),
        (" A | B C |", "A, B C"),
        ("['A', 'B']", "A, B"),
        ('["A", "B, C"]', "A, B, C"),
        ("('A',)", "A"),
        ("[1995, None, 'A']", "1995, A"),
        ("[]", ""),
        ("A, B", "A, B"),
        ("[unclosed", "[unclosed"),
        ("[A] and [B]", "[A] and [B]"),
        ("[{'a': 1}]", "[{'a': 1}]"),
        ("[[[[[", "[[[[["),
        ("[" * 5000 + "]" * 5000, "[" * 5000 + "]" * 5000),
        (7, 7),
        (None, None),
        (["A", "B"], ["A", "B"]),
    ],
)
def test_by_hand(given, expected):
    assert readable_categories(given) == expected


def test_an_item_table_holds_them_as_several():
    items = pd.DataFrame({"item_id": [1, 2, 3], "title": list("xyz"), "category": ["A|B", "['A', 'C']", None]})
    assert validate_items(items)["category"].tolist()[:2] == ["A, B", "A, C"]
