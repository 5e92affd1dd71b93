from collections import Counter

import pytest

from reranker.engines import sentence_encoder
from tests.evaluation import toys


@pytest.fixture(autouse=True, scope="session")
def no_packaged_encoder():
    """MiniLM's package is optional: tests see none, wherever they run, but those that undo this."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sentence_encoder, "find_spec", lambda name: None)
        yield


@pytest.fixture
def chain():
    """40 users who walk along a ring of 12 items, 6 steps each: enough to split twice and to learn a sequence from."""
    lines = [f"u{user}: " + " ".join(f"i{(user + step) % 12}" for step in range(6)) for user in range(40)]
    return toys.dataset(lines)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Files that load a real model first, then those of many tests: of two processes (`--dist loadfile`) none is left
    with a long file when the other is done."""
    sizes = Counter(item.path for item in items)
    with_model = {item.path for item in items if item.get_closest_marker("model")}
    items.sort(key=lambda item: (item.path not in with_model, -sizes[item.path]))
