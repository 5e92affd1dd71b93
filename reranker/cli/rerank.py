"""`reranker rerank`: candidates in, reranked lists out; a table at once, or a folder as an offline run."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import typer
import yaml

from reranker.cli.options import BaseUrlOption, BundleOption, DtypeOption, EngineOption, given
from reranker.data.column_names import meant
from reranker.data.formats import holds_text
from reranker.data.id_matching import histories_without_list, require_most_known, told_without_list
from reranker.data.schema import ITEM, TIMESTAMP, USER
from reranker.data.table_io import like_known, read_table, write_table
from reranker.errors import ConfigError
from reranker.rules import RulesReport

_TABLES = (".parquet", ".csv")


def rerank(
    bundle: BundleOption,
    candidates: Annotated[
        Path,
        typer.Option(
            "--candidates",
            help="table, or folder of tables (parquet, csv, jsonl); with query, if users ask for something",
        ),
    ],
    out: Annotated[Path, typer.Option("--out", help="ranking.parquet or .csv, or a folder: then an offline run")],
    interactions: Annotated[
        Path | None, typer.Option("--interactions", help="newer histories than the bundle's")
    ] = None,
    k: Annotated[int | None, typer.Option("--k", help="rows kept a user; all by default")] = None,
    engine: EngineOption = None,
    base_url: BaseUrlOption = None,
    dtype: DtypeOption = None,
    engine_option: Annotated[
        list[str] | None, typer.Option("--engine-option", help="key=value for the engine: tensor_parallel_size=2")
    ] = None,
    order: Annotated[
        str | None, typer.Option("--order", help="serve fused, baseline or first_stage whatever the guard decided")
    ] = None,
    user_col: Annotated[str | None, typer.Option("--user-col", help="your name of user_id")] = None,
    item_col: Annotated[str | None, typer.Option("--item-col", help="your name of item_id")] = None,
    score_col: Annotated[str | None, typer.Option("--score-col", help="your name of score")] = None,
    rank_col: Annotated[str | None, typer.Option("--rank-col", help="your name of rank")] = None,
    part_users: Annotated[int | None, typer.Option("--part-users", min=1, help="users a part; default 1000")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="go on with the run in --out")] = False,
    force: Annotated[
        bool, typer.Option("--force", help="start over; with --resume, go on though something changed")
    ] = False,
    rules: Annotated[
        Path | None, typer.Option("--rules", help="YAML or JSON: exclude, pin, boost, caps, quotas, diversity")
    ] = None,
    cluster: Annotated[str | None, typer.Option("--cluster", help="ray, or the address of a Ray cluster")] = None,
    workers: Annotated[int | None, typer.Option("--workers", min=1, help="copies of the model on the cluster")] = None,
) -> None:
    """Rerank candidates with a bundle. A folder as --out makes it an offline run that can be resumed."""
    from reranker.batch import Columns, Engines, OfflineRun
    from reranker.fusion import as_order
    from reranker.rules import read_rules

    columns = Columns(**given(user=user_col, item=item_col, score=score_col, rank=rank_col))
    engines = Engines(name=engine, dtype=dtype, options={**_options(engine_option or ()), **given(base_url=base_url)})
    served = None if order is None else as_order(order)
    wanted_rules = None if rules is None else read_rules(rules)
    if out.suffix not in _TABLES or out.is_dir():
        run = OfflineRun(
            bundle=bundle,
            candidates=candidates,
            out=out,
            interactions=interactions,
            columns=columns,
            k=k,
            order=served,
            rules=wanted_rules,
            engines=engines,
            cluster=cluster,
            workers=workers,
            **given(part_users=part_users),
        )
        _report(run.run(resume=resume, force=force, progress=True), out)
        return
    if resume or force or given(part_users=part_users, cluster=cluster, workers=workers):
        raise ConfigError(
            "--resume, --force, --part-users, --cluster and --workers are of offline runs: give a folder as --out, "
            f"not {out}"
        )
    ids = columns.user, columns.item
    newer, unread = None, list[str]()
    reranker = engines.reranker(bundle)
    if interactions is not None:
        items = dict.fromkeys((columns.item, ITEM), reranker.item_ids)
        newer = read_table(interactions, (*ids, USER, ITEM), items)
        read = columns.of_interactions(list(map(str, newer.columns)), str(interactions))
        unread = [str(name) for name in newer.columns if name not in read.values()]
        newer = _renamed(newer, read)
    columns = replace(columns, further=tuple(reranker.candidate_columns))
    users = {columns.user: reranker.user_ids} if newer is None else {}
    table = read_table(candidates, ids, {columns.item: reranker.item_ids, **users})
    wanted = columns.of_candidates(list(map(str, table.columns)), str(candidates))
    unused = [str(name) for name in table.columns if name not in wanted.values()]
    table = _renamed(table, wanted)
    known = {USER: reranker.user_ids, ITEM: reranker.item_ids}
    if newer is not None and interactions is not None:
        kind_of_users = known[USER] if holds_text(interactions) else newer[USER]
        table = like_known(table, candidates, {**known, USER: kind_of_users})
        newer = like_known(newer, interactions, {**known, USER: table[USER]})
    else:
        table = like_known(table, candidates, known)
    require_most_known(reranker.item_ids, table[ITEM], str(candidates), "the bundle's item table")
    if newer is not None:
        require_most_known(reranker.item_ids, newer[ITEM], str(interactions), "the bundle's item table")
        if not newer[USER].isin(table[USER]).any():
            typer.echo(f"no user of the candidates is in {interactions}: all lists go by the bundle's histories")
    ranked = reranker.rerank(table, k, interactions=newer, order=served, rules=wanted_rules, progress=True)
    write_table(ranked.to_frame(), out)
    report = ranked.report
    typer.echo(
        f"wrote {len(ranked)} rows of {report.users} users to {out}: {report.served} order{_kept(report.users_kept)}; "
        f"{report.unknown_users} users without history, {report.unknown_items} candidates not in the item table"
    )
    if newer is not None and (words := told_without_list(newer, table[USER])):
        typer.echo(words)
    if ranked.rules is not None:
        typer.echo(ranked.rules.summary())
    _tell_unused(unused)
    _tell_unread(unread, has_times=newer is None or TIMESTAMP in newer)


def _tell_unused(columns: Sequence[str]) -> None:
    if columns:
        typer.echo(f"columns of the candidates that were not used: {', '.join(columns)}")


def _tell_unread(columns: Sequence[str], has_times: bool) -> None:
    if columns:
        hint = "" if has_times else meant([TIMESTAMP], columns)
        typer.echo(f"columns of the interactions that were not used: {', '.join(columns)}.{hint}")


def _renamed(table: pd.DataFrame, columns: dict[str, str]) -> pd.DataFrame:
    wanted = table.loc[:, table.columns.isin(list(columns.values()))]
    return wanted.rename(columns={own: name for name, own in columns.items()})


def _kept(users: int) -> str:
    return f", the first stage's for {users} users by the guard" if users else ""


def _report(summary: dict[str, Any], out: Path) -> None:
    typer.echo(
        f"wrote {summary['written']} rows of {summary['users']} users to {out}/ranking, {summary['parts']} parts "
        f"({summary['parts_reused']} from before): {', '.join(summary['served']) or 'no'} order"
        f"{_kept(summary['users_kept'])}; "
        f"{summary['unknown_users']} users without history, {summary['unknown_items']} candidates not in the item table"
    )
    if (histories := summary.get("interactions")) is not None:
        _tell_histories(histories)
    if "rules" in summary:
        typer.echo(RulesReport.from_json(summary["rules"]).summary())
    _tell_unused(summary["unused_columns"])
    if summary["rejected_rows"]:
        reasons = "; ".join(f"{count} because {reason}" for reason, count in summary["rejected"].items())
        typer.echo(
            f"rejected {summary['rejected_rows']} of {summary['rows']} rows, see {out}/rejected.parquet: {reasons}; "
            f"{summary['users_without_candidates']} users are left without candidates"
        )


def _tell_histories(found: dict[str, Any]) -> None:
    without = found["rows_without_list"], found["users_without_list"]
    if words := histories_without_list(*without, found["rows"], found["users"], found["examples"]):
        typer.echo(words)
    if count := found["rows_of_unknown_items"]:
        typer.echo(f"{count} of {found['rows']} rows of the interactions are of items that are not in the item table")
    _tell_unread(found["unused_columns"], found["has_timestamps"])


def _options(pairs: Sequence[str]) -> dict[str, Any]:
    """key=value pairs; values are read as YAML, so that 2 is a number and true a truth."""
    options = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise ConfigError(f"--engine-option takes key=value, got {pair!r}")
        try:
            options[key] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"--engine-option {key}: cannot read {value!r}") from error
    return options
