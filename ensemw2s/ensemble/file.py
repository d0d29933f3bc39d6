"""``ensemble.json``: which experts with which weights, and how they are used."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ensemw2s.config.data import TemplateConfig
from ensemw2s.config.method import DecodingConfig, EnsembleConfig, EvaluationConfig
from ensemw2s.ensemble.folder import FILE_NAME
from ensemw2s.errors import ModelError


class ExpertEntry(BaseModel):
    """One expert: its folder, relative to the file, and ``α_t``."""

    model_config = ConfigDict(extra="forbid")
    path: str
    alpha: float


class EnsembleFile(BaseModel):
    """The content of ``ensemble.json``."""

    model_config = ConfigDict(extra="forbid")
    schema_version: Literal[1] = 1
    task: Literal["choice", "generate"]
    experts: list[ExpertEntry]
    ensemble: EnsembleConfig
    template: TemplateConfig
    decoding: DecodingConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    """How answers are compared with true ones: as the run did it."""
    loading: dict[str, Any] = Field(default_factory=dict)
    """How experts are loaded: the settings of ``models.weak`` without its path and revision."""


def read_ensemble_file(path: Path) -> tuple[EnsembleFile, list[Path]]:
    """Read the file in a folder, or itself.

    Returns:
        Its content, and the experts' folders.

    Raises:
        ModelError: the file or an expert's folder is missing, or the file is not valid.
    """
    file = path if path.name == FILE_NAME else path / FILE_NAME
    if not file.is_file():
        raise ModelError(
            f"{path} holds no {FILE_NAME}.",
            hint="Give a run directory whose experts are trained (ew2s train-experts), or a saved ensemble.",
        )
    try:
        content = EnsembleFile.model_validate_json(file.read_text(encoding="utf-8"))
    except (ValidationError, UnicodeDecodeError) as error:
        raise ModelError(f"{file} is not a valid ensemble: {error}") from error
    experts = [(file.parent / member.path).resolve() for member in content.experts]
    for expert in experts:
        if not expert.is_dir():
            raise ModelError(f"{file} names the expert {expert}, which is missing.", hint="Was the folder moved?")
    return content, experts
