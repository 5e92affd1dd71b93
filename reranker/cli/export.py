"""`reranker users export`: everything that is kept of one user, for a data request."""

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from reranker.cli.options import UserKeyOption
from reranker.utils.atomic_io import write_text
from reranker.utils.pseudonyms import Pseudonyms


def export(
    user: Annotated[str, typer.Option("--user", help="user id")],
    out: Annotated[Path, typer.Option("--out", help="JSON file")],
    bundle: Annotated[
        list[Path] | None, typer.Option("--bundle", help="bundles, all of their versions; may be repeated")
    ] = None,
    users_db: Annotated[list[str] | None, typer.Option("--users-db", help="stores of `serve`; may be repeated")] = None,
    score_log: Annotated[
        list[Path] | None, typer.Option("--score-log", help="folders of `serve --score-log`; may be repeated")
    ] = None,
    user_key: UserKeyOption = None,
) -> None:
    """Write what bundles, stores and score logs keep of a user to a JSON file."""
    from reranker.errors import ConfigError

    if not (bundle or users_db or score_log):
        raise ConfigError("give what is to be searched: --bundle, --users-db, --score-log")
    pseudonyms = None if user_key is None else Pseudonyms.read(user_key)
    found: dict[str, Any] = {
        "user": user,
        "bundles": [one for path in bundle or () for one in _in_bundles(path, user)],
        "stores": [one for where in users_db or () for one in _in_store(where, user)],
        "score_logs": [one for folder in score_log or () for one in _in_log(folder, user, pseudonyms)],
    }
    write_text(out, json.dumps(found, indent=1, ensure_ascii=False))
    counts = ", ".join(f"{len(value)} in {name.replace('_', ' ')}" for name, value in found.items() if name != "user")
    typer.echo(f"user {user}: records {counts}; wrote {out}")


def _in_bundles(path: Path, user: str) -> list[dict[str, Any]]:
    """A record a version that knows the user."""
    from reranker.pipeline import versions
    from reranker.pipeline.reranker import Reranker
    from reranker.refresh import exported_user

    names = versions.versions(path) if versions.is_versioned(path) else [""]
    found = []
    for name in names:
        reranker = Reranker.load(path / versions.VERSIONS / name if name else path)
        known = next((one for one in reranker.user_ids if str(one) == user), None)
        if known is not None:
            found.append({"bundle": str(path), "version": name, **exported_user(reranker, known)})
    return found


def _in_store(where: str, user: str) -> list[dict[str, Any]]:
    from reranker.errors import ConfigError
    from reranker.serve.ids import forms_of
    from reranker.stores import open_user_store
    from reranker.stores.records import shown_interaction

    if "://" not in where and not Path(where).is_file():  # opening it would make one
        raise ConfigError(f"--users-db: there is no store {where}")
    store = open_user_store(where)
    try:
        states = store.get(forms_of(user))
    finally:
        store.close()
    return [
        {
            "store": where.rpartition("@")[2],  # without a password
            "interactions": list(map(shown_interaction, state.interactions)),
            "context": [float(one) for one in state.vector],
            "context_read": state.support,
            "updated_at": state.updated_at or None,
        }
        for state in states.values()
    ]


def _in_log(folder: Path, user: str, pseudonyms: Pseudonyms | None) -> list[dict[str, Any]]:
    import pyarrow as pa

    from reranker.errors import ConfigError
    from reranker.serve.observability.ranking_log import rows_that_name

    if not folder.is_dir():
        raise ConfigError(f"--score-log: there is no folder {folder}")
    try:
        rows = rows_that_name(folder, {user} if pseudonyms is None else pseudonyms.names([user]))
    except pa.ArrowException as error:
        raise ConfigError(f"--score-log: a file in {folder} cannot be read: {error}") from error
    return [{"score_log": str(folder), **{name: _plain(value) for name, value in row.items()}} for row in rows]


def _plain(value: object) -> object:
    """A value as JSON takes it: times as text."""
    return value.isoformat() if isinstance(value, datetime) else value
