"""What does a prompt know of a domain it never saw? `python -m eval.unseen_domains --data DIR --out OUT`.

For each domain (or for several together) and algorithm a prompt is trained on the other domains, with the same number
of lists read; a few users of the left-out domain adapt it; `eval.benchmark` judges the adapted prompts on that domain,
against each other too. What is there already is not made again, and a killed run goes on where it stopped.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer

from eval import benchmark as meta
from eval.domains import FAMILIES, chosen_domains, load_domain, ordered_domains
from eval.variants import UNTRAINED, Variant
from reranker.cli.options import settings_from_yaml
from reranker.errors import ConfigError
from reranker.pipeline.reranker import Reranker
from reranker.prompting import family_for_domain
from reranker.training.adapt_domain import AdaptationSettings, adapt_domain
from reranker.training.config import MetaConfig
from reranker.training.run import Replayed, meta_train
from reranker.training.step_sizes import StepSizes
from reranker.utils.atomic_io import write_json

_RECORD = "made.json"
_JUDGED_ON = 2  # newest interactions of a user: the judge's test and validation items
_UNSEEN_MOMENTS = 1  # choices a user that may teach weights: a prompt was trained on older ones, or adapted to them


def main(
    data: Annotated[Path, typer.Option(help="folder with one folder a domain")],
    out: Annotated[Path, typer.Option(help="folder for runs, prompts and results")] = Path("out/unseen"),
    domains: Annotated[str, typer.Option(help="comma-separated; all with order in time by default")] = "",
    left_out: Annotated[str, typer.Option(help="those of them that are left out in turn; all by default")] = "",
    together: Annotated[bool, typer.Option(help="one training without any of them, not one for each")] = False,
    algorithms: Annotated[str, typer.Option(help="comma-separated; the first is the baseline")] = "pooled,fomaml",
    config: Annotated[Path | None, typer.Option(help="YAML with fields of MetaConfig; domains are set here")] = None,
    adapt_users: Annotated[int, typer.Option(help="users of the new domain that adapt the prompt")] = 100,
    judge_users: Annotated[int, typer.Option(help="others of it that decide whether the adapted one is kept")] = 200,
    users: Annotated[int, typer.Option(help="test users a domain; 0 for all")] = 0,
    fit_users: Annotated[int, typer.Option(help="lists the LLM reads for fitting, a domain")] = meta.FIT_LISTS,
    engine: str = "auto",
) -> None:
    """Leave one domain out: train on the others, adapt to it, judge on it."""
    known = chosen_domains(data, domains) if domains else ordered_domains(data)
    if len(known) < 2:
        raise ConfigError(f"leaving a domain out needs at least two, got {known}")
    names = left_out.split(",") if left_out else known
    if strange := [name for name in names if name not in known]:
        raise ConfigError(f"--left-out names {', '.join(strange)}, not among the domains {', '.join(known)}")
    if together and len(names) == len(known):
        raise ConfigError("--together leaves no domain to train on: --left-out must name fewer than --domains")
    rivals = algorithms.split(",")
    sources = [{"name": name, "data": str(data / name), "family": _family(name)} for name in known]
    base = {**settings_from_yaml(config), "hold_out": _JUDGED_ON}
    common = MetaConfig.from_mapping({**base, "domains": sources})
    adaptation = AdaptationSettings(
        users=adapt_users,
        judged_users=judge_users,
        negatives=common.negatives,
        hold_out=_JUDGED_ON,
        seed=common.seed,
    )
    served = common.reranker.model_copy(update={"engine": engine})
    replayed: Replayed = {}
    for algorithm in rivals:
        for name in names:
            unseen = names if together else [name]
            others = [one for one in sources if one["name"] not in unseen]
            settings = MetaConfig.from_mapping({**base, "algorithm": algorithm, "domains": others})
            run = out / "runs" / algorithm / "+".join(unseen)
            _prompt(data, name, settings, adaptation, run, out / algorithm / name, replayed)
    trained = [Variant(name=one, config=served, folder=f"{out / one}/{{domain}}") for one in rivals]
    variants = [Variant(name=UNTRAINED, config=served), *trained]
    duels = [*((one, UNTRAINED) for one in rivals), *((one, rivals[0]) for one in rivals[1:])]
    folds = [meta.fold(data, name, "leave-last", users=users) for name in names]
    asked = {"algorithms": rivals, "adapt_users": adapt_users, "judge_users": judge_users, "windows": _UNSEEN_MOMENTS}
    meta.judge(folds, variants, duels, out / "judged", fit_users, asked, _UNSEEN_MOMENTS)


def _prompt(
    data: Path,
    name: str,
    settings: MetaConfig,
    adaptation: AdaptationSettings,
    run: Path,
    folder: Path,
    replayed: Replayed,
) -> None:
    """Trains on the other domains and adapts to `name`."""

    def make() -> str:
        typer.echo(f"{name} left out, {settings.algorithm}", err=True)
        trained = meta_train(settings, run, progress=True, replayed=replayed)
        prompt = settings.reranker.prompt.model_copy(update={"family": _family(name)})
        reranker = Reranker.from_pretrained(
            trained.prompt, **{**settings.reranker.model_dump(), "prompt": prompt, "engine": "torch"}
        )
        adapted = adapt_domain(
            reranker, load_domain(data, name), sizes=StepSizes.beside(trained.prompt), settings=adaptation
        )
        adapted.save(folder)
        return adapted.summary()

    _once(folder / _RECORD, {"training": settings.model_dump(mode="json"), "adaptation": vars(adaptation)}, make)


def _family(domain: str) -> str:
    return family_for_domain(FAMILIES.get(domain, domain))


def _once(record: Path, settings: dict[str, object], make: Callable[[], str]) -> None:
    """Makes what `record` stands for, unless it says that this was done under the same settings."""
    if record.exists():
        if json.loads(record.read_text())["settings"] != settings:
            raise ConfigError(f"{record} was made with other settings; give the same ones or another --out")
        return
    summary = make()
    typer.echo(summary, err=True)
    write_json(record, {"settings": settings, "summary": summary})


if __name__ == "__main__":
    typer.run(main)
