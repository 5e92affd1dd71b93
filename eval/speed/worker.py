"""An engine of eval.speed.run in a process of its own: a job a line on stdin, an answer a line on stdout, both JSON."""

import argparse
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from eval.speed.load import LABELS, LIKELIHOOD, LISTWISE, PREFILL, Lists, Load, least_work
from reranker.engines import load_engine
from reranker.engines.precision import AUTO_DTYPE, chosen_dtype
from reranker.hub import DEFAULT_MODEL, ResolvedModel, resolve_model
from reranker.protocols import Engine
from reranker.types import ScoringRequest, TokenSequence, UserState

ADAPT = "adapt"
COMPILED = "compiled"
WINDOW = 4096
NAIVE_PROMPTS = 8


def main() -> None:
    """Loads the engine, says so, and answers until stdin ends."""
    parser = argparse.ArgumentParser(prog="python -m eval.speed.worker", description=__doc__)
    parser.add_argument("engine", choices=("naive", "torch", COMPILED, "vllm"))
    parser.add_argument("--dtype", default=AUTO_DTYPE)
    parser.add_argument("--dummy", type=Path, help="folder with a config.json and a tokenizer: weights are made up")
    options = parser.parse_args()
    answers = sys.stdout
    sys.stdout = sys.stderr  # whatever libraries print is no answer
    extra: dict[str, Any] = {"max_length": WINDOW} if options.engine == "vllm" else {}
    model = resolve_model(DEFAULT_MODEL)
    if options.dummy:
        model = ResolvedModel(model_id=options.dummy.name, path=options.dummy, sha256="")
        extra["load_format"] = "dummy"
    if options.engine == COMPILED:
        extra["compiled"] = True
    name = "vllm" if options.engine == "vllm" else "torch"
    engine = load_engine(name, model, dtype=options.dtype, **extra)
    lists = Lists(engine)
    naive = Naive(model, options.dtype) if options.engine == "naive" else None
    ready = {
        "dtype": chosen_dtype(options.dtype, "cpu"),
        "dim": engine.model.dim,
        "vocabulary": engine.model.vocab_size,
    }
    print(json.dumps(ready), file=answers, flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        if naive is not None and job["readout"] == ADAPT:
            answer = adapted(engine, naive, lists, job)
        else:
            answer = timed(engine, naive, lists, job)
        print(json.dumps(answer), file=answers, flush=True)
    engine.close()


def timed(engine: Engine, naive: "Naive | None", lists: Lists, job: dict[str, Any]) -> dict[str, Any]:
    """Seconds a job takes, the least work it holds, and the scores that were read."""
    load, readout = Load(**job["load"]), job["readout"]
    requests = lists.requests(load, readout)
    work = least_work(requests, readout)
    read, share = _first(requests) if naive else (requests, 1.0)
    run = _reading(engine, naive, read, lists.labels(load, readout), readout)
    begun = time.perf_counter()
    scores = run()
    seconds = (time.perf_counter() - begun) / share
    return {"seconds": seconds, "share": share, "tokens": work.tokens, "reads": work.reads, "scores": scores}


def _first(requests: Sequence[ScoringRequest]) -> tuple[list[ScoringRequest], float]:
    """Few prompts of the naive way, and which share of all they are: each costs the same, so the rest is not timed."""
    few = [replace(one, candidates=one.candidates[:NAIVE_PROMPTS]) for one in requests[:1]]
    return few, len(few[0].candidates) / sum(len(one.candidates) for one in requests)


def _reading(
    engine: Engine, naive: "Naive | None", requests: Sequence[ScoringRequest], labels: list[int], readout: str
) -> Callable[[], list[list[float]]]:
    if naive is not None:
        return lambda: naive.sums(requests)
    if readout == LIKELIHOOD:
        return lambda: [scores.sums.tolist() for scores in engine.span_log_likelihoods(requests)]
    if readout in (LABELS, LISTWISE, PREFILL):
        return lambda: [values[:, 0].tolist() for values in engine.label_log_probs(requests, labels)]
    raise ValueError(f"unknown scorer {readout!r}")


class Naive:
    """transformers as one would write it first: a full prompt a candidate, one after another."""

    def __init__(self, model: ResolvedModel, dtype: str) -> None:
        from reranker.engines.loading import load_causal_lm

        self._lm = load_causal_lm(model.path, chosen_dtype(dtype, "cpu"), "cpu")

    def sums(self, requests: Sequence[ScoringRequest]) -> list[list[float]]:
        """Per request Σ log p of each candidate's scored tokens."""
        import torch

        result = []
        for request in requests:
            sums = []
            for candidate in request.candidates:
                prompt = TokenSequence.concatenate([request.prefix, candidate.sequence])
                ids = torch.from_numpy(prompt.token_ids)
                start = len(request.prefix) + candidate.scored_from
                with torch.inference_mode():
                    embeddings = self._input(prompt)
                    kept = len(prompt) - start + 1
                    logits = self._lm(inputs_embeds=embeddings[None], logits_to_keep=kept).logits[0, :-1]
                    chosen = logits.float().log_softmax(dim=-1).gather(-1, ids[start:, None])
                sums.append(chosen.sum().item())
            result.append(sums)
        return result

    def passes(self, requests: Sequence[ScoringRequest], max_tokens: int = 2048) -> None:
        """A forward and a backward pass to the inputs for the likelihood of each request's one span."""
        import torch

        prompts = [(one.prefix, one.candidates[0]) for one in requests]
        prompts.sort(key=lambda pair: len(pair[0]) + len(pair[1].sequence))
        longest = len(prompts[-1][0]) + len(prompts[-1][1].sequence)
        size = max(1, max_tokens // longest)
        for begin in range(0, len(prompts), size):
            group = prompts[begin : begin + size]
            batch = [TokenSequence.concatenate([prefix, span.sequence]) for prefix, span in group]
            embeddings = torch.nn.utils.rnn.pad_sequence([self._input(one) for one in batch], batch_first=True)
            states = self._lm.base_model(inputs_embeds=embeddings.requires_grad_()).last_hidden_state
            loss = torch.zeros(())
            for state, prompt, (prefix, span) in zip(states, batch, group, strict=True):
                start = len(prefix) + span.scored_from
                logits = self._lm.get_output_embeddings()(state[start - 1 : len(prompt) - 1]).float()
                loss = loss + torch.nn.functional.cross_entropy(logits, torch.from_numpy(prompt.token_ids[start:]))
            torch.autograd.grad(loss, embeddings)

    def _input(self, prompt: TokenSequence) -> Any:
        import torch

        embeddings = self._lm.get_input_embeddings()(torch.from_numpy(prompt.token_ids))
        if not prompt.is_plain:
            embeddings[torch.from_numpy(prompt.vector_positions)] = torch.from_numpy(prompt.vectors).to(embeddings)
        return embeddings


def adapted(engine: Any, naive: Naive, lists: Lists, job: dict[str, Any]) -> dict[str, Any]:
    """Seconds to adapt users' contexts, and seconds of as many bare forward and backward passes of the same tokens."""
    from reranker.soft_tokens import ContextMap, Support
    from reranker.soft_tokens.user_adaptation import ContextAdapter

    rng = np.random.default_rng(job["seed"])
    renderer = lists.renderer(job["interactions"])
    soft = TokenSequence.from_vectors(0.1 * rng.standard_normal((16, engine.model.dim)).astype(np.float32))
    contexts = ContextMap.initial(engine.embed_tokens([0])[0], k=4, d=32)
    chosen = [
        [lists.items[number] for number in rng.choice(len(lists.items), job["interactions"])]
        for _ in range(job["users"])
    ]
    supports = [Support(state=UserState(user_id=number), items=items) for number, items in enumerate(chosen)]
    adapter = ContextAdapter(engine.packed_lm, renderer, soft, contexts, steps=job["steps"])
    placeholder = TokenSequence.from_vectors(contexts.base)
    requests = [renderer.continuation(items, soft, placeholder).request for items in chosen]
    begun = time.perf_counter()
    for _ in range(job["steps"]):
        naive.passes(requests)
    bare = time.perf_counter() - begun
    begun = time.perf_counter()
    _, report = adapter.adapt(supports)
    return {"seconds": time.perf_counter() - begun, "bare": bare, "tokens": report.tokens}


if __name__ == "__main__":
    main()
