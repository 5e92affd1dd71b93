"""A cache bounded by bytes: what it remembers, and what it does not hold."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reranker.utils.byte_cache import ByteCache
from tests.pipeline import toys

ARGUMENTS = st.recursive(st.none() | st.text(), lambda inner: st.lists(inner, max_size=3).map(tuple), max_leaves=6)


def counted(most_bytes=10_000, size=100):
    made = []

    def make(*arguments):
        made.append(arguments)
        return arguments

    return ByteCache(make, lambda value: size, most_bytes), made


@pytest.mark.parametrize("length", [1, 100_000])
def test_each_is_made_once(length):
    cache, made = counted()
    for _ in range(3):
        assert cache("block", (("title", "x" * length),)) == ("block", (("title", "x" * length),))
    assert len(made) == 1


@given(st.lists(ARGUMENTS, max_size=8), st.integers(0, 600))
def test_no_two_arguments_share_a_value(several, length):
    cache, _ = counted(most_bytes=1 << 20)
    for one in several:
        for argument in (one, (one, "y" * length)):
            assert cache(argument) == (argument,)


def test_the_least_recently_used_go_first():
    cache, made = counted(most_bytes=3 * 600)
    for name in ("a", "b", "c", "a", "d", "a", "b"):
        cache(name)
    assert made == [("a",), ("b",), ("c",), ("d",), ("b",)]
    assert cache.held_bytes == 3 * 600


def test_what_is_larger_than_the_whole_cache_is_made_each_time():
    cache, made = counted(most_bytes=100)
    assert cache("a") == cache("a") == ("a",)
    assert len(made) == 2 and cache.held_bytes == 0


def test_long_documents_do_not_stay_in_memory():
    """They had, in whole: 4 MB a request."""
    reranker = toys.fitted()

    def rank(number):
        return reranker.rank("q", [f"{number} {part} " + "word " * 8000 for part in range(20)])

    rank("first")
    tracemalloc.start()
    try:
        for number in range(5):
            rank(number)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held < 2_000_000, f"{held:,} bytes of 4,000,000 that came"
