"""Does training earn its place? `python -m eval.meta --data DIR --variant tuned=model=RUN/model`.

Each variant is a base model or a trained prompt; "untrained" is the default model with its instruction prompt. All of
them read the same lists, so every difference is paired by user. Prints the tables, writes OUT/meta.json and what the
judge writes, and exits 0 when it ran, whatever passed. A killed run goes on where it stopped.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated

import typer

from candidate_gen import ALSRecall
from eval.checks import Check, machine, report
from eval.domains import FAMILIES, chosen_domains, load_domain, ordered_domains
from eval.variants import SYNTAX, UNTRAINED, Variant
from reranker.config import RerankerConfig
from reranker.errors import ConfigError
from reranker.evaluation import Fold, Results, Settings, System, evaluate
from reranker.evaluation.results import write_results, write_text
from reranker.evaluation.runner import SystemFactory
from reranker.evaluation.significance import Comparison
from reranker.evaluation.splits import SPLITS
from reranker.evaluation.suite import Suite
from reranker.evaluation.table import comparison_table, gain_matrix
from reranker.hub import load_dataset

LEARNED = ("llm", "fused", "served")
TEXT_CONTROLS = {"llm": "text_alone", "fused": "text_similarity"}
"""System -> the control by MiniLM that knows as much: both the text alone, or both the recall evidence, too."""
METRIC = "ndcg@10"
PROPOSED = "ml-100k"


def main(
    data: Annotated[Path, typer.Option(help="folder with one folder a domain")],
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("out/meta"),
    domains: Annotated[str, typer.Option(help="comma-separated; all with order in time, and ml-100k, by default")] = "",
    variant: Annotated[list[str] | None, typer.Option(help=SYNTAX)] = None,
    rival: Annotated[list[str] | None, typer.Option(help="A:B compares variant A with variant B, too")] = None,
    split: Annotated[str, typer.Option(help=f"one of {', '.join(SPLITS)}")] = "leave-last",
    support: Annotated[int, typer.Option(help="interactions that cold users have")] = 1,
    users: Annotated[int, typer.Option(help="test users a domain; 0 for all")] = 0,
    fit_users: Annotated[int, typer.Option(help="lists the LLM reads for fitting, a domain")] = 300,
    family: Annotated[str, typer.Option(help="template family for all domains; each its own without it")] = "",
    engine: str = "auto",
    untrained: Annotated[bool, typer.Option(help="judge the default model and prompt, too")] = True,
) -> None:
    """Judges the variants against each other, the recall order and the linear control."""
    variants = [Variant.parse(one, engine, family) for one in ((UNTRAINED,) * untrained + tuple(variant or ()))]
    names = [one.name for one in variants]
    duels = [(name, UNTRAINED) for name in names[1:]] if untrained else []
    duels += [_duel(one, names) for one in rival or ()]
    folds = [fold(data, name, split, support, users) for name in _names(data, domains)]
    asked = {"variants": variant or [], "split": split, "support": support, "users": users}
    judge(folds, variants, duels, out, fit_users, asked)


def judge(
    folds: Sequence[Fold],
    variants: Sequence[Variant],
    duels: Sequence[tuple[str, str]],
    out: Path,
    fit_users: int,
    asked: dict[str, object],
) -> None:
    """Runs the variants on the folds, prints and writes.

    Args:
        duels: names of variants that are compared with each other.
        asked: goes into `meta.json`, beside the machine.
    """
    cold = any(one.cold_items for one in folds)
    factories = _controls(("recall", "linear", *(TEXT_CONTROLS.values() if cold else ())))
    rivals: list[tuple[str, str]] = []
    for one in variants:
        factories |= _systems(one, [one.domain for one in folds], fit_users, out / one.name / "readings")
        rivals += [(f"fused.{one.name}", "linear"), (f"served.{one.name}", "linear")]
        if cold:
            rivals += [(f"{system}.{one.name}", control) for system, control in TEXT_CONTROLS.items()]
    rivals += [(f"{system}.{name}", f"{system}.{versus}") for name, versus in duels for system in ("llm", "fused")]
    settings = Settings(covered_only=True, rivals=tuple(rivals), compared=(METRIC,), inject=False)
    results = evaluate(folds, ALSRecall(), factories, settings, out, lambda line: typer.echo(line, err=True))
    write_results(results, out)
    text = comparison_table(results) + "\n\n" + gain_matrix(results)
    write_text(out / "table.md", text + "\n")
    typer.echo(text)
    environment = machine(("reranker", "torch", "transformers"), **asked)
    report(_checks(results, [one.name for one in variants], duels, cold), out / "meta.json", environment, typer.echo)


def _duel(text: str, names: Sequence[str]) -> tuple[str, str]:
    name, _, versus = text.partition(":")
    if name not in names or versus not in names:
        raise ConfigError(f"--rival {text!r} is not A:B with two of the variants {', '.join(names)}")
    return name, versus


def _names(data: Path, domains: str) -> list[str]:
    asked = [name for name in domains.split(",") if name]
    if not asked:
        return [*ordered_domains(data), PROPOSED]
    chosen_domains(data, ",".join(name for name in asked if name != PROPOSED) or "all")
    return asked


def fold(data: Path, name: str, split: str, support: int = 1, users: int = 0) -> Fold:
    """A split of a domain; `users` test users, or all for 0."""
    loaded = load_dataset(PROPOSED, domain=PROPOSED) if name == PROPOSED else load_domain(data, name)
    whole = SPLITS[split](loaded, support)
    return whole.sample_users(users) if users else whole


def _controls(names: Sequence[str]) -> dict[str, SystemFactory]:
    def no_engine() -> None:
        raise ConfigError("the controls need no engine")

    return Suite(RerankerConfig(), no_engine).factories(names)


def _systems(variant: Variant, domains: Sequence[str], fit_users: int, readings: Path) -> dict[str, SystemFactory]:
    """The learned systems of one variant, which share one engine and its readings."""
    suite = Suite(
        variant.config,
        variant.load_engine,
        fit_users,
        FAMILIES | {PROPOSED: "movies"},
        progress=True,
        directory=readings,
        trained=variant.trained(domains),
        adapt_steps=variant.adapt_steps,
    )
    return {f"{system}.{variant.name}": _named(f"{system}.{variant.name}", suite, system) for system in LEARNED}


def _named(name: str, suite: Suite, system: str) -> Callable[[int], System]:
    def build(seed: int) -> System:
        built = suite.factories((system,))[system](seed)
        built.name = name
        return built

    return build


def _checks(results: Results, variants: Sequence[str], duels: Sequence[tuple[str, str]], cold: bool) -> list[Check]:
    """What the variants must reach, by domain; every figure is a relative gain of NDCG@10."""
    gains = {(one.domain, one.system, one.versus): one for one in results.comparisons if one.metric == METRIC}
    domains = list(dict.fromkeys(run.lists.fold.domain for run in results.runs))
    checks: list[Check] = []
    for name in variants:
        targets = [
            (f"fused.{name}", "recall", "at least +15 %", lambda gain: gain.relative >= 0.15),
            (f"fused.{name}", "linear", "interval above 0", _above),
            (f"served.{name}", "recall", "interval not below 0", _not_below),
            (f"served.{name}", "linear", "interval not below 0", _not_below),
        ]
        if cold:
            targets += [
                (f"{system}.{name}", control, "interval above 0", _above) for system, control in TEXT_CONTROLS.items()
            ]
        targets += [
            (f"{system}.{name}", f"{system}.{versus}", "interval above 0", _above)
            for challenger, versus in duels
            if challenger == name
            for system in ("llm", "fused")
        ]
        for system, versus, target, passes in targets:
            compared = [gains[key] for domain in domains if (key := (domain, system, versus)) in gains]
            checks += [_check(gain, target, passes(gain)) for gain in compared]
            decided = {
                "interval above 0": sum(map(_above, compared)),
                "interval below 0": sum(one.high < 0 for one in compared),
            }
            checks += [
                Check(
                    name=f"domains where {system} over {versus} has its {words}",
                    value=count,
                    target="",
                    passed=True,
                    unit="",
                )
                for words, count in decided.items()
            ]
    return checks


def _above(gain: Comparison) -> bool:
    return gain.low > 0


def _not_below(gain: Comparison) -> bool:
    return gain.high >= 0


def _check(gain: Comparison, target: str, passed: bool) -> Check:
    interval = f"[{gain.relative_low:+.1%}, {gain.relative_high:+.1%}]"
    return Check(
        name=f"{gain.domain}: {gain.system} over {gain.versus}",
        value=100 * gain.relative,
        target=f"{target}; {interval}, {gain.n_users} users",
        passed=passed,
        unit="%",
    )


if __name__ == "__main__":
    typer.run(main)
