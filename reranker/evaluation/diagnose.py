"""What an evaluated system's gain is made of: the order of its input, this user's history, or titles it knows.

The same few covered users serve every test and every system, and so does each changed set of lists: a model reads
each of them once.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from reranker.evaluation.diagnostics import (
    OrderInvariance,
    gain_lost,
    obfuscated_titles,
    order_invariance,
    row_shuffles,
    shuffled_users,
)
from reranker.evaluation.faithfulness import deletion_of
from reranker.evaluation.reporting.tables import Table
from reranker.evaluation.robustness import ATTACK_HEADER, AttackEffect, attack_cells, attack_effects, attacked_lists
from reranker.evaluation.runner import Run, SystemFactory
from reranker.explain import DeletionTest
from reranker.pipeline.lists import FoldLists
from reranker.utils.statistics import Interval

DIAGNOSED = ("llm", "fused", "served", "lexical_fused", "baseline")
"""Systems worth the question; `baseline` reads no titles and shows what the baseline loses."""

METRIC = "ndcg@10"


@dataclass(frozen=True, kw_only=True)
class Diagnosis:
    """Tests of one system on one fold.

    Attributes:
        n_users: covered test users that were looked at.
        order: how much the order of the rows in the input matters.
        shuffled_users: NDCG@10 lost when every user gets another's history: how much of the gain is personal.
        obfuscated_titles: NDCG@10 lost when titles say nothing: how much of the gain comes from the words.
        deletion: whether the items of the history that an explanation names carry the first candidate; None where no
            user has enough of them.
        attacks: what each attack does to a few items below the top.
    """

    domain: str
    split: str
    system: str
    candidates: int
    n_users: int
    order: OrderInvariance
    shuffled_users: Interval
    obfuscated_titles: Interval
    deletion: DeletionTest | None = None
    attacks: tuple[AttackEffect, ...] = ()

    def record(self) -> dict[str, object]:
        """One flat record for results.json."""
        losses = {"shuffled_users": self.shuffled_users, "obfuscated_titles": self.obfuscated_titles}
        return {
            "domain": self.domain,
            "split": self.split,
            "system": self.system,
            "candidates": self.candidates,
            "n_users": self.n_users,
            **asdict(self.order),
            **{f"{name}_{key}": value for name, one in losses.items() for key, value in one.to_dict().items()},
            **({} if self.deletion is None else self.deletion.record()),
            "attacks": [one.record() for one in self.attacks],
        }


def diagnose(
    runs: Sequence[Run],
    factories: Mapping[str, SystemFactory],
    users: int,
    systems: Sequence[str] = DIAGNOSED,
    shuffles: int = 1,
    seed: int = 0,
) -> list[Diagnosis]:
    """Fits each of `systems` that was run once more, on the lists it was fitted on, and tests it.

    A system whose scores came from disk reads its fitting lists again. Folds in which the first stage found no target
    have nothing to lose and give nothing.

    What changes for the systems:
    - shuffled rows: nothing but the order; first-stage rank and score travel with the item.
    - shuffled users: the history in the prompt, and the features that are computed from it (likeness, co-visits,
      transitions, category, history length). The candidates with their first-stage score and rank stay the user's own,
      as do the statistics of the items; so what a personal candidate generator gives is not counted as lost.
    - obfuscated titles: titles, and every other text of the items. Of the features only the category overlap goes;
      `baseline`, which reads no titles, loses just that.
    - attacks: titles of a few items, or further interactions of fake users (`robustness.ATTACKS`).

    Args:
        runs: of an evaluation.
        factories: the same systems, by name.
        users: covered test users to look at, at most; drawn at random.
        shuffles: shuffled orders of each list.
        seed: of the users, orders and swaps.
    """
    return list(_diagnoses(runs, factories, users, systems, shuffles, seed))


def _diagnoses(
    runs: Sequence[Run],
    factories: Mapping[str, SystemFactory],
    users: int,
    systems: Sequence[str],
    shuffles: int,
    seed: int,
) -> Iterator[Diagnosis]:
    for lists in {id(run.lists): run.lists for run in runs}.values():
        first = {run.system: run for run in reversed(runs) if run.lists is lists}
        asked = [first[name] for name in systems if name in first]
        if not asked or not lists.covered.any():
            continue
        sample = _sample(lists, users, seed)
        shuffled = row_shuffles(sample, shuffles, seed)
        new_users = shuffled_users(sample, seed)
        nameless = obfuscated_titles(sample, seed)
        attacked = attacked_lists(sample, seed)
        for run in asked:
            system = factories[run.system](run.seed).fit(run.fitting)
            yield Diagnosis(
                domain=lists.fold.domain,
                split=lists.fold.split,
                system=run.system,
                candidates=lists.n,
                n_users=int(sample.covered.sum()),
                order=order_invariance(system, sample, shuffled),
                shuffled_users=gain_lost(system, sample, new_users, METRIC, "covered"),
                obfuscated_titles=gain_lost(system, sample, nameless, METRIC, "covered"),
                deletion=deletion_of(system, sample, seed=seed),
                attacks=tuple(attack_effects(system, sample, attacked)),
            )


_HEADER = (
    "domain",
    "system",
    "candidates",
    "users",
    "Kendall tau, shuffled rows",
    "position preference",
    "largest score change",
    f"{METRIC} lost, shuffled users",
    f"{METRIC} lost, obfuscated titles",
    "deletion AUC",
)


def diagnosis_table(diagnoses: Sequence[Diagnosis]) -> Table:
    """A row a diagnosis."""
    rows = [
        [
            one.domain,
            one.system,
            str(one.candidates),
            str(one.n_users),
            f"{one.order.kendall_tau:.3f}",
            f"{one.order.position_preference:+.3f}",
            f"{one.order.max_score_change:.2g}",
            str(one.shuffled_users),
            str(one.obfuscated_titles),
            ""
            if one.deletion is None
            else f"{one.deletion.auc.mean:.3f} [{one.deletion.auc.low:.3f}, {one.deletion.auc.high:.3f}]",
        ]
        for one in diagnoses
    ]
    return Table(_HEADER, rows)


def attacks_table(diagnoses: Sequence[Diagnosis]) -> Table:
    """What attacks do: a row a system and attack."""
    rows = [row for one in diagnoses for row in attack_cells(f"{one.domain} · {one.system}", one.attacks)]
    return Table(ATTACK_HEADER, rows)


def _sample(lists: FoldLists, users: int, seed: int) -> FoldLists:
    covered = np.flatnonzero(lists.covered)
    if len(covered) > users:
        covered = np.random.default_rng(seed).choice(covered, users, replace=False)
    return lists.of_users(np.isin(np.arange(len(lists.fold.users)), covered))
