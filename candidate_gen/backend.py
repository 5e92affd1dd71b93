"""`implicit`, imported when a model is fitted: it is an optional package, and slow to load."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from reranker.errors import ConfigError


@contextmanager
def implicit_library() -> Iterator[ModuleType]:
    """The `implicit` package, with BLAS held to one thread inside the block.

    implicit runs its own threads and calls BLAS from each; BLAS threads below them make it up to 10x slower, and
    implicit warns about them. The block must cover the import, the constructor and the fit.

    Raises:
        ConfigError: implicit is not installed.
    """
    try:
        import implicit
        import implicit.cpu.als
        import implicit.nearest_neighbours
        from threadpoolctl import threadpool_limits
    except ImportError as error:
        raise ConfigError(
            f"this generator needs the package 'implicit' ({error}): pip install 'reranker[cpu]', [gpu] or [torch]"
        ) from error
    with threadpool_limits(1, "blas"):
        yield implicit


def require_at_least(owner: str, minimum: float, **values: float) -> None:
    """Raises ConfigError when one of the named settings is below `minimum`."""
    for setting, value in values.items():
        if not value >= minimum:
            raise ConfigError(f"{owner}: {setting} must be at least {minimum}, got {value!r}")
