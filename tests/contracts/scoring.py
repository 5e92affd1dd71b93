"""What every scorer must do. A test class inherits `ScoringContract` and gives it a `scorer` fixture."""

from typing import get_args

import numpy as np
import pytest

from reranker.config import ScorerName
from reranker.scoring import Scorer, ScoringList


def titled(*titles: str) -> list[dict[str, object]]:
    return [{"title": title, "category": ""} for title in titles]


def one_list(seed: int, candidates: int = 9, history: int = 3) -> ScoringList:
    """Titles of random letters; no two are the same."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("abcdefgh"), rng.integers(3, 9))) for _ in range(history + candidates)]
    titles = [f"{word} {number}" for number, word in enumerate(words)]
    return ScoringList(history=titled(*titles[:history]), candidates=titled(*titles[history:]))


def reordered(one: ScoringList, order: np.ndarray) -> ScoringList:
    return ScoringList(
        history=one.history,
        candidates=[one.candidates[position] for position in order],
        soft_prompt=one.soft_prompt,
        user_tokens=one.user_tokens,
        query=one.query,
    )


class ScoringContract:
    def test_names_and_coefficients_belong_together(self, scorer: Scorer) -> None:
        assert scorer.name in get_args(ScorerName)
        assert scorer.components
        assert all(words.strip() for words in scorer.components.values())
        assert scorer.default_coefficients.shape == (len(scorer.components),)
        assert np.isfinite(scorer.default_coefficients).all()

    def test_one_row_a_candidate_and_one_column_a_component(self, scorer: Scorer) -> None:
        sizes = [1, 2, 9, 30]
        scored = scorer.score_components([one_list(size, size) for size in sizes])
        assert [values.shape for values in scored] == [(size, len(scorer.components)) for size in sizes]
        assert all(np.isfinite(values).all() for values in scored)

    def test_no_lists(self, scorer: Scorer) -> None:
        assert scorer.score_components([]) == []

    def test_batch_equals_single(self, scorer: Scorer) -> None:
        lists = [one_list(seed, candidates=2 + 3 * seed) for seed in range(4)]
        for one, together in zip(lists, scorer.score_components(lists), strict=True):
            np.testing.assert_array_equal(scorer.score_components([one])[0], together)

    @pytest.mark.parametrize("seed", range(5))
    def test_order_in_does_not_change_scores_out(self, scorer: Scorer, seed: int) -> None:
        one = one_list(seed, candidates=25)
        order = np.random.default_rng(seed).permutation(25)
        before = scorer.score_components([one])[0]
        assert len(np.unique(before[:, 0])) > 5  # else the order could not show
        np.testing.assert_array_equal(scorer.score_components([reordered(one, order)])[0], before[order])

    def test_scoring_twice_gives_the_same(self, scorer: Scorer) -> None:
        first, second = scorer.score_components([one_list(7)] * 2)
        np.testing.assert_array_equal(first, second)
        np.testing.assert_array_equal(scorer.score_components([one_list(7)])[0], first)

    def test_prefers_what_is_like_the_history(self, scorer: Scorer) -> None:
        candidates = titled("mipfen vantow", "zorblax quxard")
        fans = [titled("mipfen", "vantow mipfen"), titled("zorblax", "quxard zorblax")]
        lists = [ScoringList(history=history, candidates=candidates) for history in fans]
        first, second = (values @ scorer.default_coefficients for values in scorer.score_components(lists))
        assert first[0] > first[1]
        assert second[1] > second[0]

    def test_a_stranger_and_a_query_can_be_scored(self, scorer: Scorer) -> None:
        candidates = titled("mipfen", "zorblax")
        new_user = ScoringList(history=[], candidates=candidates)
        asking = ScoringList(history=[], candidates=candidates, query="zorblax zorblax zorblax")
        cold, asked = (values @ scorer.default_coefficients for values in scorer.score_components([new_user, asking]))
        assert np.isfinite(cold).all()
        assert asked[1] - asked[0] > cold[1] - cold[0]
