"""implicit: keep the model and the calls you have, get the Reranker's order."""

import numpy as np
import pandas as pd
from implicit.als import AlternatingLeastSquares
from scipy.sparse import csr_matrix

from candidate_gen import ALSGenerator
from reranker import Reranker, load_dataset
from reranker.adapters.implicit_recommender import RerankedRecommender

data = load_dataset("ml-100k")
users, user_ids = pd.factorize(data.interactions["user_id"])
items, item_ids = pd.factorize(data.interactions["item_id"])
matrix = csr_matrix((np.ones(len(users), dtype=np.float32), (users, items)))
model = AlternatingLeastSquares(factors=64, random_state=0)
model.fit(matrix, show_progress=False)

reranker = Reranker.from_pretrained("default")
reranker.fit(data, ALSGenerator(factors=64).fit(data.interactions))
print(reranker.fusion_model.guard.summary())

recommender = RerankedRecommender(model, reranker, user_ids, item_ids)
ids, scores = recommender.recommend(np.array([0, 1]), matrix[[0, 1]], N=5)
titles = data.items.set_index("item_id")["title"]
for row, user in enumerate(user_ids[:2]):
    print(f"user {user}: " + "; ".join(titles[item_ids[ids[row]]]))
