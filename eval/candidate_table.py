"""End to end: what a candidate generator is worth to the list that is served, at equal length.

`python -m eval.benchmark --data DIR --table candidates` prints it. Each generator is fitted on the training part, and
so is the whole ranker on its lists (windows, features, scorer, guard); NDCG@10 of what would be served counts a
missed choice as 0. Generators are compared by pairs of the same users.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from candidate_gen import ALSGenerator, CoVisitGenerator, ItemKNNGenerator, ReciprocalRankFusion, TextGenerator
from eval.benchmark_tables import Gains, above, below
from eval.checks import Check, at_least, at_most, reported
from reranker.data.schema import ITEM
from reranker.data.user_rows import pairs_in
from reranker.errors import ConfigError
from reranker.evaluation import Fold, Settings, evaluate
from reranker.evaluation.metrics import per_user_metrics
from reranker.evaluation.runner import SystemFactory
from reranker.evaluation.significance import POOLED, compare
from reranker.pipeline.lists import FoldLists
from reranker.protocols import CandidateGenerator
from reranker.utils.atomic_io import write_text

NAME = "candidates"
ASKS = "What is a candidate generator worth to the list that is served, at a length of 50?"
METRIC, LENGTH = "ndcg@10", 50
FIRST_STAGE = "first_stage"
BASE, TARGET = "als", 12.0
CHALLENGER = "als+co_visit"
Makes = Callable[[pd.DataFrame], CandidateGenerator]
"""Item table -> an unfitted generator."""

GENERATORS: dict[str, Makes] = {
    BASE: lambda items: ALSGenerator(),
    CHALLENGER: lambda items: ReciprocalRankFusion([ALSGenerator(), CoVisitGenerator()]),
    "als+item_knn": lambda items: ReciprocalRankFusion([ALSGenerator(), ItemKNNGenerator()]),
    "als+co_visit+text": lambda items: ReciprocalRankFusion([ALSGenerator(), CoVisitGenerator(), TextGenerator(items)]),
}
SPLITS = ("temporal", "leave-last")
FEATURES, DEFAULT_SCORER = "baseline", "lexical"
NEW_ITEMS_TARGET = 0.45
NEW_ITEMS_DRAWS = (2, 3)  # the weight of predicted popularity was chosen on draws 0 and 1
SCORERS = {
    FEATURES: "",
    DEFAULT_SCORER: "engine=lexical,scorer=embedding",
    "llm": "scorer=embedding",
}
"""Scorer -> the variant that ranks; "baseline" is the ranker on interaction features alone."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """One generator on one domain.

    Attributes:
        served: (users,) NDCG@10 of the list that is served.
        first: (users,) NDCG@10 of the generator's own order.
        recall: (users,) share of the choices that are in the list.
    """

    served: NDArray[np.float64]
    first: NDArray[np.float64]
    recall: NDArray[np.float64]


def measure(
    fold: Fold, generator: CandidateGenerator, system: str, factories: Mapping[str, SystemFactory], out: Path
) -> Measured:
    """Ranks the generator's lists by `system`, which learns on lists of the same generator, made on earlier windows."""
    settings = Settings(
        candidates=(LENGTH,), protocols=("end_to_end",), compared=(METRIC,), covered_only=True, rivals=()
    )
    results = evaluate([fold], generator, factories, settings, out)
    runs = {run.system: run for run in results.runs}

    def of(name: str) -> NDArray[np.float64]:
        run = runs[name]
        return per_user_metrics(run.lists, run.scores, "end_to_end", (10,))[METRIC].to_numpy(dtype=np.float64)

    lists: FoldLists = runs[system].lists
    return Measured(served=of(system), first=of(FIRST_STAGE), recall=lists.n_found / lists.n_relevant)


def run(
    folds_of: Callable[[str], Sequence[Fold]],
    system: str,
    factories_of: Callable[[str], Mapping[str, SystemFactory]],
    out: Path,
    say: Callable[[str], None],
    generators: Mapping[str, Makes] = GENERATORS,
    splits: Sequence[str] = SPLITS,
) -> list[Check]:
    """Prints one line a domain and generator, and what the fusion must reach; rows and intervals go to `out`.

    Args:
        folds_of: split -> its folds.
        system: whose order is served.
        factories_of: domain -> `system` and `FIRST_STAGE`, new ones at each call, so that no list outlives its use.
        say: takes each line.

    Raises:
        ConfigError: the base generator is not among them.
    """
    if BASE not in generators:
        raise ConfigError(f"generators are compared with {BASE!r}, which is not among {', '.join(generators)}")
    checks: list[Check] = []
    for split in splits:
        rows, measured = [], {name: dict[str, Measured]() for name in generators}
        say(f"\n{split}, {LENGTH} candidates, ranked by {system}")
        say(f"{'domain':<22} {'generator':<20} {'users':>6} {'recall@50':>10} {'first stage':>12} {'served':>8}  gain")
        for fold in folds_of(split):
            for name, make in generators.items():
                one = measure(
                    fold, make(fold.items), system, factories_of(fold.domain), out / split / name.replace("+", "_")
                )
                measured[name][fold.domain] = one
                gains = compare(
                    {fold.domain: (one.served, measured[BASE][fold.domain].served)},
                    system=name,
                    versus=BASE,
                    metric=METRIC,
                )
                row = {
                    "split": split,
                    "domain": fold.domain,
                    "generator": name,
                    "users": len(one.served),
                    "recall": float(one.recall.mean()),
                    "first_stage": float(one.first.mean()),
                    "served": float(one.served.mean()),
                    "gain": gains[0].relative,
                    "gain_low": gains[0].relative_low,
                    "gain_high": gains[0].relative_high,
                }
                rows.append(row)
                say(_line(row, name != BASE))
        write_text(out / split / "domains.csv", pd.DataFrame(rows).to_csv(index=False))
        for name in generators:
            if name != BASE:
                checks += _checks(split, name, _gains(measured, name), required=name == CHALLENGER)
            if name not in (BASE, CHALLENGER) and CHALLENGER in generators:
                checks.append(_reported(split, name, CHALLENGER, _gains(measured, name, CHALLENGER)))
    return checks


def new_items(
    folds_of: Callable[[int], Sequence[Fold]], out: Path, say: Callable[[str], None], draws: Sequence[int]
) -> list[Check]:
    """Recall@50 of new items among the new ones: items that training never saw, proposed by their texts.

    Args:
        folds_of: draw -> folds with cold items.
    """
    shares: dict[str, list[tuple[float, float]]] = {}
    for draw in draws:
        for fold in folds_of(draw):
            table = TextGenerator(fold.items, new_share=1.0).fit(fold.train).recommend(fold.users, n=LENGTH)
            found = pairs_in(fold.held_out, table)
            known = fold.items[ITEM].isin(fold.cold_items).sum()
            shares.setdefault(fold.domain, []).append((float(found.mean()), min(1.0, LENGTH / max(known, 1))))
    say(f"\nnew items, {LENGTH} of the new ones by their texts, mean of draws {', '.join(map(str, draws))}")
    say(f"{'domain':<22} {'recall@50':>10} {'at random':>10}")
    rows = [(domain, *np.mean(values, axis=0).tolist()) for domain, values in shares.items()]
    for domain, recall, random in rows:
        say(f"{domain:<22} {recall:>10.4f} {random:>10.4f}")
    write_text(out / "new-items.csv", pd.DataFrame(rows, columns=["domain", "recall", "random"]).to_csv(index=False))
    return [at_least(f"new items: recall@50, {domain}", recall, NEW_ITEMS_TARGET, "") for domain, recall, _ in rows]


def _line(row: Mapping[str, object], compared: bool) -> str:
    gain = f"{row['gain']:+.1%} [{row['gain_low']:+.1%}, {row['gain_high']:+.1%}]" if compared else ""
    return (
        f"{row['domain']:<22} {row['generator']:<20} {row['users']:>6} {row['recall']:>10.4f} "
        f"{row['first_stage']:>12.4f} {row['served']:>8.4f}  {gain}"
    )


def _gains(measured: Mapping[str, Mapping[str, Measured]], name: str, versus: str = BASE) -> Gains:
    """Domain or pooled -> gain over another generator."""
    values = {domain: (one.served, measured[versus][domain].served) for domain, one in measured[name].items()}
    return {one.domain: one for one in compare(values, system=name, versus=versus, metric=METRIC)}


def _reported(split: str, name: str, versus: str, gains: Gains) -> Check:
    together = gains.get(POOLED) or next(iter(gains.values()))
    interval = f"[{together.relative_low:+.1%}, {together.relative_high:+.1%}], {together.n_users} users"
    return reported(f"{split}: {name} over {versus}, pooled {interval}", 100 * together.relative, "%")


def _checks(split: str, name: str, gains: Gains, required: bool) -> list[Check]:
    together = gains.get(POOLED) or next(iter(gains.values()))
    words = f"{split}: {name} over {BASE}, pooled"
    interval = f"[{together.relative_low:+.1%}, {together.relative_high:+.1%}], {together.n_users} users"
    domains = [one for domain, one in gains.items() if domain != POOLED]
    if not required:
        return [
            _reported(split, name, BASE, gains),
            reported(f"{split}: {name}, domains below 0", sum(map(below, domains)), "domains"),
        ]
    gain = at_least(words, 100 * together.relative, TARGET, "%")
    return [
        Check(
            name=gain.name,
            value=gain.value,
            target=f"{gain.target}, interval above 0; {interval}",
            passed=gain.passed and above(together),
            unit="%",
        ),
        at_most(f"{split}: {name}, domains below 0", sum(map(below, domains)), 0, "domains"),
    ]
