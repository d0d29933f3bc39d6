"""Sizes and XXH3-128 hashes of a run's files: recorded when they are written, verified when they are read.

A finished stage records its files in ``stage.json``. Files that a run writes outside its stages are recorded in a
``files.json`` beside them, with the fingerprints of its stages. Both carry a checksum of themselves. The hash is XXH3
with 128 bits, which finds damage at the speed of memory; it is no protection against somebody who wants to deceive.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ensemw2s.errors import DamagedError, shortened
from ensemw2s.files import dump_json, open_regular, read_json, write_json
from ensemw2s.stage_names import DATA, FOLDERS

STAGE_RECORD = "stage.json"
FILES_RECORD = "files.json"

#: Files that only grow: what was recorded of them is their beginning.
GROWING = ("events.jsonl", "metrics.jsonl")

#: Any of these files makes a folder a run directory.
_RUN_MARKS = ("events.jsonl", FILES_RECORD, "run.lock")
#: What the record of a stage holds in every version.
_STAGE_FIELDS: dict[str, Any] = {
    **{"name": str, "fingerprint": str, "inputs": dict, "versions": dict},
    **{"seed": (int, type(None)), "seconds": (int, float), "finished": (int, float)},
}

#: Size in bytes and XXH3-128 in hex.
Checksum = tuple[int, str]

_CHUNK = 1 << 20
#: Nanoseconds after a change in which another one may leave the time stamp as it is.
_SETTLED = 100_000_000
_UNFINISHED = (".partial", ".stale")
_known: dict[tuple[int, ...], str] = {}


def checksum(path: Path, size: int | None = None) -> Checksum:
    """Size and hash of a regular file, or of its first ``size`` bytes; read again only after it has changed.

    A symbolic link to a regular file will do.

    Raises:
        OSError: it cannot be read.
    """
    with open_regular(path) as stream:
        status = os.fstat(stream.fileno())
        length = status.st_size if size is None else min(size, status.st_size)
        key = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns, length)
        if key in _known:
            return length, _known[key]
        found = _hash(stream, length)
    if time.time_ns() - max(status.st_mtime_ns, status.st_ctime_ns) > _SETTLED:
        _known[key] = found
    return length, found


def _hash(stream: Any, length: int) -> str:
    from xxhash import xxh3_128

    digest, left = xxh3_128(), length
    buffer = memoryview(bytearray(min(_CHUNK, max(1, length))))
    while left > 0:
        count = stream.readinto(buffer[: min(left, len(buffer))])
        if not count:
            break
        digest.update(buffer[:count])
        left -= count
    return str(digest.hexdigest())


def checksums_below(folder: Path, *, without: tuple[str, ...] = ()) -> dict[str, Checksum]:
    """Size and hash of every file below a folder, by relative path with forward slashes, sorted.

    Files directly in it whose names are in ``without`` do not count.
    """
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    return {name: checksum(folder / name) for name in names if name not in without}


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """``record`` as JSON with a checksum of its own, under ``checksum``."""
    # exactly what a reader gets back: the file is UTF-8, and other text is replaced in it
    content: dict[str, Any] = json.loads(dump_json(record).encode("utf-8", "replace"))
    return {**content, "checksum": _seal(content)}


def _seal(content: dict[str, Any]) -> str:
    from xxhash import xxh3_128

    return str(xxh3_128(json.dumps(content, sort_keys=True).encode()).hexdigest())


def read_sealed(path: Path) -> dict[str, Any] | None:
    """The content of a record, without its checksum; None where there is none.

    Records of older versions have no checksum; nothing that such a record says of files counts.

    Raises:
        DamagedError: the file is there, but no JSON object or not what was written.
    """
    value = read_json(path)
    if value is None and not os.path.lexists(path):
        return None
    if not isinstance(value, dict):
        raise DamagedError(path, "it is not a JSON object")
    if "checksum" not in value:
        if "files" in value and (path.name != STAGE_RECORD or "fingerprint" in value):
            raise DamagedError(path, "its own checksum is missing")
        return {key: kept for key, kept in value.items() if key != "files"}  # older, or somebody else's stage.json
    found = value.pop("checksum")
    try:
        right = found == _seal(value)
    except RecursionError:
        right = False
    if not right:
        raise DamagedError(path, "its content is not what was written")
    return value


def stage_name(folder: Path) -> str | None:
    """The stage that a folder is by its place in a run directory; None outside of one, and for unfinished stages."""
    return _run_and_stage(folder)[1]


def _run_and_stage(folder: Path) -> tuple[Path, str | None]:
    place = Path(os.path.normpath(folder.absolute()))
    for run in place.parents:
        inside = place.relative_to(run)
        if inside.parts[0] in FOLDERS and any((run / mark).is_file() for mark in _RUN_MARKS):
            return run, None if any(part.endswith(_UNFINISHED) for part in inside.parts) else inside.as_posix()
    return place, None


def read_stage(folder: Path, name: str | None = None) -> dict[str, Any] | None:
    """The record of the finished stage in a folder, without its checksum; None where there is none.

    Args:
        folder: of the stage.
        name: which stage it has to be, with whatever inputs; by default that of its place in a run directory, as that
            run made it. The ``stage.json`` of a folder outside any run may be of somebody else, and counts as none.

    Returns:
        The fields; ``files`` is missing in the records of older versions.

    Raises:
        DamagedError: the record is not what was written, no record of a stage, or that of another stage or run.
    """
    path = folder / STAGE_RECORD
    value = read_sealed(path)
    if value is None:
        return None
    made: Mapping[str, str] = {}
    if name is None:
        run, name = _run_and_stage(folder)
        made = {} if name is None else recorded_stages(run)
    if not all(key in value and isinstance(value[key], kind) for key, kind in _STAGE_FIELDS.items()):
        if name is None:
            return None
        raise DamagedError(path, "it is not the record of a stage")
    if name is not None and value["name"] != name:
        raise DamagedError(path, f"it is the record of the stage {shortened(value['name'])}")
    if made.get(value["name"], value["fingerprint"]) != value["fingerprint"]:
        raise DamagedError(path, "it is the record of another run")
    return value


def problems(
    folder: Path, files: Mapping[str, Any], *, below: str = "", without: tuple[str, ...] = ()
) -> Iterator[DamagedError]:
    """Differences from the recorded files of a folder, or of a subfolder: missing, changed and extra files.

    A file is extra if it lies in the folder itself or in a subfolder with recorded files. Names that begin with a dot,
    which no reader of ours opens, and those in ``without`` do not count. ``files`` are relative path → size and hash.
    """
    prefix = f"{below}/" if below else ""
    wanted = {name: value for name, value in files.items() if name.startswith(prefix)}
    for name, (size, hexadecimal) in wanted.items():
        problem = _problem(folder / name, size, hexadecimal)
        if problem is not None:
            yield problem
    for name in _present(folder, below, {Path(name).parts[0] for name in files}):
        if name not in wanted and name not in without:
            yield DamagedError(folder / name, "it does not belong there")


def _present(folder: Path, below: str, known: set[str]) -> Iterator[str]:
    waiting = [folder / below]
    while waiting:
        here = waiting.pop()
        try:
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            inside = Path(entry.path).relative_to(folder)
            if entry.name.startswith(".") or entry.name == STAGE_RECORD or inside.parts[0].endswith(_UNFINISHED):
                continue
            if not entry.is_dir(follow_symlinks=False):
                yield inside.as_posix()
            elif inside.parts[0] in known:
                waiting.append(Path(entry.path))


def _problem(path: Path, size: int, hexadecimal: str) -> DamagedError | None:
    growing = path.name in GROWING
    try:
        found = path.stat().st_size
        if found < size or (found > size and not growing):
            return DamagedError(path, f"it has {found} bytes, {size} were written")
        if checksum(path, size)[1] != hexadecimal:
            return DamagedError(path, "its content is not what was written")
    except FileNotFoundError:
        return DamagedError(path, "it is missing")
    except OSError as error:
        return DamagedError(path, f"it cannot be read ({error.strerror or error})")
    return None


def check_stage_files(folder: Path) -> None:
    """Check the files of a finished stage, or of a subfolder of one, before they are read for results.

    A folder that belongs to no run and no stage, or to a stage of an older version without checksums, passes.

    Raises:
        DamagedError: a file is missing, changed or does not belong there; or the stage's record is missing, or that of
            another stage.
    """
    for stage in (folder, folder.parent):
        record = read_stage(stage)
        if record is not None:
            below = "" if stage == folder else folder.name
            for problem in problems(stage, record["files"], below=below) if record.get("files") is not None else ():
                raise problem
            return
    if stage_name(folder) is not None:
        raise DamagedError((folder.parent if folder.name == "model" else folder) / STAGE_RECORD, "it is missing")


def recorded_files(folder: Path) -> dict[str, Checksum]:
    """Content of a folder's ``files.json``; empty where there is none.

    Raises:
        DamagedError: it is not what was written, or missing from a run whose data has checksums.
    """
    path = folder / FILES_RECORD
    record = read_sealed(path)
    if record is None:
        if stage_name(folder / DATA) == DATA and "files" in (read_stage(folder / DATA) or {}):
            raise DamagedError(path, "it is missing")
        return {}
    return {name: (int(size), str(found)) for name, (size, found) in record.get("files", {}).items()}


def recorded_damage(folder: Path) -> list[DamagedError]:
    """Damage to the files that are recorded in a folder's ``files.json``, or to that itself."""
    try:
        files = recorded_files(folder)
    except DamagedError as error:
        return [error]
    found = (_problem(folder / name, size, hexadecimal) for name, (size, hexadecimal) in files.items())
    return [problem for problem in found if problem is not None]


def check_recorded(path: Path) -> None:
    """Check a file that is recorded in the ``files.json`` beside it; one that is not recorded passes.

    Raises:
        DamagedError: it is not what was written.
    """
    entry = recorded_files(path.parent).get(path.name)
    problem = None if entry is None else _problem(path, *entry)
    if problem is not None:
        raise problem


@contextmanager
def recording(folder: Path, *names: str) -> Iterator[None]:
    """Record files of a folder, named relative to it, in its ``files.json`` once they are written.

    While they are written they are not recorded, so that a process that is killed leaves no wrong record behind.
    """
    forget(folder, names)
    yield
    _note(folder, names, {name: checksum(folder / name) for name in names if (folder / name).is_file()})


def forget(folder: Path, names: Collection[str]) -> None:
    """Take files out of the ``files.json`` of a folder."""
    _note(folder, names, {})


def _note(folder: Path, names: Collection[str], new: dict[str, Checksum]) -> None:
    old = _usable_files(folder)
    kept = {name: value for name, value in old.items() if name not in names}
    if kept | new != old:
        _write_record(folder, kept | new, recorded_stages(folder))


def _usable_files(folder: Path) -> dict[str, Checksum]:
    try:
        return recorded_files(folder)
    except DamagedError:  # all its files will be written and recorded again
        return {}


def recorded_stages(folder: Path) -> dict[str, str]:
    """Stage → fingerprint as a run's ``files.json`` has them; empty where it does not tell or is damaged."""
    try:
        found = (read_sealed(folder / FILES_RECORD) or {}).get("stages")
    except DamagedError:
        return {}
    return found if isinstance(found, dict) else {}


def record_stages(folder: Path, stages: Mapping[str, str]) -> None:
    """Note stage → fingerprint in a run's ``files.json``; nothing while they may change."""
    if stages != recorded_stages(folder):
        _write_record(folder, _usable_files(folder), stages)


def _write_record(folder: Path, files: Mapping[str, Checksum], stages: Mapping[str, str]) -> None:
    content: dict[str, Any] = {"files": dict(sorted(files.items()))}
    if stages:
        content["stages"] = dict(sorted(stages.items()))
    write_json(folder / FILES_RECORD, sealed(content))
