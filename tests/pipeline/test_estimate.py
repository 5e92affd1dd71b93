"""An estimate reads a sample only, and says what the sample could show."""

import numpy as np
import pytest

from candidate_gen import ItemKNNGenerator
from reranker import Reranker
from reranker.engines.scripted import ScriptedEngine
from reranker.errors import DataError
from reranker.pipeline.estimate import FEWEST_USERS, estimate
from tests.evaluation import toys


def chains(users: int, length: int = 6, items: int = 60):
    """Each user walks along the items; so the next one is easy to propose."""
    walks = [" ".join(f"i{(user * 7 + step) % items}" for step in range(length)) for user in range(users)]
    return toys.dataset([f"u{user}: {walk}" for user, walk in enumerate(walks)])


def llm(**settings):
    return Reranker.from_pretrained(engine=ScriptedEngine(dim=16), scorer="embedding", n_candidates=8, **settings)


def test_only_what_the_sampled_lists_need_is_read() -> None:
    data = chains(200)
    generator = ItemKNNGenerator().fit(data.interactions)
    few, all_of_them = (estimate(llm(), data, generator, users=n) for n in (FEWEST_USERS, 1000))
    assert few.users == FEWEST_USERS < all_of_them.users
    assert few.items_read <= few.items == len(data.items)
    assert few.ladder.rungs[0].name == "first stage" and few.ladder.rungs[-1].name == "llm"
    assert f"estimate on {FEWEST_USERS} users" in few.summary()


def test_the_detectable_difference_is_2_8_standard_errors() -> None:
    data = chains(120)
    model = llm()
    found = estimate(model, data, ItemKNNGenerator().fit(data.interactions))
    assert found.ladder.new_items is None  # their texts are not in the sample
    gain = found.ladder.rungs[-1].ndcg - found.ladder.rungs[-2].ndcg
    assert model.fusion_model is not None
    served = model.fusion_model.validation["fused"]
    assert served.mean() == pytest.approx(found.ladder.rungs[-1].ndcg)
    assert found.detectable >= 0 and np.isfinite(found.detectable) and abs(gain) <= 1
    assert found.catalog_seconds >= found.ladder.rungs[-1].seconds  # of the whole catalogue


def test_too_few_users_are_refused() -> None:
    data = chains(FEWEST_USERS - 5)
    with pytest.raises(DataError, match=rf"an estimate needs {FEWEST_USERS}"):
        estimate(llm(), data, ItemKNNGenerator().fit(data.interactions))
