"""Files: strict JSON with limits, atomic writes, regular files only, and what a full disk looks like."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, BinaryIO

from ensemw2s.errors import RunFailedError

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_TEXTS = ("No space left on device", "Disk quota exceeded", "(os error 28)")
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
_JSON_FILE_LIMIT = 256 * 2**20


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


@contextmanager
def replaced(path: Path) -> Iterator[Path]:
    """Yields a temporary name in the folder of ``path``; renames it to ``path`` at the end, or removes it on an error.

    Readers see the old or the new content, never half. A symbolic link at ``path`` is replaced, not followed.
    """
    temporary = path.with_name(f".{path.name[:200]}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write ``path`` atomically as UTF-8; see :func:`replaced`."""
    with replaced(path) as temporary:
        temporary.write_bytes(text.encode("utf-8", "replace"))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable strict JSON, atomically."""
    write_text(path, dump_json(value, indent=2) + "\n")


def parse_json(text: str | bytes) -> Any:
    """The JSON value in ``text``.

    Raises:
        ValueError: not JSON; or JSON nested too deeply, or with an integer of too many digits, to be read. The message
            can stand behind ``file:line:``.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("JSON nested too deeply to be read") from None
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start})") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"no valid JSON ({error.msg}, column {error.colno})") from None
    except ValueError:
        raise ValueError("a number with too many digits to be read") from None


def open_regular(path: Path) -> BinaryIO:
    """``path`` opened for reading, if it is a regular file: pipes and devices could block or never end.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_json(path: Path) -> Any | None:
    """The JSON in ``path``; None where the file is missing, no regular file, larger than 256 MiB or not JSON."""
    try:
        with open_regular(path) as file:
            content = file.read(_JSON_FILE_LIMIT + 1)
        return parse_json(content) if len(content) <= _JSON_FILE_LIMIT else None
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
