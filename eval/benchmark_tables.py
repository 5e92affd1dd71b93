"""What training and the default must reach, as tables that `eval.benchmark` prints when it is given no variant.

A table judges its variants on one split, once or for several draws or sizes of support; goals are about all domains.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from pathlib import Path

import numpy as np
from scipy.stats import t as student

from eval.checks import Check, at_least, at_most, reported
from reranker.evaluation.significance import POOLED, Comparison
from reranker.utils.rolling_origin import DEFAULT_WINDOWS

PROMPTS = Path(__file__).parent / "prompts"

_LEXICAL = "engine=lexical,scorer=embedding"  # words in the LM's place, through the same spaces and head

Gains = Mapping[str, Comparison]
"""Domain (or `POOLED`) -> one system over another."""

Reach = Callable[[str, Gains], Check]


def gains_by_pair(comparisons: Sequence[Comparison], metric: str) -> dict[tuple[str, str], dict[str, Comparison]]:
    """(system, other) -> its gains by one metric."""
    pairs: dict[tuple[str, str], dict[str, Comparison]] = {}
    for one in comparisons:
        if one.metric == metric:
            pairs.setdefault((one.system, one.versus), {})[one.domain] = one
    return pairs


def above(gain: Comparison) -> bool:
    """Its interval is above 0."""
    return gain.low > 0


def below(gain: Comparison) -> bool:
    """Its interval is below 0."""
    return gain.high < 0


def domains_above(least: int) -> Reach:
    """So many domains at least have their interval above 0."""
    return lambda words, gains: at_least(f"{words}, domains above 0", _count(gains, above), least, "domains")


def none_below(words: str, gains: Gains) -> Check:
    """No domain has its interval below 0."""
    return at_most(f"{words}, domains below 0", _count(gains, below), 0, "domains")


def each_at_least(percent: float) -> Reach:
    """The least gain of a domain; one over nothing is no share of anything and does not count."""

    def reach(words: str, gains: Gains) -> Check:
        shares = [one.relative for one in _domains(gains) if isfinite(one.relative)]
        return at_least(f"{words}, least of a domain", 100 * min(shares, default=np.nan), percent, "%")

    return reach


def together_at_least(percent: float) -> Reach:
    """The gain over all domains."""
    return lambda words, gains: at_least(words, 100 * _together(gains).relative, percent, "%")


@dataclass(frozen=True, kw_only=True)
class Goal:
    """What `system` must reach against `versus`, in a run of a table."""

    system: str
    versus: str
    reach: Reach

    def check(self, label: str, gains: Mapping[tuple[str, str], Gains]) -> Check:
        """`gains` by system and other; `label` names table and run."""
        words = f"{label}: {self.system} over {self.versus}"
        found = gains.get((self.system, self.versus))
        return self.reach(words, found) if found else reported(f"{words}, not compared", np.nan, "")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One split of a table."""

    split: str = "leave-last"
    support: int = 1
    draw: int = 0
    goals: tuple[Goal, ...] = ()

    @property
    def label(self) -> str:
        if self.split in ("cold-items", "new-items"):
            return f"draw {self.draw}"
        return f"k = {self.support}" if self.split == "cold-users" else ""

    @property
    def folder(self) -> str:
        """Where its results lie in the table's folder: "draw0", "k3", or there itself."""
        return self.label.replace("=", "").replace(" ", "")


@dataclass(frozen=True, kw_only=True)
class Table:
    """Variants that are judged together.

    Attributes:
        asks: the question, in words.
        variants: name -> settings, as `--variant` has them.
        rivals: pairs of variants that are compared, too.
        domains: the only ones that it is about; all where there are none.
        windows: choices a user that teach; 1 where a prompt was trained on older ones.
        fit_users: lists that teach, a domain; 0 for the default.
        over_runs: pairs of systems whose gain over all domains is to be above 0 in the mean of the runs.
        reads_lists: whether the model reads lists, which takes hours without a GPU.
    """

    name: str
    asks: str
    variants: dict[str, str]
    runs: tuple[Run, ...]
    rivals: tuple[tuple[str, str], ...] = ()
    domains: tuple[str, ...] = ()
    windows: int = DEFAULT_WINDOWS
    fit_users: int = 0
    over_runs: tuple[tuple[str, str], ...] = ()
    reads_lists: bool = False


def mean_of_runs(label: str, system: str, versus: str, runs: Sequence[Mapping[tuple[str, str], Gains]]) -> Check:
    """The mean over runs of the gain over all domains, with its interval by how much the runs differ (Student's t)."""
    shares = np.array([100 * _together(gains[system, versus]).relative for gains in runs if (system, versus) in gains])
    words = f"{label}: {system} over {versus}, mean of {len(shares)} runs"
    if len(shares) < 2 or not np.isfinite(shares).all():
        return reported(words, float(shares.mean()) if len(shares) else np.nan, "%")
    error = shares.std(ddof=1) / np.sqrt(len(shares)) * student.ppf(0.975, len(shares) - 1)
    low, high = shares.mean() - error, shares.mean() + error
    return Check(
        name=words,
        value=float(shares.mean()),
        target=f"interval above 0; [{low:+.1f}%, {high:+.1f}%] by how the runs differ",
        passed=bool(low > 0),
        unit="%",
    )


def _domains(gains: Gains) -> list[Comparison]:
    return [one for domain, one in gains.items() if domain != POOLED]


def _count(gains: Gains, passes: Callable[[Comparison], bool]) -> int:
    return sum(map(passes, _domains(gains)))


def _together(gains: Gains) -> Comparison:
    """Over all domains; the only one where there is one."""
    return gains[POOLED] if POOLED in gains else _domains(gains)[0]


def _cold_users(least: Mapping[int, tuple[Goal, ...]]) -> tuple[Run, ...]:
    """Support -> goals."""
    return tuple(Run(split="cold-users", support=k, goals=goals) for k, goals in least.items())


def _llm_over(rung: str, percent: float) -> tuple[Goal, ...]:
    """The LLM's fused order over that of a cheaper reader of texts."""
    return tuple(
        Goal(system="fused.llm", versus=f"fused.{rung}", reach=reach)
        for reach in (together_at_least(percent), domains_above(1), none_below)
    )


_SERVED = Goal(system="served.default", versus="first_stage", reach=none_below)
_DRAWS = range(4)
_CAVIA = f"scorer=likelihood,soft_prompt={PROMPTS / 'cavia'}"
_LEFT_OUT = ("interactive_fiction", "office_products", "video_games", "movies")

TABLES = {
    one.name: one
    for one in (
        Table(
            name="ladder",
            asks="What is each reader of texts worth over the cheaper ones: words, a sentence encoder, the LLM?",
            variants={
                "lexical": _LEXICAL,
                "encoder-alone": "engine=encoder,scorer=embedding,words=false",
                "encoder": "engine=encoder,scorer=embedding",
                "llm-alone": "scorer=embedding,words=false",
                "llm": "scorer=embedding",
            },
            rivals=(
                *(("llm", other) for other in ("lexical", "encoder", "encoder-alone", "llm-alone")),
                *((name, "lexical") for name in ("encoder", "encoder-alone")),
            ),
            runs=(
                Run(goals=_llm_over("lexical", 3) + _llm_over("encoder", 3)),
                *(Run(split="new-items", draw=draw) for draw in _DRAWS),
            ),
            over_runs=(("fused.llm", "fused.lexical"), ("fused.llm", "fused.encoder"), ("llm.llm", "llm.lexical")),
        ),
        Table(
            name="known-users",
            asks="What is the default worth to users whose last choice is held out?",
            variants={"default": "scorer=embedding", "lexical": _LEXICAL},
            rivals=(("default", "lexical"),),
            runs=(
                Run(
                    goals=(
                        Goal(system="fused.default", versus="first_stage", reach=each_at_least(15)),
                        Goal(system="fused.default", versus="baseline", reach=domains_above(3)),
                        Goal(system="fused.default", versus="baseline", reach=none_below),
                    )
                ),
            ),
        ),
        Table(
            name="new-items",
            asks="And where nobody chose an item before?",
            variants={"default": "scorer=embedding", "lexical": _LEXICAL},
            rivals=(("default", "lexical"),),
            runs=tuple(Run(split="cold-items", draw=draw) for draw in _DRAWS),
            over_runs=(
                ("llm.default", "text_alone"),
                ("fused.default", "text_similarity"),
                ("fused.default", "baseline"),
            ),
        ),
        Table(
            name="new-users",
            asks="And to users of whom k interactions are known?",
            variants={"default": "scorer=embedding", "lexical": _LEXICAL},
            rivals=(("default", "lexical"),),
            runs=_cold_users(dict.fromkeys((1, 3, 5), (_SERVED,))),
        ),
        Table(
            name="trained",
            asks="What do the prompt that ships, and maps of hidden states, add to the untrained likelihood?",
            variants={
                "untrained": "scorer=likelihood",
                "trained": "scorer=likelihood,soft_prompt=default",
                "default": "scorer=embedding",
            },
            rivals=(("trained", "untrained"), ("default", "untrained"), ("default", "trained")),
            runs=(
                Run(
                    goals=tuple(
                        Goal(system=f"{system}.{name}", versus=f"{system}.untrained", reach=domains_above(4))
                        for name in ("trained", "default")
                        for system in ("llm", "fused")
                    )
                ),
            ),
            windows=1,
            fit_users=1000,
            reads_lists=True,
        ),
        Table(
            name="left-out",
            asks="Is a meta-learned prompt better than a pooled one on a domain that neither saw?",
            variants={
                "untrained": "scorer=likelihood",
                "pooled": f"scorer=likelihood,soft_prompt={PROMPTS / 'left_out'}/{{domain}}",
                "fomaml": f"scorer=likelihood,soft_prompt={PROMPTS / 'left_out_fomaml'}/{{domain}}",
            },
            rivals=(("pooled", "untrained"), ("fomaml", "untrained"), ("fomaml", "pooled")),
            runs=(Run(goals=(Goal(system="llm.fomaml", versus="llm.pooled", reach=together_at_least(5)),)),),
            domains=_LEFT_OUT,
            windows=1,
            fit_users=1000,
            reads_lists=True,
        ),
        Table(
            name="adapted-users",
            asks="Does adapting a user's context help where k interactions are known?",
            variants={"adapted": _CAVIA, "unadapted": f"{_CAVIA},adapt_steps=0"},
            rivals=(("adapted", "unadapted"),),
            runs=_cold_users(
                {
                    k: tuple(
                        Goal(system="llm.adapted", versus="llm.unadapted", reach=reach)
                        for reach in (together_at_least(percent), none_below)
                    )
                    for k, percent in ((1, 3), (3, 6), (5, 10))
                }
            ),
            domains=("interactive_fiction", "giftware_retail"),
            windows=1,
            fit_users=100,
            reads_lists=True,
        ),
    )
}
"""By name, those that cost least first."""
