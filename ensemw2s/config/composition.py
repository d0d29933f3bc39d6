"""Composing a configuration: preset < files < environment < ``--set`` < flags, with the origin of every value.

Relative paths inside a configuration file are, like those on the command line, relative to the current directory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from ensemw2s.config.explain import explain, unknown_key_error
from ensemw2s.config.keys import unknown_keys
from ensemw2s.config.marked import parse_value, parse_yaml, read_yaml
from ensemw2s.config.presets import preset_text
from ensemw2s.config.schema import RunConfig
from ensemw2s.errors import ConfigError, shortened

#: Environment variables with a name of their own. Any key can be set as ``EW2S_SET__boosting__rounds=8``.
ENVIRONMENT = {
    "EW2S_SEED": "seed",
    "EW2S_NAME": "name",
    "EW2S_DEVICE": "compute.device",
    "EW2S_THREADS": "compute.threads",
    "EW2S_BACKEND": "compute.backend",
}
_PREFIX = "EW2S_SET__"
_DEEPEST = 20


@dataclass(frozen=True)
class Composed:
    """A resolved configuration.

    Attributes:
        config: the validated whole.
        provenance: dotted key of every value → ``default``, ``preset tiny``, ``file x.yaml``, ``env EW2S_SEED``,
            ``--set`` or the flag.
        raw: the merged values before validation.
        preset: name of the preset that it began from, or None.
    """

    config: RunConfig
    provenance: dict[str, str]
    raw: dict[str, Any]
    preset: str | None = None


@dataclass
class _Merged:
    """The values so far, and for every dotted key where its value came from, in short and with its line."""

    data: dict[str, Any]
    origin: dict[str, str] = field(default_factory=dict)
    place: dict[str, str] = field(default_factory=dict)

    def add(self, values: Mapping[str, Any], origin: str, lines: Mapping[str, int] | None = None) -> None:
        self._merge(self.data, values, "", origin, lines or {})

    def _merge(
        self, into: dict[str, Any], values: Mapping[str, Any], prefix: str, origin: str, lines: Mapping[str, int]
    ) -> None:
        for key, value in values.items():
            name = str(key)
            dotted = prefix + name
            line = lines.get(dotted)
            self.place[dotted] = origin if line is None else f"{origin}, line {line}"
            if isinstance(value, Mapping):
                if not isinstance(into.get(name), dict):
                    into[name] = {}
                self.origin.pop(dotted, None)
                self._merge(into[name], value, dotted + ".", origin, lines)
                continue
            into[name] = value
            for known in [k for k in self.origin if k.startswith(dotted + ".")]:
                del self.origin[known]
            self.origin[dotted] = origin


def _nested(dotted: str, value: Any, where: str) -> dict[str, Any]:
    if dotted.count(".") > _DEEPEST:
        raise ConfigError(
            f"{shortened(where)}: there is no key {shortened(dotted)}.", hint="ew2s config show lists all keys."
        )
    for part in reversed(dotted.split(".")):
        value = {part: value}
    result: dict[str, Any] = value
    return result


def _split_setting(setting: str) -> tuple[str, Any]:
    key, equals, text = setting.partition("=")
    key = key.strip()
    if not equals or not key or not all(key.split(".")):
        raise ConfigError(
            f"--set {shortened(repr(setting))} is not of the form key=value.",
            hint="For example: --set boosting.rounds=8",
        )
    return key, parse_value(text, f"--set {shortened(key)}")


def _environment(environ: Mapping[str, str]) -> Iterable[tuple[str, str, Any]]:
    for variable in sorted(environ):
        if variable in ENVIRONMENT:
            dotted = ENVIRONMENT[variable]
        elif variable.startswith(_PREFIX):
            dotted = variable.removeprefix(_PREFIX).lower().replace("__", ".")
        else:
            continue
        if not environ[variable].strip():
            continue  # set but empty counts as not set
        yield variable, dotted, parse_value(environ[variable], f"the environment variable {variable}")


def compose(
    preset: str | None = None,
    files: Iterable[Path] = (),
    sets: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
    *,
    flags: Mapping[str, tuple[str, Any]] | None = None,
    below_sets: Mapping[str, tuple[str, Any]] | None = None,
    pipes: bool = True,
) -> Composed:
    """Put a configuration together; what comes later wins, key by key (lists are replaced whole).

    Args:
        preset: name of a shipped preset.
        files: YAML files, in order.
        sets: ``key=value`` with a dotted key and a YAML value, in order.
        environ: environment variables; see :data:`ENVIRONMENT`. None reads none.
        flags: flag → (dotted key, value), for example ``{"--seed": ("seed", 3)}``.
        below_sets: origin → (dotted key, value) of what ``sets`` win over: ``set`` of a sweep's file.
        pipes: whether files may be pipes, as of ``<(command)``: where the user names them, not in a run directory.

    Raises:
        ConfigError: an unknown preset or key, an unreadable file, a bad value or an impossible combination.
    """
    merged = _Merged(RunConfig().model_dump())
    if preset is not None:
        marked = parse_yaml(preset_text(preset), f"preset {preset}")
        merged.add(marked.data, f"preset {preset}", marked.lines)
    for path in files:
        marked = read_yaml(path, pipes)
        merged.add(marked.data, f"file {path}", marked.lines)
    for variable, dotted, value in _environment(environ or {}):
        merged.add(_nested(dotted, value, variable), f"env {variable}")
    for origin, (dotted, value) in (below_sets or {}).items():
        merged.add(_nested(dotted, value, origin), origin)
    for setting in sets:
        key, value = _split_setting(setting)
        merged.add(_nested(key, value, "--set"), "--set")
    for flag, (dotted, value) in (flags or {}).items():
        merged.add(_nested(dotted, value, flag), flag)
    return _validated(merged, preset)


def _validated(merged: _Merged, preset: str | None) -> Composed:
    unknown = unknown_keys(merged.data)
    if unknown:
        raise unknown_key_error(unknown, merged.place)
    try:
        config = RunConfig.model_validate(merged.data)
    except ValidationError as error:
        raise explain(error, merged.place) from error
    provenance = {key: merged.origin.get(key, "default") for key in _leaves(config.model_dump(), "")}
    return Composed(config, provenance, merged.data, preset)


def _leaves(data: Mapping[str, Any], prefix: str) -> Iterable[str]:
    for name, value in data.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def load_config(path: Path) -> RunConfig:
    """The configuration in one YAML file, such as a run's ``config.yaml``.

    Raises:
        ConfigError: as in :func:`compose`.
    """
    return compose(files=[path], pipes=False).config
