"""Error messages for configurations: the key, its value, where it was written, and what was expected."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from ensemw2s.config.keys import expected, known_keys, nearest_key, registered, section_at, subsection
from ensemw2s.errors import ConfigError, shortened


def unknown_key_error(unknown: Sequence[tuple[str, str]], places: Mapping[str, str]) -> ConfigError:
    """The error for ``(section, key)`` pairs that the schema does not have; ``places``: dotted key → where written.

    It names the nearest known key and the section's keys.
    """
    lines, hints = [], []
    for section, name in unknown:
        dotted = f"{section}.{name}" if section else name
        where = places.get(dotted)
        near = nearest_key(section, name)
        meant = f" Did you mean {near}?" if near else ""
        lines.append(f"Unknown key {shortened(dotted)}{f' ({where})' if where else ''}.{meant}")
        here = section_at(section)
        keys = "" if here is None else ", ".join(here.model_fields)
        hint = f"Keys of {section or 'the configuration'}: {keys}."
        if hint not in hints:
            hints.append(hint)
    return ConfigError("\n".join(lines), hint="\n".join(hints))


def _dotted(location: Sequence[int | str]) -> str:
    """The longest known key that a pydantic location begins with (it also names list items and union members)."""
    keys = known_keys()
    best = ""
    for length in range(1, len(location) + 1):
        candidate = ".".join(str(part) for part in location[:length])
        if candidate in keys:
            best = candidate
    return best


def _place(dotted: str, places: Mapping[str, str]) -> str:
    """Origin of a key: its own, or that of the nearest section above it."""
    while dotted:
        if dotted in places:
            return places[dotted]
        dotted = dotted.rpartition(".")[0]
    return "default"


def _shown(value: Any) -> str:
    return shortened("null" if value is None else repr(value), 60)


def explain(error: ValidationError, places: Mapping[str, str]) -> ConfigError:
    """One error that explains everything pydantic found, a paragraph each; ``places``: dotted key → where written."""
    paragraphs: dict[str, str] = {}
    for item in error.errors(include_url=False):
        dotted = _dotted(item["loc"])
        if item["type"] == "value_error":
            text, key = _combination(dotted, item["msg"], places), f"{dotted}:{item['msg']}"
        else:
            text, key = _bad_value(dotted, item, places), dotted
        paragraphs.setdefault(key, text)
    nullable = [key for key in _preset_keys(paragraphs, places) if "null" in expected(known_keys()[key])]
    hint = f"A value of the preset is switched off with null: --set {nullable[0]}=null" if nullable else None
    return ConfigError("\n".join(paragraphs.values()), hint=hint)


def _preset_keys(paragraphs: Mapping[str, str], places: Mapping[str, str]) -> list[str]:
    """Keys from a preset that take part in an impossible combination."""
    return [
        key
        for key, place in places.items()
        if place.startswith("preset ") and any(f"{key}: {place}" in text for text in paragraphs.values())
    ]


def _bad_value(dotted: str, item: Any, places: Mapping[str, str]) -> str:
    field = known_keys().get(dotted)
    if field is None:
        return f"{dotted or 'configuration'}: {item['msg']}."
    if item["type"] == "missing":
        missing = ".".join(str(part) for part in item["loc"])
        return f"{missing} has no value ({_place(dotted, places)}); expected {expected(field)}. {_doc(field)}".rstrip()
    wanted = expected(field)
    unquoted = item["type"] == "string_type" and isinstance(item["input"], int | float) and registered(field) is None
    quotes = ", in quotes" if unquoted else ""
    problem = f"{dotted} is {_shown(item['input'])} ({_place(dotted, places)}); expected {wanted}{quotes}."
    if item["type"] == "unknown_name" and item["msg"]:
        problem += f" {item['msg']}"
    return problem if subsection(field) is not None else f"{problem} {_doc(field)}".rstrip()


def _doc(field: Any) -> str:
    text = re.sub(r"``?", "", " ".join((field.description or "").split()))
    return f"({text})" if text else ""


def _combination(dotted: str, message: str, places: Mapping[str, str]) -> str:
    """An impossible combination, and where the keys that it names were set."""
    text = message.removeprefix("Value error, ")
    section = section_at(dotted)
    fields = [] if section is None else list(section.model_fields)
    named = [dotted] if section is None else []
    named += [f"{dotted}.{name}" if dotted else name for name in fields if re.search(rf"\b{name}\b", text)]
    named += [key for key in known_keys() if "." in key and re.search(rf"(?<![\w.]){re.escape(key)}\b", text)]
    values = [key for key in dict.fromkeys(named) if key in places and section_at(key) is None]
    found = [f"{key}: {places[key]}" for key in values]
    origin = f" (set by: {'; '.join(found)})" if found else ""
    return f"{dotted + ': ' if dotted else ''}{text}{origin}."
