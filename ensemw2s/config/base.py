"""The base class of configuration sections, and the type of a value that is a name in a registry."""

from __future__ import annotations

from functools import cache
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, GetCoreSchemaHandler, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError, PydanticKnownError, core_schema

from ensemw2s.errors import nearest
from ensemw2s.registry import Registry


class Section(BaseModel):
    """A section: unknown keys are errors, numbers are finite and no truth values, instances do not change silently."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _numbers_are_no_truth_values(cls, value: Any, info: ValidationInfo) -> Any:
        """YAML reads ``yes`` and ``on`` as true, which would count as 1."""
        if isinstance(value, bool) and _is_number(cls, info.field_name or ""):
            raise PydanticKnownError("float_type")
        return value


@cache
def _is_number(section: type[Section], name: str) -> bool:
    """Whether a field takes numbers and no truth values."""
    kinds, waiting = set(), [section.model_fields[name].annotation]
    while waiting:
        kind = waiting.pop()
        kinds.add(kind)
        waiting += get_args(kind)
    return bool(kinds & {int, float}) and bool not in kinds


class Known:
    """Metadata of a text field that takes the names of a registry, and ``others`` before them.

    Nothing is imported to check one.
    """

    def __init__(self, registry: Registry, *others: str) -> None:
        self.registry = registry
        self.others = others

    def names(self) -> tuple[str, ...]:
        """All names, plug-ins included."""
        return self.others + self.registry.names()

    def origin(self, name: str) -> str | None:
        """Distribution and version of a plug-in; None for other names."""
        return None if name in self.others else self.registry.origin(name)

    def _checked(self, name: str) -> str:
        if name in self.others or name in self.registry:
            return name
        match = nearest(name, self.names())
        raise PydanticCustomError("unknown_name", "{guess}", {"guess": f"Did you mean {match}?" if match else ""})

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self._checked, handler(source))
