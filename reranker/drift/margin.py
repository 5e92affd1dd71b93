"""The guard's margin over time: what the served order was worth on each window of validation lists."""

from dataclasses import dataclass

from reranker.fusion.guard import METRIC, by_user
from reranker.pipeline.reranker import Reranker
from reranker.utils.statistics import Interval, mean_interval

_COLUMNS = {"first_stage": 0, "baseline": 1, "fused": 2}


@dataclass(frozen=True, kw_only=True)
class Margin:
    """NDCG@10 of the served order over the first-stage order on one window of validation lists.

    Attributes:
        lists: of the window.
        gain: by user.
        alarm: whether the window shows that the served order is worse than the first stage, or worth less than it was
            on all older windows together: its interval lies below 0, or below the interval of those.
    """

    lists: int
    gain: Interval
    alarm: bool

    def __str__(self) -> str:
        return f"{self.gain} {METRIC} on {self.lists} lists{'  * alarm' if self.alarm else ''}"


def margins(reranker: Reranker, window: int, fewest: int) -> list[Margin]:
    """The margin of the served order, newest window first; empty where the first-stage order is served.

    Args:
        reranker: fitted or loaded.
        window: lists of a window.
        fewest: lists of the last, shorter one.

    Raises:
        DataError: nothing was fitted.
    """
    fusion_model = reranker.fitted()[1]
    judged, serve = fusion_model.judged, fusion_model.guard.judged
    if judged is None or serve == "first_stage":
        return []
    gains = judged.ndcg[:, _COLUMNS[serve]] - judged.ndcg[:, 0]
    users, found = judged.user_numbers, []
    for begin in range(0, len(gains), window):
        part, older = slice(begin, begin + window), slice(begin + window, None)
        if len(gains[part]) < fewest and begin:
            break
        gain = mean_interval(by_user(gains[part], users[part]))
        alarm = gain.high < 0
        if len(gains[older]) >= fewest:
            alarm = alarm or gain.high < mean_interval(by_user(gains[older], users[older])).low
        found.append(Margin(lists=len(gains[part]), gain=gain, alarm=bool(alarm)))
    return found
