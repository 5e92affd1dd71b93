"""Context vectors: what they become, where they start, what adapting them does."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from safetensors.numpy import save_file

from reranker.engines.loading import HubTokenizer, load_causal_lm
from reranker.engines.torch.packed_lm import PackedLM
from reranker.engines.torch.packing import pack
from reranker.errors import DataError, PromptError
from reranker.prompting import PromptRenderer, PromptSettings
from reranker.soft_tokens import ContextMap, Support, history_features
from reranker.soft_tokens.prompt import SoftPrompt
from reranker.soft_tokens.user_adaptation import ContextAdapter, SupportReader, context_tensors, unit, user_tokens
from reranker.stores.records import state_record
from reranker.types import ModelInfo, TokenSequence, UserState
from tests.engines.models import save_tiny_model

DIM = 32


def small(**changes: Any) -> ContextMap:
    random = np.random.default_rng(0)
    values: dict[str, Any] = {
        "base": random.standard_normal((2, DIM)),
        "directions": random.standard_normal((3, 2, DIM)),
        "amortise": 0.3 * random.standard_normal((DIM + 1, 3)),
        "rates": np.full(3, 0.2),
        "log_shrinkage": np.log([2.0]),
        "base_model_id": "tiny",
    }
    return ContextMap(**values | changes)


def test_tokens_by_hand() -> None:
    contexts = ContextMap(
        base=np.array([[1.0, 2.0]]),
        directions=np.array([[[1.0, 0.0]], [[0.0, 10.0]]]),
        amortise=np.zeros((3, 2)),
        rates=np.ones(2),
        log_shrinkage=np.log([2.0]),
    )
    # gate(6) = 6 / 8
    assert contexts.tokens(np.array([4.0, -0.4], dtype=np.float32), 6).vectors.tolist() == [[4.0, -1.0]]


def test_strangers_get_the_base() -> None:
    contexts = small()
    for vector, support in ((np.zeros(0), 0), (np.ones(3), 0), (np.zeros(3), 50)):
        tokens = contexts.tokens(vector.astype(np.float32), support)
        np.testing.assert_array_equal(tokens.vectors, contexts.base)


@given(hnp.arrays(np.float32, (4, 3), elements=st.floats(-5, 5, width=32)), st.integers(0, 300))
def test_torch_and_numpy_agree(vectors: Any, support: int) -> None:
    contexts = small()
    values = context_tensors(contexts, torch.device("cpu"))
    read = user_tokens(values, torch.from_numpy(vectors), torch.full((4,), support))
    for vector, tokens in zip(vectors, read, strict=True):
        np.testing.assert_allclose(contexts.tokens(vector, support).vectors, tokens.numpy(), rtol=1e-4, atol=1e-4)


def test_features_by_hand() -> None:
    rows = history_features(
        [np.array([[1.0, 0.0], [5.0, 8.0]], dtype=np.float32), np.zeros((0, 2), np.float32)], [3, 0]
    )
    # mean (3, 4), root mean square sqrt(12.5)
    np.testing.assert_allclose(rows[0], [3 / 12.5**0.5, 4 / 12.5**0.5, np.log(4)], rtol=1e-6)
    assert rows[1].tolist() == [0, 0, 0]


def test_saved_and_loaded(tmp_path: Path) -> None:
    contexts = small()
    contexts.save(tmp_path / "c.safetensors")
    again = ContextMap.load(tmp_path / "c.safetensors")
    for name in ("base", "directions", "amortise", "rates", "log_shrinkage"):
        np.testing.assert_array_equal(getattr(again, name), getattr(contexts, name))
    assert again.base_model_id == "tiny"
    assert [path.name for path in tmp_path.iterdir()] == ["c.safetensors"]


def test_what_is_no_map(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="missing or damaged"):
        ContextMap.load(tmp_path / "nothing")
    save_file({"base": np.zeros((1, 2), dtype=np.float32)}, tmp_path / "half")
    with pytest.raises(PromptError, match="no context map"):
        ContextMap.load(tmp_path / "half")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rates": np.ones(4)}, "directions"),
        ({"base": np.zeros(DIM)}, "base"),
        ({"base": np.full((2, DIM), np.nan)}, "not finite"),
        (
            {"rates": np.ones(65), "directions": np.zeros((65, 2, DIM)), "amortise": np.zeros((DIM + 1, 65))},
            "65 floats a user",
        ),
    ],
)
def test_impossible_maps(change: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message):
        small(**change)


def test_a_map_of_another_model() -> None:
    model = ModelInfo(model_id="big", sha256="b", dim=DIM, vocab_size=9, max_length=9)
    small().require_model(model)
    with pytest.raises(PromptError, match="Train one"):
        small(base_model_sha256="a").require_model(model)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def lm(tiny: Path) -> PackedLM:
    return PackedLM(load_causal_lm(tiny, "float32", "cpu"), torch.device("cpu"))


@pytest.fixture(scope="module")
def renderer(tiny: Path) -> PromptRenderer:
    return PromptRenderer.from_settings(PromptSettings(instruction=False), HubTokenizer(tiny), 512)


PROMPT = SoftPrompt(vectors=np.random.default_rng(2).standard_normal((2, DIM)).astype(np.float32)).as_sequence()


def items(*titles: str) -> list[dict[str, object]]:
    return [{"title": title, "category": ""} for title in titles]


def fresh(user: int, *titles: str) -> Support:
    return Support(state=UserState(user_id=user), items=items(*titles))


def test_steps_lower_the_support_loss(lm: PackedLM, renderer: PromptRenderer) -> None:
    users = [fresh(1, "alpha", "beta"), fresh(2, "gamma"), fresh(3, "delta", "omega", "sigma")]
    _, report = ContextAdapter(lm, renderer, PROMPT, small(), steps=8).adapt(users)
    assert report.loss_after < report.loss_before
    assert (report.users, report.new_users) == (3, 0)


def test_a_step_by_hand(lm: PackedLM, renderer: PromptRenderer) -> None:
    """Finite differences of the loss that one step reports give the direction of that step."""
    contexts = small()
    adapter = ContextAdapter(lm, renderer, PROMPT, contexts, steps=1)
    at = np.array([0.3, -0.2, 0.5], dtype=np.float32)

    def state(vector: Any) -> UserState:
        return UserState(user_id=1, vector=np.asarray(vector, dtype=np.float32), support=2)

    def loss(vector: Any) -> float:
        (after,), _ = adapter.adapt([Support(state=state(vector), items=items("alpha", "beta"))])
        return after.support_loss

    width = 0.02
    slopes = [(loss(at + width * axis) - loss(at - width * axis)) / (2 * width) for axis in np.eye(3)]
    (after,), _ = adapter.adapt([Support(state=state(at), items=items("alpha", "beta"))])
    expected = at - 0.2 * np.asarray(slopes) / np.sqrt(np.mean(np.square(slopes)))
    np.testing.assert_allclose(after.vector, expected, atol=0.02)
    assert after.support == 4


def test_the_common_beginning_is_read_apart_without_a_difference(tiny: Path, lm: PackedLM) -> None:
    """Gradients and losses behind remembered keys and values are those of whole prompts."""
    renderer = PromptRenderer.from_settings(PromptSettings(), HubTokenizer(tiny), 512)
    contexts, placeholder = small(), TokenSequence.from_vectors(small().base)
    lists = [items("alpha", "beta"), items("gamma")]
    requests = [renderer.continuation(one, PROMPT, placeholder).request for one in lists]
    prompt = torch.from_numpy(PROMPT.vectors)
    values = context_tensors(contexts, torch.device("cpu"))
    at = torch.tensor([[0.3, -0.2, 0.5], [0.1, 0.4, -0.6]])

    def tokens(leaf: torch.Tensor, numbers: Sequence[int]) -> torch.Tensor:
        return user_tokens(values, leaf, torch.full((len(numbers),), 2))

    gradients, losses = SupportReader(lm).gradients(requests, at, prompt, tokens)
    assert requests[0].prefix.vector_positions[2] > 2  # an instruction stands between the domain's and the user's
    leaf = at.clone().requires_grad_()
    rows = [row for number, one in enumerate(requests) for row in pack(one, number, 1, labels=False)]
    whole = lm.differentiable_log_probs(rows, [torch.cat([prompt, one]) for one in tokens(leaf, [0, 1])])
    expected = torch.stack([-one.mean() for one in whole])
    torch.testing.assert_close(losses, expected.detach(), atol=1e-5, rtol=0)
    torch.testing.assert_close(gradients, torch.autograd.grad(expected.sum(), leaf)[0], atol=1e-5, rtol=1e-4)


def test_users_do_not_touch_each_other(lm: PackedLM, renderer: PromptRenderer) -> None:
    users = [fresh(1, "alpha", "beta"), fresh(2, "gamma"), fresh(3), fresh(4, "delta", "omega", "sigma")]
    together, report = ContextAdapter(lm, renderer, PROMPT, small()).adapt(users)
    assert report.new_users == 1
    assert together[2] is users[2].state
    apart = ContextAdapter(lm, renderer, PROMPT, small(), max_tokens=1)
    for user, state in zip(users, together, strict=True):
        (alone,), _ = apart.adapt([user])
        assert alone.user_id == state.user_id
        np.testing.assert_allclose(alone.vector, state.vector, atol=2e-3)


def test_new_interactions_cost_the_new_ones_only(lm: PackedLM, renderer: PromptRenderer) -> None:
    adapter = ContextAdapter(lm, renderer, PROMPT, small(), steps=2)
    (state,), first = adapter.adapt([fresh(1, *["alpha", "beta", "gamma", "delta"] * 4)])
    (later,), second = adapter.adapt([Support(state=state, items=items("omega"))])
    (_,), one = adapter.adapt([fresh(2, "omega")])
    assert second.tokens == one.tokens < first.tokens / 3
    assert later.support == 17
    assert not np.array_equal(later.vector, state.vector)


def test_drift_raises_the_step_size_and_is_counted(lm: PackedLM, renderer: PromptRenderer) -> None:
    adapter = ContextAdapter(lm, renderer, PROMPT, small(), steps=1)
    (state,), _ = adapter.adapt([fresh(1, "alpha")])

    def again(support_loss: float, scale: float = 1.0) -> tuple[UserState, int]:
        known = UserState(
            user_id=1, vector=state.vector, support=1, support_loss=support_loss, step_scale=scale, updated_at=1.0
        )
        (after,), report = adapter.adapt([Support(state=known, items=items("omega"))])
        return after, report.drifted

    settled, none = again(support_loss=1e6, scale=2.5)
    drifted, one = again(support_loss=-1e6)
    assert (none, one) == (0, 1)
    assert settled.step_scale == pytest.approx(2.0)  # 1 + 1.5 / 1.5: back towards 1
    assert drifted.step_scale == 1.5
    assert again(support_loss=-1e6, scale=3.9)[0].step_scale == 4.0
    moved = [np.abs(one.vector - state.vector).mean() for one in (drifted, again(1e6)[0])]
    assert moved[0] == pytest.approx(1.5 * moved[1], rel=1e-3)


def test_a_state_fits_in_a_record(lm: PackedLM, renderer: PromptRenderer) -> None:
    (state,), _ = ContextAdapter(lm, renderer, PROMPT, small()).adapt([fresh(1, "alpha")])
    assert state.vector.dtype == np.float32
    assert state.vector.nbytes <= 256
    assert len(state_record(state)) < 512


def test_a_context_of_another_map(lm: PackedLM, renderer: PromptRenderer) -> None:
    old = UserState(user_id="u7", vector=np.ones(5, dtype=np.float32), support=2)
    with pytest.raises(DataError, match=r"'u7' has a context of 5 floats"):
        ContextAdapter(lm, renderer, PROMPT, small()).adapt([Support(state=old, items=items("alpha"))])
    with pytest.raises(PromptError, match="5 floats"):
        small().tokens(old.vector, 2)
    (state,), _ = ContextAdapter(lm, renderer, PROMPT, small()).adapt([fresh(1, "alpha")])
    assert state.context_map == small().mark and small().reads(state)
    other = replace(small(), base=small().base + 1)
    assert not other.reads(state)
    with pytest.raises(DataError, match="of another map than this one, which reads 3"):
        ContextAdapter(lm, renderer, PROMPT, other).adapt([Support(state=state, items=items("beta"))])


def test_unit_keeps_zeros() -> None:
    assert unit(torch.tensor([[0.0, 0.0], [3.0, 4.0]])).tolist() == [
        [0.0, 0.0],
        pytest.approx([3 / 12.5**0.5, 4 / 12.5**0.5]),
    ]


def test_the_continuation_keeps_the_newest(renderer: PromptRenderer) -> None:
    shown = renderer.continuation(items("alpha", "beta", "gamma"), most=2)
    assert (shown.history_given, shown.history_kept) == (3, 2)
    assert shown.candidate_texts[0].index("beta") < shown.candidate_texts[0].index("gamma")
    assert "alpha" not in shown.candidate_texts[0]
    with pytest.raises(PromptError, match="at least one item"):
        renderer.continuation([])
