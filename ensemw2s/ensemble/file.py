"""``ensemble.json``: which experts with which weights, and how they are used."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ensemw2s.config.data import TemplateConfig
from ensemw2s.config.method import DecodingConfig, EnsembleConfig, EvaluationConfig
from ensemw2s.config.training import ModelConfig
from ensemw2s.ensemble.folder import FILE_NAME
from ensemw2s.errors import ModelError


class ExpertEntry(BaseModel):
    """One expert: what it is, ``α_t``, and how it alone is loaded."""

    model_config = ConfigDict(extra="forbid")
    path: str | None = None
    """Its folder or GGUF file, relative to the file."""
    name: str | None = None
    """Instead of a path: any other name that ``models.weak.path`` takes, such as an id on the hub."""
    alpha: float
    loading: dict[str, Any] = Field(default_factory=dict)
    """Settings of this expert that go before the common ones; its revision belongs here."""

    @model_validator(mode="after")
    def _one_place(self) -> ExpertEntry:
        if (self.path is None) == (self.name is None):
            raise ValueError("an expert has either a path or a name")
        return self


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


def read_ensemble_file(path: Path, *, trust_remote_code: bool = False) -> tuple[EnsembleFile, list[Path | str]]:
    """Read the file in a folder, or itself.

    Args:
        path: the folder, or the file.
        trust_remote_code: replaces what the file says of it, which might come from somebody else.

    Returns:
        Its content, and the experts: a path each, or a name.

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
        for member in content.experts:
            ModelConfig(path="", **{**content.loading, **member.loading})
    except (ValidationError, UnicodeDecodeError, TypeError) as error:
        raise ModelError(f"{file} is not a valid ensemble: {error}") from error
    for loading in (content.loading, *(member.loading for member in content.experts)):
        loading.pop("trust_remote_code", None)
    if trust_remote_code:
        content.loading["trust_remote_code"] = True
    experts = [member.name or (file.parent / str(member.path)).resolve() for member in content.experts]
    for expert in experts:
        if isinstance(expert, Path) and not (expert.is_dir() or (expert.suffix == ".gguf" and expert.is_file())):
            raise ModelError(f"{file} names the expert {expert}, which is missing.", hint="Was the folder moved?")
    return content, experts


def write_ensemble_json(file: Path, content: EnsembleFile) -> Path:
    """Write the file, to a temporary name first.

    A length norm that nobody chose is left out: what it is depends on whether the experts share a tokenizer.

    Returns:
        Its path.
    """
    data = content.model_dump()
    data["experts"] = [member.model_dump(exclude_defaults=True) for member in content.experts]
    if "length_norm" not in content.ensemble.model_fields_set:
        del data["ensemble"]["length_norm"]
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(file.name + ".tmp")
    temporary.write_text(json.dumps(data, indent=2) + "\n", encoding="utf-8")
    temporary.replace(file)
    return file
