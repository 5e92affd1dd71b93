"""AnswerDotAI rerankers: one more ranker behind its interface. Needs the package rerankers."""

from reranker import Reranker
from reranker.adapters.rerankers_ranker import RerankerRanker

FILMS = ["Notting Hill", "Aliens", "The Lion King", "Blade Runner", "Pretty Woman", "Terminator 2: Judgment Day"]

ranker = RerankerRanker(Reranker.from_pretrained("default"), history=["Alien", "The Terminator", "RoboCop"])
for result in ranker.rank("a film for tonight", FILMS).top_k(3):
    print(f"{result.score:8.2f}  {result.text}")
