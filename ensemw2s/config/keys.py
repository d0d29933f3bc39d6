"""The schema as a tree of dotted keys: which exist, which is nearest, and what a key expects."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from ensemw2s.config.base import Known, Section
from ensemw2s.config.schema import RunConfig

_NAMES = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
_BOUNDS = (
    ("ge", "at least {}"),
    ("gt", "more than {}"),
    ("le", "at most {}"),
    ("lt", "less than {}"),
    ("max_length", "at most {} characters"),
)


def _alternatives(annotation: Any) -> tuple[Any, ...]:
    return get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)


def subsection(field: FieldInfo) -> type[Section] | None:
    """The section class of a field that holds a section (or null); None for a field that holds a value."""
    for option in _alternatives(field.annotation):
        if isinstance(option, type) and issubclass(option, Section):
            return option
    return None


def _walk(section: type[Section], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    for name, field in section.model_fields.items():
        yield prefix + name, field
        inner = subsection(field)
        if inner is not None:
            yield from _walk(inner, f"{prefix}{name}.")


@cache
def known_keys() -> Mapping[str, FieldInfo]:
    """Every dotted key of the schema, sections included, in order."""
    return dict(_walk(RunConfig, ""))


def section_at(dotted: str) -> type[Section] | None:
    """The section class at a dotted key (``""`` is the whole); None for a value or an unknown key."""
    if not dotted:
        return RunConfig
    field = known_keys().get(dotted)
    return None if field is None else subsection(field)


def nearest_key(section: str, name: str) -> str | None:
    """The known dotted key that ``name``, unknown in ``section``, was most likely meant to be.

    Keys of the same section come first, then keys anywhere whose last part is like it.
    """
    here = section_at(section)
    siblings = [] if here is None else list(here.model_fields)
    found = difflib.get_close_matches(name, siblings, n=1, cutoff=0.6)
    if found:
        return f"{section}.{found[0]}" if section else found[0]
    last_parts: dict[str, str] = {}
    for dotted in known_keys():
        last_parts.setdefault(dotted.rpartition(".")[2], dotted)
    found = difflib.get_close_matches(name, list(last_parts), n=1, cutoff=0.75)
    return last_parts[found[0]] if found else None


def unknown_keys(data: Mapping[str, Any]) -> list[tuple[str, str]]:
    """``(section, key)`` of every key in nested ``data`` that the schema does not have."""
    unknown: list[tuple[str, str]] = []

    def visit(section: type[Section], values: Mapping[str, Any], prefix: str) -> None:
        for name, value in values.items():
            field = section.model_fields.get(str(name))
            if field is None:
                unknown.append((prefix.rstrip("."), str(name)))
                continue
            inner = subsection(field)
            if inner is not None and isinstance(value, Mapping):
                visit(inner, value, f"{prefix}{name}.")

    visit(RunConfig, data, "")
    return unknown


def _name(annotation: Any) -> str:
    origin = get_origin(annotation)
    if origin is Annotated:
        inner, field = get_args(annotation)
        return ", ".join([_name(inner), *_bounds(field)])
    if origin is Literal:
        values = [str(value) for value in get_args(annotation)]
        return values[0] if len(values) == 1 else "one of " + ", ".join(values)
    if origin is list:
        inner = _name(get_args(annotation)[0]).removeprefix("one of ")
        return f"a list of {inner}"
    if isinstance(annotation, type) and issubclass(annotation, Section):
        return "a section with the keys " + ", ".join(annotation.model_fields)
    return "null" if annotation is type(None) else _NAMES.get(annotation, str(annotation))


def registered(field: FieldInfo) -> Known | None:
    """The registry that a field's value is a name in, or None."""
    return next((one for one in field.metadata if isinstance(one, Known)), None)


def plugins(config: RunConfig, prefix: str = "") -> dict[str, str]:
    """Dotted key, beginning with ``prefix``, of every value that names a plug-in → its distribution and version."""
    chosen: dict[str, str] = {}
    for dotted, field in known_keys().items():
        known = registered(field)
        if known is not None and dotted.startswith(prefix):
            value: Any = config
            for part in dotted.split("."):
                value = getattr(value, part, None)
            origin = None if value is None else known.origin(value)
            chosen |= {} if origin is None else {dotted: origin}
    return chosen


def _bounds(field: FieldInfo) -> list[str]:
    bounds = []
    for constraint in field.metadata:
        bounds += [words.format(getattr(constraint, name)) for name, words in _BOUNDS if hasattr(constraint, name)]
        pattern = getattr(constraint, "pattern", None)
        bounds += [f"matching {pattern}"] if pattern else []
    return bounds


def expected(field: FieldInfo) -> str:
    """Values that a field takes, in words: ``a whole number, at least 1, or null``."""
    found = registered(field)
    if found is not None:
        return "one of " + ", ".join(found.names())
    options = [_name(option) for option in _alternatives(field.annotation)]
    options.sort(key=lambda text: text == "null")
    bounds = _bounds(field)
    if bounds and options[-1] == "null":
        return f"{' or '.join(options[:-1])}, {' and '.join(bounds)}, or null"
    return ", ".join([" or ".join(options), *([" and ".join(bounds)] if bounds else [])])
