"""A first stage of the user's own, judged by lists that it served and what was chosen afterwards."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from reranker.data.dataset import Dataset
from reranker.data.schema import RANK, USER
from reranker.engines.encoder import LLM
from reranker.errors import ConfigError, DataError
from reranker.fusion.ladder import Ladder
from reranker.pipeline.ladder import fit_rungs_on_windows
from reranker.pipeline.lists import CandidateLists
from reranker.pipeline.reranker import Reranker
from reranker.pipeline.windows import window_from_logs

RUNGS = ("first_stage", "baseline", "lexical", LLM)
"""What is judged on the lists, cheapest first."""

CUTOFFS = (10, 20, 50, 100)


@dataclass(frozen=True, kw_only=True, eq=False)
class OwnLists:
    """Served lists and what was chosen from them, in one or several windows.

    Attributes:
        windows: newest first.
        without_choice: lists of users who chose nothing afterwards; they say nothing and are left out.
        without_list: users who chose something and were served no list; left out, too.
    """

    windows: Sequence[CandidateLists]
    without_choice: int
    without_list: int

    @classmethod
    def of(cls, data: Dataset, pairs: Sequence[tuple[pd.DataFrame, pd.DataFrame]]) -> "OwnLists":
        """From lists and later choices of each window, oldest first; an older window sees nothing of the newer ones.

        Raises:
            DataError: a table is wrong, or no list of a window has a choice in it.
        """
        if not pairs:
            raise DataError("no lists to judge: give lists and what was chosen afterwards")
        windows: list[CandidateLists] = []
        without_choice = without_list = 0
        known = data
        for lists, chosen in reversed(pairs):
            if USER not in lists or USER not in chosen:
                raise DataError(f"tables 'lists' and 'held_out' need a column {USER!r}")
            listed = lists[USER].isin(chosen[USER])
            without_choice += int(lists.loc[~listed, USER].nunique())
            without_list += int(chosen.loc[~chosen[USER].isin(lists[USER]), USER].nunique())
            if not listed.any():
                raise DataError("none of the users with a list chose anything afterwards: are the ids the same?")
            window = window_from_logs(
                known, lists[listed.to_numpy()], chosen[chosen[USER].isin(lists[USER]).to_numpy()]
            )
            windows.append(window)
            known = data.with_interactions(window.known)
        return cls(windows=windows, without_choice=without_choice, without_list=without_list)

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
        without_choice, without_list: as in `OwnLists`.
    """

    users: int
    windows: int
    recall: Mapping[str, float]
    ladder: Ladder
    without_choice: int
    without_list: int

    def summary(self) -> str:
        """The report for people."""
        lines = [f"{self.users} lists in {self.windows} window(s); a missed choice counts as 0"]
        if self.without_choice or self.without_list:
            lines.append(
                f"left out: {self.without_choice} lists of users who chose nothing afterwards, {self.without_list} "
                "users who chose something and had no list"
            )
        lines.append("your first stage: " + ", ".join(f"{name} {share:.4f}" for name, share in self.recall.items()))
        return "\n".join([*lines, "", self.ladder.summary()])

    def to_json(self) -> dict[str, Any]:
        return {
            "users": self.users,
            "windows": self.windows,
            "recall": dict(self.recall),
            "ladder": self.ladder.to_json(),
            "without_choice": self.without_choice,
            "without_list": self.without_list,
        }


def judge_lists(
    llm: Reranker, data: Dataset, lists: OwnLists, rungs: Sequence[str] = RUNGS, progress: bool | None = None
) -> ListsReport:
    """Recall and NDCG of the lists as they came, and cross-fitted NDCG of every rung on them.

    Args:
        llm: an unfitted Reranker with the settings of the rung "llm".
        data: interactions and items, as for `Reranker.fit`.
        lists: what was served and chosen.
        rungs: of `RUNGS`; the cheaper ones of a rung are always among them.
        progress: show progress bars on stderr; None does on a terminal and in a notebook.

    Raises:
        ConfigError: an unknown rung.
        DataError: fewer than two users with a choice in their list.
    """
    if unknown := [rung for rung in rungs if rung not in RUNGS]:
        raise ConfigError(f"unknown systems {', '.join(unknown)} for lists of your own; there are {', '.join(RUNGS)}")
    judged = fit_rungs_on_windows(llm, data, lists.windows, with_llm=LLM in rungs, progress=progress)
    return ListsReport(
        users=sum(len(window.users) for window in lists.windows),
        windows=len(lists.windows),
        recall=lists.recall(),
        ladder=judged.ladder,
        without_choice=lists.without_choice,
        without_list=lists.without_list,
    )


def _found(window: CandidateLists, k: int) -> Any:
    """(n_users,) chosen items among the first k."""
    hit = window.relevant & (window.first_stage_rank <= k)
    return np.bincount(window.list_index[hit], minlength=len(window.users))
