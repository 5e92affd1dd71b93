"""What a Reranker knows of one domain: its items, and what interactions say of them."""

from dataclasses import dataclass

import pandas as pd

from reranker.catalog import Catalog
from reranker.folds import evidence_model
from reranker.fusion import EvidenceModel
from reranker.protocols import RecallStage
from reranker.tables import Dataset


@dataclass(frozen=True, kw_only=True, eq=False)
class DomainData:
    """Items and evidence as served: learned from every interaction `fit` was given.

    Attributes:
        items: the validated items table.
        catalog: the same items by id, as templates see them.
        evidence: statistics and histories.
    """

    items: pd.DataFrame
    catalog: Catalog
    evidence: EvidenceModel

    @classmethod
    def build(cls, data: Dataset, recall: RecallStage | None) -> "DomainData":
        """Learns from the whole data set, in the item space of `recall`."""
        evidence = evidence_model(data.interactions, data.items, recall)
        return cls(items=data.items, catalog=Catalog(data.items), evidence=evidence)
