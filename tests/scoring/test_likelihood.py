import math

import numpy as np
import pytest

from reranker.engines.scripted import ScriptedEngine
from reranker.prompting import PromptRenderer, PromptSettings
from reranker.scoring import LikelihoodScorer, PriorStore, ScoringList
from reranker.types import TokenSequence
from tests.contracts.scoring import ScoringContract, one_list, titled
from tests.pipeline.toys import WatchedEngine
from tests.scoring.readers import renderer, text_of


class TestContract(ScoringContract):
    @pytest.fixture
    def scorer(self):
        return LikelihoodScorer(ScriptedEngine(), renderer())


def test_sum_mean_gain_and_score_by_hand():
    def log_prob(prefix, span):
        return np.full(len(span), -0.5 if "Alien" in text_of(prefix) else -2.0)

    scoring = LikelihoodScorer(ScriptedEngine(log_prob), renderer())
    one = ScoringList(history=titled("Alien"), candidates=titled("Ab", "Abcdef"))
    values = scoring.score_components([one])[0]
    # " Ab\n" is 4 bytes and " Abcdef\n" 8; the separator "\n-" before them is not scored.
    assert values.tolist() == [[-2.0, -0.5, 1.5], [-4.0, -0.5, 1.5]]
    assert values @ scoring.default_coefficients == pytest.approx([-0.25 + 1.5, -0.25 + 1.5])


def test_the_gain_is_over_the_mean_of_the_reference_histories_by_hand():
    told = {"Alien": -0.5, "Brazil": -1.0, "Contact": -2.0}

    def log_prob(prefix, span):
        text = text_of(prefix)
        return np.full(len(span), next(value for title, value in told.items() if title in text))

    referring = renderer().calibrated_by([titled("Brazil"), titled("Contact"), titled("Contact", "nothing")])
    scoring = LikelihoodScorer(ScriptedEngine(log_prob), referring)
    values = scoring.score_components([ScoringList(history=titled("Alien"), candidates=titled("Ab", "Abcdef"))])[0]
    # A token is worth (-1 - 2 - 2) / 3 behind the calibration histories.
    np.testing.assert_allclose(values, [[-2.0, -0.5, -0.5 + 5 / 3], [-4.0, -0.5, -0.5 + 5 / 3]])
    assert len(scoring.priors) == 6


def test_references_that_meet_the_window_leave_room_for_the_longest_candidate_wherever_it_stands():
    engine = ScriptedEngine(max_length=200)
    settings = PromptSettings(title_tokens=64, history_tokens=2048, instruction=False)
    long_references = [titled(*(f"reference {n} {'xyz' * n}" for n in range(12)))]
    referring = PromptRenderer.from_settings(settings, engine.tokenizer, 200).calibrated_by(long_references)
    candidates = titled("ab", "a title that is much longer than the first one")
    lists = [ScoringList(history=titled("cd"), candidates=order) for order in (candidates, candidates[::-1])]
    there, back = (LikelihoodScorer(engine, referring).score_components([one])[0] for one in lists)
    np.testing.assert_array_equal(there, back[::-1])


def test_tokens_count_by_their_own_log_probability():
    def log_prob(prefix, span):
        return np.log(np.where(span == ord("b"), 0.25, 0.5))

    scoring = LikelihoodScorer(ScriptedEngine(log_prob), renderer())
    values = scoring.score_components([ScoringList(history=[], candidates=titled("ab"))])[0]
    # " ab\n": three tokens of 1/2, one of 1/4
    assert values[0] == pytest.approx([math.log(1 / 32), math.log(1 / 32) / 4, 0.0])


def test_nothing_of_the_user_enters_the_prior():
    engine = WatchedEngine()
    scoring = LikelihoodScorer(engine, renderer())
    candidates = titled("zorblax", "mipfen")
    user_tokens = TokenSequence.from_vectors(engine.embed_tokens([ord("z"), ord("o"), ord("r")]))
    lists = [
        ScoringList(history=titled("zorblax zorblax"), candidates=candidates, user_tokens=user_tokens, query="zork"),
        ScoringList(history=titled("mipfen mippel", "quxard"), candidates=candidates),
        ScoringList(history=[], candidates=candidates),
    ]
    priors = [values[:, 1] - values[:, 2] for values in scoring.score_components(lists)]
    np.testing.assert_allclose(priors[1:], [priors[0]] * 2, rtol=0, atol=1e-12)
    assert len(scoring.priors) == 2  # one kept value an item, the same for all three
    asked_for_priors, asked_for_lists = engine.calls
    assert len(asked_for_lists) == 3
    assert all(request.prefix.is_plain for request in asked_for_priors)
    text = "".join(text_of(request.prefix.token_ids) for request in asked_for_priors)
    assert not any(word in text for word in ("zor", "mip", "qux"))
    assert [len(request.candidates) for request in asked_for_priors] == [2]


def test_a_prior_is_computed_once_an_item_and_prompt():
    engine, store = WatchedEngine(), PriorStore()
    scoring = LikelihoodScorer(engine, renderer(), store)
    one = one_list(0, candidates=6)
    scoring.score_components([one, one])
    assert [sum(len(request.candidates) for request in call) for call in engine.calls] == [6, 12]
    assert len(store) == 6

    scoring.score_components([one])
    assert [len(call) for call in engine.calls] == [1, 2, 1]  # no further call for priors

    more = ScoringList(history=one.history, candidates=[*one.candidates, *titled("something new")])
    scoring.score_components([more])
    assert [len(request.candidates) for request in engine.calls[3]] == [1]
    assert len(store) == 7


def test_another_soft_prompt_has_priors_of_its_own():
    engine = WatchedEngine()
    scoring = LikelihoodScorer(engine, renderer())
    soft = [TokenSequence.from_vectors(engine.embed_tokens([ord(letter)] * 3)) for letter in "zm"]
    lists = [ScoringList(history=[], candidates=titled("zzz"), soft_prompt=prompt) for prompt in (None, *soft)]
    values = scoring.score_components(lists)
    assert len(scoring.priors) == 3
    assert values[1][0, 0] > values[0][0, 0]  # zzz is likelier behind three vectors that read as z
    assert values[2][0, 0] == pytest.approx(values[0][0, 0])
    assert [one[0, 2] for one in values] == [0.0] * 3  # what is likely for a new user is likely for anybody
