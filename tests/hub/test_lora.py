"""A LoRA directory is a model: merged with the base it names, once."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig

from reranker.engines.loading import HubTokenizer, load_causal_lm
from reranker.errors import ModelError
from reranker.hub import resolve_model
from reranker.hub.lora import WEIGHTS
from tests.engines.models import TINY, save_tiny_model


@pytest.fixture
def base(tmp_path, monkeypatch):
    monkeypatch.setenv("RERANKER_CACHE", str(tmp_path / "cache"))
    return save_tiny_model(tmp_path / "tiny")


@pytest.fixture
def adapter(base, tmp_path):
    """A LoRA that changes the model, in bfloat16, with a note of the weights of its base."""
    torch.manual_seed(0)
    lm = load_causal_lm(base, "float32", "cpu")
    tuned = get_peft_model(lm, LoraConfig(r=2, lora_alpha=4, target_modules="all-linear", init_lora_weights=False))
    tuned.to(torch.bfloat16).save_pretrained(tmp_path / "adapter")
    path = tmp_path / "adapter" / WEIGHTS
    save_file(load_file(path), path, metadata={"format": "pt", "base_model_sha256": resolve_model(base).sha256})
    return tmp_path / "adapter"


def logits(path):
    """Of the model that `path` resolves to."""
    with torch.inference_mode():
        return load_causal_lm(resolve_model(path).path, "float32", "cpu")(torch.arange(20)[None]).logits


def logits_together(base, adapter):
    """As PEFT has them, without merging."""
    with torch.inference_mode():
        together = PeftModel.from_pretrained(load_causal_lm(base, "float32", "cpu"), adapter)
        return together(torch.arange(20)[None]).logits


def test_the_merged_model_is_base_and_lora(base, adapter):
    resolved = resolve_model(adapter)
    torch.testing.assert_close(logits(adapter), logits_together(base, adapter), atol=1e-4, rtol=0)
    assert (logits(adapter) - logits(base)).abs().max() > 0.1
    assert HubTokenizer(resolved.path).encode("alpha") == HubTokenizer(base).encode("alpha")


def test_it_is_merged_once_and_again_for_other_weights(base, adapter, tmp_path):
    first = resolve_model(adapter)
    changed = first.path / "model.safetensors"
    stamp = changed.stat().st_mtime_ns
    assert resolve_model(adapter).path == first.path and changed.stat().st_mtime_ns == stamp
    elsewhere = tmp_path / "copy"
    shutil.copytree(adapter, elsewhere)
    assert resolve_model(elsewhere).path == first.path
    assert resolve_model(elsewhere).sha256 == first.sha256 != resolve_model(base).sha256


@pytest.mark.parametrize(
    "changes",
    [{"lora_alpha": 32}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 16}}],
    ids=["alpha", "rslora", "pattern"],
)
def test_it_is_merged_again_for_other_settings(base, adapter, changes):
    before = logits(adapter)
    edit(adapter, **changes)
    torch.testing.assert_close(logits(adapter), logits_together(base, adapter), atol=1e-3, rtol=0)
    assert (logits(adapter) - before).abs().max() > 0.01


def test_patterns_count_in_their_order(base, adapter):
    """PEFT takes the first that fits."""
    for pattern in ({"q_proj": 16, ".*_proj": 1}, {".*_proj": 1, "q_proj": 16}):
        edit(adapter, alpha_pattern=pattern)
        torch.testing.assert_close(logits(adapter), logits_together(base, adapter), atol=1e-3, rtol=0)


def test_it_is_merged_again_for_another_setting_of_its_base(base, adapter):
    first = resolve_model(adapter).path
    settings = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(settings | {"rms_norm_eps": 0.1}))
    assert resolve_model(adapter).path != first
    torch.testing.assert_close(logits(adapter), logits_together(base, adapter), atol=1e-3, rtol=0)


def edit(adapter, **changes):
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"peft_type": "PROMPT_TUNING"}, "only LORA can be merged"),
        ({"base_model_name_or_path": None}, "does not name its base model"),
    ],
)
def test_what_cannot_be_merged(adapter, changes, message):
    edit(adapter, **changes)
    with pytest.raises(ModelError, match=message):
        resolve_model(adapter)


def test_another_base_is_refused(adapter, tmp_path):
    other = save_tiny_model(tmp_path / "other", seed=1)
    edit(adapter, base_model_name_or_path=str(other))
    with pytest.raises(ModelError, match=r"was made for .* with weights"):
        resolve_model(adapter)


def rename(adapter, change):
    """Has `change` make a name of the name of every tensor; None leaves it away."""
    tensors = load_file(adapter / WEIGHTS)
    save_file({new: tensor for old, tensor in tensors.items() if (new := change(old))}, adapter / WEIGHTS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda name: name.replace("model.model.", "model.module.model."), r"lacks: 28 .*without a place .*: 28"),
        (lambda name: None if "layers.1" in name else name, r"lacks: 14 \(.*layers\.1\."),
        (lambda name: name.replace("layers.1", "layers.7"), r"lacks: 14 .*: 14 \(.*layers\.7\."),
    ],
    ids=["a wrapper's names", "missing", "of other layers"],
)
def test_an_adapter_whose_tensors_do_not_fit(adapter, change, message):
    rename(adapter, change)
    for _ in range(2):  # nothing is kept of the first
        with pytest.raises(ModelError, match=f"(?s)does not fit the model in .*{message}.*save the adapter again"):
            resolve_model(adapter)


def layered(path, layers):
    return save_tiny_model(
        path, LlamaConfig(**TINY | {"num_hidden_layers": layers}, num_attention_heads=4, num_key_value_heads=2)
    )


def trained_on(model, out, named, **settings):
    """A LoRA of the model in `model` that says it is one of `named`."""
    config = LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False, **settings)
    get_peft_model(load_causal_lm(model, "float32", "cpu"), config).save_pretrained(out)
    edit(out, base_model_name_or_path=str(named))
    return out


@pytest.mark.parametrize(
    ("trained", "given", "message"), [(4, 2, "without a place in the model: 8"), (2, 4, "tensors it lacks: 8")]
)
def test_an_adapter_of_a_deeper_or_a_shallower_model(base, tmp_path, trained, given, message):
    one, other = layered(tmp_path / "one", trained), layered(tmp_path / "other", given)
    with pytest.raises(ModelError, match=message):
        resolve_model(trained_on(one, tmp_path / "adapter", other))


@pytest.mark.parametrize(
    "settings",
    [{"layers_to_transform": [1]}, {"modules_to_save": ["lm_head"]}, {"use_dora": True}],
    ids=["some layers", "a whole module", "dora"],
)
def test_an_adapter_of_what_its_settings_say_fits(base, tmp_path, settings):
    adapter = trained_on(base, tmp_path / "adapter", base, **settings)
    torch.testing.assert_close(logits(adapter), logits_together(base, adapter), atol=1e-3, rtol=0)
    assert (logits(adapter) - logits(base)).abs().max() > 0.01


def test_settings_that_are_no_object(adapter):
    (adapter / "adapter_config.json").write_text("[]")
    with pytest.raises(ModelError, match="is no JSON object"):
        resolve_model(adapter)


@pytest.mark.parametrize("file", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_damaged_adapter(adapter, file):
    (adapter / file).write_bytes(b"{")
    with pytest.raises(ModelError, match="no readable adapter"):
        resolve_model(adapter)
