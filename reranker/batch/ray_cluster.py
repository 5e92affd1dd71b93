"""The parts of an offline run on Ray: Ray Data map_batches, an actor a worker that holds the Reranker.

Workers read the inputs and write their parts themselves; only part numbers and records travel. So every node must see
the bundle, the inputs and the run's folder under the same paths. A worker that dies is replaced and its part done
again.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from reranker.batch.part import Engines, Job, PartWorker, Record
from reranker.errors import ConfigError, EngineError

_NEW_OR_NEAR = "ray"


def run_parts(job: Job, parts: Sequence[int], cluster: str, workers: int | None) -> Iterator[Record]:
    """Does the parts on a cluster; records come in the order in which they are ready.

    Args:
        job: what to do.
        parts: which parts.
        cluster: "ray" takes the cluster of RAY_ADDRESS or starts one here; else an address, "auto" included.
        workers: copies of the model; None takes as many as the GPUs hold, or one a node where there is no GPU.

    Raises:
        ConfigError: Ray is not installed or not reachable, or the cluster is too small.
        EngineError: a part failed; what others finished is kept.
    """
    try:
        import ray
        import ray.data
        from ray.exceptions import RayError
    except ImportError as error:
        raise ConfigError("--cluster needs Ray. Run `pip install 'reranker[ray]'`") from error
    mine = not ray.is_initialized()
    if mine:
        try:
            ray.init(address=None if cluster == _NEW_OR_NEAR else cluster, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise ConfigError(f"cannot reach a Ray cluster at {cluster!r}: {error}") from error
    try:
        resources = _share(ray.cluster_resources(), len(ray.nodes()), job.engines, workers)
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        # Blocks of one part, in whatever order they are done: a slow part holds up nobody.
        context.execution_options.preserve_order = False
        numbers = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
        count = min(resources.pop("workers"), len(parts))
        records = numbers.map_batches(
            _Worker,
            fn_constructor_args=(job,),
            batch_size=1,
            compute=ray.data.ActorPoolStrategy(size=count, max_tasks_in_flight_per_actor=1),
            **resources,
        )
        for row in records.iter_rows():
            yield json.loads(row["record"])
    except RayError as error:
        raise EngineError(f"a part failed on the cluster; go on with --resume. {_last_line(error)}") from error
    finally:
        if mine:
            ray.shutdown()


class _Worker:
    """The actor: one Reranker, many parts."""

    def __init__(self, job: Job) -> None:
        self._worker = PartWorker(job)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        records = [json.dumps(self._worker.run(int(part))) for part in batch["part"]]
        return {"record": np.array(records, dtype=object)}


def _share(cluster: dict[str, float], nodes: int, engines: Engines, workers: int | None) -> dict[str, Any]:
    """How many workers, and what each takes: the GPUs that one copy of the model spans, or a share of the CPUs."""
    cpus, gpus = int(cluster.get("CPU", 0)), int(cluster.get("GPU", 0))
    spans = int(engines.options.get("tensor_parallel_size", 1)) * int(engines.options.get("pipeline_parallel_size", 1))
    if not gpus:
        workers = workers or max(1, nodes)
        if workers > cpus:
            raise ConfigError(f"{workers} workers need a CPU each, the cluster has {cpus}: ask for fewer workers")
        return {"workers": workers, "num_cpus": cpus // workers}
    workers = workers or gpus // spans
    if workers < 1 or workers * spans > gpus:
        raise ConfigError(
            f"{max(workers, 1)} workers with {spans} GPUs each do not fit the cluster's {gpus} GPUs: change --workers, "
            "tensor_parallel_size or pipeline_parallel_size"
        )
    return {"workers": workers, "num_gpus": spans, "num_cpus": 1}


def _last_line(error: Exception) -> str:
    return next((line.strip() for line in reversed(str(error).splitlines()) if line.strip()), type(error).__name__)
