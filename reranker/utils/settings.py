"""Settings that come from a file or a command line: unknown keys and impossible values are refused by name."""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from reranker.errors import ConfigError


class SettingsModel(BaseModel):
    """Frozen settings. Unknown keys are refused.

    Attributes:
        REFUSAL: what the error says; `{problems}` and `{keys}`, the known ones, are filled in.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    REFUSAL: ClassVar[str] = "settings: {problems}. Known keys: {keys}"

    @classmethod
    def from_mapping(cls, values: Mapping[str, object]) -> Self:
        """Settings from YAML or JSON.

        Raises:
            ConfigError: an unknown key or an impossible value; the message names each.
        """
        try:
            return cls.model_validate(dict(values))
        except ValidationError as error:
            problems, keys = field_problems(error.errors()), ", ".join(cls.model_fields)
            raise ConfigError(cls.REFUSAL.format(problems=problems, keys=keys)) from error


def field_problems(errors: Iterable[Mapping[str, Any]], whole: str = "settings") -> str:
    """What pydantic's `error.errors()` say, as "field: problem; field: problem".

    Args:
        whole: stands in the field's place where a problem is of no field alone.
    """
    return "; ".join(f"{'.'.join(map(str, one['loc'])) or whole}: {one['msg']}" for one in errors)
