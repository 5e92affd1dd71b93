"""Which tokens make a title likely: effects add up, by a random model and by the real one."""

import sys

import numpy as np
import pytest
from typer.testing import CliRunner

pytest.importorskip("torch")
pytest.importorskip("transformers")
pytest.importorskip("captum")

from candidate_gen import PopularityGenerator
from reranker import Reranker
from reranker.cli.app import app
from reranker.engines.scripted import ScriptedEngine
from reranker.engines.torch.engine import TorchEngine
from reranker.errors import ConfigError
from reranker.explain import attribute_tokens
from reranker.prompting import PromptRenderer, PromptSettings
from reranker.types import TokenSequence
from tests.engines.models import save_tiny_model
from tests.pipeline import toys

HISTORY = [{"title": "mipfen 3"}, {"title": "zorblax 5"}, {"title": "mipfen 8"}]
CANDIDATES = [{"title": "zorblax 1"}, {"title": "mipfen 4"}]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def engine(tiny):
    return TorchEngine(tiny, dtype="float32", device="cpu")


def renderer(engine):
    return PromptRenderer.from_settings(PromptSettings(family="generic"), engine.tokenizer, engine.model.max_length)


def soft(engine, n=3):
    vectors = np.random.default_rng(0).normal(size=(n, engine.model.dim)).astype(np.float32)
    return TokenSequence(token_ids=np.zeros(n, dtype=np.int64), vectors=vectors, vector_positions=np.arange(n))


@pytest.mark.parametrize("with_soft_prompt", [False, True])
def test_effects_add_up_to_what_the_history_changes(engine, with_soft_prompt):
    prompt = renderer(engine).likelihood(HISTORY, CANDIDATES, soft(engine) if with_soft_prompt else None)
    found = attribute_tokens(engine.packed_lm, prompt, 1, engine.tokenizer.decode)
    scored = engine.span_log_likelihoods([prompt.request])[0].sums
    assert found.log_likelihood == pytest.approx(scored[1], abs=1e-4)
    difference = found.log_likelihood - found.baseline
    assert abs(difference) > 0.01 and abs(found.gap) < 0.05 * abs(difference)
    assert found.gap == pytest.approx(difference - sum(one.effect for one in found.tokens))
    (shown,) = (span for span in prompt.spans if span.kind == "history")
    words = {shown.start + at: letter for at, letter in enumerate(shown.text) if letter.isalnum()}  # a byte a token
    assert {one.position: one.text for one in found.tokens} == words


def test_more_steps_leave_less(engine):
    prompt = renderer(engine).likelihood(HISTORY, CANDIDATES)
    few, many = (
        attribute_tokens(engine.packed_lm, prompt, 0, engine.tokenizer.decode, steps, most)
        for steps, most in ((2, 2), (64, 64))
    )
    assert abs(many.gap) < abs(few.gap) and abs(many.gap) < 0.02
    tried = attribute_tokens(engine.packed_lm, prompt, 0, engine.tokenizer.decode, 2)
    assert abs(tried.gap) <= 0.05 * abs(tried.log_likelihood - tried.baseline) < abs(few.gap)


def test_the_baseline_is_a_history_of_mean_embeddings(engine):
    prompt = renderer(engine).likelihood(HISTORY, CANDIDATES)
    (shown,) = (span for span in prompt.spans if span.kind == "history")
    positions = np.array([shown.start + at for at, letter in enumerate(shown.text) if letter.isalnum()])
    mean = engine.embed_tokens(range(engine.model.vocab_size)).mean(axis=0)
    silent = TokenSequence(
        token_ids=prompt.request.prefix.token_ids,
        vectors=np.tile(mean, (len(positions), 1)),
        vector_positions=positions,
    )
    request = type(prompt.request)(prefix=silent, candidates=prompt.request.candidates)
    expected = engine.span_log_likelihoods([request])[0].sums[0]
    found = attribute_tokens(engine.packed_lm, prompt, 0, engine.tokenizer.decode, steps=2)
    assert found.baseline == pytest.approx(expected, abs=1e-4)


@pytest.fixture(scope="module")
def reranker(tiny):
    data = toys.taste_dataset(24)
    settings = {"model": str(tiny), "engine": "torch", "dtype": "float32", "scorer": "likelihood", "fit_users": 12}
    made = Reranker(toys.config(**settings, windows=1, calibration_histories=1))
    return made.fit(data, PopularityGenerator().fit(data.interactions))


def test_explanations_carry_them_where_they_are_asked_for(reranker):
    items = reranker.item_ids[:4]
    assert reranker.explain("u1", items).items[0].tokens is None
    found = reranker.explain("u1", items, 2, order="fused", tokens=True)
    lists = reranker.generator.recommend(["u1"], 4).assign(item_id=items)
    components = reranker.inspect(lists).values[:, 0]
    for one in found.items:
        assert np.abs(components - one.tokens.log_likelihood).min() < 1e-3
        assert abs(one.tokens.gap) < 0.05 * abs(one.tokens.log_likelihood - one.tokens.baseline)
    record = found.record()["items"][0]["tokens"]
    assert record["tokens"][0].keys() == {"text", "position", "effect"} and record["gap"] == found.items[0].tokens.gap
    assert f"tokens of 1 {found.items[0].title}: log-likelihood {record['log_likelihood']:.3f}" in found.table()


def test_the_command_prints_them(reranker, tiny, tmp_path, monkeypatch):
    reranker.save(tmp_path / "bundle")
    monkeypatch.setenv("RERANKER_MODELS", str(tiny))
    call = ["inspect", "--bundle", str(tmp_path / "bundle"), "--user", "u1", "--k", "1"]
    said = CliRunner().invoke(app, [*call, "--explain", "en", "--tokens"])
    assert said.exit_code == 0, said.output
    assert ("tokens of 1 " in said.output) and "where the history says nothing" in said.output
    with pytest.raises(ConfigError, match="--tokens goes with --explain"):
        CliRunner().invoke(app, [*call, "--tokens"], catch_exceptions=False)


def test_what_has_no_tokens_to_name_says_so():
    items = toys.items()["item_id"].tolist()[:4]
    with pytest.raises(ConfigError, match="scorer 'embedding' reads none"):
        toys.fitted(scorer="embedding").explain("u1", items, tokens=True)
    with pytest.raises(ConfigError, match="engine 'scripted' gives none"):
        toys.fitted(ScriptedEngine(), scorer="likelihood").explain("u1", items, tokens=True)


def test_without_captum_the_extra_is_named(reranker, monkeypatch):
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    with pytest.raises(ConfigError, match=r"pip install 'reranker\[explain\]'"):
        reranker.explain("u1", reranker.item_ids[:4], tokens=True)


@pytest.mark.slow
@pytest.mark.model
def test_the_real_model_goes_by_the_words_that_are_there_twice():
    engine = TorchEngine("smollm2-135m", dtype="float32")
    titles = ["Goldfinger", "The Lion King", "Alien Resurrection", "Notting Hill"]
    history = [{"title": title} for title in titles]
    prompt = renderer(engine).likelihood(history, [{"title": "Alien Resurrection II"}, {"title": "Notting Hill II"}])
    for number, named in enumerate(("Alien", "Not")):  # the first tokens of what is there before
        found = attribute_tokens(engine.packed_lm, prompt, number, engine.tokenizer.decode)
        assert abs(found.gap) < 0.05 * abs(found.log_likelihood - found.baseline)
        first, second = found.strongest(2)
        assert first.text.strip() == named and first.effect > 1.2 * second.effect > 0
    engine.close()
