"""Drift of what a running server ranks: windows of answered lists, compared in a thread of their own."""

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from reranker.drift import DriftDetector, DriftSettings, ListValues, WindowDrift, measure, reference_values
from reranker.drift.quantities import can_make_reference
from reranker.errors import RerankerError
from reranker.serve.domains import Domain
from reranker.serve.rank_jobs import ItemList, Ranked, lists_of
from reranker.utils.team_draft import INTERLEAVED

logger = logging.getLogger(__name__)


@dataclass(kw_only=True, eq=False)
class _Watched:
    """One bundle's lists.

    Attributes:
        domain: the domain with this bundle.
        detector: made of the bundle, or of its first window of lists; None until that is full.
        lists: of the window that is being filled.
    """

    domain: Domain
    detector: DriftDetector | None = None
    lists: list[tuple[ItemList, Ranked]] = field(default_factory=list)


class DriftWatch:
    """Compares windows of answered lists with a reference, domain by domain.

    Args:
        settings: window, threshold, reference.
        observe: called with the domain's name and each window, in the watch's thread.
    """

    def __init__(self, settings: DriftSettings, observe: Callable[[str, WindowDrift], None]) -> None:
        self.settings = settings
        self._observe = observe
        self._watched: dict[str, _Watched] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="reranker-drift")
        self._lock = threading.Lock()

    def watch(self, domain: Domain) -> None:
        """Makes the reference of a domain's bundle and begins a window; takes as long as ranking its lists does.

        Where it cannot be made of the bundle, the first window of lists is the reference.
        """
        detector = None
        if self.settings.reference == "bundle" and can_make_reference(domain.reranker):
            try:
                made = reference_values(domain.reranker, self.settings.reference_lists)
                detector = DriftDetector(made, self.settings)
            except RerankerError as error:
                logger.error(
                    "drift of domain %r is measured against its first %d lists, for lists of the bundle cannot be "
                    "made: %s",
                    domain.name,
                    self.settings.window,
                    error,
                )
        with self._lock:
            self._watched[domain.name] = _Watched(domain=domain, detector=detector)

    def add(self, domain: Domain, ranks: ItemList, ranked: Ranked) -> None:
        """Takes an answered list; one of a bundle that is no longer watched is left out."""
        with self._lock:
            watched = self._watched.get(domain.name)
            if watched is None or watched.domain is not domain:
                return
            watched.lists.append((ranks, ranked))
            if len(watched.lists) < self.settings.window:
                return
            full, watched.lists = watched.lists, []
        self._thread.submit(self._compare, watched, full)

    def settle(self) -> None:
        """Waits until the windows that are full are compared."""
        self._thread.submit(lambda: None).result()

    def close(self) -> None:
        """Ends; windows that wait are not compared."""
        self._thread.shutdown(wait=True, cancel_futures=True)

    def _compare(self, watched: _Watched, lists: Sequence[tuple[ItemList, Ranked]]) -> None:
        name = watched.domain.name
        try:
            values = _values(watched.domain, lists)
            if watched.detector is None:
                watched.detector = DriftDetector(values, self.settings)
                logger.info("drift of domain %r is measured against its first %d lists", name, values.n_lists)
                return
            found = watched.detector.compare(values)
        except Exception as error:  # the watch's thread must go on
            logger.exception("drift of domain %r could not be measured: %s", name, type(error).__name__)
            return
        for one in found.alarms:
            logger.warning("drift of domain %r: %s", name, one)
        self._observe(name, found)


def _values(domain: Domain, lists: Sequence[tuple[ItemList, Ranked]]) -> ListValues:
    statistics = domain.reranker.fitted()[0].statistics
    histories = statistics.histories_with({number: ranks.chosen(domain) for number, (ranks, _) in enumerate(lists)})
    scores = np.concatenate([_scores(*one) for one in lists])
    return measure(domain.reranker, lists_of([ranks for ranks, _ in lists]), scores, histories)


def _scores(ranks: ItemList, ranked: Ranked) -> np.ndarray:
    """(n,) log-odds in first-stage order; NaN where they are no log-odds, or a query's relevance is in them."""
    scores = np.full(len(ranked.order), np.nan)
    if ranked.served not in ("first_stage", INTERLEAVED) and not ranked.is_for_query:
        scores[list(ranked.order)] = ranked.scores
    return scores[ranks.first_stage_order]
