"""Variants judged on folds: their systems, the pairs that are compared, and what they must reach."""

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from math import isfinite
from pathlib import Path
from typing import NoReturn

import typer

from candidate_gen import ALSGenerator
from eval.benchmark_tables import above, below
from eval.checks import Check, machine, report
from eval.domains import FAMILIES
from eval.variants import Variant
from reranker.config import RerankerConfig
from reranker.engines.sentence_encoder import PACKAGE
from reranker.errors import ConfigError
from reranker.evaluation import Fold, Results, Settings, System, evaluate
from reranker.evaluation.registry import Suite
from reranker.evaluation.reporting.files import write_results
from reranker.evaluation.reporting.text import comparison_table, gain_matrix
from reranker.evaluation.runner import SystemFactory
from reranker.evaluation.significance import Comparison
from reranker.utils.atomic_io import write_text
from reranker.utils.rolling_origin import DEFAULT_WINDOWS

METRIC = "ndcg@10"
PROPOSED = "ml-100k"
"""The domain that comes with the product."""
LEARNED = ("llm", "fused", "served")
"""Systems of a variant."""
TEXT_CONTROLS = {"llm": "text_alone", "fused": "text_similarity"}
"""System -> the control by MiniLM that knows as much: both the text alone, or both the interaction features, too."""
FIT_LISTS = 300
"""For fitting, a domain, where no number is given; by embedding as many as `fit` reads, for that costs little."""


def judge(
    folds: Sequence[Fold],
    variants: Sequence[Variant],
    duels: Sequence[tuple[str, str]],
    out: Path,
    fit_users: int,
    asked: dict[str, object],
    windows: int = DEFAULT_WINDOWS,
    readings: Path | None = None,
) -> Results:
    """Runs the variants on the folds, prints and writes.

    Args:
        duels: names of variants that are compared with each other.
        fit_users: lists for fitting, a domain, where a variant names no number of its own; 0 for the default.
        asked: goes into `meta.json`, beside the machine.
        windows: choices a user, at most, that weights are fitted on.
        readings: a folder a variant of what the model read, which several runs may share; in `out` by default.
    """
    texts = TEXT_CONTROLS if any(one.cold_items and not one.only_new for one in folds) else {}
    if texts and find_spec(PACKAGE) is None:
        typer.echo(f"{', '.join(texts.values())} are left out: pip install {PACKAGE.replace('_', '-')}", err=True)
        texts = {}
    factories = controls(("first_stage", "baseline", *texts.values()))
    rivals: list[tuple[str, str]] = []
    for one in variants:
        lists = one.config.fit_users or fit_users or (FIT_LISTS if one.config.reads_lists else None)
        kept = readings / one.name if readings else out / one.name / "readings"
        factories |= systems_of(one, [fold.domain for fold in folds], lists, kept)
        rivals += [(f"fused.{one.name}", "baseline"), (f"served.{one.name}", "baseline")]
        rivals += [(f"{system}.{one.name}", control) for system, control in texts.items()]
    rivals += [(f"{system}.{name}", f"{system}.{versus}") for name, versus in duels for system in ("llm", "fused")]
    settings = Settings(covered_only=True, rivals=tuple(rivals), compared=(METRIC,), inject=False, windows=windows)
    results = evaluate(folds, ALSGenerator(), factories, settings, out, lambda line: typer.echo(line, err=True))
    write_results(results, out)
    text = comparison_table(results) + "\n\n" + gain_matrix(results)
    write_text(out / "table.md", text + "\n")
    typer.echo(text)
    environment = machine(("reranker", "torch", "transformers"), **asked)
    report(_checks(results, [one.name for one in variants], duels, texts), out / "meta.json", environment, typer.echo)
    return results


def controls(names: Sequence[str]) -> dict[str, SystemFactory]:
    """Systems that no variant changes, by name."""

    def no_engine() -> NoReturn:
        raise ConfigError("the controls need no engine")

    return Suite(RerankerConfig(), no_engine).factories(names)


def systems_of(
    variant: Variant, domains: Sequence[str], fit_users: int | None, readings: Path
) -> dict[str, SystemFactory]:
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


def _checks(
    results: Results, variants: Sequence[str], duels: Sequence[tuple[str, str]], texts: Mapping[str, str]
) -> list[Check]:
    """What the variants must reach, by domain; every figure is a gain of NDCG@10."""
    gains = {(one.domain, one.system, one.versus): one for one in results.comparisons if one.metric == METRIC}
    domains = list(dict.fromkeys(run.lists.fold.domain for run in results.runs))
    checks: list[Check] = []
    for name in variants:
        targets = [
            (f"fused.{name}", "first_stage", "at least +15 %", _well_above),
            (f"fused.{name}", "baseline", "interval above 0", above),
            (f"served.{name}", "first_stage", "interval not below 0", _not_below),
            (f"served.{name}", "baseline", "interval not below 0", _not_below),
        ]
        targets += [(f"{system}.{name}", control, "interval above 0", above) for system, control in texts.items()]
        targets += [
            (f"{system}.{name}", f"{system}.{versus}", "interval above 0", above)
            for challenger, versus in duels
            if challenger == name
            for system in ("llm", "fused")
        ]
        for system, versus, target, passes in targets:
            compared = [gains[key] for domain in domains if (key := (domain, system, versus)) in gains]
            checks += [_check(gain, target, passes(gain)) for gain in compared]
            decided = {
                "interval above 0": sum(map(above, compared)),
                "interval below 0": sum(map(below, compared)),
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


def _well_above(gain: Comparison) -> bool:
    """By 15 %; where the other scores 0, by anything that is certain."""
    return gain.relative >= 0.15 if isfinite(gain.relative) else above(gain)


def _not_below(gain: Comparison) -> bool:
    return gain.high >= 0


def _check(gain: Comparison, target: str, passed: bool) -> Check:
    """In percent; where the other scores 0, as of items that the first stage never proposes, in units of the metric."""
    value, unit = 100 * gain.relative, "%"
    interval = f"[{gain.relative_low:+.1%}, {gain.relative_high:+.1%}]"
    if not isfinite(gain.relative):
        value, unit, interval = gain.mean, gain.metric, f"[{gain.low:+.4f}, {gain.high:+.4f}] over 0"
    return Check(
        name=f"{gain.domain}: {gain.system} over {gain.versus}",
        value=value,
        target=f"{target}; {interval}, {gain.n_users} users",
        passed=passed,
        unit=unit,
    )
