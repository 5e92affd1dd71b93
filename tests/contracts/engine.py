"""What every engine must do. A test class inherits `EngineContract` and gives it an `engine` fixture.

An engine that takes token ids only inherits `TokenEngineContract`. `tolerance` is how far equal work may differ, in
nats, because it was batched differently.
"""

from collections.abc import Sequence

import numpy as np
import pytest

from reranker.errors import EngineError
from reranker.protocols import Engine
from reranker.types import CandidateSpan, ScoringRequest, TokenSequence


def plain(token_ids: Sequence[int]) -> TokenSequence:
    return TokenSequence.from_tokens(list(token_ids))


def span(token_ids: Sequence[int], scored_from: int = 1) -> CandidateSpan:
    return CandidateSpan(sequence=plain(list(token_ids)), scored_from=scored_from)


def random_request(seed: int, candidates: int = 7, prefix: int = 11) -> ScoringRequest:
    """Ids below 200 exist in every vocabulary. Spans share their first token, as separators do, and two are equal."""
    rng = np.random.default_rng(seed)
    spans = [span([7, *rng.integers(0, 200, rng.integers(1, 6))], scored_from=1) for _ in range(candidates - 1)]
    return ScoringRequest(prefix=plain(rng.integers(0, 200, prefix)), candidates=(*spans, spans[0]))


class TokenEngineContract:
    tolerance = 1e-5

    def test_describes_its_model(self, engine: Engine) -> None:
        assert isinstance(engine, Engine)
        assert min(engine.model.dim, engine.model.vocab_size, engine.model.max_length) > 0

    @pytest.mark.parametrize("text", ["Alien (1979)", "", "  two spaces", "naïve 電影 🎬", "<|im_end|></s>[INST]"])
    def test_tokenizer_round_trip(self, engine: Engine, text: str) -> None:
        assert engine.tokenizer.decode(engine.tokenizer.encode(text)) == text

    def test_empty_batch(self, engine: Engine) -> None:
        assert engine.span_log_likelihoods([]) == []
        assert engine.label_log_probs([], [1, 2]) == []

    def test_batch_equals_single(self, engine: Engine) -> None:
        requests = [random_request(seed, candidates=2 + seed, prefix=3 + 20 * seed) for seed in range(4)]
        together = engine.span_log_likelihoods(requests)
        labels = engine.label_log_probs(requests, [1, 5, 9])
        for request, scores, label in zip(requests, together, labels, strict=True):
            np.testing.assert_allclose(scores.sums, engine.span_log_likelihoods([request])[0].sums, atol=self.tolerance)
            np.testing.assert_allclose(label, engine.label_log_probs([request], [1, 5, 9])[0], atol=self.tolerance)

    def test_candidates_do_not_see_each_other(self, engine: Engine) -> None:
        request = random_request(3)
        together = engine.span_log_likelihoods([request])[0].sums
        for candidate, score in zip(request.candidates, together, strict=True):
            alone = ScoringRequest(prefix=request.prefix, candidates=(candidate,))
            assert engine.span_log_likelihoods([alone])[0].sums[0] == pytest.approx(score, abs=self.tolerance)

    def test_order_of_candidates_does_not_change_scores(self, engine: Engine) -> None:
        request = random_request(4, candidates=12)
        order = np.random.default_rng(0).permutation(12)
        shuffled = ScoringRequest(
            prefix=request.prefix, candidates=tuple(request.candidates[position] for position in order)
        )
        before, after = engine.span_log_likelihoods([request, shuffled])
        np.testing.assert_allclose(after.sums, before.sums[order], atol=self.tolerance, rtol=0)
        assert (after.counts == before.counts[order]).all()
        first, second = engine.label_log_probs([request, shuffled], [3, 4])
        np.testing.assert_allclose(second, first[order], atol=self.tolerance, rtol=0)

    def test_equal_candidates_score_equally(self, engine: Engine) -> None:
        sums = engine.span_log_likelihoods([random_request(5)])[0].sums
        assert sums[0] == pytest.approx(sums[-1], abs=self.tolerance)

    def test_counts_and_scored_from(self, engine: Engine) -> None:
        tokens = [7, 20, 30, 40, 50]
        request = ScoringRequest(prefix=plain([1, 2, 3]), candidates=tuple(span(tokens, k) for k in (1, 2, 3, 4, 5)))
        scores = engine.span_log_likelihoods([request])[0]
        assert scores.counts.tolist() == [4, 3, 2, 1, 0]
        assert scores.sums[-1] == 0.0
        assert (np.diff(scores.sums) > 0).all()  # each token that no longer counts had p < 1

    def test_a_longer_span_adds_what_follows(self, engine: Engine) -> None:
        whole, head = span([7, 20, 30, 40]), span([7, 20])
        tail = span([7, 20, 30, 40], scored_from=2)
        request = ScoringRequest(prefix=plain([1, 2, 3]), candidates=(whole, head, tail))
        sums = engine.span_log_likelihoods([request])[0].sums
        assert sums[0] == pytest.approx(sums[1] + sums[2], abs=self.tolerance)

    def test_a_label_is_the_next_token(self, engine: Engine) -> None:
        request = ScoringRequest(prefix=plain([1, 2, 3]), candidates=(span([7, 20]), span([7, 30, 31])))
        labels = engine.label_log_probs([request], [40, 41])[0]
        assert labels.shape == (2, 2)
        for row, start in enumerate(([7, 20], [7, 30, 31])):
            for column, label in enumerate((40, 41)):
                longer = ScoringRequest(prefix=request.prefix, candidates=(span([*start, label], len(start)),))
                score = engine.span_log_likelihoods([longer])[0].sums[0]
                assert labels[row, column] == pytest.approx(score, abs=self.tolerance)

    def test_labels_beyond_one_call_of_the_backend(self, engine: Engine) -> None:
        request = random_request(6, candidates=3)
        many = list(range(150))
        labels = engine.label_log_probs([request], many)[0]
        assert labels.shape == (3, 150)
        np.testing.assert_allclose(
            labels[:, [0, 149]], engine.label_log_probs([request], [0, 149])[0], atol=self.tolerance
        )

    def test_the_prefix_matters(self, engine: Engine) -> None:
        candidates = (span([7, 20, 30]),)
        one = ScoringRequest(prefix=plain([7, 20, 30, 5]), candidates=candidates)
        other = ScoringRequest(prefix=plain([90, 91, 92, 5]), candidates=candidates)
        first, second = engine.span_log_likelihoods([one, other])
        assert abs(first.sums[0] - second.sums[0]) > 1e-3

    def test_refuses_what_does_not_fit(self, engine: Engine) -> None:
        long = ScoringRequest(prefix=plain([1] * engine.model.max_length), candidates=(span([7, 20]),))
        with pytest.raises(EngineError, match=str(engine.model.max_length)):
            engine.span_log_likelihoods([random_request(0), long])
        with pytest.raises(EngineError, match="vocabulary"):
            engine.label_log_probs([random_request(0)], [engine.model.vocab_size])
        with pytest.raises(EngineError, match="vocabulary"):
            engine.span_log_likelihoods([ScoringRequest(prefix=plain([-1]), candidates=(span([7, 20]),))])
        with pytest.raises(EngineError, match="label"):
            engine.label_log_probs([random_request(0)], [])


class EngineContract(TokenEngineContract):
    def test_embeds_tokens(self, engine: Engine) -> None:
        assert engine.embed_tokens([1, 2, 1]).shape == (3, engine.model.dim)
        assert engine.embed_tokens([1, 2, 1]).dtype == np.float32
        assert (engine.embed_tokens([1, 2, 1])[0] == engine.embed_tokens([1])[0]).all()

    def test_a_tokens_own_vector_scores_like_the_token(self, engine: Engine) -> None:
        prefix, tokens = [5, 6, 7, 8, 9], [7, 20, 30, 40]
        soft_prefix = TokenSequence(
            token_ids=np.array([0, 6, 7, 0, 9]),
            vectors=engine.embed_tokens([5, 8]),
            vector_positions=np.array([0, 3]),
        )
        soft_span = CandidateSpan(
            sequence=TokenSequence.concatenate(
                [TokenSequence.from_vectors(engine.embed_tokens([7])), plain(tokens[1:])]
            ),
            scored_from=1,
        )
        hard = ScoringRequest(prefix=plain(prefix), candidates=(span(tokens),))
        soft = ScoringRequest(prefix=soft_prefix, candidates=(soft_span, span(tokens)))
        expected = engine.span_log_likelihoods([hard])[0].sums[0]
        np.testing.assert_allclose(engine.span_log_likelihoods([soft])[0].sums, expected, atol=self.tolerance)
        label = engine.label_log_probs([hard], [1])[0][0]
        np.testing.assert_allclose(engine.label_log_probs([soft], [1])[0], [label, label], atol=self.tolerance)

    def test_other_vectors_score_otherwise(self, engine: Engine) -> None:
        def with_vectors(token_ids: list[int]) -> ScoringRequest:
            soft = TokenSequence.from_vectors(engine.embed_tokens(token_ids))
            return ScoringRequest(
                prefix=TokenSequence.concatenate([soft, plain([7])]), candidates=(span([20, 30, 31], 1),)
            )

        first, second = engine.span_log_likelihoods([with_vectors([20, 30]), with_vectors([90, 91])])
        again = engine.span_log_likelihoods([with_vectors([90, 91])])[0]
        assert abs(first.sums[0] - second.sums[0]) > 1e-3
        assert again.sums[0] == pytest.approx(second.sums[0], abs=self.tolerance)

    def test_refuses_vectors_that_do_not_fit(self, engine: Engine) -> None:
        wide = TokenSequence.from_vectors(np.zeros((2, engine.model.dim + 1), dtype=np.float32))
        with pytest.raises(EngineError, match=f"width {engine.model.dim + 1}"):
            engine.span_log_likelihoods([ScoringRequest(prefix=wide, candidates=(span([7, 20]),))])
        vector_scored = CandidateSpan(sequence=TokenSequence.from_vectors(engine.embed_tokens([1, 2])), scored_from=1)
        with pytest.raises(EngineError, match="is a vector"):
            engine.span_log_likelihoods([ScoringRequest(prefix=plain([1]), candidates=(vector_scored,))])
