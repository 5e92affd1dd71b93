"""Grammars are tried in a process of their own before vLLM sees them: compiling one would hold the engine."""

import os
import pickle
import subprocess
import sys
import threading
import weakref
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import Any

from reranker.errors import EngineError

_MODULE = "reranker.engines.vllm.grammar_process"
_START_SECONDS = 300.0  # for loading vLLM
_ANSWER_SECONDS = 120.0  # beside a grammar's own time, for a machine without a processor to spare


class GrammarTrials:
    """Tries grammars as vLLM's engine of this configuration would compile them.

    The process starts with the first grammar, and ends with this object or `close`.

    Args:
        config: a `vllm.config.VllmConfig`.
    """

    def __init__(self, config: Any) -> None:
        self._config = config
        self._lock = threading.Lock()
        self._process: tuple[subprocess.Popen[bytes], Connection, weakref.finalize[..., GrammarTrials]] | None = None

    def problem(self, parameters: Any, seconds: float) -> str:
        """ "" where the grammar of `vllm.SamplingParams` compiles within `seconds`, else why it does not.

        Raises:
            EngineError: the process cannot be started, or is gone; the next call starts another.
        """
        with self._lock:
            try:
                asked = self._process[1] if self._process else self._start()
                asked.send_bytes(pickle.dumps((seconds, parameters)))
                return _answer(asked, 10 * seconds + _ANSWER_SECONDS)
            except (EOFError, OSError) as error:
                self._end()
                raise EngineError(
                    f"the process that tries grammars is gone ({type(error).__name__}): ask again"
                ) from error

    def close(self) -> None:
        """Ends the process, also while it tries a grammar."""
        if (process := self._process) is not None:
            process[0].kill()
        with self._lock:
            self._end()

    def _start(self) -> Connection:
        mine, its = Pipe()
        # Not multiprocessing: it would import the caller's main module again.
        command = [sys.executable, "-m", _MODULE, str(its.fileno())]
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "VLLM_LOGGING_LEVEL": "ERROR"}
        process = subprocess.Popen(command, pass_fds=[its.fileno()], env=environment, stdin=subprocess.DEVNULL)
        its.close()
        self._process = process, mine, weakref.finalize(self, _kill, process, mine)
        mine.send_bytes(pickle.dumps(self._config))
        if problem := _answer(mine, _START_SECONDS):
            raise EngineError(f"vLLM's grammars cannot be tried: {problem}")
        return mine

    def _end(self) -> None:
        if self._process is not None:
            self._process[2]()
            self._process = None


def _answer(asked: Connection, seconds: float) -> str:
    if not asked.poll(seconds):
        raise OSError("no answer")
    return asked.recv_bytes().decode()


def _kill(process: "subprocess.Popen[bytes]", asked: Connection) -> None:
    asked.close()
    process.kill()
    process.wait()
