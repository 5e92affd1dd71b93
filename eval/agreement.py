"""Do the engines agree? Each engine against a naive transformers loop in float32, on prompts like the real ones.

    python -m eval.agreement [--quick] [--out DIR] [--model NAME]

Prints a table with PASS or FAIL and writes DIR/agreement.json. Exit code 1 when a check fails.
"""

import argparse
import importlib.util
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import kendalltau

from eval.checks import Check, at_least, at_most, machine, report, reported
from reranker.engines import load_engine
from reranker.hub import DEFAULT_MODEL, ResolvedModel, resolve_model
from reranker.protocols import Engine
from reranker.types import CandidateSpan, ScoringRequest, TokenSequence

TITLES = [
    "Alien (1979)",
    "Aliens (1986)",
    "Blade Runner (1982)",
    "The Matrix (1999)",
    "Heat (1995)",
    "Fargo (1996)",
    "Toy Story (1995)",
    "The Lion King (1994)",
    "The Godfather (1972)",
    "Pulp Fiction (1994)",
    "Star Wars (1977)",
    "Return of the Jedi (1983)",
    "Jurassic Park (1993)",
    "The Silence of the Lambs (1991)",
    "Casablanca (1942)",
    "Vertigo (1958)",
    "Rear Window (1954)",
    "Psycho",
    "The Birds",
    "Groundhog Day",
    "Amélie",
    "Das Boot",
    "七人の侍 (1954)",
    "Spirited Away",
    "Wallet, brown leather",
    "Red enamel teapot",
    "USB-C cable 2 m",
    "Go Rin No Sho",
    "Dune",
    "Neuromancer",
    "The Left Hand of Darkness",
    "Half-Life 2",
    "Stardew Valley",
    "Elden Ring",
    "Chrono Trigger",
    "Kind of Blue",
    "OK Computer",
    "The Dark Side of the Moon",
    "Trainspotting (1996)",
    "12 Angry Men (1957)",
]
INSTRUCTION = "Recommend what this person will choose next."

SUM_BOUND, LABEL_BOUND = 1e-3, 1e-4  # nats, float32
TAU_BOUND = 0.8  # Kendall's tau of a user's list in bfloat16 against float32: the mean over users


def build_requests(engine: Engine, users: int, candidates: int) -> list[ScoringRequest]:
    """Histories of 3 to 12 titles; every second user also has a soft prompt made from an instruction."""
    rng = np.random.default_rng(0)
    encode = engine.tokenizer.encode
    soft = TokenSequence.from_vectors(engine.embed_tokens(encode(INSTRUCTION)))
    requests = []
    for user in range(users):
        history = rng.choice(TITLES, 3 + user % 10, replace=False)
        prefix = TokenSequence.from_tokens(encode("Chosen before:" + "".join(f"\n- {title}" for title in history)))
        chosen = rng.choice(TITLES, candidates, replace=False)
        spans = (TokenSequence.from_tokens(encode(f"\n- {title}\n")) for title in chosen)
        requests.append(
            ScoringRequest(
                prefix=TokenSequence.concatenate([soft, prefix]) if user % 2 else prefix,
                candidates=tuple(CandidateSpan(sequence=sequence, scored_from=2) for sequence in spans),
            )
        )
    return requests


def naive(model: ResolvedModel, requests: Sequence[ScoringRequest], labels: list[int]) -> tuple[Any, Any]:
    """(sums, label log-probabilities) by one plain transformers pass a candidate: the reference."""
    import torch

    from reranker.engines.loading import load_causal_lm

    lm = load_causal_lm(model.path, "float32", "cpu")
    table = lm.get_input_embeddings()
    sums, label_rows = [], []
    with torch.inference_mode():
        for request in requests:
            for candidate in request.candidates:
                prompt = TokenSequence.concatenate([request.prefix, candidate.sequence])
                ids = torch.from_numpy(prompt.token_ids)
                embeddings = table(ids)
                if not prompt.is_plain:
                    embeddings[torch.from_numpy(prompt.vector_positions)] = torch.from_numpy(prompt.vectors)
                start = len(request.prefix) + candidate.scored_from
                logits = lm(inputs_embeds=embeddings[None], logits_to_keep=len(prompt) - start + 1).logits[0]
                log_probs = logits.double().log_softmax(dim=-1)
                targets = ids[start:]
                sums.append(log_probs[torch.arange(len(targets)), targets].sum().item())
                label_rows.append(log_probs[-1, labels].numpy())
    return np.array(sums), np.array(label_rows)


def compare(
    name: str, dtype: str, model: ResolvedModel, requests: Sequence[ScoringRequest], labels: list[int], reference: Any
) -> list[Check]:
    """The checks of one engine at one precision."""
    engine = load_engine(name, model, dtype=dtype)
    try:
        scores = engine.span_log_likelihoods(requests)
        began = time.perf_counter()
        engine.span_log_likelihoods(requests)
        seconds = (time.perf_counter() - began) / len(requests)
        label_values = np.concatenate(engine.label_log_probs(requests, labels))
    finally:
        engine.close()
    sums = np.concatenate([score.sums for score in scores])
    sum_gap, label_gap = float(np.abs(sums - reference[0]).max()), float(np.abs(label_values - reference[1]).max())
    title = f"{name} {dtype}"
    speed = reported(f"{title}: likelihood", seconds, "s/user")
    if dtype == "float32":
        return [
            at_most(f"{title}: max |Δ| sum of title log p", sum_gap, SUM_BOUND, "nats"),
            at_most(f"{title}: max |Δ| label log p", label_gap, LABEL_BOUND, "nats"),
            speed,
        ]
    ends = np.cumsum([len(request.candidates) for request in requests])[:-1]
    pairs = zip(np.split(sums, ends), np.split(reference[0], ends), strict=True)
    tau = float(np.mean([kendalltau(ours, exact).statistic for ours, exact in pairs]))
    return [
        reported(f"{title}: max |Δ| sum of title log p", sum_gap, "nats"),
        reported(f"{title}: max |Δ| label log p", label_gap, "nats"),
        at_least(f"{title}: Kendall tau", tau, TAU_BOUND, ""),
        speed,
    ]


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the checks; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m eval.agreement", description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 users of 15 candidates instead of 8 of 25")
    parser.add_argument("--out", type=Path, default=Path("out/agreement"), help="where agreement.json goes")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="name, Hugging Face id or directory")
    options = parser.parse_args(arguments)
    model = resolve_model(options.model)
    users, candidates = (3, 15) if options.quick else (8, 25)
    engine = load_engine("torch", model, dtype="float32")
    requests = build_requests(engine, users, candidates)
    labels = [engine.tokenizer.encode(text)[0] for text in (" yes", " no", " maybe")]
    engine.close()
    reference = naive(model, requests, labels)
    engines = ["torch", *(["vllm"] if importlib.util.find_spec("vllm") else [])]
    checks = [
        check
        for name in engines
        for dtype in ("float32", "bfloat16")
        for check in compare(name, dtype, model, requests, labels, reference)
    ]
    print(f"{len(reference[0])} candidates of {users} users against a naive float32 loop, {model.model_id}")
    if "vllm" not in engines:
        print("vllm is not installed: not compared")
    report(checks, options.out / "agreement.json", _environment(model, engines), print)
    return 0 if all(check.passed for check in checks) else 1


def _environment(model: ResolvedModel, engines: Sequence[str]) -> dict[str, object]:
    import torch

    more: dict[str, object] = {"model": model.model_id}
    if "vllm" in engines:
        import vllm

        more["vllm"] = str(vllm.__version__)
    more["device"] = (
        torch.cuda.get_device_name() if torch.cuda.is_available() else f"cpu, {torch.get_num_threads()} threads"
    )
    return machine(("reranker", "torch", "transformers"), **more)


if __name__ == "__main__":
    sys.exit(main())
