"""Base classes of results: conversion to JSON, and reading with validation."""

from __future__ import annotations

import json
import math
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, ClassVar, Self

import numpy as np
from pydantic import ConfigDict, TypeAdapter, ValidationError

from ensemw2s.checksums import check_recorded
from ensemw2s.errors import DataError
from ensemw2s.files import load_json, write_text

SCHEMA_VERSION = 1
_LARGEST = 1 << 26


def jsonable(value: Any) -> Any:
    """The JSON form of a result: dataclasses become objects, tuples become lists.

    Raises:
        ValueError: a number is not finite; JSON has no such numbers, and a result must not hold one.
        TypeError: a value has no JSON form.
    """
    if isinstance(value, np.generic):
        value = value.item()
    if is_dataclass(value) and not isinstance(value, type):
        own = type(value).__annotations__  # before what is inherited
        names = sorted((field.name for field in fields(value)), key=lambda name: name not in own)
        return {name: jsonable(getattr(value, name)) for name in names}
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


class SavedRecord(Record):
    """Base of the results that have a file of their own."""

    __slots__ = ()

    def write(self, path: Path) -> None:
        """Write the JSON file (atomically)."""
        write_text(path, json.dumps(self.to_json(), indent=2, ensure_ascii=False, allow_nan=False) + "\n")

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read the JSON file.

        Raises:
            DamagedError: the file is not what was written.
            DataError: the file is missing or unreadable, of another schema version, or lacks a key.
        """
        if path.exists():
            check_recorded(path)
        try:
            content = load_json(path, _LARGEST)
        except FileNotFoundError as error:
            raise DataError(
                f"There is no {path.name} in {path.parent}.",
                hint="A run writes it at its end; repeat its command to finish it.",
            ) from error
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise DataError(
                f"{path} cannot be read: {reason}.", hint="Repeat the run's command to write it again."
            ) from error
        version = content.get("schema_version") if isinstance(content, dict) else None
        if version != SCHEMA_VERSION:
            raise DataError(
                f"{path} has schema version {version}, expected {SCHEMA_VERSION}.",
                hint="Read it with the version of ensemw2s that wrote it, or repeat the run.",
            )
        try:
            record: Self = TypeAdapter(cls).validate_python({**cls.earlier, **content})
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(str(part) for part in first["loc"])
            raise DataError(
                f"{path}, key {key}: {first['msg']}.", hint="Repeat the run's command to write the file again."
            ) from error
        return record
