"""The demo: a known user's next choice, items that nobody chose yet, a user nobody knows; what each part adds."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from candidate_gen import make_generator
from reranker.cli import demo_report
from reranker.data.dataset import Dataset
from reranker.data.schema import ITEM, RANK, TITLE, USER
from reranker.data.splits import Fold, leave_last_k
from reranker.data.table_io import write_table
from reranker.engines.encoder import ENCODER, LLM
from reranker.errors import DataError
from reranker.evaluation.metrics import per_user_metrics, require_trec
from reranker.fusion import Order
from reranker.pipeline.ladder import Climbed, fit_rungs
from reranker.pipeline.lists import FoldLists, among_new_items, propose
from reranker.pipeline.reranker import Reranker
from reranker.protocols import CandidateGenerator
from reranker.types import ItemId, UserId
from reranker.utils.statistics import Interval, mean_interval

N_CANDIDATES = 50
NEW_SHARE = 0.1
"""Of the catalogue, that nobody has chosen when the demo fits."""

SHOWN = 5
METRICS = ("ndcg@10", "hr@10")
FIRST, BASELINE, WORDS = "first stage", "baseline", "words"
NEWCOMER = "a new user"
LIKES = {
    "shop": ("Tofu", "Soy/rice milk", "Organic berries"),
    "movies": ("Alien", "Blade Runner", "The Terminator"),
}
"""Domain -> beginnings of titles that the new user likes. Elsewhere three items of the largest category are."""

Echo = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """One question of the demo.

    Attributes:
        per_user: system -> one row a test user, one column a metric.
        lists: the candidates, as they came in.
        ranked: system -> the same rows, best first, with `rank`.
        targets: user -> what the user chose.
    """

    per_user: dict[str, pd.DataFrame]
    lists: pd.DataFrame
    ranked: dict[str, pd.DataFrame]
    targets: dict[UserId, ItemId]

    def gain(self, system: str, over: str, metric: str = METRICS[0]) -> Interval:
        """Difference of two systems by user, with its interval."""
        values = self.per_user[system][metric].to_numpy() - self.per_user[over][metric].to_numpy()
        return mean_interval(np.asarray(values, dtype=np.float64))

    def mean(self, system: str, metric: str = METRICS[0]) -> float:
        return float(self.per_user[system][metric].mean())

    def to_json(self) -> dict[str, Any]:
        pairs = [(name, over) for over, name in zip(self.systems, self.systems[1:], strict=False)]
        return {
            "users": len(next(iter(self.per_user.values()))),
            "systems": {name: {metric: self.mean(name, metric) for metric in METRICS} for name in self.systems},
            "gains": {f"{name} over {over}": self.gain(name, over).to_dict() for name, over in pairs},
        }

    @property
    def systems(self) -> tuple[str, ...]:
        """Cheapest first."""
        return tuple(self.per_user)


@dataclass(frozen=True, kw_only=True, eq=False)
class DemoResult:
    """What the demo measured.

    Attributes:
        known: users whose next choice was held out.
        new: the same users and items that nobody had chosen.
        newcomer: system -> the list of a user with three likes, best first.
        likes: the titles of these.
        rungs: the readers and the ladder.
        titles: item -> title.
        histories: user -> newest titles, oldest first, of the users in the examples.
        seconds: stage -> seconds.
    """

    known: Part
    new: Part
    newcomer: dict[str, list[str]]
    likes: list[str]
    rungs: Climbed
    titles: dict[ItemId, str]
    histories: dict[UserId, list[str]]
    seconds: dict[str, float]


class _Stopwatch:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started


def run_demo(
    data: Dataset,
    out: Path,
    echo: Echo,
    *,
    users: int = 500,
    fit_users: int | None = None,
    progress: bool | None = None,
    **settings: Any,
) -> DemoResult:
    """Fits without each user's last choice and without a tenth of the catalogue, then asks for both.

    Args:
        data: with or without times; at least some hundred users.
        out: folder for ranked.parquet, candidates.parquet, bundle/ and summary.json.
        echo: takes each line of the report.
        users: test users, drawn at random; the statistics learn from all.
        fit_users: lists that the LLM scores for fitting the fusion head, at most; by default all.
        progress: show progress bars on stderr; None does on a terminal and in a notebook.
        settings: fields of `RerankerConfig`.

    Raises:
        ConfigError: pytrec-eval-terrier is not installed, or an unknown setting.
        DataError: the data are too few to hold anything out.
    """
    require_trec()
    watch = _Stopwatch()
    old, new_items, later = _without_new_items(data)
    fold = leave_last_k(old, 1).sample_users(users)
    echo(
        f"{len(data.items)} items, {len(fold.train)} interactions; hidden: the last choice of {len(fold.users)} users, "
        f"and all of {len(new_items)} new items"
    )
    with watch.stage("first stage"):
        generator = make_generator().fit(fold.train)
        lists = propose(fold, generator, N_CANDIDATES)
    llm = Reranker.from_pretrained("default", n_candidates=N_CANDIDATES, fit_users=fit_users, **settings)
    with watch.stage("fit all readers"):
        rungs = fit_rungs(llm, fold.data, generator, progress=progress)
    fitted = {WORDS: rungs.words, ENCODER: rungs.encoder, LLM: rungs.llm}
    readers = {name: reader for name, reader in fitted.items() if reader is not None}
    with watch.stage("rank"):
        known = _ranked_part(lists, readers)
    with watch.stage("new items"):
        for reader in readers.values():
            reader.add_items(new_items)
        new = _ranked_part(_new_item_lists(fold, data, new_items, later), readers)
    likes = _likes(data)
    newcomer = _newcomer(rungs.served, generator, readers, likes)
    with watch.stage("save"):
        rungs.served.save(out / "bundle")
        served = rungs.served.rerank(lists.candidates).to_frame()
        write_table(served, out / "ranked.parquet")
        write_table(lists.candidates, out / "candidates.parquet")
    titles = dict(zip(data.items[ITEM], data.items[TITLE], strict=True))
    result = DemoResult(
        known=known,
        new=new,
        newcomer={name: [titles[item] for item in found] for name, found in newcomer.items()},
        likes=[titles[item] for item in likes],
        rungs=rungs,
        titles=titles,
        histories={user: [titles[item] for item in rungs.words.history(user)[-4:]] for user in fold.users},
        seconds=watch.seconds,
    )
    (out / "summary.json").write_text(json.dumps(_summary(result), indent=1))
    for line in demo_report.lines(result):
        echo(line)
    echo(f"\nwritten to {out}: ranked.parquet, candidates.parquet, bundle/, summary.json")
    return result


def _without_new_items(data: Dataset, seed: int = 0) -> tuple[Dataset, pd.DataFrame, pd.DataFrame]:
    """The data without a tenth of the catalogue; that tenth; and what users chose of it."""
    rng = np.random.default_rng(seed)
    drawn = set(rng.choice(np.asarray(data.items[ITEM], dtype=object), int(len(data.items) * NEW_SHARE), replace=False))
    is_new = data.items[ITEM].isin(drawn)
    of_new = data.interactions[ITEM].isin(drawn)
    if not drawn or not of_new.any() or of_new.all():
        raise DataError(f"the demo needs a larger catalogue: nothing is left to hide of {len(data.items)} items")
    old = Dataset(interactions=data.interactions[~of_new], items=data.items[~is_new], domain=data.domain)
    return old, data.items[is_new], data.interactions[of_new]


def _new_item_lists(fold: Fold, data: Dataset, new_items: pd.DataFrame, later: pd.DataFrame) -> FoldLists:
    """For each test user one new item that the user chose among other new ones, in a random order."""
    ids = new_items[ITEM].tolist()
    n = min(N_CANDIDATES, len(ids))
    targets = later[later[USER].isin(fold.users)].groupby(USER, sort=False).tail(1)[[USER, ITEM]]
    kept = set(targets[USER])
    asked = Fold(
        domain=fold.domain,
        split="new_items",
        ordered=False,
        seed=0,
        items=data.items,
        train=fold.train,
        history=fold.history[fold.history[USER].isin(kept)].reset_index(drop=True),
        held_out=targets.reset_index(drop=True),
        resplit=fold.resplit,
        cold_items=tuple(ids),
    )
    return FoldLists(fold=asked, candidates=among_new_items(targets, ids, n), n=n)


def _ranked_part(lists: FoldLists, readers: dict[str, Reranker]) -> Part:
    """Every system on the same lists; a list without the target is not read: it counts as 0 in any order."""
    read = lists.of_users(lists.covered)
    scores: dict[str, NDArray[np.float64]] = {}
    for name, reader in readers.items():
        found = reader.score_all(read.candidates)
        if not scores:
            scores[FIRST] = found.first_stage
            scores[BASELINE] = found.baseline
        scores[name] = found.fused
    ranked = {}
    for name, values in scores.items():
        table = read.candidates.assign(score=values, place=read.candidates[RANK])
        table = table.sort_values([USER, "score", "place"], ascending=[True, False, True], kind="stable")
        ranked[name] = table.assign(rank=table.groupby(USER).cumcount() + 1)
    return Part(
        per_user={
            name: per_user_metrics(read, values, "end_to_end", (10,))[list(METRICS)] for name, values in scores.items()
        },
        lists=read.candidates,
        ranked=ranked,
        targets=dict(zip(lists.fold.held_out[USER], lists.fold.held_out[ITEM], strict=True)),
    )


def _likes(data: Dataset, n: int = 3) -> list[ItemId]:
    """Items that the new user likes."""
    wanted = LIKES.get(data.domain, ())
    found = [data.items[data.items[TITLE].str.startswith(beginning)] for beginning in wanted]
    chosen = [rows[ITEM].iloc[0] for rows in found if len(rows)]
    counts = data.interactions[ITEM].value_counts()
    return chosen if len(chosen) == n else counts.index[:n].tolist()


def _newcomer(
    served: Reranker, generator: CandidateGenerator, readers: dict[str, Reranker], likes: Sequence[ItemId]
) -> dict[str, list[ItemId]]:
    """First places of somebody of whom only the likes are known: popular items, and the same reranked."""
    came = generator.recommend([NEWCOMER], n=2 * N_CANDIDATES + len(likes))
    came = came[~came[ITEM].isin(likes)].head(2 * N_CANDIDATES)
    found = {FIRST: came[ITEM].tolist()[:SHOWN]}
    orders: list[tuple[Order, str, Reranker]] = [("baseline", BASELINE, served)]
    orders += [("fused", name, reader) for name, reader in readers.items()]
    for order, name, reader in orders:
        ranked = reader.rerank(came, SHOWN, interactions={NEWCOMER: list(likes)}, order=order)
        found[name] = ranked.to_lists()[NEWCOMER]
    return found


def _summary(result: DemoResult) -> dict[str, Any]:
    served = result.rungs.served
    assert served.fusion_model is not None
    return {
        "known_users": result.known.to_json(),
        "new_items": result.new.to_json(),
        "new_user": {"likes": result.likes, "lists": result.newcomer},
        "ladder": result.rungs.ladder.to_json(),
        "guard": served.fusion_model.guard.to_json(),
        "engine": served.llm_scorer.engine.name,
        "model": served.llm_scorer.model.model_id,
        "seconds": {**result.seconds, "total": sum(result.seconds.values())},
    }
