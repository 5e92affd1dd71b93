"""Does training earn its place? `python -m eval.meta --data DIR --variant tuned=model=RUN/model`.

Each variant is a base model or a trained prompt; "untrained" is the default model with its instruction prompt. All of
them read the same lists, so every difference is paired by user. Prints the tables, writes OUT/meta.json and what the
judge writes, and exits 0 when it ran, whatever passed. A killed run goes on where it stopped.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated

import typer

from candidate_gen import ALSRecall
from eval.checks import Check, machine, report
from eval.domains import FAMILIES, UNORDERED, chosen_domains, load_domain
from reranker.config import RerankerConfig
from reranker.engines import load_engine
from reranker.errors import ConfigError
from reranker.evaluation import Fold, Results, Settings, System, evaluate
from reranker.evaluation.results import write_results, write_text
from reranker.evaluation.runner import SystemFactory
from reranker.evaluation.significance import Comparison
from reranker.evaluation.splits import SPLITS
from reranker.evaluation.suite import Suite
from reranker.evaluation.table import comparison_table, gain_matrix
from reranker.hub import load_dataset
from reranker.item_tokens import ItemTokens, load_item_tokens
from reranker.personal import CONTEXT_FILE, ContextMap
from reranker.softprompt import SoftPrompt, load_peft

UNTRAINED = "untrained"
LEARNED = ("llm", "fused", "served")
METRIC = "ndcg@10"
PROPOSED = "ml-100k"
_SOFT_PROMPT, _ADAPT_STEPS = "soft_prompt=", "adapt_steps="


def main(
    data: Annotated[Path, typer.Option(help="folder with one folder a domain")],
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("out/meta"),
    domains: Annotated[str, typer.Option(help="comma-separated; all with order in time, and ml-100k, by default")] = "",
    variant: Annotated[
        list[str] | None,
        typer.Option(
            help="name=SETTING=VALUE[,prompt.SETTING=VALUE][,soft_prompt=DIR][,adapt_steps=N]: settings of "
            "RerankerConfig; a prompt, with the users' contexts and item tokens that lie beside it; steps that adapt "
            "contexts (2)"
        ),
    ] = None,
    split: Annotated[str, typer.Option(help=f"one of {', '.join(SPLITS)}")] = "leave-last",
    users: Annotated[int, typer.Option(help="test users a domain; 0 for all")] = 0,
    fit_users: Annotated[int, typer.Option(help="lists the LLM reads for fitting, a domain")] = 300,
    family: Annotated[str, typer.Option(help="template family for all domains; each its own without it")] = "",
    engine: str = "auto",
) -> None:
    """Judges the variants against each other, the recall order and the linear control."""
    configs = {UNTRAINED: _config(UNTRAINED, "", engine, family)}
    prompts: dict[str, SoftPrompt] = {}
    contexts: dict[str, ContextMap] = {}
    item_tokens: dict[str, dict[str, ItemTokens]] = {}
    steps: dict[str, int] = {}
    for given in variant or ():
        name, _, settings = given.partition("=")
        kept = [pair for pair in settings.split(",") if not pair.startswith((_SOFT_PROMPT, _ADAPT_STEPS))]
        configs[name] = _config(name, ",".join(kept), engine, family)
        for pair in settings.split(","):
            if pair.startswith(_SOFT_PROMPT):
                folder = Path(pair.removeprefix(_SOFT_PROMPT))
                prompts[name] = load_peft(folder)
                if (folder / CONTEXT_FILE).exists():
                    contexts[name] = ContextMap.load(folder / CONTEXT_FILE)
                item_tokens[name] = load_item_tokens(folder)
            elif pair.startswith(_ADAPT_STEPS):
                steps[name] = int(pair.removeprefix(_ADAPT_STEPS))
    folds = [_fold(data, name, split, users) for name in _names(data, domains)]
    cold = split == "cold-items"
    factories = _controls(("recall", "linear", *(("text_similarity",) if cold else ())))
    rivals: list[tuple[str, str]] = []
    for name, config in configs.items():
        personal = contexts.get(name), steps.get(name, 2), item_tokens.get(name, {})
        factories |= _systems(name, config, fit_users, out / name / "readings", prompts.get(name), *personal)
        rivals += [(f"fused.{name}", "linear"), (f"served.{name}", "linear")]
        if cold:
            rivals.append((f"llm.{name}", "text_similarity"))
        if name != UNTRAINED:
            rivals += [(f"{system}.{name}", f"{system}.{UNTRAINED}") for system in ("llm", "fused")]
    settings = Settings(covered_only=True, rivals=tuple(rivals), compared=(METRIC,), inject=False)
    results = evaluate(folds, ALSRecall(), factories, settings, out, lambda line: typer.echo(line, err=True))
    write_results(results, out)
    text = comparison_table(results) + "\n\n" + gain_matrix(results)
    write_text(out / "table.md", text + "\n")
    typer.echo(text)
    environment = machine(("reranker", "torch", "transformers"), variants=variant or [], split=split, users=users)
    report(_checks(results, tuple(configs), cold), out / "meta.json", environment, typer.echo)


def _config(name: str, settings: str, engine: str, family: str) -> RerankerConfig:
    prompt: dict[str, object] = {"family": family} if family else {}
    values: dict[str, object] = {"engine": engine, "prompt": prompt}
    for pair in filter(None, settings.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise ConfigError(f"--variant {name}: {pair!r} is not SETTING=VALUE")
        if key.startswith("prompt."):
            prompt[key.removeprefix("prompt.")] = value
        else:
            values[key] = value
    return RerankerConfig.from_mapping(values)


def _names(data: Path, domains: str) -> list[str]:
    asked = [name for name in domains.split(",") if name]
    if not asked:
        return [*(name for name in chosen_domains(data, "all") if name not in UNORDERED), PROPOSED]
    chosen_domains(data, ",".join(name for name in asked if name != PROPOSED) or "all")
    return asked


def _fold(data: Path, name: str, split: str, users: int) -> Fold:
    loaded = load_dataset(PROPOSED, domain=PROPOSED) if name == PROPOSED else load_domain(data, name)
    fold = SPLITS[split](loaded, 0)
    return fold.sample_users(users) if users else fold


def _controls(names: Sequence[str]) -> dict[str, SystemFactory]:
    def no_engine() -> None:
        raise ConfigError("the controls need no engine")

    return Suite(RerankerConfig(), no_engine).factories(names)


def _systems(
    name: str,
    config: RerankerConfig,
    fit_users: int,
    readings: Path,
    prompt: SoftPrompt | None,
    contexts: ContextMap | None,
    adapt_steps: int,
    item_tokens: Mapping[str, ItemTokens],
) -> dict[str, SystemFactory]:
    """The learned systems of one variant, which share one engine and its readings."""
    families = FAMILIES | {PROPOSED: "movies"}
    suite = Suite(
        config,
        lambda: load_engine(config.engine, config.model),
        fit_users,
        families,
        progress=True,
        directory=readings,
        prompt=prompt,
        contexts=contexts,
        adapt_steps=adapt_steps,
        item_tokens=item_tokens,
    )
    return {f"{system}.{name}": _named(f"{system}.{name}", suite, system) for system in LEARNED}


def _named(name: str, suite: Suite, system: str) -> Callable[[int], System]:
    def build(seed: int) -> System:
        built = suite.factories((system,))[system](seed)
        built.name = name
        return built

    return build


def _checks(results: Results, variants: Sequence[str], cold: bool) -> list[Check]:
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
            targets.append((f"llm.{name}", "text_similarity", "interval above 0", _above))
        if name != UNTRAINED:
            targets += [(f"{one}.{name}", f"{one}.{UNTRAINED}", "interval above 0", _above) for one in ("llm", "fused")]
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
