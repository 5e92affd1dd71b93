"""A first stage of the user's own, judged by lists that it served and what was chosen afterwards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from reranker.data.dataset import Dataset
from reranker.data.id_matching import shown
from reranker.data.schema import RANK, USER
from reranker.engines.encoder import ENCODER, LLM
from reranker.engines.lexical import LEXICAL
from reranker.errors import ConfigError, DataError
from reranker.fusion.boosted import TreesVerdict
from reranker.fusion.ladder import Ladder
from reranker.fusion.own_columns import resolved, unused
from reranker.fusion.own_judged import OwnVerdict
from reranker.fusion.query_verdict import QueryVerdict
from reranker.fusion.rules_verdict import RulesVerdict
from reranker.pipeline.ladder import READERS, fit_rungs_on_windows
from reranker.pipeline.lists import CandidateLists
from reranker.pipeline.pricing import price_lists
from reranker.pipeline.reranker import Reranker
from reranker.pipeline.windows import require_lists, window_from_logs
from reranker.rules import ItemColumns, Rules
from reranker.types import UserId

RUNGS = ("first_stage", "baseline", LEXICAL, ENCODER, LLM)
"""What is judged on the lists, cheapest first."""

_SHOWN = 3
CUTOFFS = (10, 20, 50, 100)


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnLists:
    """Served lists and what was chosen from them, in one or several windows.

    Attributes:
        windows: newest first; columns that were asked for are features of them.
        without_choice: lists of users who chose nothing afterwards; they say nothing and are left out.
        without_list: users who chose something and were served no list; left out, too.
        examples: some of the latter.
        unused: columns of lists, items and users that could be features and were not asked for.
    """

    windows: Sequence[CandidateLists]
    without_choice: int
    without_list: int
    examples: Sequence[UserId] = ()
    unused: Sequence[str] = ()

    @classmethod
    def of(
        cls, data: Dataset, pairs: Sequence[tuple[pd.DataFrame, pd.DataFrame]], features: Sequence[str] = ()
    ) -> "OwnLists":
        """From lists and later choices of each window, oldest first; an older window sees nothing of the newer ones.

        Args:
            data: interactions and items, and the user table where `features` name columns of it.
            pairs: lists and what was chosen afterwards.
            features: as `RerankerConfig.features`; a column of the lists must be in those of every window.

        Raises:
            DataError: a table is wrong, or no list of a window has a choice in it.
            ConfigError: a column that is asked for is nowhere, or cannot be a feature.
        """
        if not pairs:
            raise DataError("no lists to judge: give lists and what was chosen afterwards")
        served = pd.concat([lists for lists, _ in pairs], ignore_index=True)
        if USER not in served:
            raise DataError(f"table 'candidates' needs a column {USER!r}")
        own = resolved(features, data.items, data.users, served)
        for number, (lists, _) in enumerate(pairs, start=1):
            if lacking := [one.name for one in own if one.source == "candidates" and one.name not in lists]:
                raise DataError(
                    f"table 'candidates' number {number} of {len(pairs)} lacks the column "
                    f"{', '.join(map(repr, lacking))}, which is asked for as a feature: give it in all of "
                    "them, or leave it out"
                )
        windows: list[CandidateLists] = []
        without_choice = without_list = 0
        examples = list[UserId]()
        known = data
        for lists, chosen in reversed(pairs):
            if USER not in lists or USER not in chosen:
                raise DataError(f"tables 'candidates' and 'held_out' need a column {USER!r}")
            listed = lists[USER].isin(chosen[USER])
            without_choice += int(lists.loc[~listed, USER].nunique())
            apart = require_lists(lists[USER], chosen[USER])
            without_list += len(apart)
            examples += apart.head(_SHOWN - len(examples)).tolist()
            window = window_from_logs(
                known, lists[listed.to_numpy()], chosen[chosen[USER].isin(lists[USER]).to_numpy()], own
            )
            windows.append(window)
            known = data.with_interactions(window.known)
        return cls(
            windows=windows,
            without_choice=without_choice,
            without_list=without_list,
            examples=tuple(examples),
            unused=unused(features, data.items, data.users, served),
        )

    def recall(self) -> dict[str, float]:
        """ "recall@k" for cutoffs up to the longest list, and of whole lists: mean share of a user's choices."""
        longest = max(int(window.candidates[RANK].max()) for window in self.windows)
        shares: dict[str, float] = {}
        for k in [*(cutoff for cutoff in CUTOFFS if cutoff < longest), longest]:
            values = [_found(window, k) / window.n_relevant for window in self.windows]
            shares[f"recall@{k}"] = float(np.concatenate(values).mean())
        return shares


@dataclass(frozen=True, kw_only=True, eq=False)
class ListsReport:
    """What a first stage is worth, and each rung on it.

    Attributes:
        users: lists that were judged, over all windows.
        windows: how many.
        recall: "recall@k" -> mean share of a user's choices among the first k.
        ladder: absolute NDCG@10 of each rung and its gain over the best cheaper one; a missed choice counts as 0.
        without_choice, without_list, examples, unused: as in `OwnLists`.
        own: what the columns that were asked for are worth; None where none were.
        own_vectors: what item vectors of the user's own are worth; None where the data has none.
        queries: rung -> what the queries of the lists are worth beside what it serves; empty where they have none.
        rules: "first_stage" and each reader -> what rules cost the lists as they came, and what is served by it; empty
            without rules.
        trees: rung -> what gradient-boosted trees are worth over the weights there; empty where they were not tried.
    """

    users: int
    windows: int
    recall: Mapping[str, float]
    ladder: Ladder
    without_choice: int
    without_list: int
    examples: Sequence[UserId] = ()
    unused: Sequence[str] = ()
    own: OwnVerdict | None = None
    own_vectors: OwnVerdict | None = None
    queries: Mapping[str, QueryVerdict] = field(default_factory=dict)
    rules: Mapping[str, RulesVerdict] = field(default_factory=dict)
    trees: Mapping[str, TreesVerdict] = field(default_factory=dict)

    def summary(self) -> str:
        """The report for people."""
        lines = [f"{self.users} lists in {self.windows} window(s); a missed choice counts as 0"]
        if self.without_choice or self.without_list:
            some = f", for instance {shown(self.examples)}" if self.examples else ""
            lines.append(
                f"left out: {self.without_choice} lists of users who chose nothing afterwards, {self.without_list} "
                f"users who chose something and had no list{some}"
            )
        lines.append("your first stage: " + ", ".join(f"{name} {share:.4f}" for name, share in self.recall.items()))
        lines += [verdict.summary() for verdict in (self.own, self.own_vectors) if verdict is not None]
        lines += [f"{rung}: {verdict.summary()}" for rung, verdict in self.queries.items()]
        lines += [f"{rung}: {verdict.summary()}" for rung, verdict in self.rules.items()]
        lines += [verdict.summary(rung) for rung, verdict in self.trees.items()]
        if self.unused:
            lines.append(f"columns that could be features (--features): {', '.join(self.unused)}")
        return "\n".join([*lines, "", self.ladder.summary()])

    def to_json(self) -> dict[str, Any]:
        return {
            "users": self.users,
            "windows": self.windows,
            "recall": dict(self.recall),
            "ladder": self.ladder.to_json(),
            "without_choice": self.without_choice,
            "without_list": self.without_list,
            "unused": list(self.unused),
            **({} if self.own is None else {"own": self.own.to_json()}),
            **({} if self.own_vectors is None else {"own_vectors": self.own_vectors.to_json()}),
            **({"queries": {rung: one.to_json() for rung, one in self.queries.items()}} if self.queries else {}),
            **({"rules": {rung: one.to_json() for rung, one in self.rules.items()}} if self.rules else {}),
            **({"trees": {rung: one.to_json() for rung, one in self.trees.items()}} if self.trees else {}),
        }


def judge_lists(
    llm: Reranker,
    data: Dataset,
    lists: OwnLists,
    rungs: Sequence[str] = RUNGS,
    progress: bool | None = None,
    *,
    rules: Rules | None = None,
) -> ListsReport:
    """Recall and NDCG of the lists as they came, and cross-fitted NDCG of every rung on them.

    Args:
        llm: an unfitted Reranker with the settings of the rung "llm".
        data: interactions and items, as for `Reranker.fit`.
        lists: what was served and chosen.
        rungs: of `RUNGS`; the cheaper ones of a rung are always among them.
        progress: show progress bars on stderr; None does on a terminal and in a notebook.
        rules: whose price is told.

    Raises:
        ConfigError: an unknown rung, or rules about columns that the item table lacks.
        DataError: fewer than two users with a choice in their list.
    """
    if unknown := [rung for rung in rungs if rung not in RUNGS]:
        raise ConfigError(f"unknown systems {', '.join(unknown)} for lists of your own; there are {', '.join(RUNGS)}")
    dearest = max(map(RUNGS.index, rungs))
    readers = [rung for rung in READERS if RUNGS.index(rung) <= dearest]
    judged = fit_rungs_on_windows(
        llm, data, lists.windows, readers=readers, rules=rules, with_pages=False, progress=progress
    )
    fitted = {LEXICAL: judged.words, ENCODER: judged.encoder, LLM: judged.llm}
    models = {rung: one.fusion_model for rung, one in fitted.items() if one is not None and one.fusion_model}
    model = models[LEXICAL]
    trees = {rung: one.trees["fused"] for rung, one in models.items() if "fused" in one.trees}
    if "baseline" in model.trees:
        trees = {"baseline": model.trees["baseline"], **trees}
    prices = {rung: one.rules for rung, one in models.items() if one.rules is not None}
    if rules is not None:
        prices = {RUNGS[0]: price_lists(lists.windows, rules, ItemColumns(data.items), llm.config.seed), **prices}
    return ListsReport(
        users=sum(len(window.users) for window in lists.windows),
        windows=len(lists.windows),
        recall=lists.recall(),
        ladder=judged.ladder,
        without_choice=lists.without_choice,
        without_list=lists.without_list,
        examples=lists.examples,
        unused=lists.unused,
        own=model.own,
        own_vectors=model.own_vectors,
        queries={rung: one.queries for rung, one in models.items() if one.queries is not None},
        rules=prices,
        trees=trees,
    )


def _found(window: CandidateLists, k: int) -> Any:
    """(n_users,) chosen items among the first k."""
    hit = window.relevant & (window.first_stage_rank <= k)
    return np.bincount(window.list_index[hit], minlength=len(window.users))
