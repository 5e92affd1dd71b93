"""RecTools' own CandidateRankingModel with the Reranker as its second stage; needs an environment with RecTools."""

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("rectools")

from implicit.als import AlternatingLeastSquares
from rectools import Columns
from rectools.dataset import Dataset as RecToolsDataset
from rectools.model_selection import LastNSplitter
from rectools.models import ImplicitALSWrapperModel, PopularModel
from rectools.models.ranking import CandidateGenerator, CandidateRankingModel

from reranker import Reranker
from reranker.adapters.rectools_reranker import RecToolsReranker, WholeLists
from reranker.errors import DataError
from tests.pipeline import toys

pytestmark = pytest.mark.filterwarnings("default")


@pytest.fixture(scope="module")
def data():
    return toys.taste_dataset(users=60)


@pytest.fixture(scope="module")
def dataset(data):
    table = data.interactions[["user_id", "item_id"]].copy()
    table[Columns.Weight] = 1.0
    table[Columns.Datetime] = pd.Timestamp("2026-01-01") + pd.to_timedelta(np.arange(len(table)), unit="h")
    return RecToolsDataset.construct(table)


def model(reranker, *stages, collect=True):
    generators = [CandidateGenerator(stage, num_candidates=12, keep_ranks=True, keep_scores=True) for stage in stages]
    return CandidateRankingModel(
        generators,
        LastNSplitter(1, n_splits=1),
        reranker=reranker,
        sampler=WholeLists(),
        feature_collector=reranker.collector if collect else None,
    )


def test_two_stages(data, dataset):
    ours = RecToolsReranker(Reranker(toys.config()), data)
    two_stages = model(ours, PopularModel()).fit(dataset)
    users = dataset.user_id_map.external_ids[:20]
    found = two_stages.recommend(users, dataset, k=3, filter_viewed=True)
    assert (
        ours.reranker.fusion_model.guard.fused_minus_first_stage.low > 0
    )  # taste shows in the titles, popularity knows none
    lists = two_stages.cand_gen_dict["PopularModel_1"].generate_candidates(users, dataset, True, for_train=False)
    expected = ours.reranker.rerank(lists.rename(columns={Columns.Score: "score", Columns.Rank: "rank"}), 3).to_frame()
    got = found.groupby(Columns.User, sort=False)[Columns.Item].apply(list).to_dict()
    assert got == expected.groupby("user_id", sort=False)["item_id"].apply(list).to_dict()
    assert found[Columns.Rank].tolist() == [1, 2, 3] * 20


def test_statistics_see_what_the_first_stage_saw(data, dataset):
    ours = RecToolsReranker(Reranker(toys.config()), data)
    two_stages = model(ours, PopularModel())
    two_stages.get_train_with_targets_for_reranker(dataset)
    assert len(ours.collector.history) == len(data.interactions) - data.interactions["user_id"].nunique()


def test_with_several_first_stages_the_order_to_beat_is_named(data, dataset):
    stages = PopularModel(), ImplicitALSWrapperModel(AlternatingLeastSquares(factors=4, random_state=0))
    with pytest.raises(DataError, match="give one of them as rank_column"):
        model(RecToolsReranker(Reranker(toys.config()), data), *stages).fit(dataset)
    ours = RecToolsReranker(Reranker(toys.config()), data, rank_column="PopularModel_1_rank")
    found = model(ours, *stages).fit(dataset).recommend(dataset.user_id_map.external_ids[:5], dataset, 4, True)
    assert len(found) == 20 and not found.duplicated(Columns.UserItem).any()


def test_the_collector_must_be_in_place(data, dataset):
    ours = RecToolsReranker(Reranker(toys.config()), data)
    with pytest.raises(DataError, match="as feature_collector"):
        model(ours, PopularModel(), collect=False).fit(dataset)
