"""What scorers that are fitted on the same windows share: built once, before any text is read."""

from collections.abc import Sequence
from dataclasses import dataclass

from reranker.config import RerankerConfig
from reranker.data.dataset import Dataset
from reranker.fusion import Choices
from reranker.fusion.own_judged import OwnVerdict, judge_own
from reranker.pipeline.domain import DomainData
from reranker.pipeline.lists import CandidateLists
from reranker.protocols import CandidateGenerator
from reranker.utils.progress import step


@dataclass(frozen=True, kw_only=True, eq=False)
class FitBasis:
    """Windows and statistics of a fit.

    Attributes:
        dataset: what is learned from.
        windows: newest first; with own columns where these are worth something.
        own: what own columns are worth; None where there are none.
        data: items, and statistics of all interactions.
        generator: the candidate generator, or None where lists came from outside.
    """

    dataset: Dataset
    windows: Sequence[CandidateLists]
    own: OwnVerdict | None
    data: DomainData
    generator: CandidateGenerator | None

    @classmethod
    def of(
        cls,
        dataset: Dataset,
        windows: Sequence[CandidateLists],
        generator: CandidateGenerator | None,
        config: RerankerConfig,
        progress: bool | None = False,
    ) -> "FitBasis":
        """Judges own columns and learns the statistics of all interactions.

        Args:
            dataset: interactions and items.
            windows: as `windows_of` makes them.
            generator: gives the item space, if it has one.
            config: gives `l2`, `seed` and `calibration_histories`; scorers that share this must have the same.
            progress: show a line on stderr; None does on a terminal and in a notebook.

        Raises:
            DataError: a column of the user's own is the outcome itself.
        """
        windows, own = with_worthy_columns(windows, config.l2, config.seed)
        kept = windows[0].statistics.own
        with step("statistics of all interactions", progress):
            columns = () if kept is None else kept.columns
            data = DomainData.build(dataset, generator, config.calibration_histories, config.seed, columns)
        return cls(dataset=dataset, windows=windows, own=own, data=data, generator=generator)


def with_worthy_columns(
    windows: Sequence[CandidateLists], l2: float = 1.0, seed: int = 0
) -> tuple[Sequence[CandidateLists], OwnVerdict | None]:
    """The windows with the user's own columns where these are worth something, else without; and what was found.

    Raises:
        DataError: a column is the outcome itself.
    """
    if windows[0].statistics.own is None:
        return windows, None
    verdict = judge_own(Choices.joined([window.choices for window in windows]), l2, seed)
    return (windows if verdict.keeps else [window.without_own() for window in windows]), verdict
