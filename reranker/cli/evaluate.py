"""`reranker evaluate`: judge the reranker and its controls on your own data."""

import json
import sys
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from reranker.cli.options import (
    AllowLeaksOption,
    DatasetOption,
    DomainOption,
    DtypeOption,
    EngineOption,
    FeaturesOption,
    GeneratorOption,
    InteractionsOption,
    ItemsOption,
    ItemVectorsOption,
    MlflowOption,
    ModelOption,
    RankerOption,
    UserKeyOption,
    dataset_from_flags,
    given,
    names_in,
    read_users,
    tell_item_vectors,
)
from reranker.cli.signal_options import (
    EventWeightsOption,
    RatingScaleOption,
    RepeatsOption,
    TargetEventsOption,
    signals_from_flags,
)
from reranker.data.schema import USER
from reranker.data.signals import told
from reranker.errors import ConfigError
from reranker.utils.atomic_io import write_text
from reranker.utils.pseudonyms import Pseudonyms


class Split(StrEnum):
    """How the test targets are held out."""

    LEAVE_LAST = "leave-last"
    LEAVE_RANDOM = "leave-random"
    TEMPORAL = "temporal"
    COLD_USERS = "cold-users"
    COLD_ITEMS = "cold-items"
    NEW_ITEMS = "new-items"


class Protocol(StrEnum):
    """How users count whose target the first stage missed."""

    END_TO_END = "end_to_end"
    COVERED = "covered"
    BOTH = "both"


def evaluate(
    context: typer.Context,
    out: Annotated[
        Path | None, typer.Option("--out", help="folder for results.parquet, results.json, report.html, runs/")
    ] = None,
    interactions: InteractionsOption = None,
    items: ItemsOption = None,
    dataset: DatasetOption = None,
    domain: DomainOption = None,
    item_vectors: ItemVectorsOption = None,
    systems: Annotated[str | None, typer.Option("--systems", help="comma-separated; see --list")] = None,
    protocol: Annotated[Protocol, typer.Option("--protocol")] = Protocol.BOTH,
    split: Annotated[
        Split | None, typer.Option("--split", help="leave-last, or leave-random without timestamps")
    ] = None,
    support: Annotated[int, typer.Option("--support", min=1, help="interactions kept of a cold user")] = 3,
    generator: GeneratorOption = None,
    event_weights: EventWeightsOption = None,
    rating_scale: RatingScaleOption = None,
    target_events: TargetEventsOption = None,
    repeats: RepeatsOption = None,
    n: Annotated[str, typer.Option("--n", help="lengths of the generator's lists, comma-separated")] = "50",
    candidates: Annotated[
        list[Path] | None,
        typer.Option("--candidates", help="lists that your own first stage served; several windows: oldest first"),
    ] = None,
    held_out: Annotated[
        list[Path] | None, typer.Option("--held-out", help="what users chose after --candidates, one table for each")
    ] = None,
    features: FeaturesOption = None,
    allow_leaks: AllowLeaksOption = None,
    users: Annotated[
        Path | None, typer.Option("--users", help="with --candidates: user_id and columns for --features")
    ] = None,
    sample: Annotated[int | None, typer.Option("--sample", min=2, help="test users at most, drawn at random")] = None,
    fit_users: Annotated[
        int | None, typer.Option("--fit-users", min=2, help="lists the LLM reads for fitting; as `fit` by default")
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="runs of systems that depend on chance")] = 5,
    inject: Annotated[bool, typer.Option("--inject", help="put missed targets into the lists (labelled)")] = False,
    all_lists: Annotated[
        bool, typer.Option("--all-lists", help="read lists without a target too: slower, same user metrics")
    ] = False,
    diagnose: Annotated[
        int, typer.Option("--diagnose", min=0, help="covered users to test for order, personality and titles")
    ] = 0,
    user_groups: Annotated[
        Path | None, typer.Option("--user-groups", help="user_id and a column a grouping: quality by group of users")
    ] = None,
    provider: Annotated[
        str | None, typer.Option("--provider-column", help="of the items: whose exposure is told; 'provider' if there")
    ] = None,
    external: Annotated[
        list[str] | None, typer.Option("--external", help="name=scores.parquet with user_id, item_id, score")
    ] = None,
    export: Annotated[
        Path | None, typer.Option("--export", help="write what an external system may see to this folder and stop")
    ] = None,
    model: ModelOption = None,
    engine: EngineOption = None,
    dtype: DtypeOption = None,
    scorer: Annotated[str | None, typer.Option("--scorer", help="scorer of llm, fused and served")] = None,
    ranker: RankerOption = None,
    score_log: Annotated[
        Path | None, typer.Option("--score-log", help="judge what was served: folder of `serve --score-log`")
    ] = None,
    outcomes: Annotated[
        Path | None, typer.Option("--outcomes", help="with --score-log: user_id, item_id[, timestamp, weight]")
    ] = None,
    bundle: Annotated[
        Path | None,
        typer.Option("--bundle", help="with --score-log: what this bundle ranked, not others of its domain"),
    ] = None,
    within_hours: Annotated[float, typer.Option("--within-hours", help="outcomes that come later do not count")] = 24.0,
    control: Annotated[str | None, typer.Option("--control", help="arm that the others are compared with")] = None,
    rules: Annotated[
        Path | None, typer.Option("--rules", help="YAML or JSON: what these rules cost each system in NDCG@10, too")
    ] = None,
    user_key: UserKeyOption = None,
    mlflow: MlflowOption = None,
    list_systems: Annotated[bool, typer.Option("--list", help="list the systems and stop")] = False,
    estimate: Annotated[
        bool,
        typer.Option("--estimate", help="whether the LLM pays, from a --sample (300 users): minutes, and no --out"),
    ] = False,
) -> None:
    """Compare systems on held-out interactions: metrics with intervals, comparisons, a report."""
    from candidate_gen import DEFAULT_METHOD, make_generator
    from reranker.cli.estimate import tell_estimate
    from reranker.cli.evaluate_lists import Further, evaluate_lists
    from reranker.cli.evaluate_ways import refuse_unread
    from reranker.config import BOOSTED, RerankerConfig, default_scorer
    from reranker.data import splits
    from reranker.engines.encoder import reader_of
    from reranker.evaluation import Settings
    from reranker.evaluation import evaluate as run
    from reranker.evaluation.diagnose import attacks_table, diagnosis_table
    from reranker.evaluation.diagnose import diagnose as diagnoses_of
    from reranker.evaluation.exposure import exposures
    from reranker.evaluation.external import export_lists, external_factories
    from reranker.evaluation.plan import plan, plan_table, require_packages
    from reranker.evaluation.registry import SYSTEMS, Suite, default_systems
    from reranker.evaluation.reporting.fairness import fairness_table
    from reranker.evaluation.reporting.files import write_results
    from reranker.evaluation.reporting.html import write_report
    from reranker.evaluation.reporting.text import comparison_table
    from reranker.evaluation.reporting.verdict import Provenance, verdict
    from reranker.evaluation.rules_price import price_table, rules_prices
    from reranker.evaluation.user_groups import group_qualities, read_user_groups
    from reranker.fusion.boosted import require_lightgbm
    from reranker.pipeline.lazy_engine import engine_of
    from reranker.pipeline.lists import PROTOCOLS, list_lengths, propose
    from reranker.rules import ItemColumns, read_rules
    from reranker.soft_tokens.checkpoint import Trained
    from reranker.tracking import log_evaluation, tracked

    if list_systems:
        for name, words in SYSTEMS.items():
            typer.echo(f"{name:22s} {words}")
        return
    refuse_unread(context)
    if score_log is not None or outcomes is not None:
        _judge_log(score_log, outcomes, within_hours, domain, control, user_key, bundle)
        return
    signals = signals_from_flags(event_weights, rating_scale, target_events, repeats)
    if estimate:
        data = dataset_from_flags(dataset, interactions, items, domain, item_vectors=item_vectors, signals=signals)
        lengths = list_lengths(n)
        if len(lengths) > 1:
            raise ConfigError(f"--estimate takes one length of lists, --n was given {n!r}")
        of_llm = given(model=model, engine=engine, dtype=dtype, scorer=scorer, ranker=ranker)
        of_llm["n_candidates"] = lengths[0]
        tell_estimate(data, of_llm, generator, sample)
        return
    if out is None and export is None and not candidates:
        raise ConfigError("give --out: the folder for the results")
    if (features is not None or users is not None) and not candidates:
        raise ConfigError(
            "--features and the table of --users go with --candidates and --held-out: the systems here have fixed "
            "columns. How many test users is --sample"
        )
    if ranker == BOOSTED:
        require_lightgbm()  # now, not after hours of reading
    data = dataset_from_flags(dataset, interactions, items, domain, users, item_vectors, signals)
    tell_item_vectors(data)
    for line in told(data.interactions, data.signals):
        typer.echo(line, err=True)
    wanted = None if rules is None else read_rules(rules)
    if wanted is not None:
        ItemColumns(data.items).require(wanted)  # now, not after everything was read
    groups = None if user_groups is None else read_user_groups(read_users(user_groups, {USER: data.interactions[USER]}))
    if candidates or held_out:
        scorer = scorer or default_scorer(engine or "auto", trained=False)
        own = RerankerConfig.from_mapping(
            given(
                model=model,
                engine=engine,
                dtype=dtype,
                scorer=scorer,
                ranker=ranker,
                fit_users=fit_users,
                features=None if features is None else names_in(features),
                allow_leaks=None if allow_leaks is None else names_in(allow_leaks),
            )
        )
        more = Further(diagnose=diagnose, user_groups=groups, provider=provider)
        evaluate_lists(data, candidates or [], held_out or [], own, systems, out, more, wanted)
        return
    fold = splits.SPLITS[split or splits.default_split(data)](data, support)
    if sample is not None:
        fold = fold.sample_users(sample)
    lengths = list_lengths(n)
    first_stage = make_generator(generator or DEFAULT_METHOD)
    if export is not None:
        export_lists(propose(fold, first_stage, max(lengths), inject=inject), export)
        typer.echo(f"wrote {export}/train.parquet, items.parquet, candidates.parquet")
        return
    assert out is not None
    scorer = scorer or default_scorer(engine or "auto", trained=False)
    config = RerankerConfig.from_mapping(given(model=model, engine=engine, dtype=dtype, scorer=scorer, ranker=ranker))
    trained = {data.domain: Trained.default(config.scorer)}
    suite = Suite(config, lambda: engine_of(config), fit_users, progress=True, trained=trained)
    names = default_systems() if systems is None else tuple(name.strip() for name in systems.split(","))
    settings = Settings(
        candidates=lengths,
        protocols=tuple(name for name in PROTOCOLS if protocol in (Protocol.BOTH, name)),
        seeds=tuple(range(seeds)),
        inject=inject,
        covered_only=not all_lists,
        fingerprint=f"{config.model_dump_json()}|{fit_users}|{all_lists}",
        reader=reader_of(config.engine),
        allow_leaks=() if allow_leaks is None else tuple(names_in(allow_leaks)),
    )
    factories = suite.factories(tuple(dict.fromkeys(("first_stage", *names))))
    planned = plan(("first_stage", *names), config, len(data.items), len(fold.users))
    typer.echo(plan_table(planned) + "\n", err=True)
    require_packages(planned)
    factories |= external_factories(external or (), SYSTEMS)
    asked = {
        "systems": ",".join(names),
        "split": fold.split,
        "domain": fold.domain,
        "users": len(fold.users),
        "out": out,
    }
    with tracked(mlflow, "evaluate", asked) as tracker:
        results = run([fold], first_stage, factories, settings, out, lambda line: typer.echo(line, err=True))
        diagnoses = diagnoses_of(results.runs, factories, diagnose) if diagnose else []
        shown, qualities = exposures(results, provider=provider), group_qualities(results, groups)
        further = {
            "exposure": [one.record() for one in shown],
            "user_groups": [one.record() for one in qualities],
        }
        write_results(results, out, [one.record() for one in diagnoses], further)
        made = Provenance.of(sys.argv[1:], datetime.now(UTC).strftime("%d %B %Y, %H:%M UTC"))
        title = f"Reranking {data.domain}, judged"
        write_report(
            results,
            out / "report.html",
            title=title,
            diagnoses=diagnoses,
            provenance=made,
            exposures=shown,
            groups=qualities,
        )
        log_evaluation(tracker, results)
        tracker.file(out / "report.html")
    typer.echo(comparison_table(results))
    typer.echo("\n" + "\n".join(verdict(results)))
    if wanted is not None:
        prices = rules_prices(results, wanted)
        write_text(out / "rules.json", json.dumps([one.to_json() for one in prices], indent=1))
        typer.echo(f"\nthe rules of {rules}:\n{price_table(prices)}")
    typer.echo(f"\n{fairness_table(shown)}")
    if diagnoses:
        typer.echo(f"\n{diagnosis_table(diagnoses)}\n\n{attacks_table(diagnoses)}")
    elif diagnose:
        typer.echo("\nnothing to diagnose: no llm, fused, served or baseline was run on a user whose target is listed")
    typer.echo(f"\nwrote {out}/results.parquet, results.json, report.html, runs/")


def _judge_log(
    score_log: Path | None,
    outcomes: Path | None,
    within_hours: float,
    domain: str | None,
    control: str | None,
    user_key: Path | None,
    bundle: Path | None,
) -> None:
    from reranker.data.table_io import read_table
    from reranker.evaluation.logs import judge_log
    from reranker.pipeline.manifest import identity_of, read_manifest
    from reranker.pipeline.versions import current_version

    if score_log is None or outcomes is None:
        raise ConfigError("--score-log and --outcomes go together: the rankings, and what was chosen afterwards")
    manifest = None if bundle is None else read_manifest(current_version(bundle))
    if manifest is not None and domain is None:
        domain = str(manifest["domain"])
    report = judge_log(
        score_log,
        read_table(outcomes),
        within_hours=within_hours,
        domain=domain,
        control=control,
        bundle=None if manifest is None else identity_of(manifest),
        pseudonyms=None if user_key is None else Pseudonyms.read(user_key),
    )
    typer.echo(report.summary())
