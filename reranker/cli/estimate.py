"""`reranker evaluate --estimate`: whether the LLM pays, from a sample."""

from collections.abc import Mapping
from typing import Any

import typer

from reranker.data.dataset import Dataset


def tell_estimate(
    data: Dataset, settings: Mapping[str, Any], generator: str | None, users: int | None, progress: bool = True
) -> None:
    """Fits words and the LLM on a sample and prints what each rung is worth there.

    Args:
        settings: fields of `RerankerConfig` that were named.
        generator: name of the candidate generator; the default one without it.
        users: how many to sample; `pipeline.estimate.SAMPLED_USERS` without it.
    """
    from candidate_gen import DEFAULT_METHOD, make_generator
    from reranker import Reranker
    from reranker.pipeline.estimate import SAMPLED_USERS, estimate

    first_stage = make_generator(generator or DEFAULT_METHOD).fit(data.interactions)
    reranker = Reranker.from_pretrained("default", **settings)
    found = estimate(reranker, data, first_stage, users=users or SAMPLED_USERS, progress=progress)
    typer.echo(found.summary())
