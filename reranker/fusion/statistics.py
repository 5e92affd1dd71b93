"""What fusion knows of a domain's interactions, the same in `Reranker.fit` and in the judge."""

import pandas as pd

from reranker.fusion import EvidenceModel
from reranker.protocols import CandidateGenerator, HasItemFactors


def evidence_model(
    interactions: pd.DataFrame, items: pd.DataFrame, generator: CandidateGenerator | None
) -> EvidenceModel:
    """Evidence in the item space of the candidate generator, or of one that it fuses; else in an ALS space."""
    # Not at the top: candidate_gen imports reranker.errors, so `import candidate_gen` comes through here.
    from candidate_gen import ALSGenerator

    parts = (generator, *getattr(generator, "stages", ()))
    own = next((part for part in parts if isinstance(part, HasItemFactors)), None)
    space = own or ALSGenerator().fit(interactions)
    ids = space.item_ids
    return EvidenceModel.fit(interactions, items, ids, space.item_factors(ids))
