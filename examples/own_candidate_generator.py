"""Candidates from any system: a table of what it served, what was chosen afterwards, and titles."""

from candidate_gen import PopularityGenerator
from reranker import Reranker, load_dataset

data = load_dataset("ml-100k")

# Stands for your logs: lists your system served at one moment, and what the users chose after that.
held_out = data.interactions.groupby("user_id").tail(1)
before = data.interactions.drop(held_out.index)
served = (
    PopularityGenerator().fit(before).recommend(held_out["user_id"].tolist(), n=30)
)  # user_id, item_id, score, rank

reranker = Reranker.from_pretrained("default")
reranker.fit(data, candidates=served, held_out=held_out)
print(reranker.fusion_model.guard.summary())
print(reranker.rerank(served.head(60), k=3))
