"""`reranker train prompt`: learn a soft prompt over many domains."""

from pathlib import Path
from typing import Annotated

import typer

from reranker.cli.options import MlflowOption, ending_by_sigterm, settings_from_yaml


def meta_train(
    config: Annotated[Path, typer.Option("--config", help="YAML with the fields of MetaConfig")],
    out: Annotated[Path, typer.Option("--out", help="folder for prompt, checkpoint and curve")],
    mlflow: MlflowOption = None,
) -> None:
    """Train a soft prompt on what users chose from first-stage lists; a killed run goes on exactly where it stopped."""
    from reranker.tracking import tracked
    from reranker.training.config import MetaConfig
    from reranker.training.run import meta_train as run

    settings = MetaConfig.from_mapping(settings_from_yaml(config))
    asked = settings.model_dump(exclude_unset=True)
    with ending_by_sigterm(), tracked(mlflow, "train prompt", asked) as tracker:
        result = run(settings, out, progress=True)
        for number, loss in enumerate(result.curve.losses, 1):
            tracker.metrics({"loss": loss}, number)
        for number, loss in result.curve.validation:
            tracker.metrics({"validation_loss": loss}, number)
    curve = result.curve
    step, loss = curve.best
    typer.echo(
        f"validation loss {curve.validation[0][1]:.4f} untrained, {loss:.4f} at its best, after step {step} of "
        f"{len(curve.losses)}; {curve.lists} lists read; best prompt in {result.prompt}"
    )
