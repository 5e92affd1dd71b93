"""`reranker evaluate --lists --held-out`: judge a first stage of your own by what it served."""

import json
from collections.abc import Sequence
from pathlib import Path

import typer

from reranker.config import RerankerConfig
from reranker.data.dataset import Dataset
from reranker.data.schema import ITEM, USER
from reranker.data.table_io import read_table
from reranker.errors import ConfigError
from reranker.utils.atomic_io import write_text


def evaluate_lists(
    data: Dataset,
    lists: Sequence[Path],
    held_out: Sequence[Path],
    config: RerankerConfig,
    systems: str | None,
    out: Path | None,
) -> None:
    """Prints the plan, then recall and NDCG of the lists and of every rung on them; writes lists.json to `out`.

    Args:
        lists, held_out: served lists and later choices of each window, oldest first.
        systems: rungs, comma-separated; all by default.

    Raises:
        ConfigError: not one table of choices for each table of lists, or a package of an asked system is missing.
        DataError: a table is wrong, or nothing was chosen from the lists.
    """
    from reranker.evaluation.own_lists import RUNGS, OwnLists, judge_lists
    from reranker.evaluation.plan import plan, plan_table, require_packages
    from reranker.pipeline.reranker import Reranker

    if len(lists) != len(held_out):
        raise ConfigError(
            f"--lists was given {len(lists)} times and --held-out {len(held_out)} times: give what was chosen after "
            "each of them"
        )
    rungs = RUNGS if systems is None else tuple(name.strip() for name in systems.split(","))
    known = {USER: data.interactions[USER], ITEM: data.items[ITEM]}
    pairs = [
        (read_table(served, known=known), read_table(chosen, known=known))
        for served, chosen in zip(lists, held_out, strict=True)
    ]
    own = OwnLists.of(data, pairs, config.features)  # now, not after a model was fetched
    n_lists = sum(served[USER].nunique() for served, _ in pairs if USER in served)
    planned = plan(rungs, config, len(data.items), n_lists)
    typer.echo(plan_table(planned) + "\n", err=True)
    if systems is not None:
        require_packages(planned)
    rungs = tuple(one.name for one in planned if not one.missing)
    llm = Reranker.from_pretrained("default", **config.model_dump(exclude_unset=True))
    report = judge_lists(llm, data, own, rungs)
    typer.echo(report.summary())
    if out is not None:
        write_text(out / "lists.json", json.dumps(report.to_json(), indent=1))
        typer.echo(f"\nwrote {out}/lists.json")
