"""What the model says of candidate lists, read once and kept: in memory, and on disk for later runs."""

import hashlib
import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from reranker.config import RerankerConfig
from reranker.data.catalog import Catalog
from reranker.data.schema import ITEM, USER
from reranker.errors import ConfigError, ModelError
from reranker.evaluation.base import ReadingCost
from reranker.evaluation.counting_engine import CountingEngine
from reranker.evaluation.kept import read_scores, reading_key, reading_path, write_scores
from reranker.fusion import FusionModel
from reranker.hub import resolve_model, settings_sha256
from reranker.pipeline.fitting import fit_ranker, lists_to_read
from reranker.pipeline.lists import CandidateLists, FoldLists
from reranker.pipeline.llm_scorer import LLMScorer
from reranker.pipeline.new_item_pages import new_item_pages
from reranker.protocols import Engine, ReadsStates
from reranker.scoring import StateStore, calibration_histories
from reranker.soft_tokens import Support
from reranker.soft_tokens.checkpoint import Trained
from reranker.soft_tokens.prompt_bank import PromptBank
from reranker.types import IntArray, ItemId, UserId, UserState
from reranker.utils.atomic_io import whole_file

logger = logging.getLogger(__name__)

Components = NDArray[np.float64]

_LAYOUT = 6  # of the components: readings that were kept under another mean something else


def _texts_of(templates: Path | None) -> str:
    """Hash of what stands in a folder of templates; "" for those of the package."""
    if templates is None:
        return ""
    files = sorted(path for path in templates.rglob("*") if path.is_file())
    texts = b"".join(f"{path.relative_to(templates)}\0".encode() + path.read_bytes() + b"\0" for path in files)
    return hashlib.sha256(texts).hexdigest()


@dataclass(frozen=True, kw_only=True, eq=False)
class _Reading:
    """The lists are held too, so that no other lists can get their id."""

    lists: FoldLists
    components: Components
    cost: ReadingCost


class ScoreCache:
    """What one scorer says of candidate lists; each `FoldLists` is read once and kept.

    Args:
        engine: shared by every scorer and domain.
        config: scorer, prompts and soft tokens.
        families: domain -> the domain name whose templates it uses; its own name by default.
        progress: show progress bars on stderr.
        directory: where readings are kept for later runs; nowhere by default.
        trained: domain -> prompt and users' contexts; untrained by default.
        adapt_steps: gradient steps a user, where there are contexts; 0 leaves them where the histories' text puts them.

    Raises:
        PromptError: the prompt was made for another model.
    """

    def __init__(
        self,
        engine: Engine,
        config: RerankerConfig,
        families: Mapping[str, str] | None = None,
        progress: bool = False,
        directory: Path | None = None,
        trained: Mapping[str, Trained] | None = None,
        adapt_steps: int = 2,
    ) -> None:
        self._trained = trained or {}
        self._adapt_steps = adapt_steps
        for one in self._trained.values():
            if one.prompt is not None:
                one.prompt.require_model(engine.model)
        self.config = config
        self._directory = directory
        self.families = families or {}
        self.progress = progress
        self._engine = CountingEngine(engine)
        self._readers: dict[str, LLMScorer] = {}
        self._kept: dict[int, _Reading] = {}
        self._first: dict[str, FoldLists] = {}
        self._parts: dict[tuple[int, bytes], tuple[FoldLists, FoldLists]] = {}  # a window is held, too, for its id
        self._pages: dict[int, tuple[FoldLists, FoldLists | None]] = {}
        self._fitted: dict[tuple[tuple[int, ...], int | None, float], tuple[list[FoldLists], FusionModel]] = {}

    @property
    def engine(self) -> Engine:
        return self._engine.engine

    def of(self, lists: FoldLists) -> Components:
        """(rows, n_components) aligned with `lists.candidates`."""
        self._first.setdefault(lists.fold.domain, lists)
        if id(lists) not in self._kept:
            self._kept[id(lists)] = self._reading(lists)
        return self._kept[id(lists)].components

    def _reading(self, lists: FoldLists) -> _Reading:
        """From disk where an earlier run left it."""
        if self._directory is None:
            return self._read(lists)
        key = reading_key(lists, self._settings([lists.fold.domain]))
        path = reading_path(self._directory, lists, key)
        kept = read_scores(path, key)
        if kept is None:
            reading = self._read(lists)
            write_scores(path, key, reading.components, (0.0, reading.cost.seconds, reading.cost.tokens))
            return reading
        components, (_, seconds, tokens) = kept
        return _Reading(lists=lists, components=components, cost=ReadingCost(tokens=int(tokens), seconds=seconds))

    def cost(self, lists: FoldLists) -> ReadingCost | None:
        """What reading these lists took, whichever system asked for it; None while they are unread."""
        kept = self._kept.get(id(lists))
        return kept.cost if kept else None

    @property
    def count(self) -> int:
        """How many `FoldLists` were read."""
        return len(self._kept)

    @property
    def fingerprint(self) -> str:
        """Names the model by its weights, the engine and every setting of prompts and scorer."""
        return self._settings({*self.families, *self._trained})

    def _settings(self, domains: Collection[str]) -> str:
        """What a reading of these domains rests on: another run may have others beside them."""
        model = self.engine.model
        families = sorted((domain, family) for domain, family in self.families.items() if domain in domains)
        own = {domain: one for domain, one in sorted(self._trained.items()) if domain in domains}
        trained = "".join(f"|{domain}:{one.sha256}" for domain, one in own.items())
        if any(one.contexts for one in own.values()):
            trained += f"|{self._adapt_steps}"
        return (
            f"{_LAYOUT}|{self.engine.name}|{model.sha256 or model.model_id}|{self._model_settings}"
            f"|{self.config.model_dump_json()}|{families}"
            f"{_texts_of(self.config.prompt.directory)}{trained}"
        )

    @cached_property
    def _model_settings(self) -> str:
        """Hash of the model's settings and tokenizer, which its weights do not tell; "" where it is not here."""
        if not isinstance(self.engine, ReadsStates):
            return ""
        try:
            return settings_sha256(resolve_model(self.config.model, offline=True).path)
        except ModelError:  # a scripted engine
            return ""

    def training_lists(self, windows: Sequence[FoldLists], most: int | None, seed: int = 0) -> list[FoldLists]:
        """The lists of each window that the model reads for fitting, as `lists_to_read` draws them; the same objects at
        every call, so that all systems share what was read of them."""
        drawn = lists_to_read(windows, most, seed)
        return [self._part(window, numbers) for window, numbers in zip(windows, drawn, strict=True)]

    def fitted(self, windows: Sequence[FoldLists], most: int | None, l2: float) -> FusionModel:
        """What `fit_ranker` learns from these windows, `most` lists of a domain read; once for all systems.

        Raises:
            DataError: no list holds a target.
        """
        key = tuple(map(id, windows)), most, l2
        if key not in self._fitted:
            components = self.reader(windows[0].domain).scorer.components
            pages = self._pages_of(windows) if self.config.judges_new_items else None
            model = fit_ranker(windows, self.read, components, most=most, l2=l2, ranker=self.config.ranker, pages=pages)
            self._fitted[key] = list(windows), model
        return self._fitted[key][1]

    def _pages_of(self, windows: Sequence[FoldLists]) -> FoldLists | None:
        """Pages of new items of the domain, as a fit makes them; None of several domains."""
        newest = windows[0]
        if len({window.domain for window in windows}) > 1:
            return None
        if id(newest) not in self._pages:
            self._pages[id(newest)] = newest, new_item_pages(newest, newest.fold.data)
        return self._pages[id(newest)][1]

    def _part(self, window: FoldLists, numbers: IntArray) -> FoldLists:
        key = id(window), numbers.tobytes()
        if key not in self._parts:
            kept = np.zeros(len(window.users), dtype=np.bool_)
            kept[numbers] = True
            self._parts[key] = window, window.of_users(kept)
        return self._parts[key][1]

    def read(self, window: CandidateLists, numbers: IntArray) -> list[Components]:
        """Components of some lists of a window, as `fit_ranker` asks for them.

        Raises:
            ConfigError: the window is of no fold.
        """
        if not isinstance(window, FoldLists):
            raise ConfigError("a score cache reads the lists of folds")
        part = self._part(window, numbers)
        raw = self.of(part)
        return [raw[part.list_index == number] for number in numbers.tolist()]

    def reader(self, domain: str) -> LLMScorer:
        """The reader of a domain: its templates, soft prompt and priors."""
        if domain not in self._readers:
            trained = self._trained.get(domain, Trained())
            self._readers[domain] = LLMScorer(
                self.config,
                self.families.get(domain, domain),
                trained.bank if "likelihood" in self.config.scorers else PromptBank(meta=trained.prompt),
                engine=self._engine,
                contexts=trained.contexts,
                hidden_states=self._kept_states(domain),
            )
        return self._readers[domain]

    def _states_path(self, domain: str) -> Path | None:
        """States are kept by what computes them: another engine or arithmetic gives others."""
        if self._directory is None:
            return None
        computed_by = (
            f"2|{self._engine.name}|{self.config.dtype}|{sorted(self.config.engine_options.items())}"
            f"|{self._model_settings}"
        )
        digest = hashlib.sha256(computed_by.encode()).hexdigest()[:8]
        return self._directory / f"{quote(domain, safe='')}.{digest}.states.npz"

    def _kept_states(self, domain: str) -> StateStore | None:
        """States of texts that an earlier run left; the space is learned anew from each fold's catalogue."""
        path = self._states_path(domain)
        if path is None or not path.exists():
            return None
        return StateStore.load(path).without_spaces()

    def _keep_states(self, domain: str, states: StateStore) -> None:
        path = self._states_path(domain)
        if path is not None:
            with whole_file(path) as temporary:
                states.save(temporary)

    def _read(self, lists: FoldLists) -> _Reading:
        reader = self.reader(lists.fold.domain)
        with reader.reading_catalog(self.progress):
            reading = self._read_with(reader, lists)
        if reader.texts_read and reader.texts_read.directory:
            logger.info("domain %r: %s", lists.fold.domain, reader.texts_read.summary())
        return reading

    def _read_with(self, reader: LLMScorer, lists: FoldLists) -> _Reading:
        tokens_before, started = self._engine.tokens, time.perf_counter()
        catalog, known = Catalog(lists.fold.items), len(reader.hidden_states)
        items = catalog.items(lists.fold.items[ITEM])
        if reader.hidden_states.spaces is None:  # from the first lists asked for, also where these came from disk
            first = self._first[lists.fold.domain].fold.items
            reader = reader.for_catalog(Catalog(first).items(first[ITEM]))
        histories = calibration_histories(items, self.config.calibration_histories, self.config.seed)
        reader = self._readers[lists.fold.domain] = reader.calibrated_by(histories)
        if reader.config.compares_states:  # the statistics are dear
            reader = reader.for_window(catalog, lists.statistics)
        known_of: dict[UserId, list[ItemId]] = {
            user: part.tolist() for user, part in lists.fold.history.groupby(USER, sort=False)[ITEM]
        }
        states: dict[UserId, UserState] = {}
        if reader.contexts is not None and self._adapt_steps:
            support = [
                Support(state=UserState(user_id=user), items=catalog.items(known_of.get(user, ())))
                for user in lists.candidates[USER].drop_duplicates()
            ]
            adapted, _ = reader.adapter(self._adapt_steps).adapt(support, self.progress)
            states = {state.user_id: state for state in adapted}
        prompts = reader.lists(lists.candidates, catalog, lambda user: known_of.get(user, []), states)
        values = reader.components(prompts, self.progress)
        if len(reader.hidden_states) > known:
            self._keep_states(lists.fold.domain, reader.hidden_states)
        raw = np.zeros((len(lists.candidates), len(reader.scorer.components)))
        groups = lists.candidates.groupby(USER, sort=False).indices.values()
        for rows, part in zip(groups, values, strict=True):
            raw[rows] = part
        cost = ReadingCost(tokens=self._engine.tokens - tokens_before, seconds=time.perf_counter() - started)
        return _Reading(lists=lists, components=raw, cost=cost)
