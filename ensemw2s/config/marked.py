"""Reading YAML with its line numbers, so that an error can say where a value was written."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ensemw2s.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Marked:
    """A YAML mapping and the line (from 1) of every dotted key in it."""

    data: dict[str, Any]
    lines: dict[str, int]


def parse_yaml(text: str, name: str) -> Marked:
    """Parse a YAML mapping with the safe loader.

    Args:
        text: the YAML text; an empty one is an empty mapping.
        name: what to call it in errors, usually its path.

    Raises:
        ConfigError: not YAML, not a mapping, or a key twice.
    """
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            lines: dict[str, int] = {}
            if node is not None:
                _collect(node, "", lines, name, ())
            data = {} if node is None else loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = name if mark is None else f"{name}, line {mark.line + 1}, column {mark.column + 1}"
        reason = getattr(error, "problem", None) or str(error).splitlines()[0]
        raise ConfigError(f"{where}: this is not YAML: {reason}.") from error
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(
            f"{name} holds {_kind(data)}, not keys with values.", hint="A configuration begins like `boosting:`."
        )
    return Marked(data, lines)


def read_yaml(path: Path) -> Marked:
    """Read a YAML file; see :func:`parse_yaml`.

    Raises:
        ConfigError: the file cannot be read, or as in :func:`parse_yaml`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path} is not a text file in UTF-8.") from error
    except OSError as error:
        raise ConfigError(f"The configuration file {path} cannot be read: {error.strerror}.") from error
    return parse_yaml(text, str(path))


def parse_value(text: str, name: str) -> Any:
    """One YAML value, as in ``--set key=value``.

    Raises:
        ConfigError: it is not YAML.
    """
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        reason = getattr(error, "problem", None) or "it cannot be parsed"
        raise ConfigError(f"{name}: the value {text!r} is not YAML: {reason}.", hint="Put it in quotes.") from error


def _collect(node: yaml.Node, prefix: str, lines: dict[str, int], name: str, above: tuple[int, ...]) -> None:
    if not isinstance(node, yaml.MappingNode):
        return
    if id(node) in above:
        raise ConfigError(f"{name}, line {node.start_mark.line + 1}: the section {prefix[:-1]} contains itself.")
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        text = str(key.value)
        if text in seen and text != "<<":
            raise ConfigError(f"{name}, line {line}: the key {prefix}{text} was given already in line {seen[text]}.")
        seen[text] = line
        lines[prefix + text] = line
        _collect(value, f"{prefix}{text}.", lines, name, (*above, id(node)))


def _kind(value: Any) -> str:
    text = repr(value)
    return "a list" if isinstance(value, list) else f"the single value {text if len(text) <= 60 else text[:57] + '…'}"
