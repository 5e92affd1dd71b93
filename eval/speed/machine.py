"""The processes that eval.speed.run asks in turn, and what the machine itself can do."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from types import TracebackType
from typing import Any

import psutil
import torch

from eval.speed.load import LABELS, LIKELIHOOD, Load, Work
from reranker.engines.precision import DTYPES
from reranker.hub import DEFAULT_MODEL, resolve_model

_ROWS = 2048  # of the matrix product: what the engines put through the layers at once
_SECONDS = 0.4


class Engines:
    """Starts the workers, one after another, and asks one at a time.

    Args:
        names: of engines that `speed_worker` knows.
        options: further arguments of each worker.
        model: folder with the model's config.json; None for the default model.
    """

    def __init__(self, names: Sequence[str], options: Sequence[str] = (), model: Path | None = None) -> None:
        self.model = model or resolve_model(DEFAULT_MODEL).path
        self.dtype = ""
        self._workers: dict[str, subprocess.Popen[str]] = {}
        self._names, self._options = names, options

    def __enter__(self) -> "Engines":
        self._workers = {name: _process(name, self._options) for name in self._names}
        for worker in self._workers.values():
            self.dtype = _ready(worker)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for worker in self._workers.values():
            _end(worker)

    def time(self, name: str, readout: str, load: Load) -> dict[str, Any]:
        """What `speed_worker.timed` answers, and the processor seconds that its processes took."""
        tree = _tree(self._workers[name])
        before = _processor_seconds(tree)
        answer = self.ask(name, {"readout": readout, "load": load.to_json()})
        return answer | {"processor_seconds": (_processor_seconds(tree) - before) / answer["share"]}

    def ask(self, name: str, job: dict[str, Any]) -> dict[str, Any]:
        return _answer(self._workers[name], job)

    def ask_at(self, dtype: str, job: dict[str, Any]) -> dict[str, Any]:
        """The torch engine at another precision, started for this."""
        worker = _process("torch", ("--dtype", dtype))
        try:
            _ready(worker)
            return _answer(worker, job)
        finally:
            _end(worker)


@dataclass(frozen=True, kw_only=True)
class Rate:
    """FLOP for each second that passed, and for each second of one processor core."""

    wall: float
    processor: float


class Machine:
    """Times a matrix product in the shape of the model's widest layer.

    Args:
        model: folder with the config.json.
        device: where the product runs.
    """

    def __init__(self, model: Path, device: str = "cpu") -> None:
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.from_pretrained(model)
        with torch.device("meta"):
            lm = AutoModelForCausalLM.from_config(config)
        table = lm.get_input_embeddings().weight
        self._layer_parameters = sum(one.numel() for one in lm.base_model.parameters()) - table.numel()
        self._vocabulary, self._dim = table.shape
        self._inner = int(config.intermediate_size)
        self._device = device
        rates = {name: self._rate(getattr(torch, name)).wall for name in DTYPES}
        self.dtype = max(rates, key=lambda name: rates[name])
        self.measured: list[float] = []

    def rate(self) -> Rate:
        """Now, in the precision that this machine multiplies fastest."""
        rate = self._rate(getattr(torch, self.dtype))
        self.measured.append(rate.wall)
        return rate

    def flops(self, answer: dict[str, Any]) -> float:
        """The least that a worker's answer took."""
        work = Work(tokens=answer["tokens"], reads=answer["reads"])
        return work.flops(self._layer_parameters, self._dim, self._vocabulary)

    def summary(self) -> dict[str, object]:
        """For the record: which precision, and GFLOP/s at the lowest, the middle and the highest."""
        low, middle, high = min(self.measured), median(self.measured), max(self.measured)
        return {"dtype": self.dtype, "gflops": [round(one / 1e9, 1) for one in (low, middle, high)]}

    def _rate(self, dtype: torch.dtype) -> Rate:
        left = torch.randn(_ROWS, self._dim, device=self._device).to(dtype)
        right = torch.randn(self._inner, self._dim, device=self._device).to(dtype)
        torch.nn.functional.linear(left, right)
        products, begun, processor = 0, time.perf_counter(), time.process_time()
        while (seconds := time.perf_counter() - begun) < _SECONDS:
            torch.nn.functional.linear(left, right)
            if self._device != "cpu":
                torch.cuda.synchronize()
            products += 1
        flops = 2.0 * _ROWS * self._dim * self._inner * products
        return Rate(wall=flops / seconds, processor=flops / (time.process_time() - processor))


def _process(name: str, options: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "eval.speed.worker", name, *options],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def _ready(worker: subprocess.Popen[str]) -> str:
    """Waits until a worker has loaded and read a first list: what a first call sets up is not timed. Its precision."""
    dtype = str(_read(worker)["dtype"])
    for readout in (LIKELIHOOD, LABELS):
        _answer(worker, {"readout": readout, "load": Load(users=1, candidates=4, history=5, seed=99).to_json()})
    return dtype


def _tree(worker: subprocess.Popen[str]) -> list[psutil.Process]:
    root = psutil.Process(worker.pid)
    return [root, *root.children(recursive=True)]


def _processor_seconds(processes: Sequence[psutil.Process]) -> float:
    return sum(sum(one.cpu_times()[:2]) for one in processes)


def _answer(worker: subprocess.Popen[str], job: dict[str, Any]) -> dict[str, Any]:
    assert worker.stdin is not None
    worker.stdin.write(json.dumps(job) + "\n")
    worker.stdin.flush()
    return _read(worker)


def _read(worker: subprocess.Popen[str]) -> dict[str, Any]:
    assert worker.stdout is not None
    line = worker.stdout.readline()
    if not line:
        assert isinstance(worker.args, list)
        raise RuntimeError(f"{' '.join(map(str, worker.args))} ended without an answer; run it by hand to see why")
    answer: dict[str, Any] = json.loads(line)
    return answer


def _end(worker: subprocess.Popen[str]) -> None:
    assert worker.stdin is not None
    worker.stdin.close()
    worker.wait(120)
