"""`reranker evaluate --candidates --held-out`: judge a first stage of your own by what it served."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import typer

from reranker.config import RerankerConfig
from reranker.data.dataset import Dataset
from reranker.data.schema import ITEM, USER, require_columns
from reranker.data.table_io import read_table
from reranker.errors import ConfigError
from reranker.utils.atomic_io import write_text

if TYPE_CHECKING:
    from reranker.evaluation.own_lists import OwnLists
    from reranker.pipeline.reranker import Reranker
    from reranker.rules import Rules


@dataclass(frozen=True, kw_only=True, eq=False)
class Further:
    """What else is asked of the lists; each costs a second fit, on a part of them.

    Attributes:
        diagnose: users to diagnose, at most.
        user_groups: of `read_user_groups`.
        provider: column of the items that names providers.
    """

    diagnose: int = 0
    user_groups: pd.DataFrame | None = None
    provider: str | None = None

    @property
    def asked(self) -> bool:
        """Whether there is anything."""
        return bool(self.diagnose) or self.user_groups is not None or self.provider is not None


def evaluate_lists(
    data: Dataset,
    lists: Sequence[Path],
    held_out: Sequence[Path],
    config: RerankerConfig,
    systems: str | None,
    out: Path | None,
    further: Further | None = None,
    rules: "Rules | None" = None,
) -> None:
    """Prints the plan, then recall and NDCG of the lists and of every rung on them; writes lists.json to `out`.

    Args:
        lists, held_out: served lists and later choices of each window, oldest first.
        systems: rungs, comma-separated; all by default.
        further: who is shown, who gains and diagnoses.
        rules: whose price is told.

    Raises:
        ConfigError: not one table of choices for each table of lists, or a package of an asked system is missing.
        DataError: a table is wrong, or nothing was chosen from the lists.
    """
    from reranker.evaluation.own_lists import RUNGS, OwnLists, judge_lists
    from reranker.evaluation.plan import plan, plan_table, require_packages
    from reranker.pipeline.reranker import Reranker

    further = further or Further()
    if further.provider is not None:
        require_columns(data.items, [further.provider], "items")  # now, not after everything was read
    if len(lists) != len(held_out):
        raise ConfigError(
            f"--candidates was given {len(lists)} times and --held-out {len(held_out)} times: give what was chosen "
            "after each of them"
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
    report = judge_lists(llm, data, own, rungs, rules=rules)
    typer.echo(report.summary())
    found = report.to_json() | (_further(llm, data, own, rungs, further) if further.asked else {})
    if out is not None:
        write_text(out / "lists.json", json.dumps(found, indent=1))
        typer.echo(f"\nwrote {out}/lists.json")


def _further(llm: "Reranker", data: Dataset, own: "OwnLists", rungs: Sequence[str], further: Further) -> dict[str, Any]:
    """Prints tables of exposure, user groups and diagnoses; the same as JSON."""
    from reranker.evaluation.diagnose import attacks_table, diagnose, diagnosis_table
    from reranker.evaluation.exposure import exposures
    from reranker.evaluation.own_lists_runs import rung_factories, runs_on_lists
    from reranker.evaluation.reporting.fairness import fairness_table, groups_table
    from reranker.evaluation.user_groups import group_qualities

    factories = rung_factories(llm, data.domain, rungs)
    results = runs_on_lists(own.windows, data, factories, allow_leaks=llm.config.allow_leaks)
    judged = results.runs[0].lists
    fitted_on = "the older windows" if len(own.windows) > 1 else "the other half of the users"
    typer.echo(f"\n{len(judged.fold.users)} lists, ranked by what was fitted on {fitted_on}:")
    shown, qualities = exposures(results, provider=further.provider), group_qualities(results, further.user_groups)
    typer.echo(f"\n{fairness_table(shown)}\n\n{groups_table(qualities)}")
    ranked = [name for name in factories if name != "first_stage"]
    diagnoses = diagnose(results.runs, factories, further.diagnose, ranked) if further.diagnose else []
    if diagnoses:
        typer.echo(f"\n{diagnosis_table(diagnoses)}\n\n{attacks_table(diagnoses)}")
    elif further.diagnose:
        typer.echo("\nnothing to diagnose: give --systems with a rung above the first stage")
    return {
        "exposure": [one.record() for one in shown],
        "user_groups": [one.record() for one in qualities],
        "diagnoses": [one.record() for one in diagnoses],
    }
