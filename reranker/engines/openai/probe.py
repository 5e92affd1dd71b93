"""What a server can do for reranking: asked with a few tokens before any work is sent."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from reranker.engines.openai.client import OpenAIClient, RefusedError
from reranker.errors import EngineError

COMPLETIONS = "/completions"
_IDS = [5, 6, 7, 8]  # in every vocabulary
_LABELS = [9, 10]


@dataclass(frozen=True, kw_only=True)
class Capabilities:
    """Answers of one server.

    Attributes:
        base_url: the server.
        model: the model's name there.
        max_length: its context window in tokens, one of them generated; None if the server does not say.
        likelihood: how log-probabilities of given tokens are read: "prompt_logprobs" (vLLM), "echo" (OpenAI's old
            way), or "" when neither works.
        labels: how label tokens are read: "logprob_token_ids" (vLLM), "appended" (one prompt a label, by likelihood),
            or "".
        tokenize: whether its tokenizer can be compared with ours.
        reasons: what the server said of what does not work, by name of the way.
    """

    base_url: str
    model: str
    max_length: int | None
    likelihood: str
    labels: str
    tokenize: bool
    reasons: dict[str, str]

    def table(self) -> str:
        """A line for each part of the product: does it work there, and how."""
        routes = [
            ("likelihood", self.likelihood, ("prompt_logprobs", "echo")),
            ("labels, listwise", self.labels, ("logprob_token_ids",)),
        ]
        rows = [
            (name, "yes" if how else "no", how or "; ".join(f"{way}: {self.reasons.get(way, 'no')}" for way in ways))
            for name, how, ways in routes
        ]
        rows.append(("soft prompts", "no", "a server takes token ids only: use soft_tokens=0"))
        rows.append(
            ("tokenizer check", "yes" if self.tokenize else "no", "/tokenize" if self.tokenize else "not offered")
        )
        length = "not said" if self.max_length is None else f"{self.max_length} tokens"
        head = f"server   {self.base_url}\nmodel    {self.model}\ncontext  {length}\n"
        return head + "\n".join(f"{name:<18}{works:<5}{how}" for name, works, how in rows)


def probe(client: OpenAIClient, model: str | None = None) -> Capabilities:
    """Asks a server what it offers.

    Args:
        client: the connection.
        model: a name the server knows; by default the only one, or the first.

    Raises:
        EngineError: no answer, a wrong key, or no such model.
    """
    served = _served(client.get("/models"), client.base_url)
    if not served:
        raise EngineError(f"{client.base_url} serves no model")
    name = model or next(iter(served))
    if name not in served:
        raise EngineError(
            f"{client.base_url} does not serve {name!r}; it serves {', '.join(map(repr, served))}. Give one of "
            "these as model, and the tokenizer that belongs to it as tokenizer"
        )
    reasons: dict[str, str] = {}
    likelihood = next((way for way in ("prompt_logprobs", "echo") if _works(client, name, way, reasons)), "")
    labels = (
        "logprob_token_ids" if _works(client, name, "logprob_token_ids", reasons) else "appended" * bool(likelihood)
    )
    return Capabilities(
        base_url=client.base_url,
        model=name,
        max_length=served[name],
        likelihood=likelihood,
        labels=labels,
        tokenize=server_tokens(client, name, "a") is not None,
        reasons=reasons,
    )


def likelihood_body(model: str, way: str, prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """The request for log-probabilities of every token of `prompts`."""
    body = {"model": model, "prompt": [list(prompt) for prompt in prompts], "temperature": 0.0}
    if way == "prompt_logprobs":
        return {**body, "max_tokens": 1, "prompt_logprobs": 0}
    return {**body, "max_tokens": 0, "echo": True, "logprobs": 0, "return_tokens_as_token_ids": True}


def read_likelihoods(answer: Any, way: str, prompts: Sequence[Sequence[int]]) -> list[list[float]]:
    """log p of each token of each prompt but the first token, in nats; what `likelihood_body` asked for.

    Raises:
        EngineError: the answer is not about these tokens.
    """
    return [
        _prompt_logprobs(choice, prompt) if way == "prompt_logprobs" else _echoed(choice, prompt)
        for choice, prompt in zip(_choices(answer, len(prompts)), prompts, strict=True)
    ]


def labels_body(model: str, labels: Sequence[int], prompts: Sequence[Sequence[int]]) -> dict[str, Any]:
    """The request for log-probabilities of `labels` after each prompt."""
    return {
        "model": model,
        "prompt": [list(prompt) for prompt in prompts],
        "temperature": 0.0,
        "max_tokens": 1,
        "logprobs": len(labels),
        "logprob_token_ids": list(labels),
        "return_tokens_as_token_ids": True,
    }


def read_labels(answer: Any, labels: Sequence[int], prompts: Sequence[Sequence[int]]) -> list[list[float]]:
    """(n_prompts, n_labels) log-probabilities in nats; what `labels_body` asked for.

    Raises:
        EngineError: a label is missing from the answer.
    """
    rows = []
    for choice in _choices(answer, len(prompts)):
        try:
            found = choice["logprobs"]["top_logprobs"][0]
            rows.append([float(found[f"token_id:{label}"]) for label in labels])
        except (LookupError, TypeError, ValueError) as error:
            raise EngineError(f"the server's answer lacks the log-probability of a label ({error!r})") from error
    return rows


def server_tokens(client: OpenAIClient, model: str, text: str) -> list[int] | None:
    """The server's own tokens of `text`; None when it does not offer that (vLLM does, beside /v1)."""
    url = client.base_url.removesuffix("/v1") + "/tokenize"
    try:
        answer = client.post(url, {"model": model, "prompt": text, "add_special_tokens": False})
        return [int(token) for token in answer["tokens"]]
    except (EngineError, LookupError, TypeError, ValueError):
        return None


def _served(answer: Any, base_url: str) -> dict[str, int | None]:
    """Model name -> context window."""
    try:
        return {str(one["id"]): one.get("max_model_len") for one in answer["data"]}
    except (LookupError, TypeError, AttributeError) as error:
        raise EngineError(
            f"{base_url}/models does not answer as an OpenAI server does. base_url ends in /v1"
        ) from error


def _works(client: OpenAIClient, model: str, way: str, reasons: dict[str, str]) -> bool:
    """Tries one way on four tokens; notes why not."""
    try:
        if way == "logprob_token_ids":
            read_labels(client.post(COMPLETIONS, labels_body(model, _LABELS, [_IDS])), _LABELS, [_IDS])
        else:
            read_likelihoods(client.post(COMPLETIONS, likelihood_body(model, way, [_IDS])), way, [_IDS])
    except RefusedError as error:
        if error.status in (401, 403):
            raise
        reasons[way] = str(error)
    except EngineError as error:
        reasons[way] = str(error)
    return way not in reasons


def _choices(answer: Any, count: int) -> list[Any]:
    try:
        choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
    except (LookupError, TypeError, ValueError) as error:
        raise EngineError(f"the server's answer is not a completion ({error!r})") from error
    if [int(choice["index"]) for choice in choices] != list(range(count)):
        raise EngineError(f"the server sent {len(choices)} completions for {count} prompts")
    return choices


def _prompt_logprobs(choice: Any, prompt: Sequence[int]) -> list[float]:
    try:
        found = choice["prompt_logprobs"]
        if len(found) == len(prompt):
            return [float(at[str(token)]["logprob"]) for at, token in zip(found[1:], prompt[1:], strict=True)]
    except (LookupError, TypeError, ValueError) as error:
        raise EngineError(f"the server's answer has no log-probability for each prompt token ({error!r})") from error
    raise EngineError(f"the server scored {len(found)} tokens of a prompt of {len(prompt)}")


def _echoed(choice: Any, prompt: Sequence[int]) -> list[float]:
    try:
        echoed = choice["logprobs"]
        values = echoed["token_logprobs"][1 : len(prompt)]
        if list(echoed["tokens"][: len(prompt)]) == [f"token_id:{token}" for token in prompt]:
            return [float(value) for value in values]
    except (LookupError, TypeError, ValueError) as error:
        raise EngineError(f"the server's answer has no log-probability for each echoed token ({error!r})") from error
    raise EngineError("the server echoed other tokens than it was sent; scores would not belong to them")
