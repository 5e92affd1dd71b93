"""What every engine that writes must do. A test class inherits `GeneratorContract` and gives it an `engine` fixture."""

import threading

import numpy as np
import pytest

from reranker.errors import EngineError
from reranker.protocols import Engine, Generator
from reranker.types import GenerationPiece, GenerationRequest, TokenSequence
from tests.contracts.engine import plain, random_request

PROMPT = "the cat sat on the mat. the cat sat on the"


def asked(engine: Engine, text: str = PROMPT, **settings: object) -> GenerationRequest:
    return GenerationRequest(
        prompt=plain(engine.tokenizer.encode(text)), **{"max_tokens": 12, "temperature": 0.0, **settings}
    )


def text_of(pieces: list[GenerationPiece]) -> str:
    assert [piece.finish_reason for piece in pieces[:-1]] == [None] * (len(pieces) - 1)
    assert pieces[-1].finish_reason
    return "".join(piece.text for piece in pieces)


class GeneratorContract:
    def test_writes_and_counts(self, engine: Engine) -> None:
        assert isinstance(engine, Generator)
        pieces = list(engine.generate(asked(engine)))
        assert sum(piece.tokens for piece in pieces) <= 12
        assert (pieces[-1].finish_reason == "length") == (sum(piece.tokens for piece in pieces) == 12)
        assert text_of(pieces) == text_of(list(engine.generate(asked(engine))))

    def test_a_shorter_text_is_the_beginning_of_a_longer_one(self, engine: Engine) -> None:
        longer = text_of(list(engine.generate(asked(engine))))
        shorter = list(engine.generate(asked(engine, max_tokens=3)))
        assert longer.startswith(text_of(shorter)) and sum(piece.tokens for piece in shorter) <= 3

    def test_a_stop_text_ends_the_answer_and_is_not_in_it(self, engine: Engine) -> None:
        whole = text_of(list(engine.generate(asked(engine))))
        stop = whole[2:5]
        pieces = list(engine.generate(asked(engine, stop=("never seen", stop))))
        assert text_of(pieces) == whole[: whole.find(stop)] and pieces[-1].finish_reason == "stop"

    def test_a_seed_draws_the_same_text_again(self, engine: Engine) -> None:
        def drawn(seed: int) -> str:
            return text_of(list(engine.generate(asked(engine, temperature=1.5, seed=seed))))

        assert drawn(1) == drawn(1)
        assert len({drawn(seed) for seed in range(4)}) > 1

    def test_refuses_what_does_not_fit(self, engine: Engine) -> None:
        with pytest.raises(EngineError, match="do not fit"):
            engine.generate(asked(engine, max_tokens=engine.model.max_length))
        with pytest.raises(EngineError, match="vocabulary"):
            engine.generate(GenerationRequest(prompt=plain([engine.model.vocab_size]), max_tokens=1))

    def test_may_be_left_in_the_middle(self, engine: Engine) -> None:
        pieces = engine.generate(asked(engine, max_tokens=100))
        next(pieces)
        pieces.close()
        assert text_of(list(engine.generate(asked(engine))))

    def test_scoring_and_writing_do_not_disturb_each_other(self, engine: Engine) -> None:
        requests = [random_request(seed) for seed in range(3)]
        alone = engine.span_log_likelihoods(requests)
        texts = [text_of(list(engine.generate(asked(engine, PROMPT[at:], max_tokens=30)))) for at in range(3)]
        again: dict[int, str] = {}

        def write(at: int) -> None:
            again[at] = text_of(list(engine.generate(asked(engine, PROMPT[at:], max_tokens=30))))

        writers = [threading.Thread(target=write, args=(at,)) for at in range(3)]
        for writer in writers:
            writer.start()
        for _ in range(3):
            for ours, theirs in zip(alone, engine.span_log_likelihoods(requests), strict=True):
                np.testing.assert_allclose(ours.sums, theirs.sums, atol=1e-3)
        for writer in writers:
            writer.join()
        assert [again[at] for at in range(3)] == texts


class SoftGeneratorContract(GeneratorContract):
    def test_a_tokens_own_vector_reads_like_the_token(self, engine: Engine) -> None:
        tokens = engine.tokenizer.encode(PROMPT)
        rows = engine.embed_tokens(tokens[:4])
        prompt = TokenSequence.concatenate([TokenSequence.from_vectors(rows), plain(tokens[4:])])
        soft = GenerationRequest(prompt=prompt, max_tokens=12, temperature=0.0)
        assert text_of(list(engine.generate(soft))) == text_of(list(engine.generate(asked(engine))))
