"""Below a run directory nothing is written through a link: it is refused by name, and nothing is touched."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.config.composition import compose
from ensemw2s.errors import EXIT_USAGE, InputError
from ensemw2s.files import write_json
from ensemw2s.runs.directory import RunDirectory
from ensemw2s.runs.log import LogSink
from ensemw2s.runs.stage import Stages
from ensemw2s.sink import NullSink
from ensemw2s.sweeps.plan import plan_sweep
from ensemw2s.sweeps.run import run_sweep
from ensemw2s.sweeps.seeds import execute_seeds

PLACES = [
    *("run.lock", "heartbeat", "events.jsonl", "metrics.jsonl", "files.json"),
    *("config.yaml", "ensemble.json", "results.json", "correct.parquet"),
    *("report", "report/report.html", "student", "data", "data.partial", "ceiling.stale", "token_weights"),
    *("token_weights/round-01.npy", "experts/round-01.partial/model/trainer", "labels/ensemble/stage.json"),
    *("experts", "joint/labels/ensemble/hard_pool", "answers/single-test.partial", "baselines/plain/scores"),
]


def _everything(folder: Path) -> dict[str, Any]:
    """What lies below a folder: kind, permissions, size and time of every entry, and every file's content."""
    found: dict[str, Any] = {}
    for place in (folder, *folder.rglob("*")):
        status = place.lstat()
        content = place.read_bytes() if stat.S_ISREG(status.st_mode) else None
        found[str(place)] = (status.st_mode, status.st_size, status.st_mtime_ns, status.st_nlink, content)
    return found


@pytest.fixture
def victim(tmp_path: Path) -> Path:
    """A folder of the user, outside the run."""
    folder = tmp_path / "home" / ".ssh"
    folder.mkdir(parents=True)
    (folder / "authorized_keys").write_text("key\n")
    return folder


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run directory with a configuration."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("seed: 0\n")
    return tmp_path / "run"


def _refused(run: Path, victim: Path, place: Path) -> None:
    before = _everything(run), _everything(victim.parent)
    with pytest.raises(InputError) as caught, RunDirectory.create(run).writing():
        pass
    assert str(place) in caught.value.message
    assert caught.value.exit_code == EXIT_USAGE
    assert (_everything(run), _everything(victim.parent)) == before


@pytest.mark.parametrize("target", ["folder", "file", "nothing"])
@pytest.mark.parametrize("name", PLACES)
def test_a_link_anywhere_in_a_run_is_refused_by_name(run: Path, victim: Path, name: str, target: str) -> None:
    place = run / name
    place.parent.mkdir(parents=True, exist_ok=True)
    place.unlink(missing_ok=True)
    place.symlink_to({"folder": victim, "file": victim / "authorized_keys", "nothing": victim / "new"}[target])
    if name == "config.yaml":
        (run / "results.json").write_text("{}")
    _refused(run, victim, place)


@pytest.mark.parametrize("name", ["run.lock", "events.jsonl", "metrics.jsonl"])
def test_a_second_name_of_somebody_elses_file_is_refused(run: Path, victim: Path, name: str) -> None:
    (run / name).hardlink_to(victim / "authorized_keys")
    _refused(run, victim, run / name)


@pytest.mark.parametrize("name", ["results.json", "config.yaml", "heartbeat"])
def test_what_is_replaced_as_a_whole_may_have_a_second_name(run: Path, victim: Path, name: str) -> None:
    """As in a backup made of hard links: the backup keeps the old content."""
    (run / name).unlink(missing_ok=True)
    (run / name).hardlink_to(victim / "authorized_keys")
    (run / "ensemble.json").touch()
    (run / "events.jsonl").touch()
    directory = RunDirectory.create(run)
    with directory.writing():
        write_json(directory.results_path, {})
        from ensemw2s.config.schema import RunConfig

        directory.save_config(RunConfig())
    assert (victim / "authorized_keys").read_text() == "key\n"


@pytest.mark.parametrize("name", ["run.lock", "events.jsonl", "metrics.jsonl", "heartbeat", "report"])
def test_a_pipe_is_refused_and_does_not_hang(run: Path, victim: Path, name: str) -> None:
    os.mkfifo(run / name)
    _refused(run, victim, run / name)


@pytest.mark.parametrize("name", ["run.lock", "events.jsonl", "metrics.jsonl"])
def test_a_folder_where_a_log_belongs_is_refused(run: Path, victim: Path, name: str) -> None:
    (run / name).mkdir()
    _refused(run, victim, run / name)


def test_the_run_itself_may_be_a_link(run: Path, tmp_path: Path) -> None:
    (tmp_path / "here").symlink_to(run)
    with RunDirectory.create(tmp_path / "here").writing() as log:
        log.event("run_finished", seconds=1.0)
    assert (run / "events.jsonl").exists()


def test_a_link_that_appears_during_a_run_is_refused_by_the_next_stage(run: Path, victim: Path) -> None:
    stages = Stages(run)
    (run / "student").symlink_to(victim)
    with pytest.raises(InputError, match="student is a symbolic link"):
        stages.ensure("student/ensemble", {}, lambda partial: (partial / "x").touch())
    assert [p.name for p in victim.iterdir()] == ["authorized_keys"]


def test_an_unfinished_stage_with_second_names_of_files_is_not_continued(run: Path, victim: Path) -> None:
    stages = Stages(run)

    def interrupted(partial: Path) -> None:
        (partial / "config.json").hardlink_to(victim / "authorized_keys")
        raise KeyboardInterrupt

    def work(partial: Path) -> None:
        assert not (partial / "config.json").exists()
        (partial / "config.json").write_text("{}")

    with pytest.raises(KeyboardInterrupt):
        stages.ensure("student/ensemble", {}, interrupted, resume=True)
    stages.ensure("student/ensemble", {}, work, resume=True)
    assert (victim / "authorized_keys").read_text() == "key\n"


@pytest.mark.parametrize("kind", ["link", "hard"])
def test_a_log_that_turns_into_a_link_is_not_written_and_the_run_goes_on(
    run: Path, victim: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    log = LogSink(run)
    file = victim / "authorized_keys"
    (run / "events.jsonl").symlink_to(file) if kind == "link" else (run / "events.jsonl").hardlink_to(file)
    log.event("message", level="info", text="evil")
    log.close()
    assert file.read_text() == "key\n"
    assert "cannot be written" in capsys.readouterr().err


def _cell(settings: Any) -> Any:
    return compose(preset="tiny", sets=[f"{key}={value}" for key, value in settings.items()])


@pytest.mark.parametrize(
    "name", ["cells", "cells/rounds=1/seed-0", "cells/rounds=1/seed-0.log", "run.lock", "sweep.json", "report"]
)
def test_a_sweep_refuses_links(tmp_path: Path, victim: Path, name: str) -> None:
    root = tmp_path / "sweep"
    plan = plan_sweep({"boosting.rounds": [1, 2]}, {}, [0], _cell)
    (root / name).parent.mkdir(parents=True)
    (root / name).symlink_to(victim / "authorized_keys" if "." in name else victim)
    before = _everything(tmp_path)
    with pytest.raises(InputError, match="is a symbolic link"):
        run_sweep(plan, root, watcher=None)  # type: ignore[arg-type]
    assert _everything(tmp_path) == before


def test_the_log_of_a_sweeps_run_may_not_be_a_second_name(tmp_path: Path, victim: Path) -> None:
    plan = plan_sweep({"boosting.rounds": [1, 2]}, {}, [0], _cell)
    log = tmp_path / "sweep" / plan.jobs[0].log
    log.parent.mkdir(parents=True)
    log.hardlink_to(victim / "authorized_keys")
    with pytest.raises(InputError, match="hard link"):
        run_sweep(plan, tmp_path / "sweep", watcher=None)  # type: ignore[arg-type]
    assert (victim / "authorized_keys").read_text() == "key\n"


@pytest.mark.parametrize("name", ["seed-0", "seed-1", "aggregate.json", "report"])
def test_several_seeds_refuse_links(tmp_path: Path, victim: Path, name: str) -> None:
    (tmp_path / "seeds").mkdir()
    (tmp_path / "seeds" / name).symlink_to(victim)
    before = _everything(tmp_path)
    with pytest.raises(InputError, match=f"{name} is a symbolic link"):
        execute_seeds(_cell({}).config, tmp_path / "seeds", [0, 1], sink=NullSink())
    assert _everything(tmp_path) == before
