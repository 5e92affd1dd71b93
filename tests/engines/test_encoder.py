"""The encoder engine with a small random BERT, against pooling by hand; MiniLM where its package is there."""

import numpy as np
import pytest

from reranker.engines import load_engine
from reranker.engines.sentence_encoder import SentenceEncoder
from reranker.errors import ModelError
from reranker.types import CandidateSpan, ScoringRequest, TokenSequence
from tests.contracts.engine import TokenEngineContract, plain
from tests.engines.tiny_encoder import write_encoder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_encoder(tmp_path_factory.mktemp("encoder") / "tiny-bert")


@pytest.fixture(scope="module")
def engine(folder):
    return load_engine("encoder", encoder=folder)


class TestContract(TokenEngineContract):
    """What an engine that takes words does; its likelihoods are those of the lexical engine."""


def request(engine, *texts):
    encode = engine.tokenizer.encode
    spans = [
        CandidateSpan(sequence=TokenSequence.from_tokens([*encode("\n-"), *encode(text), *encode("\n")]), scored_from=1)
        for text in texts
    ]
    return ScoringRequest(prefix=plain(encode("x")), candidates=tuple(spans))


def test_a_text_is_embedded_whole_by_mean_pooling(engine, folder):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    model = transformers.AutoModel.from_pretrained(folder).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    with torch.inference_mode():
        hidden = model(**tokenizer(["red lamp"], return_tensors="pt")).last_hidden_state[0]
    expected = hidden.mean(dim=0) / hidden.mean(dim=0).norm()
    states = engine.span_states([request(engine, " red lamp", " blue chair"), request(engine, " red lamp")])
    np.testing.assert_allclose(states[0][0], expected.numpy(), atol=1e-5)
    np.testing.assert_allclose(states[1][0], states[0][0], atol=1e-5)
    assert [one.shape for one in states] == [(2, 24), (1, 24)] and np.abs(states[0][0] - states[0][1]).max() > 1e-3
    assert engine.span_states([]) == []


def test_no_text_says_nothing(engine):
    assert not engine.span_states([request(engine, "")])[0].any()


def test_a_long_text_is_cut_in_the_encoder_s_tokens(folder):
    short = load_engine("encoder", encoder=folder, max_tokens=4)  # [CLS] red lamp [SEP]
    first, second = short.span_states([request(short, " red lamp blue", " red lamp chair")])[0]
    np.testing.assert_allclose(first, second, atol=1e-6)


def test_the_model_is_known_by_its_weights(engine, folder):
    again = load_engine("encoder", encoder=folder)
    assert again.model == engine.model and engine.model.sha256 and again.arithmetic == engine.arithmetic
    assert engine.model.model_id == "tiny-bert" and engine.model.dim == 24
    assert load_engine("encoder", encoder=folder, max_tokens=9).arithmetic != engine.arithmetic


def test_what_is_no_encoder_is_named(tmp_path):
    with pytest.raises(ModelError, match=str(tmp_path)):
        load_engine("encoder", encoder=tmp_path)


def test_nothing_is_kept_of_the_texts_but_where_it_is_asked_for(folder):
    for keeps, texts in ((True, {"red", "blue"}), (False, set())):
        encoder = SentenceEncoder(folder, keeps=keeps)
        assert encoder(["red", "blue", "red"]).shape == (3, 24)
        assert set(encoder._known) == texts


def test_weights_in_half_precision_are_read_in_float32(folder, tmp_path):
    transformers, torch = pytest.importorskip("transformers"), pytest.importorskip("torch")
    transformers.AutoModel.from_pretrained(folder).to(torch.bfloat16).save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path)
    half, whole = load_engine("encoder", encoder=tmp_path), load_engine("encoder", encoder=folder)
    states = [engine.span_states([request(engine, " red lamp")])[0] for engine in (half, whole)]
    assert states[0].dtype == np.float32
    np.testing.assert_allclose(states[0], states[1], atol=0.02)
