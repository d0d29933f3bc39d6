"""``RunDirectory``: the folder that holds all state of one run."""

from __future__ import annotations

import contextlib
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemw2s.checksums import (
    FILES_RECORD,
    GROWING,
    check_recorded,
    forget,
    record_stages,
    recorded_damage,
    recorded_stages,
    recording,
)
from ensemw2s.errors import DamagedError, Ew2sError, InputError
from ensemw2s.files import disk_full_error, is_disk_full, unwritable_error, write_text
from ensemw2s.outputs import refuse_links
from ensemw2s.runs.heartbeat import HEARTBEAT_EVERY, BeatState, Heartbeat
from ensemw2s.runs.lock import RunLock
from ensemw2s.runs.log import LogSink
from ensemw2s.runs.stage import Stages
from ensemw2s.stage_names import TRUNK

if TYPE_CHECKING:
    from ensemw2s.config.schema import RunConfig

#: A folder with one of these is a run directory.
MARKERS = ("config.yaml", "events.jsonl", "results.json")
_OWN_FILES = frozenset({"run.lock", "heartbeat", FILES_RECORD})
#: Names below ``trunk``: folders of one model's states, and files in them, finished or not.
_KEPT_FOLDER = re.compile(r"[0-9a-f]{32}")
_KEPT_FILE = re.compile(r"[0-9a-f]{32}\.(npy|json)|\.[0-9a-f]{32}\.(npy|json)\.\d+\.tmp")
_IN_PLACE = ("run.lock", *GROWING)


class RunDirectory:
    """One run's folder. Reading needs no lock; writing happens inside :meth:`writing`.

    Args:
        path: the folder; use :meth:`create` or :meth:`open`, which check it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.stages = Stages(path)
        self.lock = RunLock(path)

    @classmethod
    def create(cls, path: Path) -> RunDirectory:
        """A run directory that may be new: the folder is made where it is missing.

        Raises:
            InputError: ``path`` is a file, or a folder that holds something other than a run, or cannot be made.
        """
        try:
            path.mkdir(parents=True, exist_ok=True)
            names = {entry.name for entry in path.iterdir()}
        except OSError as error:
            if is_disk_full(error):
                raise disk_full_error(path, "the run directory") from error
            raise InputError(f"{path} cannot be used as a run directory: {error.strerror}.") from error
        if names - _OWN_FILES and not names & set(MARKERS):
            raise InputError(
                f"{path} is not empty and is no run directory (it has none of {', '.join(MARKERS)}).",
                hint="Choose a new or empty folder with --out.",
            )
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunDirectory:
        """A run directory that exists.

        Raises:
            InputError: there is no run in ``path``.
        """
        if not path.is_dir():
            raise InputError(f"There is no run directory {path}.", hint="List the runs with: ew2s runs list")
        if not any((path / marker).exists() for marker in MARKERS):
            raise InputError(
                f"{path} is no run directory (it has none of {', '.join(MARKERS)}).",
                hint="List the runs with: ew2s runs list",
            )
        return cls(path)

    @property
    def config_path(self) -> Path:
        """The resolved configuration, ``config.yaml``."""
        return self.path / "config.yaml"

    @property
    def results_path(self) -> Path:
        """Every number of the report, ``results.json``."""
        return self.path / "results.json"

    def save_config(
        self, config: RunConfig, provenance: Mapping[str, str] | None = None, preset: str | None = None
    ) -> None:
        """Write ``config.yaml``, each value with a comment that says where it came from; needs the lock."""
        from ensemw2s.config.dump import dump_yaml

        with recording(self.path, self.config_path.name):
            write_text(self.config_path, dump_yaml(config, provenance, preset=preset))

    def load_config(self) -> RunConfig:
        """The configuration in ``config.yaml``.

        Raises:
            ConfigError: it is missing.
            DamagedError: it is not what the run wrote.
        """
        from ensemw2s.config.composition import load_config

        check_recorded(self.config_path)
        return load_config(self.config_path)

    def forget_damaged(self) -> list[DamagedError]:
        """Damaged files outside the stages; they are no longer recorded until they are written again.

        Needs the lock.
        """
        found = recorded_damage(self.path)
        forget(self.path, [problem.path.relative_to(self.path).as_posix() for problem in found])
        return found + recorded_damage(self.path / "report")

    @contextmanager
    def writing(self, *, heartbeat_every: float = HEARTBEAT_EVERY, system_metrics: bool = True) -> Iterator[LogSink]:
        """Be the one writer: takes the lock, beats, and yields the event log.

        The heartbeat ends as ``finished`` if ``run_finished`` was the last milestone, as ``failed`` after an exception
        (which is logged as ``run_failed``), and as ``incomplete`` otherwise, an interruption included.

        Raises:
            RunBusyError: another process writes into this directory.
            InputError: there is a symbolic link in it, or it cannot be written.
            RunFailedError: the disk is full.
        """
        refuse_links(self.path, in_place=_IN_PLACE)
        with self.lock:
            log = LogSink(self.path)
            sample = _system_sampler(log) if system_metrics else None

            def beat() -> None:
                self.stages.note()
                if sample is not None:
                    sample()

            heart = Heartbeat(self.path, every=heartbeat_every, on_beat=beat)
            heart.start()
            state: BeatState = "incomplete"
            try:
                self.stages.fingerprints = recorded_stages(self.path)
                record_stages(self.path, {})
                yield log
                state = "finished" if log.last_event == "run_finished" else "incomplete"
            except KeyboardInterrupt:
                log.event("message", level="warning", text="interrupted; the same command continues")
                raise
            except Exception as error:
                state = "failed"
                explained = self._explained(error)
                if log.last_event != "run_failed":
                    text = str(explained) or type(explained).__name__
                    log.event("run_failed", error=text, stage=self.stages.current)
                if explained is not error and not isinstance(error, Ew2sError):
                    raise explained from error
                raise
            finally:
                heart.stop(state)
                log.close()
                with contextlib.suppress(OSError), recording(self.path, *GROWING):
                    record_stages(self.path, self.stages.fingerprints)

    def _explained(self, error: Exception) -> Exception:
        if is_disk_full(error):
            return disk_full_error(self.path, "the run")
        return unwritable_error(error, self.path) or error


def _system_sampler(log: LogSink) -> Callable[[], None]:
    """Logs this process's share of one CPU core and its resident memory (bytes) at every beat."""
    process: Any = None

    def sample() -> None:
        nonlocal process
        import psutil

        try:
            if process is None:
                process = psutil.Process()
            log.metric("system", cpu=process.cpu_percent(), rss=process.memory_info().rss)
        except psutil.Error:
            return

    return sample


def remove_trunk(folder: Path) -> None:
    """Remove the hidden states that a run kept in its directory, or several in their common one.

    Other files stay: the common directory may be one that had a folder of that name before.
    """
    place = folder / TRUNK
    for kept in _own(place, _KEPT_FOLDER):
        for file in _own(kept, _KEPT_FILE):
            with contextlib.suppress(OSError):
                file.unlink()
    for emptied in (*_own(place, _KEPT_FOLDER), place):
        with contextlib.suppress(OSError):
            emptied.rmdir()


def _own(folder: Path, name: re.Pattern[str]) -> list[Path]:
    """What is in a folder, which is no link, under names of that form."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    with contextlib.suppress(OSError):
        return [entry for entry in folder.iterdir() if name.fullmatch(entry.name)]
    return []


def new_run_directory(root: Path, name: str, *, now: float | None = None) -> Path:
    """Make a new folder ``root/<date>-<time>-<name>`` and return it; a number is added where that name is taken.

    Raises:
        InputError: the folder cannot be made.
    """
    stamp = time.strftime("%Y-%m-%d-%H%M%S", time.localtime(now))
    for attempt in range(1, 1000):
        path = root / (f"{stamp}-{name}" if attempt == 1 else f"{stamp}-{name}-{attempt}")
        try:
            path.mkdir(parents=True)
        except FileExistsError:
            continue
        except OSError as error:
            if is_disk_full(error):
                raise disk_full_error(root, "the run directory") from error
            raise InputError(f"The run directory {path} cannot be made: {error.strerror}.") from error
        return path
    raise InputError(f"There are too many runs named {stamp}-{name} in {root}.")
