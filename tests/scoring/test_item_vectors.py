"""Tokens of items in each scorer: where they stand, and what the prior may know."""

import numpy as np
import pytest

from reranker.scoring import LabelScorer, LikelihoodScorer, ListwiseScorer, ScoringList
from reranker.types import TokenSequence
from tests.contracts.scoring import titled
from tests.pipeline.toys import WatchedEngine
from tests.scoring.readers import answers, own_labels, renderer

TITLES = ["Alien", "Brazil", "Contact", "Dune", "Eraserhead"]


def vectors(engine: WatchedEngine, *positions: int) -> dict[int, np.ndarray]:
    """Made up so that the first number says which position it is of."""
    found = {}
    for position in positions:
        found[position] = np.zeros(engine.model.dim, dtype=np.float32)
        found[position][0] = 1 + position
    return found


def marked(engine: WatchedEngine, sequence: TokenSequence) -> dict[int, str]:
    """Position that each vector was made for -> the first title behind it."""
    text = engine.tokenizer.decode(sequence.token_ids.tolist())
    return {
        int(vector[0]) - 1: min((title for title in TITLES if title in text[at:]), key=text[at:].index)
        for vector, at in zip(sequence.vectors, sequence.vector_positions, strict=True)
    }


@pytest.mark.parametrize("scorer", ["likelihood", "labels", "listwise"])
def test_each_token_stands_before_its_own_item(scorer, tmp_path):
    engine = WatchedEngine(answers)
    if scorer == "labels":
        scoring = LabelScorer(engine, renderer(own_labels(tmp_path)))
    elif scorer == "listwise":
        scoring = ListwiseScorer(engine, renderer(), permutations=3, window=3)
    else:
        scoring = LikelihoodScorer(engine, renderer())
    one = ScoringList(
        history=titled(*TITLES[:3]),
        candidates=titled(*TITLES),
        history_vectors=vectors(engine, 0, 2),
        candidate_vectors=vectors(engine, 1, 3, 4),
    )
    scoring.score_components([one])
    told: dict[int, str] = {}
    for request in engine.calls[-1]:
        assert marked(engine, request.prefix) == {0: "Alien", 2: "Contact"}
        for span in request.candidates:
            if scorer == "labels":  # the question goes on behind the token: "Item: Brazil"
                assert span.sequence.vector_positions.tolist() in ([], [0])
            else:
                told |= marked(engine, span.sequence)
    assert told == ({} if scorer == "labels" else {1: "Brazil", 3: "Dune", 4: "Eraserhead"})


def test_a_prior_knows_the_candidates_token_and_nothing_of_the_history():
    engine = WatchedEngine()
    scoring = LikelihoodScorer(engine, renderer())
    shared = {"candidates": titled(*TITLES[3:]), "candidate_vectors": vectors(engine, 1)}
    fan = ScoringList(history=titled("Alien"), history_vectors=vectors(engine, 0), **shared)
    new_user = ScoringList(history=[], **shared)
    fans = scoring.score_components([fan])[0]
    (prior,) = engine.calls[0]
    assert prior.prefix.is_plain
    assert [span.sequence.is_plain for span in prior.candidates] == [True, False]
    new_users = scoring.score_components([new_user])[0]
    np.testing.assert_allclose(new_users[:, 1] - new_users[:, 2], fans[:, 1] - fans[:, 2], rtol=0, atol=1e-12)
    assert len(scoring.priors) == 2
    other = ScoringList(history=[], candidates=titled(*TITLES[3:]), candidate_vectors=vectors(engine, 0, 1))
    scoring.score_components([other])
    assert len(scoring.priors) == 3
