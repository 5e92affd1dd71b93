"""The LLM as judged systems: each read-out as it comes, the LLM alone with learned coefficients, and the fusion.

Systems of one domain share the readings, so that a list is read by the model once a read-out.
"""

import hashlib
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray

from reranker.catalog import Catalog, chosen_items, scoring_lists
from reranker.config import RerankerConfig
from reranker.errors import ConfigError
from reranker.evaluation.controls import stacked
from reranker.evaluation.engines import CountingEngine
from reranker.evaluation.kept import read_scores, reading_key, reading_path, write_scores
from reranker.evaluation.protocol import CandidateLists
from reranker.evaluation.systems import ReadingCost
from reranker.fusion import (
    FEATURES,
    Blend,
    Choices,
    ConditionalLogit,
    FusionHead,
    fit_fused,
    llm_columns,
    llm_words,
    standardise_within_lists,
    user_numbers,
)
from reranker.personal import Support
from reranker.protocols import Engine
from reranker.reader import Reader
from reranker.scoring import PriorStore, StateStore
from reranker.softprompt import PromptBank
from reranker.tables import ITEM, RANK, USER
from reranker.trained import Trained
from reranker.types import ItemId, UserId, UserState

Components = NDArray[np.float64]

_LAYOUT = 4  # of the components: readings that were kept under another mean something else


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

    lists: CandidateLists
    components: Components
    cost: ReadingCost


class Readings:
    """What one read-out says of candidate lists; each `CandidateLists` is read once and kept.

    Args:
        engine: shared by every read-out and domain.
        config: read-out, prompts and soft tokens.
        families: domain -> the domain name whose templates it uses; its own name by default.
        progress: show progress bars on stderr.
        directory: where readings are kept for later runs; nowhere by default.
        trained: domain -> prompt, users' contexts and item tokens; untrained by default.
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
        self._readers: dict[str, Reader] = {}
        self._kept: dict[int, _Reading] = {}
        self._teaching: dict[
            tuple[tuple[int, ...], int | None, int], tuple[list[CandidateLists], list[CandidateLists]]
        ] = {}

    @property
    def engine(self) -> Engine:
        return self._engine.engine

    def of(self, lists: CandidateLists) -> Components:
        """(rows, n_components) aligned with `lists.candidates`."""
        if id(lists) not in self._kept:
            self._kept[id(lists)] = self._reading(lists)
        return self._kept[id(lists)].components

    def _reading(self, lists: CandidateLists) -> _Reading:
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

    def cost(self, lists: CandidateLists) -> ReadingCost | None:
        """What reading these lists took, whichever system asked for it; None while they are unread."""
        kept = self._kept.get(id(lists))
        return kept.cost if kept else None

    @property
    def count(self) -> int:
        """How many `CandidateLists` were read."""
        return len(self._kept)

    @property
    def fingerprint(self) -> str:
        """Names the model by its weights, the engine and every setting of prompts and read-out."""
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
            f"{_LAYOUT}|{self.engine.name}|{model.sha256 or model.model_id}|{self.config.model_dump_json()}|{families}"
            f"{_texts_of(self.config.prompt.directory)}{trained}"
        )

    def teaching(self, moments: Sequence[CandidateLists], most: int | None, seed: int = 0) -> list[CandidateLists]:
        """The lists with a target in them, for only these teach: at most `most` a domain, drawn from all its moments
        alike, and the same at every call."""
        key = tuple(map(id, moments)), most, seed
        if key not in self._teaching:
            drawn = [np.flatnonzero(lists.covered) for lists in moments]
            for domain in {lists.fold.domain for lists in moments}:
                mine = [number for number, lists in enumerate(moments) if lists.fold.domain == domain]
                ends = np.cumsum([len(drawn[number]) for number in mine])
                if most is not None and ends[-1] > most:
                    kept = np.zeros(ends[-1], dtype=np.bool_)
                    kept[np.random.default_rng(seed).choice(ends[-1], most, replace=False)] = True
                    for number, part in zip(mine, np.split(kept, ends[:-1]), strict=True):
                        drawn[number] = drawn[number][part]
            taught = [
                lists.of_users(np.isin(np.arange(len(lists.fold.users)), users))
                for lists, users in zip(moments, drawn, strict=True)
            ]
            self._teaching[key] = list(moments), taught
        return self._teaching[key][1]

    def reader(self, domain: str) -> Reader:
        """The reader of a domain: its templates, soft prompt and priors."""
        if domain not in self._readers:
            trained = self._trained.get(domain, Trained())
            self._readers[domain] = Reader(
                self.config,
                self.families.get(domain, domain),
                PromptBank(meta=trained.prompt),
                PriorStore(),
                self._engine,
                contexts=trained.contexts,
                item_tokens=trained.item_tokens.get(domain),
                states=self._kept_states(domain),
            )
        return self._readers[domain]

    def _states_path(self, domain: str) -> Path | None:
        """States are kept by what computes them: another engine or arithmetic gives others."""
        if self._directory is None:
            return None
        computed_by = f"{self._engine.name}|{self.config.dtype}|{sorted(self.config.engine_options.items())}"
        digest = hashlib.sha256(computed_by.encode()).hexdigest()[:8]
        return self._directory / f"{quote(domain, safe='')}.{digest}.states.npz"

    def _kept_states(self, domain: str) -> StateStore | None:
        """States of texts that an earlier run left; the space is learned anew from each fold's catalogue."""
        path = self._states_path(domain)
        if path is None or not path.exists():
            return None
        states = StateStore.load(path)
        states.spaces = states.taste = states.appeal = None
        return states

    def _keep_states(self, domain: str, states: StateStore) -> None:
        path = self._states_path(domain)
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_suffix(".tmp.npz")
            states.save(temporary)
            temporary.replace(path)

    def _read(self, lists: CandidateLists) -> _Reading:
        tokens_before, started = self._engine.tokens, time.perf_counter()
        reader = self.reader(lists.fold.domain)
        catalog, known = Catalog(lists.fold.items), len(reader.states)
        if reader.states.spaces is None:
            reader.learn_items(catalog.items(lists.fold.items[ITEM]))
        if reader.compares_states:  # the statistics are dear
            reader.learn_choices(*chosen_items(catalog, lists.statistics))
        histories: dict[UserId, list[ItemId]] = {
            user: part.tolist() for user, part in lists.fold.history.groupby(USER, sort=False)[ITEM]
        }
        states: dict[UserId, UserState] = {}
        if reader.contexts is not None and self._adapt_steps:
            support = [
                Support(state=UserState(user_id=user), items=catalog.items(histories.get(user, ())))
                for user in lists.candidates[USER].drop_duplicates()
            ]
            adapted, _ = reader.adapter(self._adapt_steps).adapt(support, self.progress)
            states = {state.user_id: state for state in adapted}
        prompts = scoring_lists(
            lists.candidates,
            catalog,
            lambda user: histories.get(user, []),
            reader.soft_prompt(),
            lambda user, history: reader.user_tokens(history, states.get(user)),
            reader.item_tokens,
        )
        values = reader.components(prompts, self.progress)
        if len(reader.states) > known:
            self._keep_states(lists.fold.domain, reader.states)
        raw = np.zeros((len(lists.candidates), len(reader.scoring.components)))
        groups = lists.candidates.groupby(USER, sort=False).indices.values()
        for rows, part in zip(groups, values, strict=True):
            raw[rows] = part
        cost = ReadingCost(tokens=self._engine.tokens - tokens_before, seconds=time.perf_counter() - started)
        return _Reading(lists=lists, components=raw, cost=cost)


class _LLMSystem:
    """What the systems that use readings share."""

    stochastic = False

    def __init__(self, readings: Readings) -> None:
        self.readings = readings

    @property
    def fingerprint(self) -> str:
        """Changes with the model and every setting."""
        return self.readings.fingerprint

    def reading_cost(self, lists: CandidateLists) -> ReadingCost | None:
        """What reading `lists` took; None while they are unread."""
        return self.readings.cost(lists)


class _LearnedSystem(_LLMSystem):
    """An LLM system that is fitted on lists, of which the model reads at most `fit_users`."""

    def __init__(self, readings: Readings, fit_users: int | None = 500, l2: float = 1.0) -> None:
        super().__init__(readings)
        self.fit_users = fit_users
        self.l2 = l2

    @property
    def fingerprint(self) -> str:
        return f"{super().fingerprint}|{self.fit_users}|{self.l2}"


class ZeroShot(_LLMSystem):
    """A read-out with its default coefficients: nothing learned, nothing mixed in."""

    def __init__(self, name: str, readings: Readings) -> None:
        super().__init__(readings)
        self.name = name

    def fit(self, lists: Sequence[CandidateLists]) -> Self:
        return self

    def score(self, lists: CandidateLists) -> Components:
        raw = self.readings.of(lists)
        scores: Components = raw @ self.readings.reader(lists.fold.domain).scoring.default_coefficients
        return scores


class LLMAlone(_LearnedSystem):
    """A read-out with coefficients learned on the validation lists; no recall evidence."""

    name = "llm"

    def __init__(self, readings: Readings, fit_users: int | None = 500, l2: float = 1.0) -> None:
        super().__init__(readings, fit_users, l2)
        self._logit: ConditionalLogit | None = None

    def fit(self, lists: Sequence[CandidateLists]) -> Self:
        taught = self.readings.teaching(lists, self.fit_users)
        self._logit = ConditionalLogit.fit(*stacked(taught, self._features), l2=self.l2)
        return self

    def score(self, lists: CandidateLists) -> Components:
        if self._logit is None:
            raise ConfigError(f"system {self.name!r} must be fitted before it can score: call fit(validation lists)")
        return self._logit.score(self._features(lists))

    def _features(self, lists: CandidateLists) -> Components:
        return standardise_within_lists(self.readings.of(lists), lists.list_index)


class Fused(_LearnedSystem):
    """What the product serves when its guard lets it: evidence and LLM in one conditional logit."""

    name = "fused"

    def __init__(self, readings: Readings, fit_users: int | None = 500, l2: float = 1.0) -> None:
        super().__init__(readings, fit_users, l2)
        self.head: FusionHead | None = None

    def fit(self, lists: Sequence[CandidateLists]) -> Self:
        taught = self.readings.teaching(lists, self.fit_users)
        words = llm_words(self.readings.reader(lists[0].fold.domain).scoring.components)
        evidence = FusionHead.fit(dict(FEATURES), *stacked(lists, lambda part: part.evidence), l2=self.l2)
        users = user_numbers((part.fold.domain, user) for part in lists for user in part.fold.users)
        self.head = fit_fused(evidence, words, *stacked(taught, self._features), l2=self.l2, users=users)
        return self

    def score(self, lists: CandidateLists) -> Components:
        if self.head is None:
            raise ConfigError(f"system {self.name!r} must be fitted before it can score: call fit(validation lists)")
        return self.head.score(self._features(lists))

    def priors(self, lists: CandidateLists) -> Components:
        """(rows,) log-likelihood of each title without history, for the leak checks."""
        names = list(self.readings.reader(lists.fold.domain).scoring.components)
        raw = self.readings.of(lists)
        return raw[:, names.index("llm_prior")] if "llm_prior" in names else np.zeros(len(raw))

    def _features(self, lists: CandidateLists) -> Components:
        llm = llm_columns(lists.evidence, self.readings.of(lists), lists.list_index)
        return np.concatenate([lists.evidence, llm], axis=1)


class Served(_LearnedSystem):
    """What the product serves: the fused order, the evidence alone or the recall order, as its guard decides."""

    name = "served"

    def __init__(self, readings: Readings, fit_users: int | None = 500, l2: float = 1.0) -> None:
        super().__init__(readings, fit_users, l2)
        self.blend: Blend | None = None

    def fit(self, lists: Sequence[CandidateLists]) -> Self:
        domains = {part.fold.domain for part in lists}
        if len(domains) != 1:
            raise ConfigError(f"system {self.name!r} is fitted on moments of one domain, got {sorted(domains)}")
        components: dict[int, Components] = {}
        before = 0
        for taught in self.readings.teaching(lists, self.fit_users):
            raw, numbers = self.readings.of(taught), np.unique(taught.list_index)
            components |= {before + int(number): raw[taught.list_index == number] for number in numbers}
            before += len(taught.fold.users)
        words = self.readings.reader(domains.pop()).scoring.components
        self.blend = Blend.fit(Choices.joined([_choices(part) for part in lists]), components, words, self.l2)
        return self

    def score(self, lists: CandidateLists) -> Components:
        if self.blend is None:
            raise ConfigError(f"system {self.name!r} must be fitted before it can score: call fit(validation lists)")
        guard, recall = self.blend.guard, -lists.candidates[RANK].to_numpy(dtype=np.float64)
        if guard.serve == "recall":
            return recall
        if guard.serve == "features":
            scores = self.blend.features.score(lists.evidence)
        else:
            scores = self.blend.orders(lists.evidence, self.readings.of(lists), lists.list_index)[guard.serve]
        return np.where(guard.holds_for(lists.n_known)[lists.list_index], scores, recall)

    def reading_cost(self, lists: CandidateLists) -> ReadingCost | None:
        """The share of the users who are served the fused order: the model has no part in the others."""
        cost = super().reading_cost(lists)
        if self.blend is None:
            return cost
        guard = self.blend.guard
        if guard.serve != "fused":
            return ReadingCost(tokens=0, seconds=0.0)
        share = float(guard.holds_for(lists.n_known).mean())
        return cost and ReadingCost(tokens=round(cost.tokens * share), seconds=cost.seconds * share)


def _choices(lists: CandidateLists) -> Choices:
    return Choices(
        features=lists.evidence,
        list_index=lists.list_index,
        chosen=lists.relevant,
        recall_rank=lists.candidates[RANK].to_numpy(dtype=np.int64),
        n_relevant=lists.n_relevant,
        n_known=lists.n_known,
        users=lists.fold.users,
    )
