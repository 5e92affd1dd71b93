"""load_engine: names, choice, laziness."""

import subprocess
import sys

import pytest

from reranker.engines import available_engines, choose_engine, load_engine
from reranker.engines.precision import chosen_device
from reranker.errors import ConfigError


def test_names() -> None:
    assert available_engines() == ["encoder", "lexical", "openai", "scripted", "torch", "vllm"]
    assert load_engine("scripted").name == "scripted"
    with pytest.raises(ConfigError, match="auto, encoder, lexical, openai, scripted, torch, vllm"):
        load_engine("vlm")
    with pytest.raises(ConfigError, match="colour"):
        load_engine("scripted", colour="red")


def test_auto_without_a_gpu_is_torch() -> None:
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    choice = choose_engine()
    assert choice.name == "torch"
    assert "no GPU" in choice.reason


def test_importing_the_engines_loads_no_model_library() -> None:
    code = (
        "import sys, reranker.engines, reranker.engines.scripted\n"
        "heavy = {'torch', 'vllm', 'transformers', 'implicit', 'peft'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("asked", "there", "chosen"), [("auto", True, "cuda"), ("auto", False, "cpu"), ("cpu", True, "cpu")]
)
def test_a_gpu_is_taken_where_there_is_one_and_nothing_else_is_asked_for(
    asked: str, there: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert chosen_device(asked) == chosen
