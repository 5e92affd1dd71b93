"""Offline runs: candidates on disk in, rankings on disk out, in constant memory, here or on a Ray cluster.

    OfflineRun(bundle=..., candidates=..., out=...).run(resume=True, progress=True)

inputs, csv_input, sorting   any files -> one table in the order of its users, read by row numbers
cutting, prepare             the table -> parts of whole users
sifting, part                one part: reject, rerank, write, record
manifest, run                what may be resumed; the run itself
cluster                      the same parts on Ray
"""

from reranker.batch.inputs import Columns
from reranker.batch.part import Engines
from reranker.batch.run import OfflineRun

__all__ = ["Columns", "Engines", "OfflineRun"]
