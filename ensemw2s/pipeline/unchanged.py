"""Whether the files behind a finished run are still what they were."""

from __future__ import annotations

from pathlib import Path

import ensemw2s.stage_names as stage
from ensemw2s.config.schema import RunConfig
from ensemw2s.pipeline.data import file_hashes, sources_of
from ensemw2s.runs import RunDirectory


def changed_inputs(config: RunConfig, run_dir: Path) -> list[str]:
    """What a run read and would read differently now: data files and base models, by their content.

    Args:
        config: the run's configuration.
        run_dir: a finished run directory.

    Returns:
        Names such as ``data.source`` or ``models.weak``; empty if nothing changed.

    Raises:
        DataError: a data file is gone.
        ModelError: a base model is gone.
    """
    from ensemw2s.models.loading.fingerprint import model_fingerprint

    run = RunDirectory.open(run_dir)
    data, weak = run.stage_record(stage.DATA), run.stage_record(f"{stage.scores(stage.zero_shot('weak'))}/test")
    if data is None or weak is None:
        return ["stages that are missing"]
    now = {name: file_hashes(source) for name, source in sources_of(config.data).items()}
    found = [f"data.{name}" for name, hashes in now.items() if data.inputs["files"].get(name) != hashes]
    if weak.inputs["model"] != model_fingerprint(config.models.weak):
        found.append("models.weak")
    names = [*map(stage.student, config.teachers)] + ([stage.ceiling()] if config.arms.ceiling else [])
    for name in names[:1]:
        strong = run.stage_record(name)
        if strong is None or strong.inputs["base"] != model_fingerprint(config.models.strong):
            found.append("models.strong")
    return found
