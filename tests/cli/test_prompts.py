"""`reranker prompts`: what it says of prompts whose content is known."""

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from reranker.cli.app import app
from reranker.engines.torch.engine import TorchEngine
from reranker.errors import PromptError
from reranker.prompting import TemplateSet
from reranker.soft_tokens.peft_format import save_peft
from reranker.soft_tokens.prompt import SoftPrompt
from reranker.soft_tokens.prompt_bank import PromptBank
from tests.engines.models import save_tiny_model


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("tiny"))


def run(*arguments: object) -> str:
    result = CliRunner().invoke(app, ["prompts", *map(str, arguments)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def test_list_names_every_prompt_of_a_bank(tmp_path: Path) -> None:
    bank = PromptBank(meta=SoftPrompt(vectors=np.full((2, 4), 0.5, dtype=np.float32)))
    bank.add_domain("books", SoftPrompt(vectors=np.ones((3, 4), dtype=np.float32), base_model_id="some/model"))
    bank.save(tmp_path / "bank")
    lines = run("list", tmp_path / "bank").splitlines()
    assert [line.split("\t")[:4] for line in lines] == [
        ["meta", "meta", "2 tokens x 4", "norm 1.00..1.00"],
        ["domain", "books", "3 tokens x 4", "norm 2.00..2.00"],
    ]
    assert "some/model" in lines[1]


def test_show_finds_the_token_a_vector_was_taken_from(tiny: Path, tmp_path: Path) -> None:
    engine = TorchEngine(tiny, device="cpu")
    ids = engine.tokenizer.encode("alpha")
    save_peft(SoftPrompt(vectors=engine.embed_tokens(ids)), tmp_path / "prompt")
    shown = run("show", tmp_path / "prompt", "--model", tiny, "--nearest", 1).splitlines()[1:]
    assert [line.split("  ")[-1] for line in shown] == [f"{engine.tokenizer.decode([token])!r} 1.00" for token in ids]


def test_diff_by_hand(tmp_path: Path) -> None:
    save_peft(SoftPrompt(vectors=np.array([[3, 4], [1, 0]], dtype=np.float32)), tmp_path / "a")
    save_peft(SoftPrompt(vectors=np.array([[3, 4], [0, 1]], dtype=np.float32)), tmp_path / "b")
    assert run("diff", tmp_path / "a", tmp_path / "b").splitlines() == [
        "  0  cosine 1.0000  moved 0.0000",
        "  1  cosine 0.0000  moved 1.4142",
        "all  cosine 0.9615  moved 0.2774",
    ]


def test_show_adds_a_relative_prompt_to_an_instruction(tiny: Path, tmp_path: Path) -> None:
    engine = TorchEngine(tiny, device="cpu")
    save_peft(SoftPrompt(vectors=np.zeros((3, engine.model.dim)), relative=True), tmp_path / "prompt")
    assert "relative" in run("list", tmp_path / "prompt")
    shown = run("show", tmp_path / "prompt", "--model", tiny, "--nearest", 1, "--family", "movies").splitlines()[1:]
    ids = engine.tokenizer.encode(TemplateSet.load("movies").render("instruction"))[:3]
    assert [line.split("  ")[-1] for line in shown] == [f"{engine.tokenizer.decode([token])!r} 1.00" for token in ids]


def test_the_shipped_prompt_is_called_default() -> None:
    assert run("list", "default").split("\t")[1:3] == ["smollm2-135m", "16 tokens x 576, relative"]


def test_diff_of_two_kinds(tmp_path: Path) -> None:
    save_peft(SoftPrompt(vectors=np.ones((2, 2))), tmp_path / "a")
    save_peft(SoftPrompt(vectors=np.ones((2, 2)), relative=True), tmp_path / "b")
    with pytest.raises(PromptError, match=r"only .*b is relative"):
        run("diff", tmp_path / "a", tmp_path / "b")


def test_diff_takes_what_a_bundles_domain_made_of_a_relative_prompt(tmp_path: Path) -> None:
    whole, relative = SoftPrompt(vectors=np.array([[3, 4]])), SoftPrompt(vectors=np.array([[1, 1]]), relative=True)
    PromptBank(meta=relative, domains={"books": whole}).save(tmp_path / "bank")
    save_peft(whole, tmp_path / "whole")
    assert run("diff", tmp_path / "bank", tmp_path / "whole").splitlines()[-1] == "all  cosine 1.0000  moved 0.0000"


def test_a_folder_without_prompts(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="holds no soft prompt"):
        run("list", tmp_path)


def test_prompts_of_different_lengths(tmp_path: Path) -> None:
    save_peft(SoftPrompt(vectors=np.ones((2, 2), dtype=np.float32)), tmp_path / "a")
    save_peft(SoftPrompt(vectors=np.ones((3, 2), dtype=np.float32)), tmp_path / "b")
    with pytest.raises(PromptError, match="one shape"):
        run("diff", tmp_path / "a", tmp_path / "b")
