"""YAML with line numbers and limits, so that errors say where a value was written."""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ensemw2s.encoding import TextError, decode_text
from ensemw2s.errors import ConfigError, shortened
from ensemw2s.files import open_regular, read_input

#: Limits of bytes, depth and number of values: a larger file is a mistake, or made to exhaust time and memory.
_BYTES, _DEPTH, _VALUES = 4 * 2**20, 50, 100_000
_LARGEST = 2**64
_QUOTES = "If it is meant as text, put it in quotes."


@dataclass(frozen=True, slots=True)
class Marked:
    """A YAML mapping and the line (from 1) of every dotted key in it."""

    data: dict[str, Any]
    lines: dict[str, int]


def parse_yaml(text: str, name: str) -> Marked:
    """Parse a YAML mapping with the safe loader; an empty text is an empty mapping, ``name`` is what errors call it.

    Raises:
        ConfigError: not YAML, not a mapping, a key twice, or beyond what a configuration can be (depth, number of
            values, digits).
    """
    lines: dict[str, int] = {}
    try:
        data = _load(text, name, lines)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = name if mark is None else f"{name}, line {mark.line + 1}, column {mark.column + 1}"
        raise ConfigError(f"{where}: this is not YAML: {_reason(error)}.") from error
    if data is None:
        data = {}
    if not isinstance(data, dict):
        raise ConfigError(
            f"{name} holds {_kind(data)}, not keys with values.", hint="A configuration begins like `boosting:`."
        )
    return Marked(data, lines)


def read_yaml(path: Path, pipes: bool = True) -> Marked:
    """Read a YAML file; with ``pipes`` it may be a pipe, as of ``<(command)``.

    Raises:
        ConfigError: the file cannot be read, or as in :func:`parse_yaml`.
    """
    try:
        content = _content(path, pipes)
        if len(content) > _BYTES:
            raise ConfigError(f"{path} has more than {_BYTES // 2**20} MiB: it is no configuration file.")
        text = decode_text(content)
    except TextError as error:
        raise ConfigError(f"{path}, line {error.line}: {error}.", hint=error.hint) from error
    except OSError as error:
        raise ConfigError(f"The configuration file {path} cannot be read: {error.strerror}.") from error
    return parse_yaml(text, str(path))


def _content(path: Path, pipes: bool) -> bytes:
    status = path.stat()
    pipe = (status.st_dev, status.st_ino)
    if not pipes or not stat.S_ISFIFO(status.st_mode):
        with open_regular(path) as file:
            return file.read(_BYTES + 1)
    if pipe not in _piped:
        _piped[pipe] = read_input(path, _BYTES + 1)
    return _piped[pipe]


#: A pipe can be read only once, and a sweep reads its configuration for every cell.
_piped: dict[tuple[int, int], bytes] = {}


def parse_value(text: str, name: str) -> Any:
    """One YAML value, as in ``--set key=value``.

    Raises:
        ConfigError: it is not YAML, or beyond what a configuration can be.
    """
    try:
        return _load(text, name, {})
    except yaml.YAMLError as error:
        message = f"{name}: the value {shortened(repr(text))} is not YAML: {_reason(error)}."
        raise ConfigError(message, hint="Put it in quotes.") from error


def _load(text: str, name: str, lines: dict[str, int]) -> Any:
    """The value of one YAML document, within bounds; ``lines`` receives the line of every dotted key."""
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _Bounds(loader, name).measure(node, 0)
            _collect(node, "", lines, name)  # before merge keys (<<) are put into their place
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except RecursionError:
        raise ConfigError(f"{name}: it is nested too deeply; {_DEPTH} levels are read.") from None


class _Bounds:
    """Measures nodes before any value is made of them: an alias stands for all that it repeats."""

    def __init__(self, loader: yaml.SafeLoader, name: str) -> None:
        self._loader = loader
        self._name = name
        self._known: dict[int, tuple[int, int]] = {}
        self._open: set[int] = set()

    def measure(self, node: yaml.Node, depth: int) -> tuple[int, int]:
        """Number of values in a node, and levels below it."""
        if id(node) in self._open:
            raise self._error(node, "this value contains itself")
        if id(node) not in self._known:
            self._open.add(id(node))
            self._known[id(node)] = (
                self._scalar(node) if isinstance(node, yaml.ScalarNode) else self._inside(node, depth)
            )
            self._open.discard(id(node))
        size, levels = self._known[id(node)]
        if depth + levels > _DEPTH:
            raise self._error(node, f"nested too deeply; {_DEPTH} levels are read")
        if size > _VALUES:
            raise self._error(node, f"more than {_VALUES} values, counting each as often as aliases repeat it")
        return size, levels

    def _inside(self, node: yaml.Node, depth: int) -> tuple[int, int]:
        inner = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        found = [self.measure(part, depth + 1) for part in inner]
        return 1 + sum(size for size, _ in found), 1 + max((levels for _, levels in found), default=0)

    def _scalar(self, node: yaml.ScalarNode) -> tuple[int, int]:
        if node.tag == "tag:yaml.org,2002:merge":
            return 1, 0
        try:
            value = self._loader.construct_object(node)
        except (ValueError, OverflowError, KeyError, TypeError, AttributeError):
            tag = node.tag.rpartition(":")[2]
            raise self._error(node, f"{shortened(node.value)} cannot be read as {tag}", _QUOTES) from None
        if isinstance(value, int) and abs(value) > _LARGEST:
            raise self._error(node, f"the number {shortened(node.value)} has too many digits", _QUOTES)
        return 1, 0

    def _error(self, node: yaml.Node, what: str, hint: str | None = None) -> ConfigError:
        return ConfigError(f"{self._name}, line {node.start_mark.line + 1}: {what}.", hint=hint)


def _collect(node: yaml.Node, prefix: str, lines: dict[str, int], name: str) -> None:
    """The line of every dotted key, and no key twice, in lists either."""
    for part in node.value if isinstance(node, yaml.SequenceNode) else ():
        _collect(part, prefix, {}, name)
    if not isinstance(node, yaml.MappingNode):
        return
    seen: dict[str, int] = {}
    for key, value in node.value:
        line = key.start_mark.line + 1
        text = str(key.value)
        if text in seen and text != "<<":
            shown = shortened(prefix + text)
            raise ConfigError(f"{name}, line {line}: the key {shown} was given already in line {seen[text]}.")
        seen[text] = line
        lines[prefix + text] = line
        _collect(value, f"{prefix}{text}.", lines, name)


def _reason(error: yaml.YAMLError) -> str:
    return shortened(str(getattr(error, "problem", None) or str(error).splitlines()[0]), 200)


def _kind(value: Any) -> str:
    return "a list" if isinstance(value, list) else f"the single value {shortened(repr(value), 60)}"
