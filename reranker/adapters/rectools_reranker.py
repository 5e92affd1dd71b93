"""RecTools: the second stage of its CandidateRankingModel.

Needs RecTools, which wants pandas 2 and brings its own build of implicit: use an environment of its own. There, the
remote engine (`engine="openai"`) needs no torch.

    reranker = RecToolsReranker(Reranker(), data)
    CandidateRankingModel(
        candidate_generators=[CandidateGenerator(model, num_candidates=50, keep_ranks=True, keep_scores=True)],
        splitter=LastNSplitter(1, n_splits=1),
        reranker=reranker,
        sampler=WholeLists(),
        feature_collector=reranker.collector,
    )
"""

from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from rectools import Columns
from rectools.models.ranking import CandidateFeatureCollector
from rectools.models.ranking import Reranker as RecToolsBase
from rectools.models.ranking.candidate_ranking import NegativeSamplerBase

from reranker.data.dataset import Dataset
from reranker.data.schema import ITEM, RANK, SCORE, USER
from reranker.errors import DataError
from reranker.pipeline.reranker import Reranker


class WholeLists(NegativeSamplerBase):
    """Keeps every candidate: choices are learned against the list that was served, not against a sample of it."""

    def sample_negatives(self, train: pd.DataFrame) -> pd.DataFrame:
        return train


class HistoryCollector(CandidateFeatureCollector):
    """Adds no feature; remembers which interactions the first stage had seen, so that statistics see no more.

    Attributes:
        history: (rows) user and item of the data set that candidates were last collected for.
    """

    def __init__(self) -> None:
        self.history: pd.DataFrame | None = None

    def collect_features(self, useritem: pd.DataFrame, dataset: Any, fold_info: dict[str, Any] | None) -> pd.DataFrame:
        self.history = dataset.get_raw_interactions()[Columns.UserItem]
        collected: pd.DataFrame = super().collect_features(useritem, dataset, fold_info)
        return collected


class RecToolsReranker(RecToolsBase):
    """Fits on the lists of the first stage, and serves what our guard decides.

    Args:
        reranker: settings and engine; it is fitted by `CandidateRankingModel.fit`.
        data: items with titles, and the interactions that RecTools' data set holds, under its external ids.
        rank_column: the first stage's rank column that is the order to beat, "ImplicitALSWrapperModel_1_rank" for
            instance; by default the only one. Candidates of other stages follow behind, in the order of their ranks.

    Attributes:
        collector: has to be the model's feature_collector.
    """

    def __init__(self, reranker: Reranker, data: Dataset, rank_column: str | None = None) -> None:
        super().__init__(model=_Unused())
        self.collector = HistoryCollector()
        self.reranker = reranker
        self.data = data
        self.rank_column = rank_column

    def fit(self, candidates_with_target: pd.DataFrame, **options: Any) -> None:
        """Learns from lists with a column `target`: 1 where the user chose the item next.

        Raises:
            DataError: no column of ranks, nothing to learn from, or `collector` is not in its place.
        """
        if self.collector.history is None:
            raise DataError("give this reranker's collector to the CandidateRankingModel as feature_collector")
        history = pd.MultiIndex.from_frame(self.collector.history)
        interactions = self.data.interactions
        held_out = interactions[~pd.MultiIndex.from_frame(interactions[[USER, ITEM]]).isin(history)]
        self.reranker.fit(self.data, candidates=self._lists(candidates_with_target), held_out=held_out, **options)

    def predict_scores(self, candidates: pd.DataFrame) -> NDArray[np.float64]:
        """(rows,) scores that order each user's list as `Reranker.rerank` does."""
        lists = self._lists(candidates)
        ranked = self.reranker.rerank(lists).to_frame()
        key = pd.MultiIndex.from_frame(ranked[[USER, ITEM]])
        # Ranks, not scores: equal scores keep the order that came in, which a second sorting would lose.
        place = pd.Series(-ranked[RANK].to_numpy(dtype=np.float64), index=key)
        scores: NDArray[np.float64] = place.reindex(pd.MultiIndex.from_frame(lists[[USER, ITEM]])).to_numpy()
        return scores

    def _lists(self, candidates: pd.DataFrame) -> pd.DataFrame:
        """A candidates table, row by row."""
        ranks = [name for name in candidates.columns if str(name).endswith("_rank")]
        first = self.rank_column or (ranks[0] if len(ranks) == 1 else None)
        if first is None or first not in ranks:
            raise DataError(
                f"which rank column is the order to beat? The candidates have {ranks or 'none'}: give one of them as "
                "rank_column, and keep_ranks=True to the candidate generators"
            )
        others = [name for name in ranks if name != first]
        keys = [candidates[name].fillna(np.inf).to_numpy() for name in (first, *others)]
        order = np.lexsort((*keys[::-1], pd.factorize(candidates[Columns.User])[0]))
        place = np.empty(len(candidates), dtype=np.int64)
        place[order] = candidates.iloc[order].groupby(Columns.User, sort=False).cumcount().to_numpy() + 1
        columns = {USER: candidates[Columns.User].to_numpy(), ITEM: candidates[Columns.Item].to_numpy(), RANK: place}
        score = first.removesuffix("_rank") + "_score"
        if score in candidates.columns:
            values = candidates[score]
            columns[SCORE] = values.fillna(values.min()).to_numpy()  # proposed by another stage only
        return pd.DataFrame(columns)


class _Unused:
    """RecTools wants a model; ours is the Reranker."""

    def fit(self, *arguments: Any, **options: Any) -> "_Unused":
        return self

    def predict(self, *arguments: Any, **options: Any) -> NDArray[np.float64]:
        raise DataError("RecToolsReranker scores whole lists: call predict_scores")
