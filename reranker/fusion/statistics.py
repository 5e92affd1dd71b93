"""What fusion knows of a domain's interactions, the same in `Reranker.fit` and in the judge."""

import pandas as pd

from reranker.fusion import InteractionStatistics
from reranker.protocols import CandidateGenerator, HasItemFactors


def interaction_statistics(
    interactions: pd.DataFrame, items: pd.DataFrame, generator: CandidateGenerator | None
) -> InteractionStatistics:
    """Statistics in the item space of the candidate generator, or of one that it fuses; else in an ALS space."""
    # Not at the top: candidate_gen imports reranker.errors, so `import candidate_gen` comes through here.
    from candidate_gen import ALSGenerator

    parts = (generator, *getattr(generator, "stages", ()))
    own = next((part for part in parts if isinstance(part, HasItemFactors)), None)
    space = own or ALSGenerator().fit(interactions)
    ids = space.item_ids
    return InteractionStatistics.fit(interactions, items, ids, space.item_factors(ids))
