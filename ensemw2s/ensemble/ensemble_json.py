"""``ensemble.json``: which experts with which weights, and how they are used."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from ensemw2s.checksums import check_recorded
from ensemw2s.config.data import TemplateConfig
from ensemw2s.config.method import CombineConfig, DecodingConfig, EvaluationConfig
from ensemw2s.config.training import ModelConfig
from ensemw2s.data.template import check_template
from ensemw2s.ensemble.combine.option_scores import MAX_ALPHA
from ensemw2s.ensemble.folder import FILE_NAME, expert_folder
from ensemw2s.errors import ConfigError, ModelError, shortened
from ensemw2s.files import load_json, write_json
from ensemw2s.models.loading.source import adapter_base, find_source, is_built_in_attention

_LIMIT = 64 * 2**20


class ExpertEntry(BaseModel):
    """One expert: what it is, ``α_t``, and how it alone is loaded."""

    model_config = ConfigDict(extra="forbid")
    path: str | None = None
    """Its folder or GGUF file, relative to the file."""
    name: str | None = None
    """Instead of a path: any other name that ``models.weak.path`` takes, such as an id on the hub."""
    alpha: float = Field(strict=True, ge=0.0, le=MAX_ALPHA, allow_inf_nan=False)
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
    ensemble: CombineConfig
    template: TemplateConfig
    decoding: DecodingConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    """How answers are compared with true ones: as the run did it."""
    loading: dict[str, Any] = Field(default_factory=dict)
    """How experts are loaded: the settings of ``models.weak`` without its path and revision."""


def read_ensemble_file(
    path: Path, *, trust_remote_code: bool = False, self_contained: bool = False
) -> tuple[EnsembleFile, list[Path | str]]:
    """Read the file in a folder, or itself.

    It may come from somebody else, so it does not decide what code is run: ``trust_remote_code`` in it counts for
    nothing, and an ``attn_implementation`` that names code to be fetched is refused unless the caller trusts it.

    Args:
        path: the folder, or the file.
        trust_remote_code: the caller's word.
        self_contained: refuse experts, and bases of adapters, outside of the folder.

    Returns:
        Its content, and the experts: a path each, or a name.

    Raises:
        DamagedError: the file is not what a run wrote into its directory.
        ModelError: the file or an expert's folder is missing, or the file is not valid; names file and key.
    """
    file = path if path.name == FILE_NAME else path / FILE_NAME
    if not os.path.lexists(file):
        raise ModelError(
            f"{path} holds no {FILE_NAME}.",
            hint="Give a run directory whose experts are trained (ew2s train-experts), or a saved ensemble.",
        )
    check_recorded(file)
    try:
        raw = load_json(file, _LIMIT)
    except OSError as error:
        raise _invalid(file, error.strerror or str(error)) from error
    except ValueError as error:
        raise _invalid(file, str(error)) from None
    try:
        content = EnsembleFile.model_validate(raw)
        check_template(content.template, "template")
    except (ValidationError, OverflowError) as error:
        raise _invalid(file, said(error)) from None
    except ConfigError as error:
        raise _invalid(file, error.message.removesuffix(".")) from None
    if not any(member.alpha > 0.0 for member in content.experts):
        raise _invalid(file, "experts: there is none with a positive alpha")
    _check_loading(file, content, trust_remote_code)
    experts = [_expert(file, k, member) for k, member in enumerate(content.experts)]
    if self_contained:
        for k, expert in enumerate(experts):
            _check_inside(file, k, expert)
    return content, experts


def _check_inside(file: Path, k: int, expert: Path | str) -> None:
    """Check that what was fetched names nothing else on this machine or on the hub."""
    folder = Path(os.path.realpath(file.parent))
    inside = isinstance(expert, Path) and expert.is_relative_to(folder)
    if inside and find_source(str(expert)).is_adapter:
        base = Path(os.path.realpath(adapter_base(find_source(str(expert))).path))
        inside = base.is_dir() and base.is_relative_to(folder)
    if not inside:
        raise _invalid(file, f"experts[{k}]: {shortened(str(expert))} is not, with its base, in the same folder")


def _invalid(file: Path, reason: str) -> ModelError:
    return ModelError(
        f"{file} is not a valid ensemble: {reason}.", hint="Write it again: ew2s combine, or ew2s export."
    )


def said(error: ValidationError | OverflowError) -> str:
    """The first thing that a validation found, with its key, and how many more there are."""
    if isinstance(error, OverflowError):
        return "a number is too large"
    found = error.errors(include_url=False, include_context=False)
    first, more = found[0], len(found) - 1
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{shortened(part, 60)}" for part in first["loc"])
    unknown = first["type"] == "extra_forbidden"
    text = "there is no such key" if unknown else first["msg"].removeprefix("Value error, ")
    value = "" if unknown or first["type"] in ("missing", "value_error") else f", not {shortened(repr(first['input']))}"
    rest = "" if not more else f" ({more} more problem{'s' if more > 1 else ''})"
    return f"{key.removeprefix('.') or 'the whole'}: {text[:1].lower()}{text[1:]}{value}{rest}"


def _check_loading(file: Path, content: EnsembleFile, trusted: bool) -> None:
    """Whether experts can be loaded so, and what the caller alone decides."""
    places = [("loading", content.loading)]
    places += [(f"experts[{k}].loading", member.loading) for k, member in enumerate(content.experts)]
    for key, loading in places:
        try:
            found = ModelConfig.model_validate({**loading, "path": ""})
            if "path" in loading:
                raise _invalid(file, f"{key}.path: an expert's place is its path or name")
        except (ValidationError, OverflowError) as error:
            raise _invalid(file, f"{key}.{said(error)}") from None
        attention = found.attn_implementation
        if not trusted and not is_built_in_attention(attention):
            what = f"{key}.attn_implementation: {shortened(repr(attention))} is not part of transformers"
            raise _invalid(file, f"{what}; code that would be fetched and run needs --trust-remote-code")
        loading.pop("trust_remote_code", None)
    if trusted:
        content.loading["trust_remote_code"] = True


def _expert(file: Path, k: int, member: ExpertEntry) -> Path | str:
    name = member.path if member.name is None else member.name
    text, key = str(name), f"experts[{k}].{'path' if member.name is None else 'name'}"
    try:
        if not text or os.fsencode(text).find(b"\0") >= 0:
            raise ValueError("a name has characters, and no zero byte")
        place = Path(os.path.realpath(file.parent / text))
        with contextlib.suppress(FileNotFoundError, NotADirectoryError, PermissionError):
            place.stat()  # where it is too long for a name, or a circle of links
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise _invalid(file, f"{key}: {shortened(repr(text))} cannot be a name ({reason})") from None
    if member.name is not None:
        return member.name
    if place.is_dir() and Path(os.path.realpath(file)).is_relative_to(place):
        raise _invalid(file, f"{key}: {shortened(repr(text))} is a folder that holds this file, and no expert")
    if not (place.is_dir() or (place.suffix == ".gguf" and place.is_file())):
        raise ModelError(
            f"{file} names the expert {shortened(str(place), 300)} ({key}), which is missing.",
            hint="Was the folder moved?",
        )
    return place


def saved_file(settings: dict[str, Any] | None, alphas: Sequence[float], rule: str) -> EnsembleFile:
    """The file of a saved ensemble, whose experts lie in :func:`~ensemw2s.ensemble.folder.expert_folder`.

    Args:
        settings: the file's content besides the experts; defaults where nothing is known.
        alphas: ``α_t``, not normalised.
        rule: how experts are combined.
    """
    experts = [ExpertEntry(path=expert_folder(k), alpha=float(alpha)) for k, alpha in enumerate(alphas)]
    known = {"task": "generate", "ensemble": {}, "template": {}, "decoding": {}, **(settings or {})}
    known["ensemble"] = {**known["ensemble"], "rule": rule}
    try:
        return EnsembleFile.model_validate({**known, "experts": experts})
    except (ValidationError, OverflowError) as error:
        raise ModelError(f"The model's configuration holds no valid settings of an ensemble: {said(error)}.") from None


def write_ensemble_json(file: Path, content: EnsembleFile) -> Path:
    """Write the file, to a temporary name first.

    A length norm that nobody chose is left out: what it is depends on whether the experts share a tokenizer.

    Returns:
        Its path.
    """
    data = content.model_dump(exclude={"ensemble": {"vote"}})  # the weights are what was voted for
    data["experts"] = [member.model_dump(exclude_defaults=True) for member in content.experts]
    if "length_norm" not in content.ensemble.model_fields_set:
        del data["ensemble"]["length_norm"]
    file.parent.mkdir(parents=True, exist_ok=True)
    write_json(file, data)
    return file
