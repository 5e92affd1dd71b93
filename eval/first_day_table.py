"""Readers of texts on the first day of a shop, when little or nothing was chosen yet.

`python -m eval.benchmark --data DIR --table first-day` prints it: NDCG@10 of lists of new users of whom k interactions
are known, after n other users were seen (`eval.first_day`), by words, a sentence encoder, the LLM's hidden states and
the LLM beside words. `texts` is a reader with the weights it has before anything is learned, `fused` what `fit` learns.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from candidate_gen import ALSGenerator
from eval.benchmark_tables import above
from eval.checks import Check, reported
from eval.first_day import LENGTH, SEEN, SUPPORTS, FirstDay
from reranker import Reranker
from reranker.data.catalog import Catalog
from reranker.data.dataset import Dataset
from reranker.data.schema import ITEM, RANK, USER
from reranker.errors import ConfigError
from reranker.evaluation.significance import POOLED, Comparison, compare
from reranker.fusion import as_order
from reranker.protocols import Engine
from reranker.utils.atomic_io import write_text
from reranker.utils.statistics import ndcg_by_list

NAME = "first-day"
ASKS = "Lists of new users, when n users were seen so far: what is each reader of texts worth?"
METRIC, SHOWN_SUPPORT, DRAWS = "ndcg@10", 3, 3
LLM, LEXICAL = "llm", "lexical"
TARGETS = {0: 20.0, 30: 10.0, 100: 10.0, 300: 5.0, 1000: 5.0}
"""Users seen -> percent that the LLM is to add to words."""

Scores = dict[str, NDArray[np.float64]]
Reader = Callable[[], Engine]


def measure(day: FirstDay, n: int, reader: str, engine: Engine, settings: Mapping[str, object]) -> dict[int, Scores]:
    """Known interactions of a test user -> system -> (users,) NDCG@10, after n users.

    Args:
        reader: names the systems: "texts.READER" and, where n > 0, "fused.READER" and "baseline".
        engine: reads the texts.
        settings: further fields of `RerankerConfig`.
    """
    reranker = Reranker.from_pretrained("untrained", engine=engine, scorer="embedding", **settings)
    list_index = np.asarray(pd.factorize(day.lists[USER])[0], dtype=np.int64)
    chosen = np.array([day.chosen[user] == item for user, item in zip(day.lists[USER], day.lists[ITEM], strict=True)])
    catalog = Catalog(day.data.items)
    if n:
        seen = day.seen(n)
        reranker.fit_windows(seen, day.windows(n), ALSGenerator().fit(seen.interactions))
    else:
        own = reranker.reader.for_domain(day.data.domain, takes_engine=True)
        reranker.reader = own.for_catalog(catalog.items(day.data.items[ITEM].tolist()))

    def ndcg(scores: NDArray[np.float64]) -> NDArray[np.float64]:
        return ndcg_by_list(scores, list_index, chosen, np.ones(int(list_index[-1]) + 1, dtype=np.int64))

    found = {}
    for k in SUPPORTS:
        histories = {user: items[-k:] for user, items in day.histories.items()}
        lists = reranker.reader.lists(day.lists, catalog, lambda user, known=histories: known[user], {})
        scoring = reranker.reader.scorer
        raw = np.concatenate(scoring.score_components(lists))
        systems = {f"texts.{reader}": ndcg(raw @ scoring.default_coefficients)}
        if n:
            for system, order in (("baseline", "baseline"), (f"fused.{reader}", "fused")):
                ranked = reranker.rerank(day.lists, interactions=histories, order=as_order(order)).to_frame()
                places = ranked.set_index([USER, ITEM])[RANK].reindex(pd.MultiIndex.from_frame(day.lists[[USER, ITEM]]))
                systems[system] = ndcg(-places.to_numpy(dtype=np.float64))
        found[k] = systems
    return found


def run(
    domains: Sequence[tuple[str, Dataset]],
    readers: Mapping[str, tuple[Reader, Mapping[str, object]]],
    out: Path,
    say: Callable[[str], None],
    seen: Sequence[int] = SEEN,
    draws: int = DRAWS,
) -> list[Check]:
    """Prints a line a number of users seen and a system; all supports, domains and draws go to `out`.

    Args:
        domains: name, and data whose own name picks the template family.
        readers: name -> what loads its engine, and its settings; the LLM and words among them.
        seen: numbers of users; those that a domain has not are left out, and named.
        draws: of test users and of the order in which users come.
    """
    if not {LLM, LEXICAL} <= set(readers):
        raise ConfigError(f"--table {NAME} compares {LLM!r} with {LEXICAL!r}; readers are {', '.join(readers)}")
    engines = {name: make() for name, (make, _) in readers.items()}
    values: dict[tuple[int, int, str], dict[str, NDArray[np.float64]]] = {}
    for domain, data in domains:
        for draw in range(draws):
            day = FirstDay.of(data, draw)
            for n in seen:
                if n > len(day.order):
                    say(f"{domain}, draw {draw}: only {len(day.order)} users can be seen, so {n} is left out")
                    continue
                for name, (_, settings) in readers.items():
                    for k, systems in measure(day, n, name, engines[name], settings).items():
                        for system, scores in systems.items():
                            values.setdefault((n, k, system), {})[f"{domain}/{draw}"] = scores
    for engine in engines.values():
        engine.close()
    rows = [
        {"seen": n, "known": k, "domain": part, "system": system, METRIC: float(scores.mean()), "users": len(scores)}
        for (n, k, system), parts in values.items()
        for part, scores in parts.items()
    ]
    write_text(out / "first_day.csv", pd.DataFrame(rows).to_csv(index=False))
    say(f"\nNDCG@10 of {LENGTH} items, k = {SHOWN_SUPPORT} interactions known, mean of domains and draws\n")
    say(f"{'seen':>5}  {'system':<18} {METRIC:>8}  over words")
    gains = []
    for n in seen:
        for (_, k, system), parts in ((key, parts) for key, parts in values.items() if key[0] == n):
            gain = _over_words(values, n, k, system)
            gains += [(n, k, gain)] if gain else []
            if k == SHOWN_SUPPORT:
                mean = np.mean([scores.mean() for scores in parts.values()])
                words = f"{gain.relative:+.1%} [{gain.relative_low:+.1%}, {gain.relative_high:+.1%}]" if gain else ""
                say(f"{n:>5}  {system:<18} {mean:>8.4f}  {words}")
    return list(_checks(gains))


def _over_words(
    values: Mapping[tuple[int, int, str], Mapping[str, NDArray[np.float64]]], n: int, k: int, system: str
) -> Comparison | None:
    """Over the same order with words in the reader's place, over all domains and draws; None for words themselves."""
    order, _, reader = system.partition(".")
    if not reader or reader == LEXICAL:
        return None
    other = values[n, k, f"{order}.{LEXICAL}"]
    pairs = {part: (scores, other[part]) for part, scores in values[n, k, system].items()}
    found = {one.domain: one for one in compare(pairs, system=system, versus=f"{order}.{LEXICAL}", metric=METRIC)}
    return found.get(POOLED) or next(iter(found.values()))


def _checks(gains: Sequence[tuple[int, int, Comparison]]) -> Iterator[Check]:
    for n, k, gain in gains:
        words = f"n = {n}, k = {k}: {gain.system} over {gain.versus}"
        interval = f"[{gain.relative_low:+.1%}, {gain.relative_high:+.1%}], {gain.n_users} users"
        order = "fused" if n else "texts"
        if k == SHOWN_SUPPORT and gain.system == f"{order}.{LLM}":
            target = next(percent for least, percent in sorted(TARGETS.items(), reverse=True) if n >= least)
            yield Check(
                name=words,
                value=100 * gain.relative,
                target=f">= {target:g} %, interval above 0; {interval}",
                passed=100 * gain.relative >= target and above(gain),
                unit="%",
            )
        else:
            yield reported(f"{words} {interval}", 100 * gain.relative, "%")
