"""Reading a catalogue's texts: `python -m eval.speed.catalogue [--engine torch|vllm] [--rounds 4] [--texts 200]`.

Rounds alternate between the default layer and the last one, each time with items that were not read before, so the
ratio is taken within one run; in processor time, too, which other programs disturb less. Then the same catalogue is
read again with the states that the first time left on disk.
"""

import tempfile
import time
from contextlib import closing
from pathlib import Path
from statistics import median
from typing import Annotated, Any

import psutil
import typer

from eval.checks import Check, at_least, at_most, machine, report, reported
from reranker.config import RerankerConfig
from reranker.data.builtin import load_dataset
from reranker.data.catalog import Catalog
from reranker.data.schema import ITEM
from reranker.engines import load_engine
from reranker.pipeline.llm_scorer import LLMScorer
from reranker.protocols import Engine
from reranker.scoring.state_cache import StateCache
from reranker.soft_tokens.prompt_bank import PromptBank
from reranker.utils.blob_cache import BlobCache

DOMAIN = "movies"
LAST, DEFAULT = 0, None
FASTER = 2.5
"""What the default layer's items a second have to be, in those of the last one's."""


def main(
    engine: Annotated[str, typer.Option(help="torch or vllm")] = "torch",
    rounds: Annotated[int, typer.Option(min=2)] = 4,
    texts: Annotated[int, typer.Option(min=10, help="items a turn")] = 200,
    out: Annotated[Path, typer.Option(help="folder for the results")] = Path("out/catalogue"),
) -> None:
    """Measures, prints PASS or FAIL, writes OUT/catalogue.json."""
    checks = catalogue_checks(rounds, texts, engine)
    about = machine(("reranker", "torch", "transformers"), texts=texts, engine=engine)
    report(checks, out / "catalogue.json", about, typer.echo)


def catalogue_checks(rounds: int = 2, texts: int = 100, engine_name: str = "torch") -> list[Check]:
    """Items a second by the default layer over those by the last one, and what a second reading reads."""
    items = load_dataset("ml-100k").items
    catalogue = Catalog(items).items(items[ITEM])
    if 2 * rounds * texts > len(catalogue):
        raise typer.BadParameter(
            f"{rounds} rounds of {texts} items need {2 * rounds * texts:,}; there are {len(items):,}"
        )
    with closing(load_engine(engine_name)) as engine:
        return _checks(engine, catalogue, rounds, texts)


def _checks(engine: Engine, catalogue: list[Any], rounds: int, texts: int) -> list[Check]:
    for layer in (LAST, DEFAULT):  # what is compiled or allocated at the first pass is not measured
        _read(engine, layer, catalogue[:8])
    seconds: dict[int | None, list[tuple[float, float]]] = {LAST: [], DEFAULT: []}
    for place, layer in enumerate([LAST, DEFAULT] * rounds):
        seconds[layer].append(_read(engine, layer, catalogue[place * texts : (place + 1) * texts]))
    walls, cores = (
        [last[of] / default[of] for last, default in zip(seconds[LAST], seconds[DEFAULT], strict=True)] for of in (0, 1)
    )
    name = "reading a catalogue, default layer over the last"
    return [
        at_least(f"{name}, items a second", median(walls), FASTER, "x"),
        reported(f"{name}, items a second of a core", median(cores), "x"),
        reported("items a second, default layer", texts / median(wall for wall, _ in seconds[DEFAULT]), "items/s"),
        at_most("texts read by a second program", float(_read_again(engine, catalogue[:texts])), 0, "texts"),
    ]


def _scorer(engine: Engine, layer: int | None) -> LLMScorer:
    config = RerankerConfig(scorer="embedding", layer=layer)
    return LLMScorer(config, DOMAIN, PromptBank(), engine=engine)


def _read(engine: Engine, layer: int | None, items: list[Any]) -> tuple[float, float]:
    """Wall seconds and processor seconds of reading these items with nothing kept."""
    scorer = _scorer(engine, layer)
    began, used = time.perf_counter(), _processor_seconds()
    scorer.keep_items(items)
    return time.perf_counter() - began, _processor_seconds() - used


def _processor_seconds() -> float:
    """Of this process and those that it started: vLLM's run apart."""
    own = psutil.Process()
    return sum(sum(one.cpu_times()[:2]) for one in (own, *own.children(recursive=True)))


def _read_again(engine: Engine, items: list[Any]) -> int:
    """Texts that a second scorer reads of what the first left on disk."""
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2):
            scorer = _scorer(engine, DEFAULT)
            with scorer.hidden_states.reading(StateCache(BlobCache(Path(folder) / "states.sqlite", 2**30)), False):
                scorer.keep_items(items)
        return scorer.hidden_states.texts_read.read


if __name__ == "__main__":
    typer.run(main)
