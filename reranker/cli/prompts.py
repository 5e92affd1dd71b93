"""`reranker prompts list | show | diff`: what learned prompts hold."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray

from reranker.cli.options import ModelOption
from reranker.errors import PromptError
from reranker.prompting import PromptRenderer, PromptSettings
from reranker.soft_tokens.checkpoint import folder_of
from reranker.soft_tokens.peft_format import load_peft
from reranker.soft_tokens.prompt import SoftPrompt
from reranker.soft_tokens.prompt_bank import PromptBank

prompts = typer.Typer(name="prompts", help="Look into soft prompts.", no_args_is_help=True)

_Where = Annotated[
    Path, typer.Argument(help='a soft prompt (PEFT folder), a prompt bank or a bundle; "default": the shipped one')
]


@prompts.command("list")
def list_prompts(where: _Where) -> None:
    """Every prompt there: level, name, length, size of its vectors, which some add to a written instruction."""
    for level, name, prompt in _found(where):
        norms = np.linalg.norm(prompt.vectors, axis=1)
        typer.echo(
            f"{level}\t{name}\t{len(prompt)} tokens x {prompt.dim}{', relative' * prompt.relative}\t"
            f"norm {norms.min():.2f}..{norms.max():.2f}\t"
            f"for {prompt.base_model_id or 'an unknown model'}\tsha256 {prompt.sha256[:12]}"
        )


@prompts.command("show")
def show(
    where: _Where,
    model: ModelOption = None,
    nearest: Annotated[int, typer.Option("--nearest", min=1, help="vocabulary tokens shown a soft token")] = 3,
    family: Annotated[str, typer.Option("--family", help="whose instruction a relative one is added to")] = "generic",
) -> None:
    """Each soft token: its norm and the vocabulary tokens whose embeddings lie nearest (cosine)."""
    from reranker.engines.torch.engine import TorchEngine

    found = _found(where)
    engine = TorchEngine(model or found[0][2].base_model_id or "smollm2-135m")
    table = engine.embed_tokens(range(engine.model.vocab_size))
    table = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    for level, name, prompt in found:
        prompt.require_model(engine.model)
        typer.echo(f"{level} {name}")
        if prompt.relative:
            renderer = PromptRenderer.from_settings(PromptSettings(family=family), engine.tokenizer)
            written = SoftPrompt.from_instruction(engine, renderer.instruction_token_ids(), len(prompt))
            prompt = prompt.beside(written)
        norms = np.linalg.norm(prompt.vectors, axis=1)
        likeness = (prompt.vectors / np.maximum(norms, 1e-12)[:, None]) @ table.T
        for place, row in enumerate(likeness):
            best = np.argsort(-row)[:nearest]
            words = ", ".join(f"{engine.tokenizer.decode([int(token)])!r} {row[token]:.2f}" for token in best)
            typer.echo(f"  {place:3d}  norm {norms[place]:.2f}  {words}")


@prompts.command("diff")
def diff(one: _Where, other: _Where) -> None:
    """How far two prompts lie apart, token by token: cosine, and distance in units of the first one's norm."""
    first, second = _single(one), _single(other)
    if first.relative != second.relative:
        relative = one if first.relative else other
        raise PromptError(f"only {relative} is relative to a written instruction: prompts of one kind can be compared")
    if first.vectors.shape != second.vectors.shape:
        raise PromptError(
            f"{one} is {first.vectors.shape[0]} x {first.vectors.shape[1]}, {other} is {second.vectors.shape[0]} x "
            f"{second.vectors.shape[1]}: prompts of one shape can be compared"
        )
    for place, (a, b) in enumerate(zip(first.vectors, second.vectors, strict=True)):
        typer.echo(f"{place:3d}  cosine {_cosine(a, b):.4f}  moved {_relative(a, b):.4f}")
    cosine, moved = _cosine(first.vectors, second.vectors), _relative(first.vectors, second.vectors)
    typer.echo(f"all  cosine {cosine:.4f}  moved {moved:.4f}")


def _found(where: Path) -> list[tuple[str, str, SoftPrompt]]:
    """(level, name, prompt) of all prompts in a folder.

    Raises:
        PromptError: there is none.
    """
    where = folder_of(where)
    if (where / "adapter_config.json").is_file():
        prompt = load_peft(where)
        return [("prompt", prompt.name, prompt)]
    for folder in (where, where / "prompts"):
        if (folder / "index.json").is_file():
            bank = PromptBank.load(folder)
            meta = [("meta", bank.meta.name, bank.meta)] if bank.meta is not None else []
            domains = [("domain", name, prompt) for name, prompt in bank.domains.items()]
            users = [("user", str(name), prompt) for name, prompt in bank.users.items()]
            if meta or domains or users:
                return [*meta, *domains, *users]
    raise PromptError(f"{where} holds no soft prompt: give a PEFT folder, a prompt bank or a bundle")


def _single(where: Path) -> SoftPrompt:
    found = _found(where)
    if len(found) == 2 and found[0][0] == "meta" and found[0][2].relative:
        del found[0]  # of a bundle: beside it stands what its domain made of it
    if len(found) != 1:
        names = ", ".join(f"{level} {name}" for level, name, _ in found)
        raise PromptError(f"{where} holds {len(found)} prompts ({names}); give the folder of one")
    return found[0][2]


def _cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float((a * b).sum() / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))


def _relative(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(b - a) / max(float(np.linalg.norm(a)), 1e-12))
