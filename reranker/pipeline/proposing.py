"""Lists by a copy of somebody's candidate generator, whose own failures are reported with their place."""

import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import pandas as pd

from reranker.data.schema import validate_candidates
from reranker.errors import ConfigError, GeneratorError, RerankerError
from reranker.protocols import CandidateGenerator
from reranker.types import UserId

_NEEDED = ("clone", "fit", "recommend")


def require_generator(generator: object) -> None:
    """Refuses what cannot propose lists of the past.

    Raises:
        ConfigError: it is a class, or lacks a method of `reranker.protocols.CandidateGenerator`; a model of the package
            implicit is named what to take in its place.
    """
    if inspect.isclass(generator):
        raise ConfigError(f"generator is the class {generator.__name__}: give an instance, {generator.__name__}(...)")
    missing = [name for name in _NEEDED if not callable(getattr(generator, name, None))]
    if not missing:
        return
    kind = type(generator)
    problem = f"generator is {_named(kind)}, which is no candidate generator: it has no {', '.join(missing)}"
    if kind.__module__.partition(".")[0] == "implicit":
        raise ConfigError(
            f"{problem}. Give candidate_gen.as_generator(model, user_items=matrix), which trains copies of it on what "
            "was known before, candidate_gen.ALSGenerator(factors=...).fit(interactions), or the lists that it "
            "served as candidates= with held_out="
        )
    raise ConfigError(
        f"{problem}. Write those (reranker.protocols.CandidateGenerator), try candidate_gen.as_generator, or give the "
        "lists that it served as candidates= with held_out="
    )


def fitted_on(generator: CandidateGenerator, known: pd.DataFrame) -> CandidateGenerator:
    """A copy of `generator`, fitted on what was known.

    Raises:
        DataError: the generator says that the data are too few for it.
        GeneratorError: it failed in another way.
    """
    copy = copy_of(generator, known)
    with _failures_located(generator, "fit", known):
        return copy.fit(known)


def copy_of(generator: CandidateGenerator, known: pd.DataFrame) -> CandidateGenerator:
    """A copy that is not fitted; raises as `fitted_on` does."""
    with _failures_located(generator, "clone", known):
        return generator.clone()


def lists_by(
    fitted: CandidateGenerator, known: pd.DataFrame, users: Sequence[UserId], n: int, *, repeats: bool = False
) -> pd.DataFrame:
    """Its lists: a validated candidates table; with `repeats`, items that a user chose before may be among them.

    Raises:
        DataError: the generator says that the data are too few for it, or its table breaks the contract.
        GeneratorError: it failed in another way.
    """
    with _failures_located(fitted, "recommend", known):
        table = fitted.recommend(users, n, exclude_seen=False) if repeats else fitted.recommend(users, n)
    return validate_candidates(table)


@contextmanager
def _failures_located(generator: CandidateGenerator, step: str, known: pd.DataFrame) -> Iterator[None]:
    try:
        yield
    except RerankerError:
        raise
    except Exception as error:
        raise GeneratorError(
            f"the candidate generator {_named(type(generator))} failed in {step!r}, on {len(known)} interactions known "
            f"before the choices to learn from: {error!r}. Mend it; where so few are too few for it, have it raise "
            "reranker.errors.DataError, or set windows to a smaller number (1 learns from the newest choices alone)"
        ) from error


def _named(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"
