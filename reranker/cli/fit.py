"""`reranker fit`: learn a domain and save a bundle."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, get_args

import typer

from reranker.cli.options import (
    AllowLeaksOption,
    BaseUrlOption,
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
    OverwriteOption,
    RankerOption,
    dataset_from_flags,
    given,
    names_in,
    settings_from_yaml,
    tell_item_vectors,
    tell_texts,
)
from reranker.cli.signal_options import (
    EventWeightsOption,
    RatingScaleOption,
    RepeatsOption,
    TargetEventsOption,
    signals_from_flags,
    signals_of,
)
from reranker.config import ScorerName
from reranker.data.schema import ITEM, USER
from reranker.data.table_io import read_table
from reranker.engines.encoder import ENCODER
from reranker.engines.lexical import LEXICAL
from reranker.errors import ConfigError
from reranker.protocols import ProposesNewItems
from reranker.scoring.baseline import BASELINE
from reranker.utils.progress import step

AUTO, LLM = "auto", "llm"
LLM_SCORERS = tuple(name for name in get_args(ScorerName) if name != BASELINE)
SCORERS = (AUTO, BASELINE, LEXICAL, ENCODER, LLM, *LLM_SCORERS)
MOST_NEW = 0.9
"""Share of a list's places for new items, at most."""
NO_GAIN = 3
"""Exit code of `--require-gain` where the guard serves the first stage's order."""
_NAMES_AN_LLM = ("model", "engine", "scorer", "dtype")


def fit(
    out: Annotated[Path, typer.Option("--out", help="folder for the bundle")],
    interactions: InteractionsOption = None,
    items: ItemsOption = None,
    dataset: DatasetOption = None,
    domain: DomainOption = None,
    candidates: Annotated[
        Path | None,
        typer.Option(
            "--candidates",
            help="your own first-stage lists, served before --held-out was chosen; with query, if they have one",
        ),
    ] = None,
    held_out: Annotated[Path | None, typer.Option("--held-out", help="what users chose after --candidates")] = None,
    generator: GeneratorOption = None,
    new_share: Annotated[
        float | None,
        typer.Option(
            "--new-share",
            min=0.0,
            max=MOST_NEW,
            help="share of places in the generator's lists for items nobody chose yet, by their texts; 0 by default",
        ),
    ] = None,
    prompt: Annotated[
        str,
        typer.Option("--prompt", help="folder of a trained prompt, as `train prompt` writes it; default; untrained"),
    ] = "default",
    config: Annotated[
        Path | None, typer.Option("--config", help="YAML with fields of RerankerConfig, signals and new_share")
    ] = None,
    model: ModelOption = None,
    engine: EngineOption = None,
    base_url: BaseUrlOption = None,
    dtype: DtypeOption = None,
    scorer: Annotated[
        str | None,
        typer.Option(
            "--scorer",
            help="what scores texts. auto fits words, a sentence encoder and the LLM and serves a dearer one only "
            "where it is worth more; baseline needs no texts, lexical no model, encoder a small one; llm insists on "
            f"the LLM, by its default scorer; {', '.join(LLM_SCORERS)} insist on it by that one. By default auto, or "
            "llm where a model, engine or prompt is named",
        ),
    ] = None,
    features: FeaturesOption = None,
    allow_leaks: AllowLeaksOption = None,
    users: Annotated[Path | None, typer.Option("--users", help="user_id and columns for --features")] = None,
    item_vectors: ItemVectorsOption = None,
    ranker: RankerOption = None,
    rules: Annotated[
        Path | None, typer.Option("--rules", help="YAML or JSON: tell what these rules cost in NDCG@10, too")
    ] = None,
    event_weights: EventWeightsOption = None,
    rating_scale: RatingScaleOption = None,
    target_events: TargetEventsOption = None,
    repeats: RepeatsOption = None,
    n: Annotated[int | None, typer.Option("--n", help="length of the first-stage lists to learn on")] = None,
    fit_users: Annotated[int | None, typer.Option("--fit-users", help="lists the LLM scores, at most")] = None,
    seed: Annotated[int | None, typer.Option("--seed")] = None,
    require_gain: Annotated[
        bool,
        typer.Option("--require-gain", help="exit 3 where the first stage's order is served; the bundle is saved"),
    ] = False,
    overwrite: OverwriteOption = False,
    mlflow: MlflowOption = None,
) -> None:
    """Learn a domain from interactions and save a bundle; the first stage is ALS and co-visits, or --generator."""
    from candidate_gen import DEFAULT_METHOD, make_generator
    from reranker.fusion.own_columns import unused
    from reranker.pipeline.bundle import require_new_place, require_storable
    from reranker.pipeline.ladder import climb, fit_rungs_on_windows
    from reranker.pipeline.reranker import Reranker
    from reranker.pipeline.unread import unread
    from reranker.pipeline.windows import windows_of
    from reranker.rules import ItemColumns, read_rules
    from reranker.tracking import log_fit, tracked

    settings = given(
        model=model, engine=engine, dtype=dtype, ranker=ranker, n_candidates=n, fit_users=fit_users, seed=seed
    )
    if scorer in LLM_SCORERS:
        settings["scorer"] = scorer
    if features is not None:
        settings["features"] = names_in(features)
    if allow_leaks is not None:
        settings["allow_leaks"] = names_in(allow_leaks)
    settings = {**settings_from_yaml(config), **settings}
    share = _new_share(settings, new_share, config)
    if base_url is not None:
        settings["engine_options"] = {**settings.get("engine_options", {}), "base_url": base_url}
    if settings.get("engine") == "openai":
        settings.setdefault("soft_tokens", 0)  # a server takes no vectors
    signals = signals_from_flags(event_weights, rating_scale, target_events, repeats, signals_of(settings, config))
    data = dataset_from_flags(dataset, interactions, items, domain, users, item_vectors, signals)
    wanted = None if rules is None else read_rules(rules)
    if wanted is not None:
        ItemColumns(data.items).require(wanted)
    require_new_place(out, overwrite)  # now, not after hours of reading
    require_storable(data)
    chosen_scorer = _scorer(scorer, settings, named=prompt != "default")
    without_llm = chosen_scorer in (BASELINE, LEXICAL, ENCODER)
    if without_llm:
        settings |= {"engine": ENCODER if chosen_scorer == ENCODER else LEXICAL}
        settings |= {"scorer": BASELINE if chosen_scorer == BASELINE else "embedding"}
        settings |= {"soft_tokens": 0} if chosen_scorer == BASELINE else {}
    reranker = Reranker.from_pretrained("untrained" if without_llm else prompt, **settings)
    asked = reranker
    known = {USER: data.interactions[USER], ITEM: data.items[ITEM]}
    served = None
    with tracked(mlflow, "fit", {"scorer": chosen_scorer, "generator": generator or "", "bundle": out}) as tracker:
        if candidates is not None or held_out is not None:
            if candidates is None or held_out is None:
                raise ConfigError("your own first stage needs both --candidates and --held-out")
            if generator is not None:
                raise ConfigError(
                    f"--candidates are your own lists, so --generator {generator} would propose none: leave it out"
                )
            if share:
                raise ConfigError(
                    f"--candidates are your own lists, in which places for new items (--new-share {share:g}) cannot be "
                    "made: put new items into the lists, or leave it out"
                )
            served, chosen = (read_table(table, known=known) for table in (candidates, held_out))
            if chosen_scorer == AUTO:
                reranker = climb(reranker, data, candidates=served, held_out=chosen, rules=wanted)
            else:
                reranker.fit(data, candidates=served, held_out=chosen, rules=wanted)
        else:
            first_stage = make_generator(
                generator or DEFAULT_METHOD, seed=reranker.config.seed, items=data.items, new_share=share
            )
            n_users, most = data.interactions[USER].nunique(), reranker.config.window_users
            if n_users > most:
                typer.echo(f"lists of {most:,} of {n_users:,} users, drawn at random, are learned from (window_users)")
            windows = windows_of(data, first_stage, None, None, reranker.config, progress=None, lean=True)
            with step("candidate generator"):  # not before: two fitted ones are the most of a large catalogue's memory
                first_stage.fit(data.interactions)
            if isinstance(first_stage, ProposesNewItems) and share:
                typer.echo(_told_new(share, len(first_stage.new_item_ids)))
            if chosen_scorer == AUTO:
                reranker = fit_rungs_on_windows(reranker, data, windows, first_stage, rules=wanted).served
            else:
                reranker.fit_windows(data, windows, first_stage, rules=wanted)
            del windows
        with step("bundle"):
            reranker.save(out)
        log_fit(tracker, reranker)
    assert reranker.fusion_model is not None
    if not without_llm and (texts := asked.llm_scorer.texts_read) is not None:
        typer.echo(texts.summary())
    for line in unread(data, reranker.llm_scorer):
        typer.echo(line)
    tell_item_vectors(data)
    fitted = reranker.fusion_model
    for verdict in (fitted.own, fitted.own_vectors, fitted.queries):
        if verdict is not None:
            typer.echo(verdict.summary())
    for line in reranker.fusion_model.trees_summary():
        typer.echo(line)
    if could_be := unused(reranker.config.features, data.items, data.users, served):
        typer.echo(f"columns that could be features (--features): {', '.join(could_be)}")
    if chosen_scorer != BASELINE:
        tell_texts(reranker, data.items)
    if reranker.ladder is not None:
        typer.echo(reranker.ladder.summary())
    typer.echo(f"served: {reranker.fusion_model.guard.serve}")  # for programs: first_stage, baseline or fused
    typer.echo(f"{reranker.fusion_model.guard.summary()}")
    for line in reranker.fusion_model.fused.summary(most=6):
        typer.echo(f"  {line}")
    if reranker.fusion_model.new_items_verdict is not None:
        typer.echo(reranker.fusion_model.new_items_verdict.summary(reranker.fusion_model.reads_no_new_items))
    if reranker.fusion_model.rules is not None:
        typer.echo(reranker.fusion_model.rules.summary())
    typer.echo(f"saved {out}: `reranker inspect --bundle {out}` says what it is")
    for line in reranker.summary().next_steps:
        typer.echo(f"what may help: {line}")
    if require_gain and reranker.fusion_model.guard.serve == "first_stage":
        raise typer.Exit(NO_GAIN)


def _scorer(asked: str | None, settings: Mapping[str, object], named: bool) -> str:
    """Which scorer to fit; whoever names a model, an engine, a scorer or a prompt gets that and no ladder.

    Raises:
        ConfigError: there is no such scorer, or "baseline" or "lexical" beside a setting of the LLM.
    """
    of_llm = [name for name in _NAMES_AN_LLM if name in settings]
    if asked is None:
        return LLM if of_llm or named else AUTO
    if asked not in SCORERS:
        raise ConfigError(f"unknown scorer {asked!r}; choose one of {', '.join(SCORERS)}")
    reads = {BASELINE: "nothing", LEXICAL: "words without a model", ENCODER: "texts by a sentence encoder"}
    if asked in reads and (of_llm or named):
        raise ConfigError(
            f"--scorer {asked} reads {reads[asked]}, so "
            f"{', '.join(of_llm) or 'a trained prompt'} would be ignored: leave it out, or take --scorer llm"
        )
    if asked == AUTO and named:
        raise ConfigError("--scorer auto compares untrained readers: take --scorer llm with --prompt")
    return asked


def _new_share(settings: dict[str, object], asked: float | None, path: Path | None) -> float:
    """The share of places for new items: the flag's, or else `new_share` of a settings file, which is taken out of it.

    Raises:
        ConfigError: the file's is no number from 0 to 0.9.
    """
    found = settings.pop("new_share", 0.0)
    if isinstance(found, bool) or not isinstance(found, int | float) or not 0 <= found <= MOST_NEW:
        raise ConfigError(f"{path}: new_share must be a number from 0 to {MOST_NEW}, got {found!r}")
    return float(found) if asked is None else asked


def _told_new(share: float, n_new: int) -> str:
    if not n_new:
        return f"{share:.0%} of the places of a list are kept for new items; there are none yet (data add-items)"
    return f"{share:.0%} of the places of a list are for new items, of which there are {n_new:,}"
