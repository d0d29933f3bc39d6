"""Plans a sweep (cells, jobs, baseline) and collects its results."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from ensemw2s.arms import ARMS, SINGLE, WEAK, is_expert, is_student, student_of
from ensemw2s.checksums import recording
from ensemw2s.config.composition import Composed
from ensemw2s.config.dump import config_fingerprint
from ensemw2s.config.marked import parse_value
from ensemw2s.errors import ConfigError, DamagedError, DataError, InputError, did_you_mean, shortened
from ensemw2s.evaluation.correct import read_correct
from ensemw2s.evaluation.over_cells import (
    COMPARED,
    CellResult,
    JobResult,
    SweepResults,
    cell_result,
    compare_cells,
    compare_with_controls,
    sweep_caution,
)
from ensemw2s.evaluation.over_seeds import aggregate
from ensemw2s.evaluation.results import Results
from ensemw2s.evaluation.sampling import Answers
from ensemw2s.files import write_text
from ensemw2s.sweeps.file import flat
from ensemw2s.text import csv_text

#: Composes the configuration of a cell from its settings.
Compose = Callable[[Mapping[str, Any]], Composed]

_LONGEST = 100


@dataclass(frozen=True, eq=False)
class Cell:
    """One configuration of a sweep; equal only to itself, for settings cannot be hashed.

    Attributes:
        name: unique in the sweep.
        settings: dotted key → value: what sets it apart.
        composed: its configuration; None where it is invalid.
        problem: why it is invalid; None where it is not.
    """

    name: str
    folder: str
    settings: dict[str, Any]
    composed: Composed | None
    problem: str | None = None


@dataclass(frozen=True)
class Job:
    """A cell with a seed: one run."""

    cell: Cell
    seed: int

    @property
    def name(self) -> str:
        """For messages."""
        return f"{self.cell.name}, seed {self.seed}"

    @property
    def directory(self) -> Path:
        """Its run directory, relative to the sweep's."""
        return Path("cells") / self.cell.folder / f"seed-{self.seed}"

    @property
    def log(self) -> Path:
        """Log of its process, relative to the sweep's directory."""
        return Path("cells") / self.cell.folder / f"seed-{self.seed}.log"

    @property
    def fingerprint(self) -> str:
        """Of its configuration."""
        if self.cell.composed is None:
            raise RuntimeError(f"{self.name} has no valid configuration")
        return config_fingerprint(self.cell.composed.config.model_copy(update={"seed": self.seed}))


@dataclass(frozen=True)
class SweepPlan:
    """A sweep before it runs.

    Attributes:
        over: dotted key → values of the grid; empty for listed cells.
        baseline: name of the cell that the others are compared with.
    """

    name: str
    over: dict[str, list[Any]]
    cells: list[Cell]
    seeds: tuple[int, ...]
    baseline: str
    compared: tuple[str, ...] = COMPARED

    @property
    def jobs(self) -> list[Job]:
        """All runs of valid cells: every cell with the first seed first, so that there is something to compare soon."""
        return [Job(cell, seed) for seed in self.seeds for cell in self.cells if cell.composed is not None]


#: Names by the first expert → names by the plain fine-tune.
_OF_FIRST = {SINGLE: WEAK, student_of(SINGLE): student_of(WEAK)}


def plan_sweep(
    over: Mapping[str, Sequence[Any]],
    listed: Mapping[str, Mapping[str, Any]],
    seeds: Sequence[int],
    compose: Compose,
    *,
    baseline: str | Mapping[str, Any] | None = None,
    compared: Sequence[str] = COMPARED,
) -> SweepPlan:
    """The cells of a sweep: the grid over all values, or the listed cells, or every listed cell over the grid.

    A combination that the configuration does not allow is a cell with a problem, and the others run.

    Args:
        over: dotted key → values.
        listed: name → settings.
        seeds: different seeds, not negative.
        compose: makes a configuration from a cell's settings.
        baseline: a cell's name, or settings that single one out; the first cell by default.
        compared: arms that are compared between cells; ``single``, the first expert, is ``plain`` where that is it.

    Raises:
        ConfigError: no cell is valid (the first problem), or the baseline is not one of them.
        InputError: there is nothing to sweep over, the seeds are not different ones, or there is no such arm.
    """
    if not over and not listed:
        raise InputError("A sweep needs something to sweep over.", hint="For example: --over boosting.rounds=3,5")
    if not seeds or len(set(seeds)) < len(seeds) or min(seeds) < 0:
        raise InputError(f"A sweep needs different seeds that are not negative, got {list(seeds)}.")
    known = [spec.name for spec in ARMS]
    for arm in compared:
        if arm not in known and not is_expert(arm) and not is_student(arm):
            raise InputError(
                f"No run has an arm {shortened(arm)!r} to compare{did_you_mean(arm, known, 'arms')}.",
                hint="For example: --compare ensemble,student_ensemble",
            )
    grid = [dict(zip(over, values, strict=True)) for values in itertools.product(*over.values())]
    short = _short_names([*over, *(key for settings in listed.values() for key in settings)])
    made = []
    for name, base in (listed or {"": {}}).items():
        for point in grid:
            label = ",".join(f"{short[key]}={_shown(value)}" for key, value in point.items())
            made.append(_cell(",".join(part for part in (name, label) if part), {**base, **point}, compose))
    cells = [cell for cell, _ in made]
    if len({cell.name for cell in cells}) < len(cells) or len({cell.folder for cell in cells}) < len(cells):
        raise InputError("Two cells of the sweep have the same name.", hint="Give the cells names of their own.")
    valid = [cell for cell in cells if cell.composed is not None]
    if not valid:
        raise next(error for _, error in made if error is not None)
    name = valid[0].composed.config.name if valid[0].composed is not None else ""
    chosen = _baseline(cells, baseline, short)
    if all(cell.composed is not None and cell.composed.config.boosting.first_is_plain for cell in valid):
        compared = [_OF_FIRST.get(arm, arm) for arm in compared]
    arms = tuple(dict.fromkeys(compared))
    return SweepPlan(name, {k: list(v) for k, v in over.items()}, cells, tuple(seeds), chosen, arms)


def _short_names(keys: Iterable[str]) -> dict[str, str]:
    """The last part of every dotted key, or as many parts as tell it from the others."""
    unique = list(dict.fromkeys(keys))
    out = {}
    for key in unique:
        parts = key.split(".")
        for count in range(1, len(parts) + 1):
            tail = ".".join(parts[-count:])
            if sum(other == tail or other.endswith("." + tail) for other in unique) == 1:
                break
        out[key] = tail
    return out


def _shown(value: Any) -> str:
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value) if isinstance(value, str | int | float) else json.dumps(value, default=str)


def _cell(name: str, settings: dict[str, Any], compose: Compose) -> tuple[Cell, ConfigError | None]:
    folder = re.sub(r"[^A-Za-z0-9._=,+-]+", "-", name).strip("-.") or "cell"
    if len(folder) > _LONGEST or folder != name:
        # different names must not meet in one folder
        folder = f"{folder[:_LONGEST]}-{hashlib.sha256(name.encode()).hexdigest()[:6]}"
    try:
        return Cell(name, folder, settings, compose(settings)), None
    except ConfigError as error:
        return Cell(name, folder, settings, None, error.message), error


def _baseline(cells: list[Cell], wanted: str | Mapping[str, Any] | None, short: Mapping[str, str]) -> str:
    if wanted is None:
        return next(cell.name for cell in cells if cell.composed is not None)
    if isinstance(wanted, str):
        named = [cell for cell in cells if wanted in (cell.name, cell.folder)]
        if named:
            return _valid(named[0])
        pairs = [part.partition("=") for part in wanted.split(",")]
        wanted = {key.strip(): parse_value(value, "--baseline") for key, equals, value in pairs if equals}
        if len(wanted) < len(pairs):
            raise ConfigError("The baseline is not a cell of the sweep.", hint=_choices(cells))
    full = {**{name: key for key, name in short.items()}, **{key: key for key in short}}
    settings = {full.get(key, key): value for key, value in flat(wanted).items()}
    found = [cell for cell in cells if all(k in cell.settings and cell.settings[k] == v for k, v in settings.items())]
    if len(found) != 1:
        raise ConfigError(f"The baseline fits {len(found)} cells of the sweep, not one.", hint=_choices(cells))
    return _valid(found[0])


def _valid(cell: Cell) -> str:
    if cell.composed is None:
        raise ConfigError(f"The baseline {cell.name} is not valid: {cell.problem}")
    return cell.name


def _choices(cells: list[Cell]) -> str:
    shown = [cell.name for cell in cells[:8]]
    return "Cells: " + "; ".join(shown) + ("; …" if len(cells) > len(shown) else "")


def finished_results(root: Path, job: Job) -> Results | None:
    """The results of a run that is finished with its present configuration, by this version; None otherwise."""
    try:
        results = Results.read(root / job.directory / "results.json")
        kept_answers(root, job)
    except (DataError, DamagedError):
        return None
    present = results.config_fingerprint == job.fingerprint and results.weak == WEAK
    return results if present else None


def kept_answers(root: Path, job: Job) -> Answers:
    """Correct answers of the arms of a finished run; read once for as long as the file stays what it is.

    Raises:
        DataError: the file is missing or unreadable.
    """
    path = root / job.directory / "correct.parquet"
    try:
        status = path.stat()
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}.", hint="Repeat the sweep's command.") from error
    return _read_answers(path, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=4096)
def _read_answers(path: Path, changed: int, size: int) -> Answers:
    return Answers(*read_correct(path))


def collect(root: Path, plan: SweepPlan, errors: Mapping[Job, str] | None = None) -> SweepResults:
    """Status of a sweep, from the run directories; writes ``sweep.json``, ``sweep.csv`` and ``comparisons.csv``.

    Args:
        root: the sweep's directory.
        plan: the sweep.
        errors: why jobs failed in this process.
    """
    cells: list[CellResult] = []
    found: dict[Job, Results] = {}
    answers: dict[str, dict[int, Answers]] = {}
    for cell in plan.cells:
        jobs, results = [], {}
        for seed in plan.seeds:
            job = Job(cell, seed)
            done = None if cell.composed is None else finished_results(root, job)
            jobs.append(_job_result(root, job, done, (errors or {}).get(job)))
            if done is not None:
                results[seed] = found[job] = done
        answers[cell.name] = {seed: kept_answers(root, Job(cell, seed)) for seed in results}
        cells.append(cell_result(cell.name, cell.settings, jobs, results, answers[cell.name]))
        if len(results) > 1:  # a cell can be reported by itself
            place, together = (
                root / "cells" / cell.folder,
                aggregate(list(results.values()), cell.name, answers[cell.name]),
            )
            with recording(place, "aggregate.json"):
                together.write(place / "aggregate.json")
    level = next(cell.composed.config.evaluation.level for cell in plan.cells if cell.composed is not None)
    task = next(cell.composed.config.task for cell in plan.cells if cell.composed is not None)
    sweep = SweepResults(
        name=plan.name,
        task=task,
        over=plan.over,
        seeds=plan.seeds,
        baseline=plan.baseline,
        compared=plan.compared,
        level=level,
        cells=cells,
        comparisons=compare_cells(cells, plan.baseline, plan.compared, level, answers),
        caution=sweep_caution(len(plan.seeds), level),
        controls=compare_with_controls(cells, level, answers),
    )
    with recording(root, "sweep.json", "sweep.csv", "comparisons.csv"):
        sweep.write(root / "sweep.json")
        write_text(root / "sweep.csv", _runs_csv(plan, found))
        write_text(root / "comparisons.csv", _comparisons_csv(sweep))
    return sweep


def _job_result(root: Path, job: Job, results: Results | None, error: str | None) -> JobResult:
    directory = job.directory.as_posix()
    if results is not None:
        flops = sum(cost.flops for cost in results.costs.values()) or None
        return JobResult(
            seed=job.seed, state="finished", directory=directory, seconds=sum(results.times.values()), flops=flops
        )
    if job.cell.composed is None:
        return JobResult(seed=job.seed, state="failed", directory=directory, error=job.cell.problem)
    if error is not None:
        return JobResult(seed=job.seed, state="failed", directory=directory, error=error)
    begun = (root / job.directory / "config.yaml").exists()
    return JobResult(seed=job.seed, state="interrupted" if begun else "waiting", directory=directory)


def _runs_csv(plan: SweepPlan, found: Mapping[Job, Results]) -> str:
    """One row a finished run, arm and split."""
    keys = list(dict.fromkeys(key for cell in plan.cells for key in cell.settings))
    head = ["cell", *keys, "seed", "arm", "split", "accuracy", "low", "high", "n", "token_accuracy", "build_flops"]
    rows = []
    for job, results in found.items():
        settings = [_shown(job.cell.settings[key]) if key in job.cell.settings else "" for key in keys]
        for arm, splits in results.arms.items():
            cost = results.arm_costs.get(arm)
            for split, r in splits.items():
                tokens = "" if r.token_accuracy is None else r.token_accuracy.value
                numbers = [r.accuracy, r.low, r.high, r.n, tokens, "" if cost is None else cost.total]
                rows.append([job.cell.name, *settings, job.seed, arm, split, *numbers])
    return csv_text(head, rows)


def _comparisons_csv(sweep: SweepResults) -> str:
    head = ["cell", "baseline", "arm", "split", "seeds", "mean", "sd", "se", "low", "high", "t", "p", "p_holm"]
    rows = [
        [*(getattr(c, name) for name in head[:4]), len(c.seeds)] + [getattr(c, n) for n in head[5:]]
        for c in sweep.comparisons
    ]
    return csv_text(head, rows)
