"""The projector of item tokens on disk and at work."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from reranker.engines.scripted import ByteTokenizer
from reranker.errors import PromptError
from reranker.prompting import PromptRenderer, PromptSettings
from reranker.soft_tokens import ITEM_TOKENS_FOLDER, ItemTokens, VectorTable, load_item_tokens, save_item_tokens
from reranker.types import ModelInfo


def by_hand(candidates: bool = True) -> ItemTokens:
    """Item "east" lies at (1, 0), "north" at (0, 1); one hidden unit reads x, the other y."""
    return ItemTokens(
        table=VectorTable.build(["east", "north"], np.array([[2, 0], [0, 5]], dtype=np.float32)),
        inner=np.array([[1, 0], [0, 2]]),
        inner_bias=np.array([0, 0.5]),
        outer=np.array([[1, 0, 0], [0, 10, 0]]),
        outer_bias=np.array([0, 0, 7]),
        domain="places",
        candidates=candidates,
        base_model_id="tiny",
        base_model_sha256="abc",
    )


EAST = [np.tanh(2**0.5), 10 * np.tanh(0.5), 7]
NORTH = [0, 10 * np.tanh(2 * 2**0.5 + 0.5), 7]


def test_tokens_by_hand() -> None:
    found = by_hand().before_history(["north", "nowhere", "east"])
    assert list(found) == [0, 2]
    np.testing.assert_allclose(found[0], NORTH, rtol=1e-6)
    np.testing.assert_allclose(found[2], EAST, rtol=1e-6)


def test_candidates_get_tokens_only_where_that_was_learned() -> None:
    assert list(by_hand().before_candidates(["east", "nowhere"])) == [0]
    assert by_hand(candidates=False).before_candidates(["east", "nowhere"]) == {}
    assert list(by_hand(candidates=False).before_history(["east", "nowhere"])) == [0]


def test_before_training_all_items_have_the_same_token() -> None:
    table = VectorTable.build(["a", "b"], np.eye(2, dtype=np.float32))
    start = ItemTokens.initial(table, np.array([1, 2, 3], dtype=np.float32), 5, domain="d", candidates=True)
    assert [one.tolist() for one in start.before_history(["a", "b"]).values()] == [[1, 2, 3], [1, 2, 3]]
    assert start.inner.std() > 0


def test_the_prompt_with_item_tokens_by_hand() -> None:
    """Separator, token, title: in the history and before the scored part of a candidate."""
    bytes_ = ByteTokenizer()
    settings = PromptSettings(family="movies", instruction=False, title_tokens=50)
    titles = {"east": "East", "nowhere": "Gap", "north": "North"}
    items = {key: {"title": title} for key, title in titles.items()}
    history, candidates = ["east", "nowhere"], ["nowhere", "north"]
    tokens = by_hand()
    prompt = PromptRenderer.from_settings(settings, bytes_).likelihood(
        [items[one] for one in history],
        [items[one] for one in candidates],
        history_vectors=tokens.before_history(history),
        candidate_vectors=tokens.before_candidates(candidates),
    )
    prefix = prompt.request.prefix
    assert bytes_.decode(prefix.token_ids.tolist()) == "Watched before:\n-\0 East\n- Gap"
    assert prefix.vector_positions.tolist() == [len("Watched before:\n-")]
    np.testing.assert_allclose(prefix.vectors, [EAST], rtol=1e-6)
    without, with_token = prompt.request.candidates
    assert bytes_.decode(without.sequence.token_ids.tolist()) == "\n- Gap\n"
    assert (without.scored_from, without.sequence.is_plain) == (2, True)
    assert bytes_.decode(with_token.sequence.token_ids.tolist()) == "\n-\0 North\n"
    assert (with_token.scored_from, with_token.sequence.vector_positions.tolist()) == (3, [2])
    np.testing.assert_allclose(with_token.sequence.vectors, [NORTH], rtol=1e-6)


def test_round_trip(tmp_path: Path) -> None:
    first = by_hand()
    ids = [("a", 1), 2.5]
    other = replace(
        by_hand(candidates=False),
        domain="../shop",
        table=VectorTable.build(ids, np.eye(2, dtype=np.float32), "clip.parquet"),
    )
    save_item_tokens({one.domain: one for one in (first, other)}, tmp_path)
    again = load_item_tokens(tmp_path)
    assert list(again) == ["places", "../shop"]
    for one in (first, other):
        read = again[one.domain]
        assert read.sha256 == one.sha256
        assert (read.candidates, read.table.name, list(read.table.item_ids)) == (
            one.candidates, one.table.name, list(one.table.item_ids),
        )  # fmt: skip
        assert (read.base_model_id, read.base_model_sha256) == ("tiny", "abc")
    for position, token in first.before_history(["east", "north"]).items():
        assert again["places"].before_history(["east", "north"])[position].tobytes() == token.tobytes()
    assert load_item_tokens(tmp_path / "elsewhere") == {}


def test_the_hash_follows_projector_table_and_places() -> None:
    one = by_hand()
    table = VectorTable.build(["east", "south"], np.array([[2, 0], [0, 5]], dtype=np.float32))
    others = [replace(one, outer_bias=one.outer_bias + 1), replace(one, table=table), by_hand(candidates=False)]
    assert len({made.sha256 for made in (one, *others)}) == 4


def test_a_damaged_file_is_refused(tmp_path: Path) -> None:
    save_item_tokens({"places": by_hand()}, tmp_path)
    (path,) = (tmp_path / ITEM_TOKENS_FOLDER).iterdir()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(PromptError, match="is no projector of item tokens"):
        load_item_tokens(tmp_path)


def test_shapes_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(PromptError, match=r"needs \(d, hidden\)"):
        replace(by_hand(), inner=np.zeros((3, 2)))
    with pytest.raises(PromptError, match="training diverged"):
        replace(by_hand(), outer=np.full((2, 3), np.nan))


def test_another_model_is_refused() -> None:
    mine = ModelInfo(model_id="tiny", sha256="abc", dim=3, vocab_size=9, max_length=9)
    by_hand().require_model(mine)
    with pytest.raises(PromptError, match="of width 3"):
        by_hand().require_model(replace(mine, dim=4))
    with pytest.raises(PromptError, match="Train one for this model"):
        by_hand().require_model(replace(mine, sha256="other"))
