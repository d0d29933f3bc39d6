"""Small file habits of the run directory: strict JSON, atomic writes, and what a full disk looks like."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from ensemw2s.errors import RunFailedError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_TEXTS = ("No space left on device", "Disk quota exceeded", "(os error 28)")
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")


def to_json(value: Any) -> Any:
    """A copy of ``value`` that is strict JSON.

    NaN and ±infinity become null, numpy and torch scalars numbers, arrays lists, paths strings, tuples and sets
    lists (sets sorted), dataclasses and pydantic models objects, mapping keys strings; anything else its ``str``.
    """
    if value is None or isinstance(value, bool | str):
        return str(value) if isinstance(value, str) else value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): to_json(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(v) for v in value]
    if isinstance(value, set | frozenset):
        return sorted((to_json(v) for v in value), key=str)
    if is_dataclass(value) and not isinstance(value, type):
        return to_json(asdict(value))
    for method in ("model_dump", "tolist"):
        if callable(getattr(value, method, None)):
            return to_json(value.model_dump(mode="json") if method == "model_dump" else value.tolist())
    return str(value)


def dump_json(value: Any, *, indent: int | None = None) -> str:
    """Strict JSON text of ``value`` (see :func:`to_json`); compact unless ``indent`` is given."""
    separators = (",", ":") if indent is None else (",", ": ")
    return json.dumps(to_json(value), ensure_ascii=False, allow_nan=False, indent=indent, separators=separators)


def write_text(path: Path, text: str) -> None:
    """Write ``path`` by way of a temporary file in the same folder: readers see the old or the new text, never half."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(text.encode("utf-8", "replace"))
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable strict JSON, atomically."""
    write_text(path, dump_json(value, indent=2) + "\n")


def read_json(path: Path) -> Any | None:
    """The JSON in ``path``; None where the file is missing, unreadable or not JSON."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def sync_tree(folder: Path) -> None:
    """Put every file below ``folder`` on the disk, so that a rename after it survives a power loss."""
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.is_symlink():
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            except OSError as error:
                if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.EROFS):
                    raise
            finally:
                os.close(descriptor)


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def is_disk_full(error: BaseException) -> bool:
    """Whether ``error``, or what caused it, says that no space is left.

    Besides ``OSError`` with its number this knows libraries that put it into their text (safetensors: ``os error 28``)
    or report nothing but a short write (numpy).
    """
    for one in _chain(error):
        if isinstance(one, OSError) and one.errno in _FULL:
            return True
        text = str(one)
        if any(sign in text for sign in _FULL_TEXTS) or (isinstance(one, OSError) and _SHORT_WRITE.fullmatch(text)):
            return True
    return False


def disk_full_error(where: Path, doing: str) -> RunFailedError:
    """The error that explains a full disk below ``where`` while ``doing``."""
    probe = where
    while not probe.exists() and probe != probe.parent:
        probe = probe.parent
    free = shutil.disk_usage(probe).free / 2**20
    return RunFailedError(
        f"The disk is full: {doing} could not write below {where} ({free:.0f} MiB free).",
        hint="Finished stages are kept. Free some space, then run the same command again: it continues there.",
        title="No space left",
    )
