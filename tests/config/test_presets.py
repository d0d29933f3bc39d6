"""The shipped presets compose, and importing the configuration package is light."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from ensemw2s.config.composition import compose
from ensemw2s.config.presets import list_presets, preset_text

NAMES = [preset.name for preset in list_presets()]


def test_tiny_is_shipped() -> None:
    assert "tiny" in NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_preset_composes_and_has_a_summary(name: str) -> None:
    composed = compose(name)
    assert composed.preset == name
    assert f"preset {name}" in composed.provenance.values()
    assert all(preset.summary for preset in list_presets())
    assert preset_text(name).startswith("#")


def test_importing_the_packages_loads_nothing_heavy() -> None:
    code = (
        "import sys, ensemw2s, ensemw2s.config, ensemw2s.errors, ensemw2s.runs\n"
        "heavy = {'torch', 'transformers', 'datasets', 'typer', 'textual', 'numpy', 'pydantic', 'yaml', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
