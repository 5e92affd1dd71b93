"""`reranker data candidates`: candidates for users, by a candidate generator alone."""

from pathlib import Path
from typing import Annotated

import typer

from reranker.cli.options import GeneratorOption, read_users
from reranker.cli.signal_options import EventWeightsOption, RatingScaleOption, signals_from_flags
from reranker.data.schema import ITEM, USER, require_ids_like, validate_interactions
from reranker.data.table_io import read_table, write_table
from reranker.errors import ConfigError


def candidates(
    interactions: Annotated[
        Path, typer.Option("--interactions", help="user_id, item_id, optional timestamp, event, rating, weight")
    ],
    out: Annotated[Path, typer.Option("--out", help="candidates table to write (parquet, csv)")],
    method: GeneratorOption = None,
    n: Annotated[int, typer.Option("--n", min=1, help="candidates a user")] = 50,
    items: Annotated[
        Path | None, typer.Option("--items", help="item_id, title, optional category, description: for --new-share")
    ] = None,
    new_share: Annotated[
        float,
        typer.Option(
            "--new-share", min=0.0, max=0.9, help="share of places for items nobody chose yet, by their texts"
        ),
    ] = 0.0,
    event_weights: EventWeightsOption = None,
    rating_scale: RatingScaleOption = None,
    users: Annotated[Path | None, typer.Option("--users", help="table with user_id; all users by default")] = None,
    sample: Annotated[int | None, typer.Option("--sample", min=1, help="only so many users, drawn at random")] = None,
    exclude_seen: Annotated[
        bool, typer.Option(help="leave out what a user already chose; disliked items always are")
    ] = True,
) -> None:
    """Propose candidates: user_id, item_id, score, rank."""
    from candidate_gen import DEFAULT_METHOD, make_generator

    if items is not None and not new_share:
        raise ConfigError("--items are read for new items alone: give --new-share, such as 0.1, or leave --items out")
    table = validate_interactions(
        read_table(interactions), signals=signals_from_flags(event_weights=event_weights, rating_scale=rating_scale)
    )
    wanted = table if users is None else read_users(users, {USER: table[USER]})
    require_ids_like(table[USER], wanted[USER], str(users))
    listed = None if items is None else read_table(items, known={ITEM: table[ITEM]})
    generator = make_generator(method or DEFAULT_METHOD, items=listed, new_share=new_share).fit(table)
    asked = wanted[USER].drop_duplicates()
    if sample is not None and sample < len(asked):
        asked = asked.sample(sample, random_state=0)
    proposed = generator.recommend(asked.tolist(), n, exclude_seen=exclude_seen)
    write_table(proposed, out)
    unknown = asked[~asked.isin(table[USER])]
    popular, none = int(unknown.isin(proposed[USER]).sum()), int((~asked.isin(proposed[USER])).sum())
    typer.echo(
        f"wrote {len(proposed)} candidates of {proposed[USER].nunique()} users and {proposed[ITEM].nunique()} "
        f"items to {out}; {popular} unknown users got popular items" + (f", {none} users got none" if none else "")
    )
