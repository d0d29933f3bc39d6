"""Files: strict JSON with limits, atomic writes, regular files only, and full disks."""

from __future__ import annotations

import errno
import json
import math
import os
import re
import shutil
import stat
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from io import BufferedReader
from pathlib import Path
from typing import Any

from ensemw2s.errors import InputError, RunFailedError, causes, shortened

_FULL = (errno.ENOSPC, errno.EDQUOT)
_FULL_TEXTS = ("No space left on device", "Disk quota exceeded", "(os error 28)")
_UNWRITABLE = (
    *(errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG),
    *(errno.EINVAL, errno.ENXIO),  # what open_in_place refuses
)
_TEMPORARY = re.compile(r"\..*\.(\d{1,9})\.tmp", re.DOTALL)
_SHORT_WRITE = re.compile(r"\d+ requested and \d+ written")
_JSON_FILE_LIMIT = 256 * 2**20
_JSON_DEPTH = 200


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
    """Yields a new, empty file in the folder of ``path``; renames it to ``path`` at the end, or removes it on an error.

    Readers see the old or the new content, never half. A symbolic link at ``path`` is replaced, never followed, and so
    is one that waits at the temporary name.
    """
    name = os.fsdecode(os.fsencode(path.name)[:200])  # names have at most 255 bytes
    temporary = path.with_name(f".{name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666))
    try:
        yield temporary
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def remove_abandoned(folder: Path) -> None:
    """Remove what :func:`replaced` left below ``folder`` in processes that were killed, or met a broken disk.

    The name of a process that lives is left alone.
    """
    for path in folder.rglob(".*.tmp"):
        found = _TEMPORARY.fullmatch(path.name)
        if found and not _process_lives(int(found[1])) and not path.is_dir():
            path.unlink(missing_ok=True)


def _process_lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # owned by another user
        return True
    return True


def write_bytes(path: Path, data: bytes) -> None:
    """Write ``path`` atomically; see :func:`replaced`."""
    with replaced(path) as temporary:
        temporary.write_bytes(data)


def write_text(path: Path, text: str) -> None:
    """Write ``path`` atomically as UTF-8; see :func:`replaced`."""
    write_bytes(path, text.encode("utf-8", "replace"))


def open_in_place(path: Path, flags: int) -> int:
    """A descriptor for a file that is appended to or rewritten where it is; made where it is missing.

    ``flags`` are those of ``os.open``, such as ``os.O_RDWR | os.O_APPEND``.

    Raises:
        OSError: ``path`` is a symbolic link, no regular file, or has a second name (a hard link), through which
            somebody else's file would be written.
    """
    descriptor = os.open(path, flags | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    status = os.fstat(descriptor)
    if stat.S_ISREG(status.st_mode) and status.st_nlink <= 1:
        return descriptor
    os.close(descriptor)
    what = "a file with a second name (hard link)" if stat.S_ISREG(status.st_mode) else "not a regular file"
    raise OSError(errno.EINVAL, what, str(path))


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as readable strict JSON, atomically."""
    write_text(path, dump_json(value, indent=2) + "\n")


class JsonError(ValueError):
    """Text that is no JSON, or JSON beyond what is read. The message can stand behind ``file:line:``.

    Attributes:
        line: on which it was noticed, from 1; None where that is not known.
    """

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.line = line


class _KeyTwiceError(ValueError):
    """An object of JSON has a key, the argument, twice: which value is meant, nobody can tell."""


def unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The ``object_pairs_hook`` of :mod:`json` that takes no key twice; :func:`json_error` explains what it raises."""
    found = dict(pairs)
    if len(found) < len(pairs):
        left = set(found)
        for key, _ in pairs:
            if key not in left:
                raise _KeyTwiceError(key)
            left.remove(key)
    return found


_MARK = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]:]', re.DOTALL)


def _line_of_second(text: str) -> int | None:
    """The line of the first key in a JSON text that its object has already."""
    keys: list[set[str]] = []
    last = ""
    start = 0
    for found in _MARK.finditer(text):
        mark = found[0]
        if mark in "{[":
            keys.append(set())
        elif mark in "}]":
            keys.pop()
        elif mark != ":":
            last, start = mark, found.start()
        elif keys:
            key = json.loads(last, strict=False)
            if key in keys[-1]:
                return text.count("\n", 0, start) + 1
            keys[-1].add(key)
    return None


def _most_digits() -> int:
    """Digits from which Python may refuse to read an integer."""
    return max(sys.get_int_max_str_digits(), 640)


def json_error(error: Exception, text: str | bytes) -> JsonError:
    """A reading error from an exception of the :mod:`json` module about ``text``."""
    if isinstance(error, RecursionError):
        return JsonError("JSON nested too deeply to be read")
    if isinstance(error, UnicodeDecodeError):
        return JsonError(f"not UTF-8 (byte {error.start})")
    if isinstance(error, _KeyTwiceError):
        line = _line_of_second(text if isinstance(text, str) else text.decode("utf-8", "replace"))
        return JsonError(f"the key {shortened(repr(error.args[0]))} is there twice in one object", line)
    if isinstance(error, json.JSONDecodeError):
        return JsonError(f"no valid JSON ({error.msg}, column {error.colno})", error.lineno)
    digits = re.search(rf"\d{{{_most_digits()}}}", text) if isinstance(text, str) else None
    line = None if digits is None else digits.string.count("\n", 0, digits.start()) + 1
    return JsonError("a number with too many digits to be read", line)


def parse_json(text: str | bytes) -> Any:
    """The JSON value in ``text``.

    Raises:
        JsonError: a ``ValueError``: not JSON; JSON nested too deeply, or with an integer of too many digits, to be
            read; or an object with a key twice.
    """
    try:
        value = json.loads(text, object_pairs_hook=unique_keys)
    except (ValueError, RecursionError) as error:
        raise json_error(error, text) from None
    marks: tuple[Any, Any] = ("[", "{") if isinstance(text, str) else (b"[", b"{")
    if sum(map(text.count, marks)) > _JSON_DEPTH and is_too_deep(value):
        raise json_error(RecursionError(), text)
    return value


def is_too_deep(value: Any) -> bool:
    """Whether a JSON value is nested deeper than is read."""
    return _deeper(value, _JSON_DEPTH)


def _deeper(value: Any, depth: int) -> bool:
    """Whether a JSON value is nested deeper than ``depth``: code that follows it would run out of stack."""
    level = [value]
    for _ in range(depth):
        inner = [item for item in level if isinstance(item, dict | list)]
        level = [each for item in inner for each in (item.values() if isinstance(item, dict) else item)]
        if not level:
            return False
    return any(isinstance(item, dict | list) for item in level)


def open_regular(path: Path) -> BufferedReader:
    """``path`` opened for reading, if it is a regular file: pipes and devices could block or never end.

    Raises:
        OSError: it cannot be opened, or is no regular file.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_CLOEXEC", 0))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def read_input(path: Path, limit: int = -1) -> bytes:
    """At most ``limit`` bytes of a file that the user names: a regular file, or a pipe as of ``<(command)``.

    Raises:
        OSError: it cannot be opened, or is neither.
    """
    with path.open("rb") if stat.S_ISFIFO(path.stat().st_mode) else open_regular(path) as file:
        return file.read(limit)


def load_json(path: Path, limit: int = _JSON_FILE_LIMIT) -> Any:
    """The JSON in ``path``, of at most ``limit`` bytes.

    Raises:
        OSError: it cannot be read, or is no regular file.
        JsonError: it is larger than ``limit``, or see :func:`parse_json`.
    """
    with open_regular(path) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise JsonError(f"larger than {limit} bytes")
    return parse_json(content)


def read_json(path: Path, limit: int = _JSON_FILE_LIMIT) -> Any | None:
    """As :func:`load_json`, but None where the file is missing or cannot be read."""
    try:
        return load_json(path, limit)
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


def is_disk_full(error: BaseException) -> bool:
    """Whether ``error``, or what caused it, says that no space is left.

    Besides ``OSError`` with its number this knows libraries that put it into their text (safetensors: ``os error 28``)
    or report nothing but a short write (numpy).
    """
    for one in causes(error):
        if isinstance(one, OSError) and one.errno in _FULL:
            return True
        text = str(one)
        if any(sign in text for sign in _FULL_TEXTS) or (isinstance(one, OSError) and _SHORT_WRITE.fullmatch(text)):
            return True
    return False


def unwritable_error(error: BaseException, where: Path, hint: str | None = None) -> InputError | None:
    """The error that explains a file at or below ``where`` that cannot be written; None for other errors."""
    if not isinstance(error, OSError) or error.errno not in _UNWRITABLE or error.filename is None:
        return None
    file = Path(os.fsdecode(error.filename))
    if not file.absolute().is_relative_to(where.absolute()):
        return None
    return InputError(
        f"{file} cannot be written: {error.strerror}.", hint=hint or "Check its permissions.", title="Not written"
    )


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
