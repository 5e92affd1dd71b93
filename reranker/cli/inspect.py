"""`reranker inspect`: what a bundle is; a user's prompt as the model sees it, and reasons of places; drift."""

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reranker.cli.drift import tell_drift
from reranker.cli.options import BundleOption, DtypeOption, EngineOption, UserKeyOption, given, read_users
from reranker.data.schema import ITEM, RECALL_RANK, USER
from reranker.errors import ConfigError, DataError

if TYPE_CHECKING:
    import pandas as pd

    from reranker.pipeline.reranker import Reranker

_SHOWN, _PROPOSED = 10, 50
_READ = {
    "": {"--json"},
    "--user": {"--user", "--candidates", "--k", "--n", "--explain", "--tokens"},
    "--drift": {"--candidates", "--score-log", "--config", "--window", "--user-key"},
}
"""What was asked for -> flags that are read for it."""


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
    k: Annotated[int | None, typer.Option("--k", min=1, help="with --user: candidates shown (10)")] = None,
    n: Annotated[
        int | None, typer.Option("--n", min=1, help="with --user, without --candidates: candidates proposed (50)")
    ] = None,
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

    given_flags = {
        "--user": user,
        "--candidates": candidates,
        "--k": k,
        "--n": n,
        "--explain": why,
        "--tokens": tokens or None,
        "--score-log": score_log,
        "--config": config,
        "--window": window,
        "--user-key": user_key,
        "--json": as_json or None,
    }
    way = "--drift" if drift else "--user" if user is not None else ""
    read = _READ[way]
    if unread := [name for name, value in given_flags.items() if value is not None and name not in read]:
        asked = f"with {way}" if way else "without --user or --drift"
        raise ConfigError(f"{', '.join(unread)} would be ignored {asked}: see `reranker inspect --help`")
    if tokens and why is None:
        raise ConfigError("--tokens goes with --explain")
    reranker = Reranker.load(bundle, engine=engine, **given(dtype=dtype))
    if drift:
        tell_drift(reranker, score_log, candidates, config, window, user_key)
    elif user is None:
        summary = reranker.summary()
        typer.echo(json.dumps(summary.to_json(), indent=1, ensure_ascii=False) if as_json else str(summary))
    elif why is not None:
        _tell_reasons(reranker, user, _list_of(reranker, user, candidates, n), k or _SHOWN, why, tokens)
    else:
        _tell_prompt(reranker, user, _list_of(reranker, user, candidates, n), k or _SHOWN)


def _list_of(reranker: "Reranker", user: str, candidates: Path | None, n: int | None) -> "pd.DataFrame":
    """The user's candidates, from a table or proposed."""
    if candidates is not None and n is not None:
        raise ConfigError("--n would be ignored: the candidates come from a table")
    if candidates is not None:
        table = read_users(candidates, {USER: reranker.user_ids, ITEM: reranker.item_ids})
    elif reranker.generator is not None:
        table = reranker.generator.recommend([_as_known(user, reranker.user_ids)], n or _PROPOSED)
    else:
        raise DataError("the bundle holds no candidate generator: give --candidates")
    table = table[table[USER].map(str) == user]
    if table.empty:
        raise DataError(f"user {user!r} has no candidates; check the id")
    return table


def _tell_reasons(
    reranker: "Reranker", user: str, table: "pd.DataFrame", k: int, language: Language, tokens: bool
) -> None:
    found = reranker.explain(table[USER].iloc[0], table, k, tokens=tokens)
    typer.echo(f"user {user}: log-odds against the list's mean, by group; effects of the history in brackets\n")
    typer.echo(found.table())
    sentences = zip(found.items, found.sentences(language.value), strict=True)
    typer.echo("\n" + "\n".join(f"{one.title}: {said}" for one, said in sentences))


def _tell_prompt(reranker: "Reranker", user: str, table: "pd.DataFrame", k: int) -> None:
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
