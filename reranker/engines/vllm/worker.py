"""What runs inside vLLM's worker process: embedding rows that can be written at run time, and what reads states.

A soft prompt reaches vLLM as ordinary token ids: ids beyond the vocabulary name slots, and the slots hold vectors.
Requests then stay plain lists of integers, with the ordinary prefix cache. The model's own table and output head are
not touched.
"""

import ctypes
import os
import select
import signal
import threading
import time
from collections.abc import Collection
from contextlib import suppress
from typing import Any

import numpy as np
import psutil
import torch

from reranker.engines.vllm.backends.v2_worker import make_room_for_slots
from reranker.engines.vllm.backends.worker import Taken, take
from reranker.engines.vllm.patches import fuse_norms

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_MOST = 2**30
_GRACE_S = 5.0  # from SIGTERM to SIGKILL of an engine whose owner is gone


class SlotEmbedding(torch.nn.Module):
    """An embedding table with further rows: id `first_slot + i` reads row i of `slots`.

    Ids beyond the slots are other names of the tokens, again and again from 0 on (`virtual_tokens.Aliases`).
    """

    def __init__(self, table: torch.nn.Module, first_slot: int, slots: int, dim: int, like: torch.Tensor) -> None:
        super().__init__()
        self.table = table
        self.first_slot = first_slot
        self.slots = torch.zeros((slots, dim), dtype=like.dtype, device=like.device)

    def forward(self, token_ids: torch.Tensor) -> torch.Tensor:
        """(n,) ids -> (n, dim) rows."""
        beyond = token_ids - self.first_slot - len(self.slots)
        token_ids = torch.where(beyond >= 0, beyond % self.first_slot, token_ids)
        is_slot = (token_ids >= self.first_slot).unsqueeze(-1)
        rows: torch.Tensor = self.table(token_ids.clamp(max=self.first_slot - 1))
        soft = self.slots[(token_ids - self.first_slot).clamp(min=0, max=len(self.slots) - 1)]
        return torch.where(is_slot, soft, rows)


class SlotWorkerExtension:
    """Methods that `collective_rpc` reaches; vLLM mixes them into its worker class."""

    model_runner: Any  # the worker's own
    _reranker_slots: SlotEmbedding
    _reranker_taken: Taken | None = None

    def reranker_end_with(self, owner: int) -> None:
        """Has the engine end once the process `owner`, which started it, is gone: a killed one can tell nobody.

        Nothing is watched from another machine, or without pidfd (Linux has it).
        """
        line = [os.getpid(), *(process.pid for process in psutil.Process().parents())]
        if owner in line[1:] and hasattr(os, "pidfd_open"):
            engine = line[line.index(owner) - 1]
            threading.Thread(target=_end_with, args=(os.pidfd_open(owner), engine), daemon=True).start()

    def reranker_add_slots(self, first_slot: int, slots: int) -> str:
        """Puts a `SlotEmbedding` in the place of the model's table. Returns "" or what stopped it."""
        model = self.model_runner.get_model()
        found = [
            (parent, name)
            for parent in model.modules()
            for name, child in parent.named_children()
            if name == "embed_tokens"
        ]
        if len(found) != 1:
            return f"{type(model).__name__} has {len(found)} modules called embed_tokens"
        parent, name = found[0]
        table = getattr(parent, name)
        setattr(parent, name, SlotEmbedding(table, first_slot, slots, table.weight.shape[1], table.weight))
        self._reranker_slots = getattr(parent, name)
        make_room_for_slots(self.model_runner, slots)
        return ""

    def reranker_take_backend(self, besides: Collection[str]) -> tuple[str, dict[str, str]]:
        """Takes the first backend that fits, in the place of one that was taken before.

        Returns:
            Its name, and why those before it were not taken.
        """
        if self._reranker_taken is not None and self._reranker_taken.reader is not None:
            self._reranker_taken.reader.remove()
        self._reranker_taken = take(self.model_runner, besides, len(self._reranker_slots.slots))
        return self._reranker_taken.name, dict(self._reranker_taken.refused)

    def reranker_layers(self, stops: bool) -> tuple[int, str]:
        """How many layers the model has of which it can show the states, or why it shows the last one's only.

        Args:
            stops: whether steps may end at a layer, from now on; False has all layers computed and gives the same.
        """
        taken = self._reranker_taken
        stop = None if taken is None or taken.reader is None else taken.reader.stop
        if taken is None or stop is None:
            return 0, "" if taken is None else taken.all_layers
        stop.stops = stops
        return len(stop), ""

    def reranker_take(self, numbers: list[int]) -> list[bytes]:
        """float32 values that the backend kept under these numbers, nothing for those it has not; they are dropped."""
        kept = (
            {}
            if self._reranker_taken is None or self._reranker_taken.reader is None
            else self._reranker_taken.reader.kept
        )
        found = [kept.pop(number, None) for number in numbers]
        return [b"" if one is None else one.float().cpu().numpy().tobytes() for one in found]

    def reranker_log_prob(self, state: bytes, token: int) -> float:
        """log p of a token after one float32 state, in nats."""
        assert self._reranker_taken is not None and self._reranker_taken.reader is not None
        slots = self._reranker_slots.slots
        values = torch.from_numpy(np.frombuffer(state, dtype=np.float32).copy()).to(slots.device)
        with torch.inference_mode():
            return self._reranker_taken.reader.log_prob(values, token)

    def reranker_keep_memory(self) -> None:
        """Has what a step frees kept for the next one.

        glibc gave logits back to the system and took them anew, 120,000 page faults a step, a tenth of its time. Other
        systems are left as they are.
        """
        if set_option := getattr(ctypes.CDLL(None), "mallopt", None):
            set_option(_M_MMAP_THRESHOLD, _MOST)
            set_option(_M_TRIM_THRESHOLD, _MOST)

    def reranker_fuse_norms(self) -> int:
        """Has norms computed in one pass (`patches`); returns how many."""
        return fuse_norms(self.model_runner.get_model())

    def reranker_write_slots(self, begin: int, rows: bytes, dim: int) -> None:
        """Writes float32 rows, given as bytes, from slot `begin` on."""
        values = torch.from_numpy(np.frombuffer(rows, dtype=np.float32).reshape(-1, dim).copy())
        slots = self._reranker_slots.slots
        slots[begin : begin + len(values)] = values.to(slots)

    def reranker_embed(self, token_ids: list[int]) -> list[list[float]]:
        """Rows of the embedding table."""
        slots = self._reranker_slots
        rows = slots(torch.tensor(token_ids, dtype=torch.int64, device=slots.slots.device))
        result: list[list[float]] = rows.float().cpu().tolist()
        return result


def _end_with(owner: int, engine: int) -> None:
    """Waits for the end of the process with pidfd `owner`; then asks the process `engine` to end, and makes it.

    Workers of an engine in a process of its own end with it: vLLM sees to that.
    """
    select.select([owner], [], [])
    with suppress(ProcessLookupError):
        os.kill(engine, signal.SIGTERM)
        time.sleep(_GRACE_S)
        os.kill(engine, signal.SIGKILL)
