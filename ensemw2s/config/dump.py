"""A configuration as YAML that loads again to the same, and its fingerprint."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import yaml

from ensemw2s.config.keys import plugins
from ensemw2s.config.schema import RunConfig


def config_fingerprint(config: RunConfig) -> str:
    """16 hexadecimal digits that are the same exactly for equal configurations: all values, defaults included.

    Where a value names a plug-in, its distribution and version belong to the value.
    """
    used = plugins(config)
    values = config.model_dump(mode="json") | ({"plugins": used} if used else {})
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


class _Dumper(yaml.SafeDumper):
    """Writes text with line breaks and other unprintable characters in double quotes, where they are escaped."""


def _represent_text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=None if text.isprintable() else '"')


_Dumper.add_representer(str, _represent_text)


def _scalar(value: Any) -> str:
    text: str = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, width=2**30, allow_unicode=True)
    return text.removesuffix("\n").removesuffix("\n...")


def _lines(data: Mapping[str, Any], origin: Mapping[str, str], prefix: str, indent: str) -> list[str]:
    lines = []
    for name, value in data.items():
        if isinstance(value, Mapping) and value:
            lines.append(f"{indent}{name}:")
            lines += _lines(value, origin, f"{prefix}{name}.", indent + "  ")
            continue
        remark = origin.get(prefix + name, "default")
        lines.append(f"{indent}{name}: {_scalar(value)}" + ("" if remark == "default" else f"  # {remark}"))
    return lines


def given_lines(config: RunConfig, provenance: Mapping[str, str]) -> list[str]:
    """``key: value  # origin`` for every value that is not left at its default, with dotted keys."""
    lines = []
    for key, origin in provenance.items():
        if origin != "default":
            value: Any = config.model_dump(mode="json")
            for part in key.split("."):
                value = value[part]
            lines.append(f"{key}: {_scalar(value)}  # {origin}")
    return lines


def dump_yaml(config: RunConfig, provenance: Mapping[str, str] | None = None, *, preset: str | None = None) -> str:
    """The whole resolved configuration as YAML; the first line names the preset.

    ``provenance`` is dotted key → where its value came from, written as a remark unless it is ``default``.
    """
    head = "# EnsemW2S run configuration" + (f", from preset {preset}" if preset else "")
    head += f", fingerprint {config_fingerprint(config)}."
    if provenance is not None:
        head += "\n# Remarks say where a value came from; values without one are defaults."
    return "\n".join([head, *_lines(config.model_dump(mode="json"), provenance or {}, "", "")]) + "\n"
