"""Cohere's client, which knows queries and no histories. Usage: cohere_client.py http://127.0.0.1:8000 MODEL [KEY]

MODEL is a name of GET /v1/models: the domain of the bundle.
"""

import sys

import cohere

base_url, model, key = (*sys.argv[1:], "none")[:3]
films = ["Notting Hill", "Aliens", "Blade Runner"]
client = cohere.ClientV2(api_key=key, base_url=base_url)
answer = client.rerank(model=model, query="recently watched: Alien; The Terminator", documents=films, top_n=2)
for result in answer.results:
    print(f"{result.relevance_score:.3f}  {films[result.index]}")
