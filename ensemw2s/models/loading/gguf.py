"""GGUF files: unpacked once into a model folder, which everything else then loads.

``transformers`` takes ten seconds and more to parse the metadata of a small GGUF file, three times over for
configuration, tokenizer and weights, and a run loads its bases dozens of times.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import shutil
import tempfile
from pathlib import Path

from ensemw2s.checksums import check_stage_files
from ensemw2s.errors import ModelError
from ensemw2s.models.loading.errors import explain_loading
from ensemw2s.models.loading.fingerprint import file_hash
from ensemw2s.models.loading.quiet import quiet_transformers
from ensemw2s.models.loading.source import ModelSource, find_source

_MAGIC = b"GGUF"


def cache_folder() -> Path:
    """Folder of unpacked files: ``EW2S_CACHE``, else ``ensemw2s`` in the user's cache folder."""
    chosen = os.environ.get("EW2S_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache").expanduser() / "ensemw2s"


def opened_source(path: str) -> ModelSource:
    """:func:`find_source`, with a GGUF file replaced by the folder that it unpacks to.

    A folder in a finished stage of a run is checked: whoever opens a model reads what was written.

    Raises:
        DamagedError: a file of the model is not what was written.
        ModelError: as in :func:`find_source` and :func:`as_folder`.
    """
    source = find_source(path)
    if source.folder is not None:
        check_stage_files(source.folder)
    return source if source.gguf is None else ModelSource(source.name, as_folder(source), None)


def as_folder(source: ModelSource) -> Path:
    """The model folder (float32 safetensors, tokenizer) of a GGUF file; made at the first call, found afterwards.

    Raises:
        ModelError: the package ``gguf`` is missing, the file is no GGUF file or of an architecture that
            ``transformers`` does not read, or the cache folder cannot be written.
    """
    import transformers

    if source.gguf is None:
        raise ValueError(f"{source.name} is not a GGUF file")
    file = source.gguf
    _check_readable(file)
    key = f"{file.stem}-{file_hash(file)[:16]}-transformers-{transformers.__version__}"
    folder = cache_folder() / "gguf" / key
    if (folder / "config.json").is_file():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f"{key}.", suffix=".partial", dir=folder.parent))
    except OSError as error:
        raise ModelError(
            f"{source.name} cannot be unpacked into {folder.parent}: {error.strerror or error}.",
            hint="Set EW2S_CACHE to a folder that can be written.",
        ) from error
    try:
        _unpack(source, file, partial)
        partial.chmod(0o755)
        if not folder.exists():  # another process may have been faster
            partial.rename(folder)
    except OSError as error:
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"{source.name} cannot be unpacked into {folder.parent}: {error.strerror or error}.",
                hint="Free some space, or set EW2S_CACHE to a folder that can be written.",
            ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return folder


def _check_readable(file: Path) -> None:
    try:
        with file.open("rb") as stream:
            magic = stream.read(4)
    except OSError as error:
        raise ModelError(f"{file} cannot be read: {error.strerror or error}.", hint="Check its permissions.") from error
    if magic != _MAGIC:
        raise ModelError(f"{file} is not a GGUF file: it does not begin with GGUF.", hint="Fetch it again.")
    if importlib.util.find_spec("gguf") is None:
        raise ModelError(
            f"Reading {file.name} needs the Python package gguf.", hint="Install it: pip install 'ensemw2s[gguf]'"
        )


def _unpack(source: ModelSource, file: Path, folder: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    place = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name, "trust_remote_code": False}
    # The conversion's progress bar ignores every setting.
    with quiet_transformers(), explain_loading(source, "content"), contextlib.redirect_stderr(io.StringIO()):
        tokenizer = AutoTokenizer.from_pretrained(**place)
        model = AutoModelForCausalLM.from_pretrained(**place, dtype=torch.float32, **_unpacked())
    for module in model.modules():  # without traces of the quantization
        config = getattr(module, "config", None)
        for name in ("quantization_config", "_is_quantized"):
            if config is not None and name in vars(config):
                delattr(config, name)
    for name in ("hf_quantizer", "quantization_method"):
        if name in vars(model):
            delattr(model, name)
    model.is_quantized = False
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    _without_invented_tokens(folder / "tokenizer.json", model.get_input_embeddings().weight.shape[0])


def _without_invented_tokens(file: Path, rows: int) -> None:
    """Take back tokens that the conversion added behind those of the file (``<|endoftext|>`` where it has none)."""
    if not file.is_file():
        return
    content = json.loads(file.read_text(encoding="utf-8"))
    content["added_tokens"] = [token for token in content["added_tokens"] if token["id"] < rows]
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def _unpacked() -> dict[str, object]:
    """Ask for plain weights where ``transformers`` would otherwise keep them in blocks."""
    import transformers

    kind = getattr(transformers, "GgufConfig", None)
    return {} if kind is None else {"quantization_config": kind(dequantize=True)}
