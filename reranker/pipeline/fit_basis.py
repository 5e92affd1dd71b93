"""What scorers that are fitted on the same windows share: built once, before any text is read."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import TypeVar

from reranker.config import RerankerConfig
from reranker.data.dataset import Dataset
from reranker.errors import ConfigError
from reranker.fusion import Choices, InteractionStatistics
from reranker.fusion.own_judged import OwnVerdict, judge_own
from reranker.fusion.own_vectors import WORDS as VECTOR_WORDS
from reranker.pipeline.domain import DomainData
from reranker.pipeline.lists import CandidateLists, FoldLists
from reranker.pipeline.new_item_pages import new_item_pages
from reranker.protocols import CandidateGenerator
from reranker.rules import ItemColumns, Rules
from reranker.utils.progress import step

Lists = TypeVar("Lists", bound=CandidateLists)


@dataclass(frozen=True, kw_only=True)
class OwnWorth:
    """What the user's own columns and vectors were worth on the validation windows; None of what was not given."""

    columns: OwnVerdict | None = None
    vectors: OwnVerdict | None = None


@dataclass(frozen=True, kw_only=True, eq=False)
class FitBasis:
    """Windows and statistics of a fit.

    Attributes:
        dataset: what is learned from.
        windows: newest first; with own columns and vectors where these are worth something.
        worth: of own columns and vectors.
        data: items, and statistics of all interactions.
        generator: the candidate generator, or None where lists came from outside.
        rules: whose price on the windows is asked for.
        pages: of items that are new by pretence, of before the newest window; None where none were asked for, or there
            are too few.
    """

    dataset: Dataset
    windows: Sequence[CandidateLists]
    worth: OwnWorth
    data: DomainData
    generator: CandidateGenerator | None
    rules: Rules | None = None
    pages: FoldLists | None = None

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        windows: Sequence[CandidateLists],
        generator: CandidateGenerator | None,
        config: RerankerConfig,
        progress: bool | None = False,
        rules: Rules | None = None,
        with_pages: bool = True,
    ) -> "FitBasis":
        """Judges own columns and vectors, and learns the statistics of all interactions.

        Args:
            dataset: interactions and items.
            windows: as `windows_of` makes them.
            generator: gives the item space, if it has one.
            config: gives `l2`, `seed`, `calibration_histories`, and whether its scorer judges new items; scorers that
                share this must have the same.
            progress: show a line on stderr; None does on a terminal and in a notebook.
            rules: whose price on the windows is asked for.
            with_pages: judge new items, too, where the scorer does.

        Raises:
            DataError: a column of the user's own is the outcome itself.
            ConfigError: rules about columns that the item table lacks.
        """
        if rules is not None:
            ItemColumns(dataset.items).require(rules)
        windows, worth = with_worthy_columns(windows, config.l2, config.seed, config.allow_leaks)
        kept = windows[0].statistics
        with step("statistics of all interactions", progress):
            data = DomainData.build(
                dataset,
                generator,
                config.calibration_histories,
                config.seed,
                own=() if kept.own is None else kept.own.columns,
                vectors=kept.own_vectors is not None,
            )
        pages = None
        if with_pages and config.judges_new_items:
            with step("pages of items that are new by pretence", progress):
                pages = new_item_pages(windows[0], dataset, config.seed)
        return cls(
            dataset=dataset,
            windows=windows,
            worth=worth,
            data=data,
            generator=generator,
            rules=rules,
            pages=pages,
        )


ITEM_VECTORS = "item_vectors"
"""How item vectors are named among `RerankerConfig.allow_leaks`."""


def with_worthy_columns(
    windows: Sequence[Lists], l2: float = 1.0, seed: int = 0, allow_leaks: Collection[str] = ()
) -> tuple[Sequence[Lists], OwnWorth]:
    """The windows with the user's own columns and vectors where these are worth something, else without.

    Columns are judged over the interaction features, vectors over these and the columns that are kept.

    Args:
        windows: with all columns and vectors that were asked for.
        l2: ridge penalty.
        seed: of cross-fitting and of the bootstrap.
        allow_leaks: as `RerankerConfig.allow_leaks`.

    Returns:
        The windows, and what was found.

    Raises:
        DataError: a column is the outcome itself, and not allowed to be.
        ConfigError: no column that was asked for has a name of `allow_leaks`, or item vectors are named and not given.
    """
    columns, vectors = None, None
    given = windows[0].statistics
    _require_given(given, allow_leaks)
    if given.own is not None:
        with_columns = [window.only_own(columns=True, vectors=False) for window in windows]
        allowed = given.own.names_of(allow_leaks)
        columns = judge_own(Choices.joined([window.choices for window in with_columns]), l2, seed, allowed=allowed)
        if not columns.keeps:
            windows = [window.only_own(columns=False, vectors=True) for window in windows]
    if given.own_vectors is not None:
        before = len(windows[0].statistics.columns) - len(VECTOR_WORDS)
        allowed = list(VECTOR_WORDS) if ITEM_VECTORS in allow_leaks else []
        vectors = judge_own(Choices.joined([window.choices for window in windows]), l2, seed, before, allowed)
        if not vectors.keeps:
            windows = [window.only_own(columns=True, vectors=False) for window in windows]
    return windows, OwnWorth(columns=columns, vectors=vectors)


def _require_given(given: InteractionStatistics, allow_leaks: Collection[str]) -> None:
    for name in allow_leaks:
        there = (
            given.own_vectors is not None if name == ITEM_VECTORS else bool(given.own and given.own.names_of([name]))
        )
        if not there:
            asked = [column.key for column in given.own.columns] if given.own else []
            vectors = [ITEM_VECTORS] if given.own_vectors is not None else []
            raise ConfigError(
                f"allow_leaks: {name!r} is neither a feature that was asked for nor {ITEM_VECTORS!r} that were given; "
                f"there are {', '.join([*asked, *vectors]) or 'none'}"
            )
