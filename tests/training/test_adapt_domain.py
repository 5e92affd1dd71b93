"""Adapting a prompt to a domain: what moves, what is kept, what the gate refuses."""

from pathlib import Path

import numpy as np
import pytest

from candidate_gen import PopularityGenerator
from reranker import Reranker, RerankerConfig
from reranker.errors import ConfigError, DataError
from reranker.soft_tokens import CONTEXT_FILE, ContextMap
from reranker.soft_tokens.peft_format import load_peft, save_peft
from reranker.soft_tokens.prompt import SoftPrompt
from reranker.training.adapt_domain import AdaptationSettings, AdaptedDomain, adapt_domain
from reranker.training.inner_loop import InnerLoop
from tests.cli.command import run
from tests.training.toys import circle, saved

K, DIM = 2, 32
LAYOUT = {"instruction": False, "history_items": 3, "title_tokens": 8}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "prompt"
    vectors = 0.1 * np.random.default_rng(0).standard_normal((K, DIM))
    save_peft(SoftPrompt(vectors=vectors.astype(np.float32)), folder)
    return folder


def opened(tiny: Path, folder: Path) -> Reranker:
    return Reranker.from_pretrained(
        folder, engine="torch", model=str(tiny), dtype="float32", n_candidates=6, min_history=1, prompt=LAYOUT
    )


def adapted(reranker: Reranker, steps: int = 3, rate: float = 0.5) -> AdaptedDomain:
    loop = InnerLoop(steps=steps, rate=rate)
    settings = AdaptationSettings(inner_loop=loop, users=12, lists_per_step=12, rounds=2)
    return adapt_domain(reranker, circle(40), PopularityGenerator(), settings=settings)


def test_weights_are_not_fitted_on_what_may_have_taught_a_trained_prompt(tiny: Path, trained: Path) -> None:
    assert opened(tiny, trained).config.windows == 1
    assert opened(tiny, Path("default")).config.windows == RerankerConfig().windows > 1
    assert Reranker.from_pretrained(trained, engine="torch", model=str(tiny), windows=3).config.windows == 3


def test_a_better_prompt_becomes_the_domains(tiny: Path, trained: Path, tmp_path: Path) -> None:
    reranker = opened(tiny, trained)
    result = adapted(reranker, steps=4)
    assert result.better and result.gain.low > 0
    assert (result.inner_loop.steps, result.users, result.lists, result.gain.n) == (4, 12, 48, 28)
    assert reranker.config.windows == 1  # older choices taught the prompt
    bank = reranker.llm_scorer.prompts
    assert bank.level("generic") == "domain" and bank.level("elsewhere") == "meta"
    data = circle(40)
    reranker.fit(data, PopularityGenerator().fit(data.interactions))
    read = reranker.llm_scorer.soft_prompt()
    assert read is not None
    np.testing.assert_array_equal(read.vectors, result.prompt.vectors)
    result.save(tmp_path / "domain")
    again = opened(tiny, tmp_path / "domain").llm_scorer.soft_prompt()
    assert again is not None
    np.testing.assert_array_equal(again.vectors, result.prompt.vectors)


def test_a_worse_prompt_is_not_kept(tiny: Path, trained: Path) -> None:
    """Steps that lead far away."""
    reranker = opened(tiny, trained)
    result = adapted(reranker, steps=2, rate=20.0)
    assert not result.better and result.gain.low < 0
    np.testing.assert_array_equal(result.prompt.vectors, load_peft(trained).vectors)
    assert reranker.llm_scorer.prompts.level("generic") == "meta"
    assert "NOT better" in result.summary()


def test_lists_are_read_under_the_users_tokens(tiny: Path, trained: Path, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    save_peft(load_peft(trained), tmp_path / "prompt")
    ContextMap(
        base=random.standard_normal((2, DIM)),
        directions=random.standard_normal((4, 2, DIM)),
        amortise=random.standard_normal((DIM + 1, 4)),
        rates=np.full(4, 0.5),
        log_shrinkage=np.zeros(1),
    ).save(tmp_path / "prompt" / CONTEXT_FILE)
    without, under = adapted(opened(tiny, trained)), adapted(opened(tiny, tmp_path / "prompt"))
    assert under.loss != pytest.approx(without.loss, rel=1e-3)
    under.save(tmp_path / "domain")
    assert opened(tiny, tmp_path / "domain").llm_scorer.contexts is not None


def test_what_cannot_be_adapted(tiny: Path, trained: Path) -> None:
    with pytest.raises(DataError, match="a chosen item"):
        adapt_domain(opened(tiny, trained), circle(2), PopularityGenerator())
    none = Reranker.from_pretrained(engine="torch", model=str(tiny), soft_tokens=0)
    with pytest.raises(ConfigError, match="no prompt to adapt"):
        adapt_domain(none, circle(), PopularityGenerator())
    by_states = Reranker.from_pretrained(engine="torch", model=str(tiny))
    with pytest.raises(ConfigError, match="scorer='likelihood'"):
        adapt_domain(by_states, circle(), PopularityGenerator())
    with pytest.raises(ConfigError, match="users is 0"):
        AdaptationSettings(users=0)


def test_the_command(tiny: Path, trained: Path, tmp_path: Path) -> None:
    folder = saved(tmp_path / "data", 40)
    save_peft(load_peft(trained), tmp_path / "prompt")
    InnerLoop(steps=2, rate=0.5).save(tmp_path / "prompt")
    (tmp_path / "settings.yaml").write_text("min_history: 1\nprompt: {history_items: 3, title_tokens: 8}\n")
    said, _ = run(
        "train", "adapt", "--start", tmp_path / "prompt", "--dataset", folder, "--domain", "generic", "--model", tiny,
        "--dtype", "float32", "--config", tmp_path / "settings.yaml", "--n", 6, "--sample", 12, "--lists-per-step", 12,
        "--out", tmp_path / "domain",
    )  # fmt: skip
    assert "2 steps of size 0.5 on lists of 12 users (24 read)" in said
    assert load_peft(tmp_path / "domain").vectors.shape == (K, DIM)
    assert InnerLoop.beside(tmp_path / "domain") == InnerLoop(steps=2, rate=0.5)
