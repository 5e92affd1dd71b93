"""load_engine: names, choice, laziness."""

import subprocess
import sys
from pathlib import Path

import pytest

from reranker.engines import available_engines, choose_engine, load_engine
from reranker.engines.loading import HubTokenizer
from reranker.engines.precision import chosen_device, torch_device
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


@pytest.mark.parametrize("device", ["cuda:99", "meta", "no such", "xla"])
def test_a_device_that_there_is_not_is_named(device: str) -> None:
    pytest.importorskip("torch")
    with pytest.raises(ConfigError, match=f"nothing can be computed on device '{device}'"):
        torch_device(device)
    assert torch_device("cpu").type == "cpu"


@pytest.mark.parametrize(
    "template, opening",
    [("$A", ()), ("<s> $A", (1,)), ("<s> $A </s>", (1,)), ("<s> <s> $A", (1, 1)), ("$A </s>", ())],
)
def test_the_opening_is_what_the_tokenizer_adds_in_front(
    tmp_path: Path, template: str, opening: tuple[int, ...]
) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    bare = Tokenizer(models.WordLevel({"?": 0, "<s>": 1, "</s>": 2, "a": 3, "b": 4}, unk_token="?"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    bare.post_processor = processors.TemplateProcessing(single=template, special_tokens=[("<s>", 1), ("</s>", 2)])
    made = PreTrainedTokenizerFast(tokenizer_object=bare, unk_token="?", bos_token="<s>", eos_token="</s>")
    made.save_pretrained(tmp_path)
    tokenizer = HubTokenizer(tmp_path)
    assert tokenizer.opening_ids == opening
    assert tokenizer.encode("a b") == [3, 4]
