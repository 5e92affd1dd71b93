"""First stages against ALS 50: recall@50 and NDCG@10 of their own order, misses 0, paired intervals by user.

    python -m eval.candidates DATA_DIR --out candidates.json
    python -m eval.candidates --scale      a million synthetic items: seconds and memory

The order is the first stage's own: nothing is reranked here, so a gain below is not yet a gain of the served list.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from numpy.typing import NDArray

from candidate_gen import ALSGenerator, CoVisitGenerator, ItemKNNGenerator, ReciprocalRankFusion
from eval import candidate_scale
from eval.domains import folds_left, load_domain, ordered_domains
from reranker.data.schema import ITEM, RANK, USER
from reranker.data.splits import global_temporal, leave_last_k
from reranker.errors import ConfigError
from reranker.evaluation import Fold
from reranker.protocols import CandidateGenerator
from reranker.utils.statistics import bootstrap_means, mean_interval

LENGTH, CUT = 50, 10
BASE = "als"
SYSTEMS: dict[str, Callable[[], CandidateGenerator]] = {
    BASE: ALSGenerator,
    "co_visit": CoVisitGenerator,
    "als+co_visit": lambda: ReciprocalRankFusion([ALSGenerator(), CoVisitGenerator()]),
    "als+item_knn": lambda: ReciprocalRankFusion([ALSGenerator(), ItemKNNGenerator()]),
}
SPLITS: dict[str, Callable[[Any], Fold]] = {"global_temporal": global_temporal, "leave_last": leave_last_k}


def per_user(fold: Fold, stage: CandidateGenerator) -> NDArray[np.float64]:
    """(users, 2) recall@50 and NDCG@10 of a stage fitted on the training part, in the order of `fold.users`."""
    table = stage.fit(fold.train).recommend(fold.users, n=LENGTH)
    targets = fold.held_out.groupby(USER)[ITEM].agg(set).to_dict()
    counts = np.array([len(targets[user]) for user in fold.users])
    position = {user: row for row, user in enumerate(fold.users)}
    hits = np.array([item in targets[user] for user, item in zip(table[USER], table[ITEM], strict=True)], dtype=bool)
    found = table[hits]
    rows, ranks = found[USER].map(position).to_numpy(), found[RANK].to_numpy()
    discounts = 1 / np.log2(np.arange(2, CUT + 2))
    gain = np.where(ranks <= CUT, discounts[np.minimum(ranks, CUT) - 1], 0.0)
    ideal = np.cumsum(discounts)[np.minimum(counts, CUT) - 1]
    generator = np.bincount(rows, minlength=len(counts)) / counts
    return np.column_stack([generator, np.bincount(rows, weights=gain, minlength=len(counts)) / ideal])


def pooled(values: Sequence[NDArray[np.float64]], base: Sequence[NDArray[np.float64]]) -> list[float]:
    """Mean over domains of the relative gain of means, and its 95 % interval by users drawn within each domain."""
    draws = [
        bootstrap_means(new - old, seed=domain) / old.mean()
        for domain, (new, old) in enumerate(zip(values, base, strict=True))
    ]
    gain = np.mean([new.mean() / old.mean() - 1 for new, old in zip(values, base, strict=True)])
    return [float(gain), *np.quantile(np.mean(draws, axis=0), [0.025, 0.975]).tolist()]


def run(data_dir: Path, out: Path, quick: bool = False) -> dict[str, Any]:
    """Writes the figures of every ordered domain under `data_dir` to `out` as JSON, and returns them.

    Args:
        quick: the first two domains only.
    """
    names = ordered_domains(data_dir)[: 2 if quick else None]
    datasets = [load_domain(data_dir, name) for name in names]
    result: dict[str, Any] = {"length": LENGTH, "cut": CUT, "splits": {}}
    for split, cut in SPLITS.items():
        measured: dict[str, dict[str, NDArray[np.float64]]] = {system: {} for system in SYSTEMS}
        rows = []
        for fold in folds_left(datasets, cut, split):
            for system, make in SYSTEMS.items():
                measured[system][fold.domain] = values = per_user(fold, make())
                row: dict[str, Any] = {"domain": fold.domain, "system": system, "users": len(values)}
                for column, metric in enumerate(("first_stage", "ndcg")):
                    difference = mean_interval((values - measured[BASE][fold.domain])[:, column])
                    row[metric] = float(values[:, column].mean())
                    row[f"{metric}_difference"] = [float(bound) for bound in (difference.low, difference.high)]
                rows.append(row)
                typer.echo(f"{split} {json.dumps(row)}")
        gains = {
            system: {
                metric: pooled(
                    [v[:, column] for v in by_domain.values()], [v[:, column] for v in measured[BASE].values()]
                )
                for column, metric in enumerate(("first_stage", "ndcg"))
            }
            for system, by_domain in measured.items()
            if system != BASE
        }
        typer.echo(f"{split} over {BASE}: {json.dumps(gains)}")
        result["splits"][split] = {"domains": rows, "relative_gain": gains}
        out.write_text(json.dumps(result, indent=1))
    return result


def main(
    data_dir: Annotated[Path | None, typer.Argument(help="a folder with one folder a domain")] = None,
    out: Annotated[Path, typer.Option("--out")] = Path("candidates.json"),
    quick: Annotated[bool, typer.Option("--quick")] = False,
    scale: Annotated[bool, typer.Option("--scale", help="a big synthetic catalogue instead")] = False,
    items: Annotated[int, typer.Option(min=10_000, help="of --scale")] = 1_000_000,
    users: Annotated[int, typer.Option(min=1, help="of --scale, who are proposed to")] = 10_000,
) -> None:
    """Compare first stages of equal length, or time them on a big catalogue."""
    if scale:
        candidate_scale.run(out, typer.echo, items, users)
        return
    if data_dir is None:
        raise ConfigError("give DATA_DIR, a folder with one folder a domain, or --scale")
    run(data_dir, out, quick)


if __name__ == "__main__":
    typer.run(main)
