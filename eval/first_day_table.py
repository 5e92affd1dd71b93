"""Readers of texts on the first day of a shop, when little or nothing was chosen yet.

`python -m eval.benchmark --data DIR --table first-day` prints it: NDCG@10 of lists of new users of whom k interactions
are known, after n other users were seen (`eval.first_day`), by popularity, ALS, words, a sentence encoder and the
LLM's hidden states, the last two beside words. `texts` is a reader with the weights it has before anything is learned,
`fused` what `fit` learns.
"""

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
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
from reranker.pipeline.lists import CandidateLists
from reranker.protocols import Engine
from reranker.utils.atomic_io import whole_file, write_text
from reranker.utils.statistics import ndcg_by_list

NAME = "first-day"
ASKS = "Lists of new users, when n users were seen so far: what is each reader of texts worth?"
METRIC, SHOWN_SUPPORT, DRAWS = "ndcg@10", 3, 3
LLM, LEXICAL = "llm", "lexical"
READERS = (LEXICAL, "encoder", LLM)
"""Variants of the table "ladder"."""
TARGETS = {0: 20.0, 30: 10.0, 100: 10.0, 300: 5.0, 1000: 5.0}
"""Users seen -> percent that the LLM is to add to words."""

Scores = dict[str, NDArray[np.float64]]
Reader = Callable[[], Engine]
Values = dict[tuple[int, int, str], dict[str, NDArray[np.float64]]]
"""Users seen, interactions known, system -> domain and draw -> (users,) NDCG@10."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Past:
    """What is known after some users: all readers learn from the same.

    Attributes:
        seen: their interactions, and the items.
        windows: what they chose, newest first.
        generator: fitted on all that was seen.
    """

    seen: Dataset
    windows: Sequence[CandidateLists]
    generator: ALSGenerator

    @classmethod
    def of(cls, day: FirstDay, n: int) -> "Past":
        """After `n` users, 1 or more."""
        seen = day.seen(n)
        return cls(seen=seen, windows=day.windows(n), generator=ALSGenerator().fit(seen.interactions))


def measure_first_stages(day: FirstDay, past: Past) -> dict[int, Scores]:
    """As `measure`, of popularity and of ALS, a user's factors being the mean of those of the items known of them."""
    counts = past.seen.interactions[ITEM].value_counts()
    popularity = day.lists[ITEM].map(counts).fillna(0).to_numpy(dtype=np.float64)
    items = past.generator.item_factors(day.lists[ITEM]).astype(np.float64)
    found = {}
    for k in SUPPORTS:
        tastes = {user: past.generator.item_factors(known[-k:]).mean(axis=0) for user, known in day.histories.items()}
        als = (items * np.stack([tastes[user] for user in day.lists[USER]])).sum(axis=1)
        found[k] = {"popularity": _ndcg(day, popularity), "als": _ndcg(day, als)}
    return found


def _ndcg(day: FirstDay, scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """(users,) in the order of their lists."""
    list_index = np.asarray(pd.factorize(day.lists[USER])[0], dtype=np.int64)
    chosen = np.array([day.chosen[user] == item for user, item in zip(day.lists[USER], day.lists[ITEM], strict=True)])
    return ndcg_by_list(scores, list_index, chosen, np.ones(int(list_index[-1]) + 1, dtype=np.int64))


def measure(
    day: FirstDay, past: Past | None, reader: str, engine: Engine, settings: Mapping[str, object]
) -> dict[int, Scores]:
    """Known interactions of a test user -> system -> (users,) NDCG@10.

    Args:
        past: None where nobody was seen.
        reader: names the systems: "texts.READER" and, behind a past, "fused.READER" and "baseline".
        engine: reads the texts.
        settings: further fields of `RerankerConfig`.
    """
    reranker = Reranker.from_pretrained("untrained", engine=engine, scorer="embedding", **settings)
    catalog = Catalog(day.data.items)
    if past:
        reranker.fit_windows(past.seen, past.windows, past.generator)
    else:
        own = reranker.llm_scorer.for_domain(day.data.domain, takes_engine=True)
        reranker.llm_scorer = own.for_catalog(catalog.items(day.data.items[ITEM].tolist()))

    found = {}
    for k in SUPPORTS:
        histories = {user: items[-k:] for user, items in day.histories.items()}
        lists = reranker.llm_scorer.lists(day.lists, catalog, lambda user, known=histories: known[user], {})
        scoring = reranker.llm_scorer.scorer
        raw = np.concatenate(scoring.score_components(lists))
        systems = {f"texts.{reader}": _ndcg(day, raw @ scoring.default_coefficients)}
        if past:
            for system, order in (("baseline", "baseline"), (f"fused.{reader}", "fused")):
                ranked = reranker.rerank(day.lists, interactions=histories, order=as_order(order)).to_frame()
                places = ranked.set_index([USER, ITEM])[RANK].reindex(pd.MultiIndex.from_frame(day.lists[[USER, ITEM]]))
                systems[system] = _ndcg(day, -places.to_numpy(dtype=np.float64))
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
    """Prints a table a domain, then one of all; every support, domain and draw goes to `out`.

    What was measured is kept there, and not measured again by a later run of the same readers.

    Args:
        domains: name, and data whose own name picks the template family.
        readers: name -> what loads its engine, and its settings; the LLM and words among them.
        seen: numbers of users; those that a domain has not are left out, and named.
        draws: of test users and of the order in which users come.
    """
    if not {LLM, LEXICAL} <= set(readers):
        raise ConfigError(f"--table {NAME} compares {LLM!r} with {LEXICAL!r}; readers are {', '.join(readers)}")
    engines = {name: make() for name, (make, _) in readers.items()}
    values: Values = {}
    for domain, data in domains:
        of_domain: Values = {}
        for draw in range(draws):
            day = FirstDay.of(data, draw)
            for n in seen:
                if n > len(day.order):
                    say(f"{domain}, draw {draw}: only {len(day.order)} users can be seen, so {n} is left out")
                    continue
                past: Past | None = None
                for name, (_, settings) in readers.items():
                    kept = out / "parts" / f"{domain}-{draw}-{n}-{name}-{_stamp(day, engines[name], settings)}.npz"
                    if not kept.exists():
                        past = past or (Past.of(day, n) if n else None)
                        found = measure(day, past, name, engines[name], settings)
                        if past and name == LEXICAL:
                            found = {k: systems | found[k] for k, systems in measure_first_stages(day, past).items()}
                        _keep(found, kept)
                    for k, systems in _kept(kept).items():
                        for system, scores in systems.items():
                            of_domain.setdefault((n, k, system), {})[f"{domain}/{draw}"] = scores
        _table(of_domain, f"{domain}, mean of {draws} draws", say)
        for key, parts in of_domain.items():
            values.setdefault(key, {}).update(parts)
        _write(values, out)
    for engine in engines.values():
        engine.close()
    if len(domains) > 1:
        _table(values, f"mean of {len(domains)} domains and their draws", say)
    gains = [(n, k, _over_words(values, n, k, system)) for n, k, system in sorted(values)]
    return list(_checks([(n, k, gain) for n, k, gain in gains if gain]))


def _stamp(day: FirstDay, engine: Engine, settings: Mapping[str, object]) -> str:
    """Of all that a part depends on beside domain, draw, n and reader."""
    parts = (engine.name, engine.model.model_id, sorted(settings.items()), len(day.chosen), LENGTH, SUPPORTS)
    return f"{zlib.crc32(repr(parts).encode()):08x}"


def _keep(found: Mapping[int, Scores], path: Path) -> None:
    table = {f"{k}|{system}": scores for k, systems in found.items() for system, scores in systems.items()}
    with whole_file(path) as beside, beside.open("wb") as file:
        np.savez(file, **table)


def _kept(path: Path) -> dict[int, Scores]:
    found: dict[int, Scores] = {}
    with np.load(path) as table:
        for key in table.files:
            k, _, system = key.partition("|")
            found.setdefault(int(k), {})[system] = table[key]
    return found


def _write(values: Values, out: Path) -> None:
    rows = [
        {"seen": n, "known": k, "domain": part, "system": system, METRIC: float(scores.mean()), "users": len(scores)}
        for (n, k, system), parts in values.items()
        for part, scores in parts.items()
    ]
    write_text(out / "first_day.csv", pd.DataFrame(rows).to_csv(index=False))


def _table(values: Values, of: str, say: Callable[[str], None]) -> None:
    """A line a number of users seen and a system."""
    say(f"\nNDCG@10 of {LENGTH} items, k = {SHOWN_SUPPORT} interactions known; {of}\n")
    say(f"{'seen':>5}  {'system':<18} {METRIC:>8}  over words")
    for n, k, system in sorted(values):
        if k == SHOWN_SUPPORT:
            gain = _over_words(values, n, k, system)
            mean = np.mean([scores.mean() for scores in values[n, k, system].values()])
            words = f"{gain.relative:+.1%} [{gain.relative_low:+.1%}, {gain.relative_high:+.1%}]" if gain else ""
            say(f"{n:>5}  {system:<18} {mean:>8.4f}  {words}")


def _over_words(values: Values, n: int, k: int, system: str) -> Comparison | None:
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
