"""The presets that come with the package: YAML files in ``ensemw2s/presets``."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from importlib import resources

from ensemw2s.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Preset:
    """A preset's name and its first comment line."""

    name: str
    summary: str


def _texts() -> dict[str, str]:
    folder = resources.files("ensemw2s") / "presets"
    if not folder.is_dir():
        return {}
    files = sorted((entry for entry in folder.iterdir() if entry.name.endswith(".yaml")), key=lambda entry: entry.name)
    return {entry.name.removesuffix(".yaml"): entry.read_text(encoding="utf-8") for entry in files}


def list_presets() -> list[Preset]:
    """All presets, by name."""
    return [Preset(name, _summary(text)) for name, text in _texts().items()]


def _summary(text: str) -> str:
    first = text.lstrip().partition("\n")[0]
    return first.removeprefix("#").strip() if first.startswith("#") else ""


def preset_text(name: str) -> str:
    """The YAML text of a preset.

    Raises:
        ConfigError: there is no preset of that name; names the nearest.
    """
    texts = _texts()
    if name not in texts:
        close = difflib.get_close_matches(name, list(texts), n=1)
        meant = f" Did you mean {close[0]}?" if close else ""
        raise ConfigError(f"There is no preset {name!r}.{meant}", hint=f"Presets: {', '.join(texts) or 'none'}.")
    return texts[name]
