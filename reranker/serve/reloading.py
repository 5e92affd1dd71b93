"""A newer version of a bundle takes the place of the one that is served; requests go on meanwhile."""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI

from reranker.errors import RerankerError
from reranker.pipeline.reranker import Reranker
from reranker.pipeline.versions import current_version
from reranker.serve.domains import Domain
from reranker.serve.errors import ProblemError
from reranker.serve.schemas.reload import Reload, Reloaded

if TYPE_CHECKING:
    from reranker.serve.state import Service

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class BundleSource:
    """Where a domain's bundle comes from.

    Attributes:
        path: a bundle, or a folder with versions of one.
        load: reads the bundle in a folder.
    """

    path: Path
    load: Callable[[Path], Reranker]

    def read(self) -> tuple[Reranker, str]:
        """The current version, and its name; "" for a plain bundle.

        Raises:
            BundleError, ConfigError: as `Reranker.load` does.
        """
        folder = current_version(self.path)
        return self.load(folder), folder.name if folder != self.path else ""


class Reloading:
    """Reloads domains, one at a time.

    The newer bundle is read and warmed in a thread of its own, with the engine that is loaded. Then new requests go to
    it; those in work end with the one they began with. Where anything is wrong with it, the old one goes on.
    """

    def __init__(self, service: "Service") -> None:
        self._service = service
        self._one_at_a_time = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def reload(self, name: str | None = None) -> list[Reloaded]:
        """Reloads one domain, or all.

        Raises:
            ProblemError: 404 for an unknown domain, 409 where a bundle cannot be taken; those before it were.
        """
        service = self._service
        wanted = list(service.domains) if name is None else [service.domains.pick(domain=name)]
        async with self._one_at_a_time:
            return [await self._reload(domain) for domain in wanted]

    async def _reload(self, old: Domain) -> Reloaded:
        try:
            new = await asyncio.to_thread(_newer, old)
            if self._service.drift is not None:
                await asyncio.to_thread(self._service.drift.watch, new)
        except (RerankerError, OSError) as error:
            self._service.metrics.reloads.labels(old.name, "failed").inc()
            logger.error("domain %r is not reloaded, the version that was goes on: %s", old.name, error)
            message = f"domain {old.name!r} is not reloaded, the version that was goes on: {error}"
            raise ProblemError(409, message, param="domain", code="reload_failed") from error
        self._service.take(new)
        self._service.metrics.reloads.labels(old.name, "done").inc()
        serves = new.card["serves"]
        logger.info("domain %r reloaded: version %r, serves %s", new.name, new.version, serves)
        return Reloaded(domain=new.name, version=new.version, before=old.version, serves=serves)

    def listen(self) -> None:
        """Reloads all domains on SIGHUP, where this thread may listen to signals."""
        loop = asyncio.get_running_loop()
        with contextlib.suppress(ValueError, RuntimeError, NotImplementedError, AttributeError):
            loop.add_signal_handler(signal.SIGHUP, self._on_signal)

    def deafen(self) -> None:
        """Ends listening."""
        with contextlib.suppress(ValueError, RuntimeError, NotImplementedError, AttributeError):
            asyncio.get_running_loop().remove_signal_handler(signal.SIGHUP)

    def _on_signal(self) -> None:
        task = asyncio.get_running_loop().create_task(self._all())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _all(self) -> None:
        for domain in list(self._service.domains):
            with contextlib.suppress(ProblemError):  # it is logged, and the other domains are reloaded
                await self.reload(domain.name)


def _newer(old: Domain) -> Domain:
    """The domain with the bundle as it stands now, ready to rank.

    Raises:
        RerankerError: it is damaged, of another domain or model, or needs another engine.
    """
    from reranker.errors import BundleError, ConfigError

    if old.source is None:
        raise ConfigError("the server was started from a Reranker, not from a bundle's folder: start it anew")
    reranker, version = old.source.read()
    reader = reranker.llm_scorer
    if reader.domain != old.name:
        raise BundleError(f"the bundle is of the domain {reader.domain!r} now: start another server for it")
    if not reader.share_engine(old.reranker.llm_scorer):
        raise ConfigError("the bundle wants another model, engine, dtype or options: start the server anew")
    reranker.rank("", ["a title", "another"])  # builds what the first request would wait for; refuses another model
    return old.with_bundle(reranker, version)


def add_reloading(app: FastAPI, service: "Service") -> None:
    """POST /v1/reload, for keys with `admin`."""
    from reranker.serve.state import allowed

    @app.post("/v1/reload", dependencies=[allowed(service, "admin")])
    async def reload(body: Reload) -> dict[str, Any]:
        return {"reloaded": [one.model_dump() for one in await service.reloading.reload(body.domain)]}
