"""Atomic, resumable stages of a run.

A stage works in ``<name>.partial``. When its work is finished, ``stage.json`` (what went in, when, and size and hash of
every file) is written and the folder is renamed to ``<name>``; only then is the stage done. The next run keeps a stage
whose inputs have the same fingerprint and whose files are what was written, and replaces any other.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from ensemw2s.checksums import STAGE_RECORD, Checksum, checksums_below, problems, read_stage, sealed
from ensemw2s.errors import DamagedError
from ensemw2s.files import disk_full_error, dump_json, is_disk_full, read_json, sync_tree, to_json, write_json
from ensemw2s.outputs import refuse_files, refuse_links
from ensemw2s.runs.cost import Meter, Work, cost_record
from ensemw2s.sink import EventSink, NullSink

_STARTED = "stage.partial.json"
_PACKAGES = ("torch", "transformers", "numpy")
_MOST_DIFFERENCES = 5


def fingerprint(inputs: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of ``inputs`` as canonical strict JSON: independent of the order of keys."""
    return hashlib.sha256(_canonical(to_json(inputs)).encode("utf-8", "surrogatepass")).hexdigest()


def _canonical(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ",".join(f"{dump_json(k)}:{_canonical(value[k])}" for k in sorted(value)) + "}"
    if isinstance(value, list):
        return "[" + ",".join(_canonical(item) for item in value) + "]"
    return dump_json(value)


def versions() -> dict[str, str]:
    """Versions of Python, EnsemW2S and what its results depend on; nothing is imported for it."""
    from ensemw2s._version import __version__

    found = {"ensemw2s": __version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


@dataclass(frozen=True, slots=True)
class StageRecord:
    """The content of ``stage.json``.

    Attributes:
        name: the stage, for example ``experts/round-01``.
        fingerprint: of the inputs.
        inputs: everything that the result depends on, as JSON.
        versions: of Python and packages, for the reader; not part of the fingerprint.
        seed: of the stage, or None.
        seconds: that the work took, interrupted starts included.
        finished: unix seconds.
        cost: ``work`` (kind, what, tokens, flops of each piece), ``starts``, ``peak_memory`` and
            ``peak_device_memory`` in bytes; see :mod:`ensemw2s.runs.cost`. Empty in records of older versions.
        files: size and hash of every file, by path relative to the stage's folder; see :mod:`ensemw2s.checksums`. None
            in records of older versions.
    """

    name: str
    fingerprint: str
    inputs: dict[str, Any]
    versions: dict[str, str]
    seed: int | None
    seconds: float
    finished: float
    cost: dict[str, Any] = field(default_factory=dict)
    files: dict[str, Checksum] | None = None


def differences(old: Any, new: Any, prefix: str = "") -> list[str]:
    """Differences between inputs, as ``dotted.key: old → new``, in the order of the keys."""
    if isinstance(old, dict) and isinstance(new, dict):
        found: list[str] = []
        for key in sorted(old.keys() | new.keys()):
            name = f"{prefix}.{key}" if prefix else str(key)
            if key not in old:
                found.append(f"{name}: new")
            elif key not in new:
                found.append(f"{name}: gone")
            else:
                found += differences(old[key], new[key], name)
        return found
    if old == new:
        return []
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new) and len(dump_json(old)) > 40:
        return [f"{prefix}: {sum(a != b for a, b in zip(old, new, strict=True))} of {len(old)} entries differ"]
    return [f"{prefix}: {_short(old)} → {_short(new)}"]


def _short(value: Any) -> str:
    text = dump_json(value)
    if len(text) <= 40:
        return text
    if isinstance(value, list):
        return "1 entry" if len(value) == 1 else f"{len(value)} entries"
    return text[:37] + "…"


def _first(found: list[str]) -> str:
    more = len(found) - _MOST_DIFFERENCES
    return "; ".join(found[:_MOST_DIFFERENCES]) + (f"; and {more} more" if more > 0 else "")


def _holds_only_stages(folder: Path) -> bool:
    """Whether everything in a folder belongs to stages below it, of which there is at least one."""
    entries = list(folder.iterdir())
    return bool(entries) and all(entry.is_dir() and any(entry.rglob(STAGE_RECORD)) for entry in entries)


def _has_own_files(folder: Path) -> bool:
    """Whether no file below a folder has a second name (hard link): libraries write into files that are there."""
    return all(file.stat().st_nlink <= 1 for file in folder.rglob("*") if file.is_file())


def _unfinished_record(partial: Path) -> dict[str, Any]:
    """Record of a start that was killed between writing ``stage.json`` and renaming the folder."""
    record = read_json(partial / STAGE_RECORD)
    if not isinstance(record, dict):
        return {}
    return {**(record.get("cost") or {}), "fingerprint": record.get("fingerprint"), "seconds": record.get("seconds")}


class Stages:
    """The stages of one run directory.

    Args:
        root: the run directory.
        sink: told about starts, ends and re-runs; each call can name another.
    """

    def __init__(self, root: Path, sink: EventSink | None = None) -> None:
        self.root = root
        self.sink: EventSink = sink or NullSink()
        self.current: str | None = None
        """The stage that is at work, or that was when an exception left it."""
        self.unrecorded: list[str] = []
        """Stages that were kept although an older version recorded no checksums for them."""
        self.fingerprints: dict[str, str] = {}
        """Stages that were made or kept → their fingerprint."""
        self._work: list[Work] | None = None
        self._at_work: tuple[Path, dict[str, Any], Meter] | None = None
        self._noting = threading.Lock()

    def path(self, name: str) -> Path:
        """Folder of the finished stage ``name``, a relative path with forward slashes."""
        parts = PurePosixPath(name).parts
        if not parts or name.startswith("/") or ".." in parts or name.endswith((".partial", ".stale")):
            raise ValueError(f"not a stage name: {name!r}")
        return self.root.joinpath(*parts)

    def record(self, name: str) -> StageRecord | None:
        """Record of a finished stage; None if it is not done, or if its record is damaged."""
        try:
            value = read_stage(self.path(name), name)
            return None if value is None else StageRecord(**value)
        except (DamagedError, TypeError):
            return None

    def damage(self, name: str) -> list[DamagedError]:
        """Damage to the files of a stage, their content included; empty for one that was never finished."""
        folder = self.path(name)
        try:
            value = read_stage(folder, name)
        except DamagedError as error:
            return [error]
        if value is None:
            gone = folder.is_dir() and not _holds_only_stages(folder)
            return [DamagedError(folder / STAGE_RECORD, "it is missing")] if gone else []
        files = value.get("files")
        return [] if files is None else list(problems(folder, files))

    def is_done(self, name: str, inputs: Mapping[str, Any]) -> bool:
        """Whether the stage is finished, with these inputs, and its files are what was written."""
        record = self.record(name)
        return record is not None and record.fingerprint == fingerprint(inputs) and not self.damage(name)

    def rerun_reason(self, name: str, inputs: Mapping[str, Any]) -> str | None:
        """Why a finished stage has to run again: the inputs that changed, or damaged files (``damaged: …``).

        None if it is current or never finished.
        """
        record = self.record(name)
        if record is not None and record.fingerprint != fingerprint(inputs):
            return _first(differences(record.inputs, to_json(inputs)))
        folder = self.path(name)
        damaged = [f"{one.path.relative_to(folder).as_posix()}: {one.why}" for one in self.damage(name)]
        return f"damaged: {_first(damaged)}" if damaged else None

    def _clear(self, name: str) -> None:
        """Remove a former result and its leftovers; the name disappears in one step, before its files do."""
        self.fingerprints.pop(name, None)
        final = self.path(name)
        stale = final.with_name(final.name + ".stale")
        if stale.exists():
            shutil.rmtree(stale)
        if final.exists():
            if not (final / STAGE_RECORD).exists() and _holds_only_stages(final):
                raise ValueError(f"stage {name!r} would replace the folder of other stages: {final}")
            final.rename(stale)
            shutil.rmtree(stale)

    def count(self, work: Work) -> None:
        """Add a piece of work to the stage that is at work.

        What a stage found done by an interrupted start is to be added like what it does itself.

        Raises:
            RuntimeError: no stage is at work, so that the piece would be missing from every account.
        """
        if self._work is None:
            raise RuntimeError(f"work was done outside a stage: {work.kind} {work.what}")
        self._work.append(work)

    def note(self) -> None:
        """Note the seconds and the memory of the stage at work, so that a killed process leaves them behind.

        Safe to call from another thread, now and then; a disk that cannot be written is no error here.
        """
        with self._noting:
            if self._at_work is None:
                return
            partial, head, meter = self._at_work
            try:
                write_json(partial / _STARTED, {**head, **meter.reading()})
            except OSError:
                return

    def _open_partial(self, name: str, mark: str, resume: bool) -> Path:
        final = self.path(name)
        partial = final.with_name(final.name + ".partial")
        started = read_json(partial / _STARTED)
        before = started if isinstance(started, dict) else _unfinished_record(partial)
        going_on = resume and isinstance(started, dict) and started.get("fingerprint") == mark
        if partial.exists() and not (going_on and _has_own_files(partial)):
            shutil.rmtree(partial)
        partial.mkdir(parents=True, exist_ok=True)
        head = {"name": name, "fingerprint": mark}
        meter = Meter(before if before.get("fingerprint") == mark else None)
        write_json(partial / _STARTED, {**head, **meter.reading()})
        self._work, self._at_work = [], (partial, head, meter)
        return partial

    def _close_partial(self) -> dict[str, Any]:
        """Nothing is noted in the partial folder any more; gives what was measured."""
        with self._noting:
            reading = {} if self._at_work is None else self._at_work[2].reading()
            self._at_work = None
        return reading

    @contextmanager
    def stage(
        self,
        name: str,
        inputs: Mapping[str, Any],
        *,
        seed: int | None = None,
        resume: bool = False,
        sink: EventSink | None = None,
    ) -> Iterator[Path]:
        """Do the work of one stage: yields its ``*.partial`` folder and renames it at the end.

        ``inputs`` are everything that the result depends on (JSON values; upstream fingerprints included). A result
        with other inputs, or a damaged one, is removed first and the reason reported (``stage_rerun``). An exception
        leaves the partial folder for the next start, which continues in it (``resume``) if the inputs are the same, and
        else empties it. ``seed`` is noted in ``stage.json``.

        Raises:
            RunFailedError: the disk is full.
            InputError: there is a symbolic link or a file where the stage's folder would be.
        """
        sink = sink or self.sink
        mark = fingerprint(inputs)
        places = [name + suffix for suffix in ("", ".partial", ".stale")]
        refuse_links(self.root, *places)
        refuse_files(self.root, *places)
        reason = self.rerun_reason(name, inputs)
        self.current = name
        if reason is not None:
            sink.event("stage_rerun", stage=name, reason=reason)
        sink.event("stage_started", stage=name)
        try:
            self._clear(name)
            partial = self._open_partial(name, mark, resume)
            yield partial
            work, reading = self._work or [], self._close_partial()
            seconds = float(reading["seconds"])
            cost = cost_record(work, reading)
            record = StageRecord(name, mark, to_json(inputs), versions(), seed, seconds, time.time(), cost)
            self._finish(partial, record)
        except BaseException as error:
            self.note()
            if is_disk_full(error):
                raise disk_full_error(self.root, f"stage {name}") from error
            raise
        finally:
            self._close_partial()
            self._work = None
        self.current = None
        sink.event("stage_finished", stage=name, seconds=round(seconds, 3), cached=False)

    def _finish(self, partial: Path, record: StageRecord) -> None:
        (partial / _STARTED).unlink()
        files = checksums_below(partial, without=(STAGE_RECORD,))
        write_json(partial / STAGE_RECORD, sealed(asdict(replace(record, files=files))))
        sync_tree(partial)
        partial.rename(self.path(record.name))
        self.fingerprints[record.name] = record.fingerprint

    def ensure(
        self,
        name: str,
        inputs: Mapping[str, Any],
        work: Callable[[Path], object],
        *,
        seed: int | None = None,
        resume: bool = False,
        sink: EventSink | None = None,
    ) -> Path:
        """The finished stage's folder; ``work(partial folder)`` is called only if it is not done with these inputs.

        The other arguments are those of :meth:`stage`. Reports ``stage_finished`` with ``cached: true`` for a stage
        that is kept.
        """
        sink = sink or self.sink
        if self.is_done(name, inputs):
            record = self.record(name)
            if record is not None and record.files is None:
                self.unrecorded.append(name)
            self.fingerprints[name] = fingerprint(inputs)
            sink.event("stage_finished", stage=name, seconds=0.0 if record is None else record.seconds, cached=True)
            return self.path(name)
        with self.stage(name, inputs, seed=seed, resume=resume, sink=sink) as partial:
            work(partial)
        return self.path(name)
