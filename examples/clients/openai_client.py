"""The openai client: a ranking through the chat API. Usage: openai_client.py http://127.0.0.1:8000 [KEY]"""

import json
import sys

import openai

base_url, key = (*sys.argv[1:], "none")[:2]
client = openai.OpenAI(base_url=f"{base_url}/v1", api_key=key)
model = client.models.list().data[0].id
asked = {
    "query": "a film for tonight",
    "documents": ["Notting Hill", "Aliens", "Blade Runner"],
    "history": ["Alien", "The Terminator"],
}
done = client.chat.completions.create(model=model, messages=[{"role": "user", "content": json.dumps(asked)}])
for result in json.loads(done.choices[0].message.content)["results"]:
    print(f"{result['relevance_score']:.3f}  {asked['documents'][result['index']]}")
