"""Slots by content: equal vectors share one, and a reused slot empties the prefix cache first."""

import numpy as np
import pytest

from reranker.engines.vllm.virtual_tokens import Aliases, SlotTable
from reranker.errors import EngineError
from reranker.types import TokenSequence


class Worker:
    def __init__(self, size: int) -> None:
        self.rows = np.zeros((size, 2), dtype=np.float32)
        self.log: list[str] = []
        self.refuses = False

    def write(self, begin: int, rows: np.ndarray) -> None:
        self.log.append(f"write {len(rows)} at {begin}")
        self.rows[begin : begin + len(rows)] = rows

    def forget(self) -> None:
        if self.refuses:
            raise EngineError("the cache is in use")
        self.log.append("forget")


def sequence(*values: float) -> TokenSequence:
    return TokenSequence.from_vectors(np.array([[value, value] for value in values], dtype=np.float32))


def test_equal_vectors_share_a_slot() -> None:
    worker = Worker(4)
    table = SlotTable(100, 4, worker.write, worker.forget)
    table.load([sequence(1, 2, 1)])
    assert table.token_ids(sequence(1, 2, 1)) == [100, 101, 100]
    table.load([sequence(2, 3)])
    assert table.token_ids(sequence(2, 3)) == [101, 102]
    assert worker.log == ["write 2 at 0", "write 1 at 2"]
    assert worker.rows[:3, 0].tolist() == [1, 2, 3]


def test_tokens_keep_their_ids() -> None:
    worker = Worker(4)
    table = SlotTable(100, 4, worker.write, worker.forget)
    mixed = TokenSequence.concatenate([TokenSequence.from_tokens([5]), sequence(1), TokenSequence.from_tokens([6])])
    table.load([mixed])
    assert table.token_ids(mixed) == [5, 100, 6]


def test_a_full_table_is_emptied_with_the_cache_before_it_is_rewritten() -> None:
    worker = Worker(2)
    table = SlotTable(100, 2, worker.write, worker.forget)
    table.load([sequence(1, 2)])
    table.load([sequence(2, 3)])
    assert worker.log == ["write 2 at 0", "forget", "write 2 at 0"]
    assert worker.rows[:, 0].tolist() == [2, 3]
    assert table.token_ids(sequence(2, 3)) == [100, 101]


def test_more_vectors_than_slots() -> None:
    worker = Worker(2)
    with pytest.raises(EngineError, match="slots=3"):
        SlotTable(100, 2, worker.write, worker.forget).load([sequence(1, 2, 3)])


def test_aliases_name_the_same_token_anew_each_time() -> None:
    aliases = Aliases(vocab_size=100, first=110)
    names = [aliases.fresh(token) for token in (7, 7, 99)]
    assert names == [117, 217, 409]
    assert [(name - 110) % 100 for name in names] == [7, 7, 99]


def test_slots_have_no_aliases() -> None:
    assert Aliases(vocab_size=100, first=110).fresh(105) == 105


def test_aliases_stay_within_32_bits() -> None:
    aliases = Aliases(vocab_size=2**29, first=2**29)
    names = [aliases.fresh(2**29 - 1) for _ in range(3)]
    assert max(names) < 2**31 and names[0] == names[2] != names[1]


def test_slots_stay_taken_where_the_cache_could_not_be_emptied() -> None:
    worker = Worker(2)
    table = SlotTable(100, 2, worker.write, worker.forget)
    table.load([sequence(1, 2)])
    worker.refuses = True
    with pytest.raises(EngineError):
        table.load([sequence(3)])
    assert table.token_ids(sequence(1, 2)) == [100, 101]
    worker.refuses = False
    table.load([sequence(3)])
    assert worker.log == ["write 2 at 0", "forget", "write 1 at 0"]
