"""Settings of drift detection."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class DriftSettings(BaseModel):
    """When a shift is an alarm.

    Attributes:
        window: lists compared with the reference together.
        fewest: lists of a last, shorter window that are still compared.
        threshold: population stability index (PSI) from which a shift counts. By custom, below 0.1 is stable and above
            0.25 is large.
        alpha: chance of any false alarm in a window: a shift that two samples of the reference would show more often
            than that is none, however large its PSI.
        bins: of the reference's values, equally full.
        reference: "bundle" compares with lists that the bundle's candidate generator makes for the bundle's users;
            "first" with the first window of lists, which is the only way where the bundle has no generator or its model
            would have to read prompts for it.
        reference_lists: lists of the bundle's users that are made, at most.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    window: int = Field(default=500, ge=20)
    fewest: int = Field(default=100, ge=20)
    threshold: float = Field(default=0.2, gt=0)
    alpha: float = Field(default=0.01, gt=0, lt=1)
    bins: int = Field(default=10, ge=2, le=50)
    reference: Literal["bundle", "first"] = "bundle"
    reference_lists: int = Field(default=500, ge=20)
