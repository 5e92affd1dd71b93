"""vLLM's front end in our process: quiet while it loads, open to ids beyond the tokenizer's vocabulary."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any


@contextmanager
def quiet_vllm() -> Iterator[None]:
    """Keeps vLLM's log to errors while it loads, unless the user asked for more; the environment is left as found."""
    settings = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CPU_KVCACHE_SPACE": "1"}
    added = {name: value for name, value in settings.items() if name not in os.environ}
    os.environ.update(added)
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def take_any_ids(llm: Any) -> None:
    """Lets a `vllm.LLM` take slots and aliases; from then on it is for callers to check ids."""

    def taken(token_ids: Sequence[int], *, parameter: str | None = None) -> None:
        """In the place of vLLM's check."""

    llm.llm_engine.renderer.validate_token_ids = taken
