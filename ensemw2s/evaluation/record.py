"""What all result types share: they become plain JSON and come back checked."""

from __future__ import annotations

import math
from dataclasses import fields, is_dataclass
from typing import Any, ClassVar

import numpy as np
from pydantic import ConfigDict


def jsonable(value: Any) -> Any:
    """The JSON form of a result: dataclasses become objects, tuples become lists.

    Raises:
        ValueError: a number is not finite; JSON has no such numbers, and a result must not hold one.
        TypeError: a value has no JSON form.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: jsonable(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, dict):
        return {str(key): jsonable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"a result holds the number {value}, which JSON cannot carry")
    if value is None or isinstance(value, str | bool | int | float):
        return value
    raise TypeError(f"a result holds a {type(value).__name__}, which has no JSON form")


class Record:
    """Base of the result dataclasses."""

    __slots__ = ()
    #: What files of earlier versions mean where they lack a key.
    earlier: ClassVar[dict[str, Any]] = {}
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    def to_json(self) -> dict[str, Any]:
        """A JSON object with every field."""
        out: dict[str, Any] = jsonable(self)
        return out
