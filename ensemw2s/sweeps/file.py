"""Reads sweep descriptions: a YAML file, and values on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ensemw2s.config.marked import parse_value, read_yaml
from ensemw2s.errors import ConfigError, InputError

_FILE_KEYS = ("preset", "config", "set", "over", "cells", "seeds", "baseline", "compare", "jobs", "name")

#: Key → what its value, or every entry of its list, is, and how it is told.
_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "preset": (lambda value: isinstance(value, str), "a text"),
    "name": (lambda value: isinstance(value, str), "a text"),
    "config": (lambda value: isinstance(value, str), "a list of paths"),
    "compare": (lambda value: isinstance(value, str), "a list of arms"),
    "seeds": (lambda value: type(value) is int and value >= 0, "a list of whole numbers, none negative"),
    "jobs": (lambda value: type(value) is int and value > 0, "a positive whole number"),
    "set": (lambda value: isinstance(value, dict), "keys with values"),
    "over": (lambda value: isinstance(value, dict), "keys with values"),
    "cells": (lambda value: isinstance(value, dict), "keys with values"),
    "baseline": (lambda value: isinstance(value, str | dict), "the name of a cell, or keys with values"),
}
_LISTS = ("config", "compare", "seeds")


@dataclass
class SweepFile:
    """Content of a sweep's YAML file; everything is optional."""

    preset: str | None = None
    config: list[str] = field(default_factory=list)
    set: dict[str, Any] = field(default_factory=dict)
    over: dict[str, list[Any]] = field(default_factory=dict)
    cells: dict[str, dict[str, Any]] = field(default_factory=dict)
    seeds: list[int] = field(default_factory=list)
    baseline: str | dict[str, Any] | None = None
    compare: list[str] = field(default_factory=list)
    jobs: int | None = None
    name: str | None = None


def read_sweep_file(path: Path) -> SweepFile:
    """Read the YAML description of a sweep.

    Raises:
        ConfigError: it cannot be read, or has an unknown key or a value of the wrong kind.
    """
    marked = read_yaml(path)
    for key in marked.data:
        if key not in _FILE_KEYS:
            raise ConfigError(
                f"{path}, line {marked.lines.get(str(key), 1)}: a sweep has no key {key!r}.",
                hint=f"It can have {', '.join(_FILE_KEYS)}; keys of the configuration go below set, over or cells.",
            )
    found = {key: value for key, value in marked.data.items() if value is not None}
    if isinstance(found.get("config"), str):
        found["config"] = [found["config"]]
    for key, (fits, shown) in _VALUES.items():
        entries = found.get(key, []) if key in _LISTS else [found[key]] if key in found else []
        if not isinstance(entries, list) or not all(map(fits, entries)):
            raise ConfigError(f"{path}, line {marked.lines.get(key, 1)}: {key} needs {shown}.")
    for key in ("set", "over", "cells"):
        found[key] = {str(name): value for name, value in found.get(key, {}).items()}
    for key, values in found["over"].items():
        found["over"][key] = values if isinstance(values, list) else [values]
        if not found["over"][key]:
            raise ConfigError(f"{path}, line {marked.lines.get('over', 1)}: over.{key} has no values.")
    for name, settings in found["cells"].items():
        if not isinstance(settings, dict | None):
            raise ConfigError(f"{path}: cells.{name} needs keys with values.")
        found["cells"][name] = flat(settings or {})
    found["set"] = flat(found["set"])
    return SweepFile(**found)


def flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys as dotted ones; dotted ones stay."""
    out: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, Mapping) and value:
            out |= flat(value, f"{prefix}{key}.")
        else:
            out[f"{prefix}{key}"] = value
    return out


def parse_over(text: str) -> tuple[str, list[Any]]:
    """``boosting.rounds=3,5`` as a dotted key and its values (YAML, so ``[a,b]`` is one value and ``null`` is None).

    Raises:
        InputError: it is not of that form, or a value is there twice.
    """
    key, equals, values = text.partition("=")
    key = key.strip()
    if not equals or not key or not values.strip():
        raise InputError(
            f"--over {text!r} is not of the form key=value,value.", hint="For example: boosting.rounds=3,5"
        )
    found = parse_value(f"[{values}]", f"--over {key}")
    if not isinstance(found, list) or not found:
        raise InputError(f"--over {text!r} has no values.", hint="For example: boosting.rounds=3,5")
    if len({json.dumps(value, sort_keys=True, default=str) for value in found}) < len(found):
        raise InputError(f"--over {text!r} has a value twice.")
    return key, found
