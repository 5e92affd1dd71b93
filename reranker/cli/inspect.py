"""`reranker inspect`: what a bundle is; a user's prompt as the model sees it, and reasons of places; drift."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from reranker.cli.drift import tell_drift
from reranker.cli.options import BundleOption, DtypeOption, EngineOption, UserKeyOption, given, read_users
from reranker.data.schema import ITEM, RECALL_RANK, USER
from reranker.errors import ConfigError, DataError


class Language(StrEnum):
    """Of the sentences of `--explain`."""

    EN = "en"
    ZH = "zh"


def inspect(
    bundle: BundleOption,
    user: Annotated[
        str | None, typer.Option("--user", help="whose prompt or reasons; without it, what the bundle is")
    ] = None,
    candidates: Annotated[
        Path | None, typer.Option("--candidates", help="candidates table; the bundle's own first stage by default")
    ] = None,
    k: Annotated[int, typer.Option("--k", min=1, help="candidates shown")] = 10,
    n: Annotated[int, typer.Option("--n", min=1, help="candidates proposed, without --candidates")] = 50,
    why: Annotated[
        Language | None, typer.Option("--explain", help="contributions and reasons, in this language, not the prompt")
    ] = None,
    tokens: Annotated[
        bool, typer.Option("--tokens", help="with --explain, scorer likelihood: effects of the prompt's tokens; slow")
    ] = False,
    drift: Annotated[
        bool, typer.Option("--drift", help="compare --score-log or --candidates with what the bundle was fitted for")
    ] = False,
    score_log: Annotated[
        Path | None, typer.Option("--score-log", help="with --drift: folder of `serve --score-log`")
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", help="with --drift: the file of `serve --config`, for its drift settings")
    ] = None,
    window: Annotated[
        int | None, typer.Option("--window", min=20, help="with --drift: lists compared together (500)")
    ] = None,
    user_key: UserKeyOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="what the bundle is, as JSON")] = False,
    engine: EngineOption = None,
    dtype: DtypeOption = None,
) -> None:
    """Show what a bundle is: data, figures, what it serves and why; or a --user's prompt and scores; or drift."""
    from reranker.pipeline.reranker import Reranker

    reranker = Reranker.load(bundle, engine=engine, **given(dtype=dtype))
    if drift and as_json:
        raise ConfigError("--json says what the bundle is: leave --drift out")
    if drift:
        tell_drift(reranker, score_log, candidates, config, window, user_key)
        return
    if tokens and (why is None or user is None):
        raise ConfigError("--tokens goes with --explain and --user")
    if any(one is not None for one in (score_log, config, window, user_key)):
        raise ConfigError("--score-log, --config, --window and --user-key go with --drift")
    if user is None:
        if candidates is not None or why is not None:
            raise ConfigError("--candidates and --explain go with --user")
        summary = reranker.summary()
        typer.echo(json.dumps(summary.to_json(), indent=1, ensure_ascii=False) if as_json else str(summary))
        return
    if as_json:
        raise ConfigError("--json says what the bundle is: leave --user out")
    if candidates is not None:
        table = read_users(candidates, {USER: reranker.user_ids, ITEM: reranker.item_ids})
    elif reranker.generator is not None:
        table = reranker.generator.recommend([_as_known(user, reranker.user_ids)], n)
    else:
        raise DataError("the bundle holds no candidate generator: give --candidates")
    table = table[table[USER].map(str) == user]
    if table.empty:
        raise DataError(f"user {user!r} has no candidates; check the id")
    if why is not None:
        found = reranker.explain(table[USER].iloc[0], table, k, tokens=tokens)
        typer.echo(f"user {user}: log-odds against the list's mean, by group; effects of the history in brackets\n")
        typer.echo(found.table())
        typer.echo(
            "\n"
            + "\n".join(
                f"{one.title}: {said}" for one, said in zip(found.items, found.sentences(why.value), strict=True)
            )
        )
        return
    seen = reranker.inspect(table, k)
    typer.echo(f"user {user}: {seen.prompt.history_kept} of {seen.prompt.history_given} history items were read\n")
    for span in seen.prompt.spans:
        typer.echo(f"[{span.start:4d}..{span.end:4d}) {span.kind:14s} {span.text!r}")
    typer.echo(f"\n{'rank':>4} {'generator':>6} {'score':>8}  " + "  ".join(f"{name:>10}" for name in seen.components))
    for row, values, token_ids, text in zip(
        seen.ranked.itertuples(index=False), seen.values, seen.candidate_tokens, seen.candidate_texts, strict=True
    ):
        numbers = "  ".join(f"{value:10.3f}" for value in values)
        typer.echo(f"{row.rank:4d} {getattr(row, RECALL_RANK):6d} {row.score:8.3f}  {numbers}  {text!r} {token_ids}")
    typer.echo(f"\nserved to this user: {seen.served}\n{seen.guard}")
    for line in seen.weights:
        typer.echo(f"  {line}")
    if seen.rules:
        typer.echo(seen.rules)


def _as_known(user: str, known: list[object]) -> object:
    """The id with the type it has in the bundle."""
    matches = [one for one in known if str(one) == user]
    return matches[0] if matches else user
