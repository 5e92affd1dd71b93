import numpy as np
import pytest
from scipy.stats import spearmanr

from reranker.engines.scripted import ScriptedEngine
from reranker.errors import ConfigError
from reranker.scoring import ListwiseScorer, ScoringList
from tests.contracts.scoring import ScoringContract, one_list, titled
from tests.pipeline.toys import WatchedEngine
from tests.scoring.readers import answers, labelled, renderer, text_of


class TestContract(ScoringContract):
    @pytest.fixture
    def scorer(self):
        return ListwiseScorer(ScriptedEngine(answers), renderer(), permutations=3)


def likes_first_place(prefix, span):
    """Title "item 4" is worth 4 nats, and each place further down the list costs 5."""
    shown = labelled(text_of(span[:-1]))
    label = text_of(span[-1:])
    if label not in shown:
        return np.full(len(span), -50.0)
    return np.full(len(span), int(shown[label].split()[1]) - 5.0 * list(shown).index(label))


def correlation(permutations):
    scoring = ListwiseScorer(ScriptedEngine(likes_first_place), renderer(), permutations=permutations)
    truth = np.arange(6)
    values = scoring.score_components([ScoringList(history=[], candidates=titled(*(f"item {n}" for n in truth)))])[0]
    return spearmanr(values[:, 0], truth).statistic


def test_averaging_over_permutations_removes_position_bias():
    assert correlation(1) < 0.7
    assert correlation(300) > 0.9


def test_scores_are_label_log_probabilities_above_the_mean():
    def by_title(prefix, span):
        return np.full(len(span), float(labelled(text_of(span[:-1])).get(text_of(span[-1:]), "-50")))

    scoring = ListwiseScorer(ScriptedEngine(by_title), renderer(), permutations=2)
    values = scoring.score_components([ScoringList(history=[], candidates=titled("-1", "-2", "-6"))])[0]
    assert values[:, 0].tolist() == [2.0, 1.0, -3.0]


def test_long_lists_are_cut_into_windows_that_cover_every_candidate_in_each_permutation():
    engine = WatchedEngine(answers)
    scoring = ListwiseScorer(engine, renderer(), permutations=3, window=20)
    one = one_list(0, candidates=45)
    assert scoring.score_components([one])[0].shape == (45, 1)
    (requests,) = engine.calls
    shown = [list(labelled(text_of(request.candidates[0].sequence.token_ids)).values()) for request in requests]
    assert [len(titles) for titles in shown] == [15] * 9
    for start in (0, 3, 6):
        assert sorted(title for window in shown[start : start + 3] for title in window) == sorted(
            item["title"] for item in one.candidates
        )
    assert sorted(shown[0]) != sorted(shown[3])  # each shuffle brings other rivals together


def test_one_request_a_permutation():
    engine = WatchedEngine(answers)
    ListwiseScorer(engine, renderer(), permutations=5).score_components([one_list(0, candidates=8)])
    assert len(engine.calls[0]) == 5
    spans = {text_of(request.candidates[0].sequence.token_ids) for request in engine.calls[0]}
    assert len(spans) > 1


def test_settings_that_cannot_work_are_refused():
    with pytest.raises(ConfigError, match="permutations >= 1"):
        ListwiseScorer(ScriptedEngine(), renderer(), permutations=0)
    with pytest.raises(ConfigError, match="window >= 2"):
        ListwiseScorer(ScriptedEngine(), renderer(), window=1)


def test_candidates_with_the_same_text_share_their_score_wherever_they_stand():
    scoring = ListwiseScorer(ScriptedEngine(likes_first_place), renderer(), permutations=1)
    first, second, other = titled("item 1", "item 1", "item 2")
    there, back = scoring.score_components(
        [ScoringList(history=[], candidates=one) for one in ([first, other, second], [second, first, other])]
    )
    assert there[0] == there[2] == back[0] == back[1]
    assert there[1] == back[2] != there[0]
