"""`reranker serve` and `reranker keys add`: the endpoint and its keys."""

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from reranker.cli.options import BaseUrlOption, DtypeOption, EngineOption, given, settings_from_yaml
from reranker.errors import ConfigError

if TYPE_CHECKING:
    from reranker.protocols import UserStore
    from reranker.serve.domains import Domain

_LEAVE_SECONDS = 2.5  # from an engine's death being seen to the exit, at most; answers go out before
_FLUSH_SECONDS = 0.5


def serve(
    bundle: Annotated[
        list[Path], typer.Option("--bundle", help="folder that `reranker fit` wrote; again for each further domain")
    ],
    engine: EngineOption = None,
    base_url: BaseUrlOption = None,
    dtype: DtypeOption = None,
    host: Annotated[str, typer.Option("--host")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", min=0, max=65535)] = 8000,
    api_key_file: Annotated[
        Path | None,
        typer.Option("--api-key-file", help="keys that `reranker keys add` wrote; without it, anyone may ask"),
    ] = None,
    users_db: Annotated[
        list[str] | None,
        typer.Option("--users-db", help="SQLite file, or redis://...; one for each --bundle; else no personal state"),
    ] = None,
    config: Annotated[Path | None, typer.Option("--config", help="YAML with limits, fields of ServeSettings")] = None,
    shadow: Annotated[bool, typer.Option("--shadow", help="answer the order that came in")] = False,
    score_log: Annotated[Path | None, typer.Option("--score-log", help="folder that gets every ranking")] = None,
    otel: Annotated[bool, typer.Option("--otel", help="send OpenTelemetry spans; OTEL_ variables say where")] = False,
) -> None:
    """Serve bundles over HTTP: /rerank as Cohere, Jina and vLLM have it, users, models, health and metrics."""
    # From the start on: process 1 of a container ignores what it does not handle. uvicorn sends it again at the end.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        import uvicorn

        from reranker.serve.app import create_app
        from reranker.serve.draining import DrainingServer
        from reranker.serve.http_limits import BoundedHttp
    except ImportError as error:
        raise ConfigError(f"serving needs more packages ({error}): pip install 'reranker[serve]'") from error
    from reranker.serve.auth import Keys, read_keys
    from reranker.serve.observability.tracing import otlp_tracing
    from reranker.serve.settings import ServeSettings
    from reranker.stores import open_user_store

    if users_db and len(users_db) != len(bundle):
        raise ConfigError(f"{len(bundle)} bundles were given {len(users_db)} --users-db: give one for each, in order")
    _require_different(users_db or ())
    settings = {**settings_from_yaml(config), **({"shadow": True} if shadow else {})}
    options = given(engine=engine, dtype=dtype)
    limits = ServeSettings.from_mapping(settings)
    with _json_log():
        keys = Keys(() if api_key_file is None else read_keys(api_key_file))

        def open_stores() -> Sequence["UserStore | None"]:
            if not users_db:
                return [None] * len(bundle)
            return [open_user_store(where, timeout_seconds=limits.store_seconds) for where in users_db]

        domains = _domains(bundle, open_stores, options, given(base_url=base_url))
        app = create_app(
            domains,
            settings=limits,
            keys=keys,
            score_log=score_log,
            tracing=otlp_tracing() if otel else None,
            when_loaded=_keep_for_good,
            when_dead=lambda: _end(server),
        )
        settled = uvicorn.Config(app, host=host, port=port, http=BoundedHttp, access_log=False, log_config=None)
        server = DrainingServer(settled, app.state.service, _leave)
        # The engine's thread holds the interpreter for 5 ms at a time by default: answers would wait for it.
        sys.setswitchinterval(0.0001)
        with contextlib.suppress(KeyboardInterrupt):
            server.run()
        gc.unfreeze()  # else libraries that count their objects (Triton's) call them leaked at the interpreter's end
        if any(domain.dead for domain in domains):
            _leave()
        for domain in domains:  # vLLM's processes would outlive this one
            domain.reranker.llm_scorer.close()
    if not server.started:
        raise typer.Exit(1)


def _end(server: Any) -> None:
    """Ends the server after an engine's process has died: in good order if that is quick, and in any case soon.

    Threads that wait for the dead process, or for the lock of one that does, never return; the interpreter would wait
    for them at its end.
    """
    server.should_exit = True
    timer = threading.Timer(_LEAVE_SECONDS, _leave)
    timer.daemon = True
    timer.start()


def _leave(code: int = 1) -> NoReturn:
    """Ends the process at once, once the log is out."""
    flushing = threading.Thread(target=logging.shutdown, daemon=True)
    flushing.start()
    flushing.join(_FLUSH_SECONDS)
    os._exit(code)


def _require_different(stores: Sequence[str]) -> None:
    places = [_place(where) for where in stores]
    if twice := {where for where in places if places.count(where) > 1}:
        raise ConfigError(
            f"--users-db: {', '.join(twice)} is given twice, so what users did in one domain would be taken for the "
            "other's: give each bundle a file, or a database of Redis (redis://host/0, redis://host/1)"
        )


def _place(where: str) -> str:
    """Which file or database this is, however it is written; without a password."""
    if "://" not in where:
        return str(Path(where).resolve())
    try:
        from redis.connection import parse_url

        address = parse_url(where)
    except (ImportError, ValueError):  # opening it says what is wrong
        return where
    server = address.get("path") or f"{address.get('host', 'localhost')}:{address.get('port', 6379)}"
    return f"database {address.get('db', 0)} of Redis at {server}"


def _domains(
    bundles: list[Path],
    open_stores: "Callable[[], Sequence[UserStore | None]]",
    options: dict[str, Any],
    of_engine: dict[str, Any],
) -> "list[Domain]":
    """The bundles with their users; those that would load the same engine share one."""
    from reranker.pipeline.reranker import Reranker
    from reranker.serve.domains import Domain
    from reranker.serve.reloading import BundleSource

    load = partial(Reranker.load, **options, trusted_options=of_engine)
    sources = [BundleSource(path=bundle, load=load) for bundle in bundles]
    rerankers, versions = zip(*(source.read() for source in sources), strict=True)
    for number, reranker in enumerate(rerankers):
        any(reranker.llm_scorer.share_engine(earlier.llm_scorer) for earlier in rerankers[:number])
    stores = open_stores()  # not before: a bundle that cannot be loaded must not leave an empty store behind
    return [Domain(*parts) for parts in zip(rerankers, stores, sources, versions, strict=True)]


def _keep_for_good() -> None:
    """The garbage collector leaves alone what is loaded by now: walking over it stops all answers for 50 to 200 ms."""
    gc.collect()
    gc.freeze()


@contextlib.contextmanager
def _json_log() -> Iterator[None]:
    """All lines go to stderr, one JSON object each; those of requests are JSON already. Logging is left as found."""
    from reranker.serve.observability.logging import JsonLines, LaterLines

    requests, every = LaterLines(sys.stderr), LaterLines(sys.stderr)
    every.setFormatter(JsonLines())
    root, access = logging.getLogger(), logging.getLogger("reranker.access")
    plain = [one for one in root.handlers if type(one) is logging.StreamHandler]
    levels = {name: logging.getLogger(name).level for name in ("reranker", "uvicorn")}
    with contextlib.ExitStack() as found:
        for one in plain:
            root.removeHandler(one)
            found.callback(root.addHandler, one)
        for logger, handler in ((root, every), (access, requests)):
            logger.addHandler(handler)
            found.callback(handler.close)
            found.callback(logger.removeHandler, handler)
        for name, level in levels.items():
            logging.getLogger(name).setLevel(logging.INFO)
            found.callback(logging.getLogger(name).setLevel, level)
        access.propagate = False
        found.callback(setattr, access, "propagate", True)
        logging.captureWarnings(True)
        found.callback(logging.captureWarnings, False)
        yield


def serve_key(
    file: Annotated[Path, typer.Option("--file", help="the file of keys; made when it does not exist")],
    name: Annotated[str, typer.Option("--name", help="whose key it is, for logs")],
    scope: Annotated[list[str] | None, typer.Option("--scope", help="rank, adapt or admin; may be repeated")] = None,
    per_minute: Annotated[int | None, typer.Option("--per-minute", min=1, help="requests a minute")] = None,
) -> None:
    """Add an API key. Its secret is printed once and kept nowhere; the file holds its SHA-256."""
    from reranker.serve.auth import new_key

    typer.echo(new_key(file, name, scope or ["rank"], per_minute))
