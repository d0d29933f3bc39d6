"""Runs a configuration with several seeds and aggregates the results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ensemw2s.checksums import recording
from ensemw2s.config.schema import RunConfig
from ensemw2s.errors import ConfigError
from ensemw2s.evaluation.correct import read_correct
from ensemw2s.evaluation.over_seeds import aggregate
from ensemw2s.evaluation.results import Results
from ensemw2s.evaluation.sampling import Answers
from ensemw2s.files import remove_abandoned
from ensemw2s.outputs import refuse_links
from ensemw2s.pipeline.date import dated
from ensemw2s.pipeline.run import execute
from ensemw2s.runs.directory import remove_trunk
from ensemw2s.sink import EventSink


def seed_directory(root: Path, seed: int) -> Path:
    """Directory of the run of one seed."""
    return root / f"seed-{seed}"


def execute_seeds(
    config: RunConfig,
    root: Path,
    seeds: Sequence[int],
    *,
    sink: EventSink,
    provenance: Mapping[str, str] | None = None,
    preset: str | None = None,
) -> dict[str, Any]:
    """Run every seed in its own directory below ``root`` and aggregate.

    Args:
        config: the resolved configuration; its seed is replaced.
        root: gets ``seed-N`` run directories and ``aggregate.json``.
        seeds: at least two different seeds.
        sink: gets every event of every run.
        provenance: where each configuration value came from.
        preset: name of the preset, for the record.

    Returns:
        The content of ``aggregate.json``.

    Raises:
        ConfigError: fewer than two seeds, a seed twice or negative.
        InputError: there is a symbolic link below ``root``.
    """
    if len(seeds) < 2 or len(set(seeds)) != len(seeds) or min(seeds) < 0:
        raise ConfigError(
            f"--seeds needs at least two different seeds that are not negative, not {','.join(map(str, seeds))}.",
            hint="For example: --seeds 0,1,2",
        )
    refuse_links(root)
    remove_abandoned(root)
    origin = {**(provenance or {}), "seed": "--seeds"}
    date = dated(config.data.template, root).date
    for seed in seeds:
        one = config.model_copy(update={"seed": seed})
        place = seed_directory(root, seed)
        execute(one, place, sink=sink, provenance=origin, preset=preset, date=date, shared=root)
    remove_trunk(root)
    directories = {seed: seed_directory(root, seed) for seed in seeds}
    results = [Results.read(directory / "results.json") for directory in directories.values()]
    answers = {seed: Answers(*read_correct(directory / "correct.parquet")) for seed, directory in directories.items()}
    found = aggregate(results, config.name, answers)
    with recording(root, "aggregate.json"):
        found.write(root / "aggregate.json")
    from ensemw2s.report.build import build_report

    build_report(root)
    return found.to_json()
