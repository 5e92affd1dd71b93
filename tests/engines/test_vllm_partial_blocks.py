"""Rows of the connector, without vLLM's scheduler around it."""

import pytest

pytest.importorskip("vllm")

from reranker.engines.vllm.wire import TAIL_ROWS

pytestmark = pytest.mark.filterwarnings("default")  # vLLM's own, at import


def test_rows_are_kept_once_and_the_oldest_goes_first() -> None:
    from reranker.engines.vllm.partial_blocks import PrefixTails

    tails = PrefixTails.__new__(PrefixTails)
    tails._rows = {}
    rows = [tails._row(tail) for tail in range(TAIL_ROWS)]
    assert rows == list(range(TAIL_ROWS))
    assert tails._row(0) == 0  # kept again: the newest now
    assert tails._row(1000) == 1 and 1 not in tails._rows
    assert tails._row(1001) == 2 and tails._rows[0] == 0
    assert len(set(tails._rows.values())) == TAIL_ROWS
