"""Fingerprints of models: the content of their files, or their commit on the hub."""

from __future__ import annotations

import hashlib
import json
from functools import lru_cache
from pathlib import Path

from ensemw2s.config.training import ModelConfig
from ensemw2s.errors import ModelError
from ensemw2s.models.loading.errors import explain_loading
from ensemw2s.models.loading.source import ModelSource, base_of, find_source

#: Files that decide what a model computes: configuration, weights and tokenizer. Remote code (``.py``) counts too.
_SUFFIXES = frozenset({".json", ".safetensors", ".model", ".txt", ".py", ".jinja"})


def model_fingerprint(cfg: ModelConfig) -> str:
    """A string that changes when the model does.

    For a local folder (an embedded base included) ``sha256:…`` over names, sizes and content of its configuration,
    weight and tokenizer files, and for an adapter also its base; for a GGUF file that of the file; for a hub id
    ``id@commit``. What else changes results is part of it: data type, attention implementation, kept layers and
    quantization.

    Raises:
        ModelError: there is no such model, or the hub's commit cannot be found out.
    """
    options: list[str] = [cfg.dtype]
    if cfg.attn_implementation is not None:
        options.append(cfg.attn_implementation)
    if cfg.keep_layers is not None:
        options.append(f"layers{cfg.keep_layers}")
    if cfg.quantization is not None:
        options.append(cfg.quantization)
    return "+".join([_identity(find_source(cfg.path), cfg), *options])


def pinned(cfg: ModelConfig) -> ModelConfig:
    """The same model with its revision as a commit: a branch that moves during a run does not change it.

    Raises:
        ModelError: there is no such model, or the hub's commit cannot be found out.
    """
    source = find_source(cfg.path)
    if source.hub_id is None:
        return cfg
    return cfg.model_copy(update={"revision": _hub_commit(source.hub_id, cfg.revision)})


def _identity(source: ModelSource, cfg: ModelConfig) -> str:
    if source.gguf is not None:
        return f"sha256:{file_hash(source.gguf)}"
    if source.folder is None:
        return f"{source.hub_id}@{_hub_commit(str(source.hub_id), cfg.revision)}"
    digest = hashlib.sha256()
    for file in sorted(source.folder.iterdir()):
        if file.is_file() and file.suffix in _SUFFIXES:
            digest.update(json.dumps([file.name, file.stat().st_size, file_hash(file)]).encode())
    if source.is_adapter:
        base = base_of(cfg, source)
        digest.update(_identity(find_source(base.path), base).encode())
    return f"sha256:{digest.hexdigest()}"


def file_hash(file: Path) -> str:
    """SHA-256 (hex) of a file's content; computed again only after the file has changed."""
    stat = file.stat()
    return _file_hash(file, (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))


@lru_cache(maxsize=4096)
def _file_hash(file: Path, state: tuple[int, ...]) -> str:
    """SHA-256 of a file; ``state`` tells the cache when it has changed: a copy can keep the time of modification."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _hub_commit(hub_id: str, revision: str | None) -> str:
    from transformers.utils.hub import cached_file, extract_commit_hash

    with explain_loading(ModelSource(hub_id, None, hub_id), "configuration"):
        file = cached_file(hub_id, "config.json", revision=revision)
    commit = extract_commit_hash(file, None)
    if commit is None:
        raise ModelError(f"The hub names no commit for {hub_id}.", hint="Set revision to a commit of the model.")
    return str(commit)
