import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from safetensors.torch import save_file as save_torch

from reranker.engines.scripted import ScriptedEngine
from reranker.errors import PromptError
from reranker.prompting import PromptRenderer, PromptSettings
from reranker.soft_tokens.peft_format import load_peft, save_peft
from reranker.soft_tokens.prompt import SHIPPED, SoftPrompt
from reranker.soft_tokens.prompt_bank import PromptBank
from reranker.types import ModelInfo


def prompt(value: float = 1.0, k: int = 2, dim: int = 3, name: str = "meta") -> SoftPrompt:
    return SoftPrompt(vectors=np.full((k, dim), value, dtype=np.float32), name=name)


def model(dim: int = 3, sha256: str = "aa") -> ModelInfo:
    return ModelInfo(model_id="tiny", sha256=sha256, dim=dim, vocab_size=10, max_length=20)


class Table:
    def embed_tokens(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        return np.array([[token, 10 * token] for token in token_ids], dtype=np.float32)


@pytest.mark.parametrize(("k", "rows"), [(2, [5, 6]), (3, [5, 6, 7]), (7, [5, 6, 7, 5, 6, 7, 5])])
def test_an_instruction_is_cut_or_repeated(k: int, rows: list[int]) -> None:
    made = SoftPrompt.from_instruction(Table(), [5, 6, 7], k)
    assert made.vectors.tolist() == [[row, 10 * row] for row in rows]
    assert made.vectors.dtype == np.float32


def test_an_engine_is_noted_as_the_base_model() -> None:
    engine = ScriptedEngine()
    made = SoftPrompt.from_instruction(engine, [1, 2], 4, name="movies")
    assert (made.name, made.base_model_id, made.base_model_sha256) == (
        "movies",
        engine.model.model_id,
        engine.model.sha256,
    )
    made.require_model(engine.model)


@pytest.mark.parametrize(("ids", "k"), [([], 3), ([1], 0)])
def test_nothing_comes_from_nothing(ids: list[int], k: int) -> None:
    with pytest.raises(PromptError, match="both must be 1 or more"):
        SoftPrompt.from_instruction(Table(), ids, k)


@pytest.mark.parametrize("vectors", [np.zeros((0, 3)), np.zeros(3), np.zeros((3, 0)), np.full((1, 2), np.nan)])
def test_impossible_vectors_are_refused(vectors: NDArray[np.float32]) -> None:
    with pytest.raises(PromptError, match=r"shape \(k, dim\)|not finite"):
        SoftPrompt(vectors=vectors)


def test_as_sequence_is_vectors_only() -> None:
    sequence = prompt(k=4).as_sequence()
    assert list(sequence.vector_positions) == [0, 1, 2, 3]


def test_sha256_follows_values_and_shape_and_not_the_name() -> None:
    assert prompt().sha256 == prompt(name="other").sha256
    assert len({prompt().sha256, prompt(2.0).sha256, prompt(k=3, dim=2).sha256}) == 3


def test_a_relative_prompt_is_added_by_hand(tmp_path: Path) -> None:
    relative = SoftPrompt(vectors=np.array([[1, 2], [3, 4]]), base_model_id="tiny", relative=True)
    instruction = SoftPrompt(vectors=np.array([[10, 10], [20, 20]]))
    whole = relative.beside(instruction)
    assert (whole.vectors.tolist(), whole.relative, whole.base_model_id) == ([[11, 12], [23, 24]], False, "tiny")
    save_peft(relative, tmp_path / "relative")
    assert load_peft(tmp_path / "relative").relative
    assert "prompt_embeddings" not in load_file(tmp_path / "relative" / "adapter_model.safetensors")  # PEFT's name
    save_peft(whole, tmp_path / "whole")
    assert not load_peft(tmp_path / "whole").relative
    assert relative.sha256 != SoftPrompt(vectors=relative.vectors).sha256


def test_a_bank_notes_that_a_prompt_ships_and_gets_that_of_the_product(tmp_path: Path) -> None:
    PromptBank(shipped=prompt()).save(tmp_path / "bank")
    loaded = PromptBank.load(tmp_path / "bank")
    assert loaded.resolve("movies") is None and loaded.shipped is not None
    assert loaded.shipped.sha256 == load_peft(SHIPPED).sha256
    PromptBank().save(tmp_path / "none")
    assert PromptBank.load(tmp_path / "none").shipped is None


def test_whose_prompt_it_is() -> None:
    made = SoftPrompt(vectors=np.ones((2, 3)), base_model_id="tiny", base_model_sha256="aa")
    assert made.is_for(model()) and made.is_for(model(sha256="bb"))  # of that name, however it was converted
    assert made.is_for(replace(model(), model_id="/some/folder"))
    assert not made.is_for(replace(model(sha256="bb"), model_id="/some/folder"))
    assert not made.is_for(replace(model(sha256=""), model_id="/some/folder"))
    assert not made.is_for(model(dim=4))


def test_a_prompt_of_another_model_is_refused() -> None:
    made = SoftPrompt(vectors=np.ones((2, 3)), base_model_id="tiny", base_model_sha256="aa")
    made.require_model(model())
    made.require_model(model(sha256=""))
    with pytest.raises(PromptError, match="width 3, the model 'tiny' reads 4"):
        made.require_model(model(dim=4))
    with pytest.raises(PromptError, match=r"weights aa\)"):
        made.require_model(model(sha256="bb"))


def test_the_most_specific_prompt_wins() -> None:
    meta, domain, user = prompt(1), prompt(2), prompt(3)
    bank = PromptBank()
    assert (bank.resolve("movies", 7), bank.level("movies", 7)) == (None, None)
    bank.add_meta(meta)
    assert (bank.resolve("movies", 7), bank.level("movies", 7)) == (meta, "meta")
    bank.add_domain("movies", domain)
    assert (bank.resolve("movies", 7), bank.level("movies", 7)) == (domain, "domain")
    assert (bank.resolve("books", 7), bank.level("books", 7)) == (meta, "meta")
    bank.add_user(7, user)
    assert (bank.resolve("movies", 7), bank.level("movies", 7)) == (user, "user")
    assert bank.resolve("movies", 8) is domain
    bank.remove_user(7)
    bank.remove_user(7)
    bank.remove_domain("movies")
    assert (bank.resolve("movies", 7), bank.level("movies", 7)) == (meta, "meta")


def test_a_bank_holds_prompts_of_one_width() -> None:
    bank = PromptBank()
    bank.add_meta(prompt())
    with pytest.raises(PromptError, match="has width 5, those in the bank have 3"):
        bank.add_domain("movies", prompt(dim=5))


def test_a_bank_survives_saving(tmp_path: Path) -> None:
    bank = PromptBank()
    bank.add_domain("../video games/日本", prompt(2, name="日本"))
    bank.add_user("196", prompt(3))
    bank.add_user(196, prompt(4))
    for _ in range(2):  # the second time replaces the first
        bank.save(tmp_path / "bank")
        loaded = PromptBank.load(tmp_path / "bank")
        assert loaded.meta is None
        assert {key: made.sha256 for key, made in loaded.users.items()} == {
            "196": prompt(3).sha256,
            196: prompt(4).sha256,
        }
        assert loaded.domains["../video games/日本"].name == "日本"
    assert [path.name for path in tmp_path.iterdir()] == ["bank"]


def test_a_bank_refuses_what_it_cannot_keep_or_read(tmp_path: Path) -> None:
    bank = PromptBank(users={(1, 2): prompt()})
    with pytest.raises(PromptError, match=r"user \(1, 2\)"):
        bank.save(tmp_path / "bank")
    (tmp_path / "file.txt").touch()
    with pytest.raises(PromptError, match="is not a prompt bank"):
        PromptBank().save(tmp_path)
    with pytest.raises(PromptError, match=r"index\.json cannot be read"):
        PromptBank.load(tmp_path)
    (tmp_path / "index.json").write_text('{"meta": null}')
    with pytest.raises(PromptError, match="is damaged"):
        PromptBank.load(tmp_path)


@settings(deadline=None)
@given(st.integers(1, 5), st.integers(1, 5), st.text(max_size=10).filter(lambda text: text.isprintable()))
def test_a_prompt_survives_saving(tmp_path_factory: pytest.TempPathFactory, k: int, dim: int, name: str) -> None:
    directory = tmp_path_factory.mktemp("peft")
    vectors = np.random.default_rng(k).normal(size=(k, dim)).astype(np.float32)
    made = SoftPrompt(vectors=vectors, name=name, base_model_id="tiny", base_model_sha256="aa")
    save_peft(made, directory)
    loaded = load_peft(directory)
    assert (loaded.sha256, loaded.name, loaded.base_model_id, loaded.base_model_sha256) == (
        made.sha256,
        name,
        "tiny",
        "aa",
    )
    assert load_file(directory / "adapter_model.safetensors")["prompt_embeddings"].shape == (k, dim)


def test_saving_over_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("all I have")
    with pytest.raises(PromptError, match="is not a soft prompt"):
        save_peft(prompt(), tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "all I have"


def test_a_damaged_prompt_is_refused(tmp_path: Path) -> None:
    config, weights = tmp_path / "p/adapter_config.json", tmp_path / "p/adapter_model.safetensors"
    with pytest.raises(PromptError, match="missing or damaged"):
        load_peft(tmp_path / "p")
    save_peft(prompt(), tmp_path / "p")
    whole = weights.read_bytes()
    for part in (b"", whole[:20], whole[:-4]):
        weights.write_bytes(part)
        with pytest.raises(PromptError, match=r"adapter_model\.safetensors cannot be read"):
            load_peft(tmp_path / "p")
    save_file({"other": np.zeros((2, 3), dtype=np.float32)}, weights)
    with pytest.raises(PromptError, match="no tensor 'prompt_embeddings'; it has other"):
        load_peft(tmp_path / "p")
    save_file({"prompt_embeddings": np.zeros((2, 4), dtype=np.float32)}, weights)
    with pytest.raises(PromptError, match=r"\(2, 4\), but adapter_config.json says \(2, 3\)"):
        load_peft(tmp_path / "p")
    config.write_text(json.dumps({"peft_type": "LORA"}))
    with pytest.raises(PromptError, match="peft_type is 'LORA'"):
        load_peft(tmp_path / "p")
    config.write_text("[]")
    with pytest.raises(PromptError, match="JSON object"):
        load_peft(tmp_path / "p")


@pytest.mark.model
def test_a_prompt_in_bfloat16_is_read(tmp_path: Path) -> None:
    """As PEFT leaves one that was trained in it; every value here is a bfloat16."""
    save_peft(prompt(), tmp_path)
    values = torch.tensor([[1.0, -2.5, 0.125], [3.0e38, 1e-3, 0.0]], dtype=torch.bfloat16)
    save_torch({"prompt_embeddings": values}, tmp_path / "adapter_model.safetensors")
    np.testing.assert_array_equal(load_peft(tmp_path).vectors, values.float().numpy())


def test_peft_loads_it_and_computes_the_same_logits(tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    from reranker.engines.loading import HubTokenizer
    from reranker.hub import resolve_model

    path = resolve_model("smollm2-135m").path
    tokenizer = HubTokenizer(path)
    base = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    table = base.get_input_embeddings().weight.detach()

    class Embeddings:
        def embed_tokens(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
            return table[list(token_ids)].numpy()

    renderer = PromptRenderer.from_settings(PromptSettings(family="movies"), tokenizer)
    made = SoftPrompt.from_instruction(Embeddings(), renderer.instruction_token_ids(), 16)
    # Away from the embeddings, as training would leave it.
    noise = np.random.default_rng(0).normal(scale=0.01, size=made.vectors.shape)
    made = SoftPrompt(vectors=made.vectors + noise.astype(np.float32), base_model_id=str(path))
    save_peft(made, tmp_path / "peft")

    ids = torch.tensor([tokenizer.encode("Watched before:\n- Alien (Horror)\n- Aliens")])
    with torch.no_grad():
        vectors = torch.cat([torch.from_numpy(made.vectors)[None], table[ids]], dim=1)
        ours = base(inputs_embeds=vectors).logits
        theirs = PeftModel.from_pretrained(base, str(tmp_path / "peft"))(input_ids=ids).logits
    assert float((ours - theirs).abs().max()) <= 1e-5

    # And back: what PEFT saves, we load.
    PeftModel.from_pretrained(base, str(tmp_path / "peft")).save_pretrained(str(tmp_path / "again"))
    assert load_peft(tmp_path / "again").sha256 == made.sha256
