"""`reranker data candidates`: candidates for users, by a candidate generator alone."""

from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from reranker.cli.options import read_users
from reranker.data.schema import ITEM, USER, require_ids_like, validate_interactions
from reranker.data.table_io import read_table, write_table
from reranker.protocols import CandidateGenerator


class Method(StrEnum):
    """Candidate generators that need no settings."""

    ALS = "als"
    ITEM_KNN = "item-knn"
    POPULARITY = "popularity"
    FUSION = "als-item-knn-popularity"
    CO_VISIT = "co-visit"
    ALS_CO_VISIT = "als-co-visit"


def candidates(
    interactions: Annotated[Path, typer.Option("--interactions", help="user_id, item_id, optional timestamp, weight")],
    out: Annotated[Path, typer.Option("--out", help="candidates table to write (parquet, csv)")],
    method: Annotated[Method, typer.Option("--method")] = Method.ALS,
    n: Annotated[int, typer.Option("--n", min=1, help="candidates a user")] = 50,
    users: Annotated[Path | None, typer.Option("--users", help="table with user_id; all users by default")] = None,
    sample: Annotated[int | None, typer.Option("--sample", min=1, help="only so many users, drawn at random")] = None,
    exclude_seen: Annotated[bool, typer.Option(help="leave out what a user already chose")] = True,
) -> None:
    """Propose candidates: user_id, item_id, score, rank."""
    from candidate_gen import (
        ALSGenerator,
        CoVisitGenerator,
        ItemKNNGenerator,
        PopularityGenerator,
        ReciprocalRankFusion,
    )

    makers: dict[Method, Callable[[], CandidateGenerator]] = {
        Method.ALS: ALSGenerator,
        Method.ITEM_KNN: ItemKNNGenerator,
        Method.POPULARITY: PopularityGenerator,
        Method.FUSION: lambda: ReciprocalRankFusion([ALSGenerator(), ItemKNNGenerator(), PopularityGenerator()]),
        Method.CO_VISIT: CoVisitGenerator,
        Method.ALS_CO_VISIT: lambda: ReciprocalRankFusion([ALSGenerator(), CoVisitGenerator()]),
    }
    table = validate_interactions(read_table(interactions))
    wanted = table if users is None else read_users(users, {USER: table[USER]})
    require_ids_like(table[USER], wanted[USER], str(users))
    stage = makers[method]().fit(table)
    asked = wanted[USER].drop_duplicates()
    if sample is not None and sample < len(asked):
        asked = asked.sample(sample, random_state=0)
    proposed = stage.recommend(asked.tolist(), n, exclude_seen=exclude_seen)
    write_table(proposed, out)
    fallback = proposed.attrs.get("fallback_users", 0)
    typer.echo(
        f"wrote {len(proposed)} candidates of {proposed[USER].nunique()} users and {proposed[ITEM].nunique()} "
        f"items to {out}; {fallback} unknown users got popular items"
    )
