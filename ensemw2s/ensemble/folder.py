"""Layout and size of a saved ensemble's folder.

``config.json``
    for ``transformers``: the experts' configurations, α and rule (:class:`~ensemw2s.ensemble.EnsembleForCausalLM`)
``ensemble.json``
    for :class:`~ensemw2s.ensemble.Ensemble`: task, template, decoding, how options are scored
``experts/expert-01/``, …
    a model folder each, or the folder of an adapter
``base/``
    the model that adapters share

Besides: the tokenizer, ``generation_config.json``, ``README.md`` and, from a finished run, ``results.json``.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

FILE_NAME = "ensemble.json"
EXPERTS = "experts"
BASE = "base"
#: Files that make up a model folder; trainer states, logs and caches are not among them.
MODEL_FILES = frozenset({".json", ".safetensors", ".model", ".txt", ".py", ".jinja"})
TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "vocab.json", "merges.txt"),
    *("special_tokens_map.json", "added_tokens.json", "chat_template.jinja"),
)


@dataclass(frozen=True, slots=True)
class SavedEnsemble:
    """Folder of a saved ensemble, number of its experts, and sizes in bytes."""

    path: Path
    experts: int
    base_bytes: int
    """Of the base that adapters share; 0 where every expert is a whole model."""
    expert_bytes: int
    """Of all experts' files together."""
    total_bytes: int


def expert_folder(k: int) -> str:
    """Folder of expert ``k`` (from 0), relative to the ensemble's."""
    return f"{EXPERTS}/expert-{k + 1:02d}"


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below a folder; 0 where there is none."""
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def measured(folder: Path) -> SavedEnsemble:
    """The sizes of a saved ensemble."""
    experts = [part for part in (folder / EXPERTS).iterdir() if part.is_dir()]
    return SavedEnsemble(
        folder, len(experts), folder_bytes(folder / BASE), folder_bytes(folder / EXPERTS), folder_bytes(folder)
    )


def size_text(size: int) -> str:
    """Bytes in words: ``812 kB``, ``1.4 GB``."""
    value, unit = float(size), "B"
    for larger in ("kB", "MB", "GB", "TB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"


def copy_model(source: Path, target: Path, *, tokenizer: bool) -> None:
    """Copy the files of a model or adapter folder, with its tokenizer or without; ``target`` must not exist."""
    target.mkdir(parents=True)
    for file in sorted(source.iterdir()):
        wanted = file.is_file() and file.suffix in MODEL_FILES and (tokenizer or file.name not in TOKENIZER_FILES)
        if wanted and file.name != "README.md":
            shutil.copyfile(file, target / file.name)
