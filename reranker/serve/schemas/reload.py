"""Requests and answers of a reload."""

from pydantic import BaseModel, ConfigDict


class Reload(BaseModel):
    """Which domain to reload; all without one."""

    model_config = ConfigDict(extra="forbid")

    domain: str | None = None


class Reloaded(BaseModel):
    """A domain that was reloaded.

    `version` and `before` are names of versions, "" for a bundle that has none; `serves` is the order that the guard
    chose.
    """

    domain: str
    version: str
    before: str
    serves: str
