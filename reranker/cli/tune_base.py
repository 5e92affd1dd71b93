"""`reranker train base`: teach the base model how the titles of your domains follow one another."""

from pathlib import Path
from typing import Annotated

import typer

from reranker.cli.options import ModelOption, ending_by_sigterm, given
from reranker.errors import ConfigError


def tune_base(
    data: Annotated[list[str], typer.Option("--data", help="domain=FOLDER or a known data set; may be repeated")],
    out: Annotated[Path, typer.Option("--out", help="folder for the adapter, the merged model and the curve")],
    model: ModelOption = None,
    steps: Annotated[int, typer.Option("--steps", min=1)] = 300,
    rank: Annotated[int, typer.Option("--rank", min=1, help="rank of the LoRA")] = 8,
    learning_rate: Annotated[float, typer.Option("--learning-rate")] = 1e-3,
    tokens_per_step: Annotated[int, typer.Option("--tokens-per-step", min=64)] = 3072,
    temperature: Annotated[float, typer.Option("--temperature", help="0: domains alike, 1: by size")] = 0.5,
    hold_out: Annotated[int, typer.Option("--hold-out", min=0, help="newest interactions a user left out")] = 2,
    history_items: Annotated[int, typer.Option("--history-items", min=1, help="items a sequence, at most")] = 24,
    dtype: Annotated[str, typer.Option("--dtype", help="auto, bfloat16 or float32")] = "auto",
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda, ...")] = "auto",
    workers: Annotated[int, typer.Option("--workers", min=0, help="processes that write ahead for a fast device")] = 0,
    seed: Annotated[int, typer.Option("--seed", min=0)] = 0,
) -> None:
    """Adapt the base model by LoRA to users' histories; a killed run goes on where it stopped.

    The newest interactions of each user are left out: the last will be judged on, the one before teaches the fusion.
    """
    from reranker.config import RerankerConfig
    from reranker.training.lora.run import tune_base as run
    from reranker.training.lora.trainer import BaseTuningConfig

    domains = [part.partition("=") for part in data]
    if any(not path for _, _, path in domains):
        raise ConfigError("--data needs domain=FOLDER, for instance --data shop=purchases/")
    config = BaseTuningConfig.from_mapping(
        {
            "steps": steps,
            "rank": rank,
            "alpha": 2.0 * rank,
            "learning_rate": learning_rate,
            "tokens_per_step": tokens_per_step,
            "temperature": temperature,
            "seed": seed,
        }
    )
    with ending_by_sigterm():
        result = run(
            [(domain, path) for domain, _, path in domains],
            out,
            config,
            RerankerConfig.from_mapping(given(model=model)),
            hold_out=hold_out,
            history_items=history_items,
            dtype=dtype,
            device=device,
            workers=workers,
            progress=True,
        )
    typer.echo(
        f"loss {result.first_loss:.3f} -> {result.last_loss:.3f} nats a token over {result.tokens} tokens; "
        f"adapter in {result.adapter}, model in {result.model}. Use it with --model {result.model}"
    )
