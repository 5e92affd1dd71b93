"""The turns of a benchmark, kept as they end, so that a run that was cut off goes on where it was."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer


class FairLock:
    """Takes each turn once.

    Args:
        path: file with a line of JSON a turn: its key and its result.
        seconds: how long to go on; 0 for to the end.
    """

    def __init__(self, path: Path, seconds: float = 0) -> None:
        self._path, self._seconds, self._begun = path, seconds, time.monotonic()
        lines = path.read_text().splitlines() if path.exists() else []
        self._done: dict[str, Any] = {one["key"]: one["result"] for one in map(json.loads, lines)}
        if self._done:
            typer.echo(f"goes on after {len(self._done)} turns in {path}; delete it to begin anew", err=True)

    def take(self, key: str, measure: Callable[[], Any]) -> Any:
        """The result of a turn, from the file or from `measure`.

        Raises:
            typer.Exit: the time is over.
        """
        if key in self._done:
            return self._done[key]
        if self._seconds and time.monotonic() - self._begun > self._seconds:
            typer.echo(f"stopped after {len(self._done)} turns; the same command goes on from {self._path}", err=True)
            raise typer.Exit
        self._done[key] = measure()
        with self._path.open("a") as file:
            file.write(json.dumps({"key": key, "result": self._done[key]}) + "\n")
        return self._done[key]

    def forget(self) -> None:
        """The run is complete: the next one begins anew."""
        self._path.unlink(missing_ok=True)
