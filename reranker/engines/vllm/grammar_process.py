"""The process that tries grammars: `python -m reranker.engines.vllm.grammar_process FD`, started by `grammars`.

It loads what vLLM compiles grammars with, and forks for each grammar: compiling cannot be interrupted, and takes what
memory it likes. FD is a socket: a pickled `vllm.config.VllmConfig` comes first, then a pickled pair (seconds,
`vllm.SamplingParams`) a grammar; each is answered by "" where it went well, else by what went wrong.
"""

import contextlib
import logging
import os
import pickle
import sys
from collections.abc import Callable
from functools import partial
from multiprocessing.connection import Connection
from types import SimpleNamespace
from typing import Any

from reranker.utils.forked import ForkedCallError, call_forked

MEMORY = 1 << 30
"""Bytes that compiling one grammar may take."""

_NICE = 10  # rankings go first


def main(handle: int) -> None:
    """Answers until the other side is gone."""
    with contextlib.suppress(EOFError, OSError), Connection(handle) as asked:
        try:
            compile_ = compiler(pickle.loads(asked.recv_bytes()))
        except Exception as error:
            asked.send_bytes(_told(error).encode())
            return
        asked.send_bytes(b"")
        os.nice(_NICE)
        while True:
            seconds, parameters = pickle.loads(asked.recv_bytes())
            asked.send_bytes(tried(partial(compile_, parameters), seconds).encode())


def tried(call: Callable[[], None], seconds: float) -> str:
    """ "" where `call` returns in time, else what went wrong."""

    def answer() -> str:
        try:
            call()
        except Exception as error:
            return _told(error)
        return ""

    try:
        return call_forked(answer, seconds, MEMORY)
    except ForkedCallError as error:
        return f"compiling it {error}"


def _told(error: Exception) -> str:
    return str(error) or type(error).__name__


def compiler(config: Any) -> Callable[[Any], None]:
    """Compiles the grammar of `vllm.SamplingParams` as vLLM's engine of this configuration would.

    Raises:
        Exception: whatever vLLM and its grammar libraries raise.
    """
    from vllm.tokenizers import cached_tokenizer_from_config
    from vllm.v1.structured_output import StructuredOutputManager
    from vllm.v1.structured_output.backend_xgrammar import XgrammarBackend
    from vllm.v1.structured_output.request import StructuredOutputRequest

    model, settings = config.model_config, config.structured_outputs_config
    tokenizer = cached_tokenizer_from_config(model)
    usual = XgrammarBackend(config, tokenizer=tokenizer, vocab_size=model.get_vocab_size())  # takes a second: once

    def compile_(parameters: Any) -> None:
        parameters.verify(model, config.speculative_config, settings, tokenizer)
        manager = StructuredOutputManager(config)
        manager.backend = usual if parameters.structured_outputs._backend == "xgrammar" else None
        asked = StructuredOutputRequest.from_sampling_params(parameters)
        request: Any = SimpleNamespace(request_id="", sampling_params=parameters, structured_output_request=asked)
        manager.grammar_init(request)
        manager.executor.shutdown(wait=True)  # it compiles there
        if isinstance(asked.grammar, Exception):
            raise asked.grammar
        asked.grammar.fill_bitmask(manager.backend.allocate_token_bitmask(1), 0)

    logging.disable(logging.CRITICAL)  # the server says what its clients did wrong
    return compile_


if __name__ == "__main__":
    main(int(sys.argv[1]))
