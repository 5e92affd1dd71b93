"""RecTools: second stage of a CandidateRankingModel. Needs an environment with RecTools and a model server.

Start `vllm serve <model>` anywhere and set OPENAI_BASE_URL (http://host:8000/v1) and RERANKER_MODEL (its name there, by
which the tokenizer is found too); without them, a scripted engine shows the wiring.
"""

import os

import pandas as pd
from rectools.dataset import Dataset as RecToolsDataset
from rectools.model_selection import LastNSplitter
from rectools.models import PopularModel
from rectools.models.ranking import CandidateGenerator, CandidateRankingModel

from reranker import Reranker, load_dataset
from reranker.adapters.rectools_reranker import RecToolsReranker, WholeLists

data = load_dataset("ml-100k")
table = data.interactions[["user_id", "item_id"]].assign(
    weight=1.0, datetime=pd.to_datetime(data.interactions["timestamp"], unit="s")
)
dataset = RecToolsDataset.construct(table)

server = {"engine": "openai", "model": os.environ["RERANKER_MODEL"]} if "OPENAI_BASE_URL" in os.environ else None
reranker = RecToolsReranker(
    Reranker.from_pretrained("default", soft_tokens=0, fit_users=40, **(server or {"engine": "scripted"})), data
)
model = CandidateRankingModel(
    candidate_generators=[CandidateGenerator(PopularModel(), num_candidates=50, keep_ranks=True, keep_scores=True)],
    splitter=LastNSplitter(1, n_splits=1),
    reranker=reranker,
    sampler=WholeLists(),
    feature_collector=reranker.collector,
)
model.fit(dataset)
print(reranker.reranker.fusion_model.guard.summary())
print(model.recommend(users=dataset.user_id_map.external_ids[:2], dataset=dataset, k=5, filter_viewed=True))
