"""What `eval.speed.gpu_day` measures of one engine: users' soft tokens, prefix cache, catalogue, training, memory.

    python -m eval.speed.gpu_parts PART --engine vllm|torch [--shape llama-1b] [--count N] --out FILE

Each is a process of its own, for a GPU's memory is free only when its owner has ended.
"""

import argparse
import json
import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from eval.speed.gpu import SHAPES, WINDOW, write_shape
from eval.speed.load import LIKELIHOOD, Lists, Load
from reranker.engines import load_engine
from reranker.hub import DEFAULT_MODEL, ResolvedModel, resolve_model, states_layer
from reranker.protocols import Engine, n_layers
from reranker.types import TokenSequence, UserState

_ITEMS_A_CALL = 4096
_INTERACTIONS = 10


def users(engine: Engine, count: int) -> dict[str, float]:
    """Lists of users each of whom has 16 soft tokens of their own: as many vectors as 16 slots a user."""
    lists = Lists(engine)
    warm = lists.requests(Load(users=2, candidates=4, history=5, soft=16, seed=1), LIKELIHOOD)
    engine.span_log_likelihoods(warm)
    load = Load(users=count, history=20, soft=16)
    requests = lists.requests(load, LIKELIHOOD)
    begun = time.perf_counter()
    engine.span_log_likelihoods(requests)
    seconds = time.perf_counter() - begun
    pairs = load.users * load.candidates
    return {"users_per_second": count / seconds, "candidates_per_second": pairs / seconds, "soft_vectors": 16 * count}


def prefix(engine: Engine, count: int) -> dict[str, float]:
    """The share of prompt tokens that the prefix cache gave, in one batch of lists that it had not seen, and again."""
    requests = Lists(engine).requests(Load(users=count, history=50, soft=16, seed=2), LIKELIHOOD)
    found: dict[str, float] = {}
    for name in ("first", "again"):
        before = getattr(engine, "prompt_tokens", (0, 0))
        begun = time.perf_counter()
        engine.span_log_likelihoods(requests)
        found[f"{name}_users_per_second"] = count / (time.perf_counter() - begun)
        tokens, cached = np.subtract(getattr(engine, "prompt_tokens", (0, 0)), before).tolist()
        if tokens:
            found |= {f"{name}_prompt_tokens": tokens, f"{name}_hit_rate": cached / tokens}
    return found


def catalogue(engine: Engine, count: int) -> dict[str, float]:
    """Hidden states of items that differ, as `fit` reads them: title and category of ml-100k, and a number.

    Of the model's default layer, or of the last where it has none or the engine does not stop there (0).
    """
    lists = Lists(engine)
    items = [lists.items[n % len(lists.items)] for n in range(count)]
    items = [{**item, "title": f"{item['title']} {n}"} for n, item in enumerate(items)]
    renderer = lists.renderer(5)
    usual = states_layer(engine.model.model_id)
    layer = usual if usual is not None and n_layers(engine) >= usual else None
    reads: Any = engine
    reads.span_states([renderer.embedding(items[:8]).request], layer)
    begun = time.perf_counter()
    tokens = 0
    for start in range(0, count, _ITEMS_A_CALL):
        request = renderer.embedding(items[start : start + _ITEMS_A_CALL]).request
        tokens += sum(len(one.sequence) for one in request.candidates)
        reads.span_states([request], layer)
    seconds = time.perf_counter() - begun
    rate = count / seconds
    speed = {"items_per_second": rate, "tokens_per_second": tokens / seconds, "minutes_per_million": 1e6 / rate / 60}
    return speed | {"layer": layer or n_layers(engine)}


def training(engine: Engine, count: int) -> dict[str, float]:
    """Gradient steps to users' contexts, as adapting and meta-training take them; needs the torch engine."""
    from reranker.soft_tokens import ContextMap, Support
    from reranker.soft_tokens.user_adaptation import ContextAdapter

    lists, lm = Lists(engine), getattr(engine, "packed_lm", None)
    if lm is None:
        raise SystemExit("training takes gradients: pass --engine torch")
    rng = np.random.default_rng(0)
    soft = TokenSequence.from_vectors(0.1 * rng.standard_normal((16, engine.model.dim)).astype(np.float32))
    contexts = ContextMap.initial(engine.embed_tokens([0])[0], k=4, d=32)

    def supports(n: int) -> list[Support]:
        chosen = [rng.choice(len(lists.items), _INTERACTIONS) for _ in range(n)]
        return [
            Support(state=UserState(user_id=number), items=[lists.items[one] for one in row])
            for number, row in enumerate(chosen)
        ]

    steps = 2
    adapter = ContextAdapter(lm, lists.renderer(_INTERACTIONS), soft, contexts, steps=steps)
    adapter.adapt(supports(2))
    asked = supports(count)
    begun = time.perf_counter()
    _, report = adapter.adapt(asked)
    seconds = time.perf_counter() - begun
    return {"user_steps_per_second": steps * count / seconds, "tokens_per_second": report.tokens / seconds}


PARTS: Mapping[str, Callable[[Engine, int], dict[str, float]]] = {
    "users": users,
    "prefix": prefix,
    "catalogue": catalogue,
    "training": training,
}


def write_weights(folder: Path) -> None:
    """Random weights for a shape, in bfloat16: the torch engine makes up none itself."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16).save_pretrained(folder)


def memory() -> dict[str, float]:
    """GiB that the device has in use, whoever's, and the most that this process had of the machine's memory."""
    import torch

    found = {"process_gib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20}
    if torch.cuda.is_available():
        free, whole = torch.cuda.mem_get_info()
        found |= {"device_used_gib": (whole - free) / 2**30, "device_gib": whole / 2**30}
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Loads the engine, measures, writes the figures."""
    parser = argparse.ArgumentParser(prog="python -m eval.speed.gpu_parts", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--engine", default="vllm", choices=("vllm", "torch"))
    parser.add_argument("--shape", choices=list(SHAPES), help="made-up weights; the default model's without")
    parser.add_argument("--model", default=DEFAULT_MODEL, help="name or folder, where there is no --shape")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--count", type=int, default=64, help="users or items")
    parser.add_argument("--out", type=Path, required=True, help="file for the figures")
    options = parser.parse_args(arguments)
    model = resolve_model(options.model)
    extra: dict[str, Any] = {}
    if options.shape:
        folder = write_shape(options.out.parent / options.shape, SHAPES[options.shape])
        model = ResolvedModel(model_id=options.shape, path=folder, sha256="")
        if options.engine == "vllm":
            extra["load_format"] = "dummy"
        else:
            write_weights(folder)
    if options.engine == "vllm":
        extra |= {
            "slots": max(4096, 16 * options.count) if options.part == "users" else 4096,
            "max_length": WINDOW // 2,
        }
    begun = time.perf_counter()
    engine = load_engine(options.engine, model, dtype=options.dtype, **extra)
    found: dict[str, Any] = {"load_seconds": time.perf_counter() - begun}
    found["backend"] = getattr(engine, "backend", "")
    try:
        found |= PARTS[options.part](engine, options.count)
        found |= memory()
    finally:
        engine.close()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
