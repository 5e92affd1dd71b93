"""Grammars are compiled away from the engine, with a deadline, before it sees them."""

import asyncio
import hashlib
import json
from collections import OrderedDict
from dataclasses import asdict
from typing import Any

from reranker.protocols import VLLMHost
from reranker.serve.errors import ProblemError

_WAITING = 32  # that may wait: they are tried one after the other
_KEPT = 1024  # grammars that are known to compile


class Grammars:
    """The grammars of one model's requests.

    Args:
        engine: that compiles them.
    """

    def __init__(self, engine: VLLMHost) -> None:
        self._engine = engine
        self._turn = asyncio.Lock()
        self._waiting = 0
        self._good: OrderedDict[bytes, None] = OrderedDict()

    async def check(self, parameters: Any, seconds: float, field: str) -> None:
        """Raises ProblemError where the grammar of `vllm.SamplingParams` does not compile within `seconds`.

        Raises:
            ProblemError: 422 with the field, or 503 where too many wait.
            EngineError: grammars cannot be tried.
        """
        if parameters.structured_outputs is None:
            return
        key = _key(parameters)
        if key in self._good:
            self._good.move_to_end(key)
            return
        if self._waiting >= _WAITING:
            raise ProblemError(503, f"{self._waiting} grammars wait already", code="overloaded", retry_after=2.0)
        self._waiting += 1
        try:
            async with self._turn:
                problem = await asyncio.to_thread(self._engine.grammar_problem, parameters, seconds)
        finally:
            self._waiting -= 1
        if problem:
            raise ProblemError(422, f"{field}: {problem}", param=field, code="invalid_field")
        self._good[key] = None
        if len(self._good) > _KEPT:
            self._good.popitem(last=False)


def _key(parameters: Any) -> bytes:
    """The same for the same grammar and the same ends."""
    told = asdict(parameters.structured_outputs), sorted(parameters.all_stop_token_ids)
    return hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode()).digest()
