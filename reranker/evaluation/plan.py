"""What an evaluation is going to do, before it does: systems, packages they need, minutes to expect."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec

from reranker.config import RerankerConfig
from reranker.engines.encoder import ENCODER
from reranker.engines.lexical import LEXICAL
from reranker.engines.sentence_encoder import PACKAGE
from reranker.errors import ConfigError

WORDS_A_SECOND, LLM_A_SECOND = 76.0, 23.0
"""Items whose texts are read a second on two busy cores by words and by the default LLM: README's example."""

LISTS_A_SECOND = 1.0  # lists of 50 that the default LLM reads on two cores, roughly
MINILM_A_SECOND = 100.0

_LIST_READERS = ("zero_shot_likelihood", "zero_shot_labels", "zero_shot_listwise")
_LLM = ("llm", "fused", "served")
_WORDS = ("lexical", "lexical_fused")


@dataclass(frozen=True, kw_only=True)
class PlannedSystem:
    """One system of an evaluation.

    Attributes:
        name: of the system.
        reads: what it reads, in words; "" where it reads no texts.
        minutes: to expect on two cores, texts that other systems read not counted twice.
        missing: packages that it needs and that are not installed.
        install: how to get them; "" where none is missing.
    """

    name: str
    reads: str
    minutes: float
    missing: tuple[str, ...] = ()
    install: str = ""


def plan(names: Sequence[str], config: RerankerConfig, n_items: int, n_lists: int) -> list[PlannedSystem]:
    """What each system reads and needs.

    Args:
        names: systems.
        config: of the LLM systems.
        n_items: of the catalogue.
        n_lists: that are read for fitting and scoring, where a scorer reads lists.
    """
    seen: set[str] = set()
    planned = []
    for name in names:
        reads, minutes, packages, extra = _needs(name, config, n_items, n_lists)
        missing = tuple(package for package in packages if find_spec(package) is None)
        planned.append(
            PlannedSystem(
                name=name,
                reads=reads,
                minutes=0.0 if reads in seen else minutes,
                missing=missing,
                install=f"pip install 'reranker[{extra}]'" if missing else "",
            )
        )
        seen.add(reads)
    return planned


def plan_table(planned: Sequence[PlannedSystem]) -> str:
    """The plan for people, one line a system."""
    lines = [f"{'system':<22} {'reads':<34} {'about':>8}  packages"]
    for one in planned:
        minutes = "< 1 min" if one.minutes < 1 else f"{one.minutes:.0f} min"
        packages = f"MISSING {', '.join(one.missing)}: {one.install}" if one.missing else "installed"
        lines.append(f"{one.name:<22} {one.reads or 'no texts':<34} {minutes:>8}  {packages}")
    return "\n".join(lines)


def require_packages(planned: Sequence[PlannedSystem]) -> None:
    """Refuses an evaluation some of whose systems cannot run here.

    Raises:
        ConfigError: names every system and package, and how to get them.
    """
    if lacking := [one for one in planned if one.missing]:
        systems = "; ".join(f"{one.name} needs {', '.join(one.missing)} ({one.install})" for one in lacking)
        raise ConfigError(f"nothing was run: {systems}. Install them, or leave these out of --systems")


def _needs(name: str, config: RerankerConfig, n_items: int, n_lists: int) -> tuple[str, float, tuple[str, ...], str]:
    """What it reads, minutes, modules, extra."""
    if name == "gradient_boosted":
        return "", 0.0, ("lightgbm",), "eval"
    if name in ("text_similarity", "text_alone", ENCODER) or (name in _LLM and config.engine == ENCODER):
        return f"{n_items} texts by MiniLM", n_items / MINILM_A_SECOND / 60, (PACKAGE,), "text-embedding"
    if name in _WORDS or (name in _LLM and config.engine == LEXICAL):
        return f"{n_items} texts as words", n_items / WORDS_A_SECOND / 60, (), ""
    if name in _LLM and not config.reads_lists:
        modules, extra = _engine_packages(config.engine)
        return f"{n_items} texts by {config.model}", n_items / LLM_A_SECOND / 60, modules, extra
    if name in (*_LLM, *_LIST_READERS):
        modules, extra = _engine_packages(config.engine)
        return f"{n_lists} lists by {config.model}", n_lists / LISTS_A_SECOND / 60, modules, extra
    return "", 0.0, (), ""


def _engine_packages(engine: str) -> tuple[tuple[str, ...], str]:
    needed = {
        "openai": (("httpx", "tenacity"), "openai"),
        "scripted": ((), ""),
        "vllm": (("vllm",), "gpu"),
    }
    return needed.get(engine, (("torch", "transformers"), "torch"))
