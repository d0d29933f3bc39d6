"""Exports the labels of a run as a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import ensemw2s.stage_names as stage
from ensemw2s.arms import ENSEMBLE
from ensemw2s.config.dump import config_fingerprint
from ensemw2s.config.schema import RunConfig
from ensemw2s.data.store import read_splits
from ensemw2s.errors import DataError, InputError
from ensemw2s.evaluation.results import Results
from ensemw2s.labelling.export import Origin, Provenance, export_labels
from ensemw2s.labelling.labels import Labels
from ensemw2s.outputs import check_output_folder
from ensemw2s.runs.directory import RunDirectory


def export_run_labels(
    run_dir: Path, folder: Path, teachers: Sequence[str] = (), *, title: str | None = None
) -> dict[str, int]:
    """Write a run's labels as a data set folder with a card; see :func:`ensemw2s.labelling.export.export_labels`.

    Args:
        run_dir: a run whose labels are there.
        folder: empty, missing, or a data set that is written over.
        teachers: which ones, the first being the default; all, the ensemble first, by default.
        title: the card's heading; by default the run's name.

    Returns:
        Number of labels by teacher.

    Raises:
        InputError: there is no such run or teacher, or no labels yet.
    """
    run = RunDirectory.open(run_dir)
    check_output_folder(folder, inputs=[run.path / "labels"], ours=_is_exported, what="a data set of labels")
    config = run.load_config()
    found = _teachers(run)
    if not found:
        raise InputError(f"{run_dir} holds no labels yet.", hint="Label first: ew2s label, with the run's options.")
    chosen = list(teachers) or sorted(found, key=lambda name: (name != ENSEMBLE, name))
    for teacher in chosen:
        if teacher not in found:
            raise InputError(f"{run_dir} has no labels of {teacher!r}.", hint=f"There are {', '.join(found)}.")
    results = _results(run)
    labels = {teacher: Labels.load(run.path / stage.labels(teacher)) for teacher in chosen}
    provenance = {teacher: _provenance(run, config, teacher, results) for teacher in chosen}
    pool = read_splits(run.path / stage.DATA).hard_pool
    folder.mkdir(parents=True, exist_ok=True)
    origin = _origin(run, config, results, title or f"{config.name} labels")
    return export_labels(labels, pool, provenance, origin, folder)


def _is_exported(folder: Path) -> bool:
    """Whether a folder holds what :func:`export_run_labels` writes, as far as it came, and nothing else."""
    places = [place for place in folder.iterdir() if place.name != "README.md"]
    inside = [[entry.name for entry in place.iterdir()] if place.is_dir() else None for place in places]
    return bool(places) and all(names in (["train.parquet"], []) for names in inside)


def _teachers(run: RunDirectory) -> list[str]:
    root = run.path / "labels"
    names = sorted(file.parent.name for file in root.glob("*/labels.parquet"))
    return [name for name in names if run.stages.record(stage.labels(name)) is not None]


def _results(run: RunDirectory) -> Results | None:
    try:
        return Results.read(run.results_path)
    except DataError:  # not finished yet, or of another version
        return None


def _provenance(run: RunDirectory, config: RunConfig, teacher: str, results: Results | None) -> Provenance:
    record = run.stages.record(stage.labels(teacher))
    inputs = {} if record is None else record.inputs
    combined = inputs.get("ensemble", {})
    return Provenance(
        alphas=[float(alpha) for alpha in inputs.get("alphas", [])],
        rule=combined.get("rule", config.ensemble.rule),
        length_norm=combined.get("length_norm", config.ensemble.length_norm),
        result=None if results is None else results.labels.get(teacher),
    )


def _origin(run: RunDirectory, config: RunConfig, results: Results | None, title: str) -> Origin:
    record = run.stages.record(stage.DATA)
    source = config.data.hard_source or config.data.source
    place = source.path if isinstance(source.path, str) else next(iter(source.path or []), None)
    return Origin(
        title=title,
        task=config.task,
        weak=_short(config.models.weak.path),
        source=f"{source.kind}" + (f", `{_short(place)}`" if place else "") + " (the hard pool of the run)",
        seed=config.seed,
        fingerprint=config_fingerprint(config) if results is None else results.config_fingerprint,
        versions=results.versions if results is not None else {} if record is None else record.versions,
    )


def _short(path: str) -> str:
    """A local path by its last part: a card is read elsewhere."""
    return Path(path).name if Path(path).is_absolute() or Path(path).exists() else path
