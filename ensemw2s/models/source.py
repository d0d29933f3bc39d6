"""What ``path`` of a model's configuration means: an embedded base, a local folder or a hub id."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from ensemw2s.config.training import ModelConfig
from ensemw2s.errors import ModelError

EMBEDDED = "embedded:"
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "vocab.json")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model comes from; exactly one of ``folder`` and ``hub_id`` is set."""

    name: str
    """``path`` as configured."""
    folder: Path | None
    """An existing local folder that holds a configuration."""
    hub_id: str | None
    """An id on the Hugging Face hub."""

    @property
    def target(self) -> str:
        """What ``from_pretrained`` is given."""
        return str(self.folder) if self.folder is not None else str(self.hub_id)

    @property
    def is_adapter(self) -> bool:
        """Whether the folder holds a LoRA adapter rather than a whole model."""
        return self.folder is not None and (self.folder / "adapter_config.json").is_file()

    @property
    def has_tokenizer(self) -> bool:
        """Whether the folder holds a tokenizer; unknown, hence True, on the hub."""
        return self.folder is None or any((self.folder / name).is_file() for name in _TOKENIZER_FILES)


def find_source(path: str) -> ModelSource:
    """Resolve ``path`` of a model's configuration without loading anything.

    Raises:
        ModelError: there is no such embedded base or folder, or the folder holds no model.
    """
    if path.startswith(EMBEDDED):
        from ensemw2s.data.embedded import base_path

        return ModelSource(path, base_path(path.removeprefix(EMBEDDED)), None)
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
            raise ModelError(
                f"The folder {path} holds no model: there is no config.json (nor adapter_config.json) in it.",
                hint="Point to a folder written by save_pretrained.",
            )
        return ModelSource(path, folder, None)
    if folder.exists():
        raise ModelError(f"{path} is a file; a model is a folder.", hint="Point to the folder that holds config.json.")
    if _looks_local(path):
        raise ModelError(
            f"There is no model folder {path}.",
            hint="Check the path, or give the id of a model on the hub: owner/name.",
        )
    return ModelSource(path, None, path)


def adapter_base(source: ModelSource) -> ModelConfig:
    """Path and revision of the base model that an adapter folder belongs to.

    Raises:
        ModelError: ``adapter_config.json`` cannot be read or names no base.
    """
    if source.folder is None:
        raise ValueError(f"{source.name} is not a local folder")
    file = source.folder / "adapter_config.json"
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        base, revision = content["base_model_name_or_path"], content.get("revision")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{file} cannot be read: {error}.", hint="The adapter has to be saved again.") from error
    if not base:
        raise ModelError(f"{file} names no base model.", hint="Set base_model_name_or_path in it.")
    if not base.startswith(EMBEDDED) and (source.folder / base).is_dir():
        base = str(source.folder / base)
    return ModelConfig(path=base, revision=revision)


def _looks_local(path: str) -> bool:
    return path.startswith(("/", ".", "~")) or "\\" in path or path.count("/") > 1 or path.endswith("/")
