"""What fusion knows of a domain's interactions, the same in `Reranker.fit` and in the judge."""

import pandas as pd

from reranker.fusion import EvidenceModel
from reranker.protocols import CandidateGenerator, HasItemFactors


def evidence_model(
    interactions: pd.DataFrame, items: pd.DataFrame, generator: CandidateGenerator | None
) -> EvidenceModel:
    """Evidence in the candidate generator's own item space, or in an ALS space where it has none."""
    # Not at the top: candidate_gen imports reranker.errors, so `import candidate_gen` comes through here.
    from candidate_gen import ALSGenerator

    space = generator if isinstance(generator, HasItemFactors) else ALSGenerator().fit(interactions)
    ids = space.item_ids
    return EvidenceModel.fit(interactions, items, ids, space.item_factors(ids))
