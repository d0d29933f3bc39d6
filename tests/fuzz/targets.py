"""What reads files of others, as functions of bytes: each must give a value or an :class:`Ew2sError`, and nothing else.

Shared by ``fuzz.py`` (coverage-guided, minutes) and ``test_kept_cases.py`` (every case found so far, in the suite).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ensemw2s.errors import Ew2sError


@dataclass(frozen=True)
class Target:
    """A parser.

    Attributes:
        read: gets a folder in which ``file`` holds the bytes.
        file: name of the file.
        seeds: valid content to start from.
    """

    read: Callable[[Path], object]
    file: str
    seeds: Callable[[], list[bytes]]

    def __call__(self, data: bytes, folder: Path) -> None:
        """Read ``data``; anything but a value or an :class:`Ew2sError` is a finding."""
        path = folder / self.file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        with contextlib.suppress(Ew2sError):
            self.read(folder)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory where the system has one."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory, prefix="fuzz-") as folder:
        yield Path(folder)


_QUESTIONS = [
    {"prompt": "one and one", "choices": ["2", "3"], "answer": "2", "level": 1},
    {"prompt": "two and two", "choices": ["4", "5", "6"], "answer": "4", "level": 2, "more": [None, {"a": 1.5}]},
]


def _rows(suffix: str) -> Callable[[Path], object]:
    def read(folder: Path) -> object:
        from ensemw2s.config.data import SourceConfig
        from ensemw2s.data.check import check_source
        from ensemw2s.data.sources import load_source

        columns = {"prompt": "prompt", "answer": "answer", "choices": "choices", "difficulty": "level"}
        source = SourceConfig(kind="file", path=str(folder / f"q{suffix}"), columns=columns)
        check_source(source, task="choice").to_json()
        return load_source(source, 0)

    return read


def _lines() -> list[bytes]:
    rows = [json.dumps(row, ensure_ascii=False) for row in _QUESTIONS]
    return ["\n".join(rows).encode(), rows[0].encode("utf-16"), b'{"prompt": NaN, "choices": {"A": 1e400}}']


def _list() -> list[bytes]:
    return [json.dumps(_QUESTIONS).encode(), json.dumps(_QUESTIONS, indent=1).encode("utf-8-sig")]


def _csv() -> list[bytes]:
    table = 'prompt,choices,answer,level\none,"[""2"", ""3""]",2,1\n"two\nlines","[""a"", ""b""]",b,2\n'
    return [table.encode(), table.replace(",", ";").encode(), table.replace("\n", "\r\n").encode("utf-8-sig")]


def _parquet() -> list[bytes]:
    import pyarrow
    import pyarrow.parquet as parquet

    buffer = io.BytesIO()
    columns = {"prompt": ["a", "b"], "choices": [["1", "2"], ["3", "4"]], "answer": ["1", "4"], "level": [1, 2]}
    parquet.write_table(pyarrow.table(columns), buffer)
    return [buffer.getvalue()]


def _configuration(folder: Path) -> object:
    from ensemw2s.config.composition import load_config

    return load_config(folder / "config.yaml")


def _setting(folder: Path) -> object:
    from ensemw2s.config.composition import compose

    text = (folder / "set").read_bytes().decode("utf-8", "surrogateescape")
    return compose(sets=[text])


def _sweep(folder: Path) -> object:
    from ensemw2s.sweeps.file import read_sweep_file

    return read_sweep_file(folder / "sweep.yaml")


def _presets() -> list[bytes]:
    from ensemw2s.config.presets import list_presets, preset_text

    return [preset_text(preset.name).encode() for preset in list_presets()]


def _log(folder: Path) -> object:
    from ensemw2s.cli.dashboard.model.fold_events import fold_events
    from ensemw2s.cli.dashboard.model.fold_metrics import fold_metrics
    from ensemw2s.cli.dashboard.model.model import RunModel
    from ensemw2s.runs.describe import describe_run
    from ensemw2s.runs.reader import read_events

    model = RunModel()
    records = read_events(folder / "events.jsonl")
    fold_events(model, records)
    fold_metrics(model, records)
    return describe_run(folder)


def _events() -> list[bytes]:
    lines = [
        {"kind": "run_started", "name": "x", "seed": 0, "task": "choice", "config_fingerprint": "ab", "resumed": False},
        {"kind": "plan", "stages": ["data", "experts/round-01"]},
        {"kind": "round_finished", "round": 1, "epsilon": 0.3, "alpha": 1.5, "kept": True},
        {"kind": "arm_result", "arm": "ensemble", "split": "test", "accuracy": 0.5, "n": 10},
        {"kind": "train", "who": "experts/round-01", "step": 3, "loss": 2.5},
        {"kind": "run_failed", "error": "x", "stage": None},
    ]
    return ["".join(json.dumps({"v": 1, "t": 1.5, **line}) + "\n" for line in lines).encode()]


def _heartbeat(folder: Path) -> object:
    from ensemw2s.runs.describe import describe_run
    from ensemw2s.runs.heartbeat import read_heartbeat

    (folder / "config.yaml").write_text("name: x\n")
    beat = read_heartbeat(folder)
    return (describe_run(folder), beat is not None and (beat.age, beat.alive))


def _lock(folder: Path) -> object:
    from ensemw2s.runs.lock import RunLock

    with RunLock(folder):
        return None


def _stage(folder: Path) -> object:
    from ensemw2s.runs.stage import Stages

    stages = Stages(folder)
    return (stages.record("one"), stages.is_done("one", {"a": 1}), stages.rerun_reason("one", {"a": 2}))


def _finished_stage() -> list[bytes]:
    from ensemw2s.runs.stage import Stages

    with scratch() as folder:
        Stages(folder).ensure("one", {"a": 1}, lambda partial: (partial / "x").write_text("y"))
        return [(folder / "one" / "stage.json").read_bytes()]


def _ensemble(folder: Path) -> object:
    from ensemw2s.ensemble import Ensemble

    (folder / "expert").mkdir(exist_ok=True)
    return Ensemble.load(folder)


def _ensembles() -> list[bytes]:
    from ensemw2s.config.schema import RunConfig

    config = RunConfig()
    expert = {"path": "expert", "alpha": 1.0}
    content: dict[str, Any] = {
        "task": "choice",
        "experts": [expert, expert],
        "ensemble": config.ensemble.model_dump(),
        "template": config.data.template.model_dump(),
        "decoding": config.labelling.decoding.model_dump(),
        "evaluation": config.evaluation.model_dump(),
    }
    return [json.dumps(content).encode()]


def _results(folder: Path) -> object:
    from ensemw2s.report.build import load_results

    return load_results(folder)


def _written_results() -> list[bytes]:
    from ensemw2s.evaluation.metrics import summarise
    from ensemw2s.evaluation.results import Results

    arms = {"plain": {"test": summarise([True, False]), "hard_test": summarise([False, True])}}
    with scratch() as folder:
        Results(name="x", seed=0, task="choice", config_fingerprint="ab", arms=arms).write(folder / "results.json")
        return [(folder / "results.json").read_bytes()]


def _array(folder: Path) -> object:
    from ensemw2s.models.inference.score_table import ScoreTable

    for name, value in _tables().items():
        if name != "argmax":
            np.save(folder / f"{name}.npy", value)
    return ScoreTable.load(folder)


def _tables() -> dict[str, Any]:
    ids, logs = np.zeros((2, 2), np.int32), np.zeros((2, 2), np.float32)
    return {"target_logprob": logs[0], "argmax": ids[0], "topk_ids": ids, "topk_logprob": logs}


def _arrays() -> list[bytes]:
    found = []
    for value in (np.zeros(2, np.int32), np.ones(3, np.complex64), np.zeros((2, 2), np.int64)):
        buffer = io.BytesIO()
        np.save(buffer, value)
        found.append(buffer.getvalue())
    return found


def _labels(folder: Path) -> object:
    from ensemw2s.labelling.labels import Labels

    return Labels.load(folder)


def _written_labels() -> list[bytes]:
    from ensemw2s.labelling.labels import Labels

    with scratch() as folder:
        one = np.ones(2, np.float64)
        tokens = [np.zeros(2, np.int32)] * 2
        zero = np.zeros(2, np.int64)
        Labels("ensemble", ["1", "2"], ["a", "b"], tokens, zero, one, one, one, one > 0).save(folder)
        return [(folder / "labels.parquet").read_bytes()]


def _correct(folder: Path) -> object:
    from ensemw2s.evaluation.correct import read_correct

    return read_correct(folder / "correct.parquet")


def _written_correct() -> list[bytes]:
    from ensemw2s.evaluation.correct import write_correct

    with scratch() as folder:
        file = folder / "correct.parquet"
        write_correct(file, {"plain": {"test": np.array([True, False])}}, {"test": ["1", "2"]})
        return [file.read_bytes()]


def _answer(folder: Path) -> object:
    from ensemw2s.evaluation.matching import answers_match, compile_pattern

    pattern, _, rest = (folder / "answers.txt").read_bytes().decode("utf-8", "replace").partition("\0")
    predicted, _, true = rest.partition("\0")
    answers_match(predicted, f"{true}\nThe answer is 7", "number")
    return answers_match(predicted, true, "exact", compile_pattern(pattern))


TARGETS: dict[str, Target] = {
    "jsonl": Target(_rows(".jsonl"), "q.jsonl", _lines),
    "json": Target(_rows(".json"), "q.json", _list),
    "csv": Target(_rows(".csv"), "q.csv", _csv),
    "parquet": Target(_rows(".parquet"), "q.parquet", _parquet),
    "configuration": Target(_configuration, "config.yaml", _presets),
    "setting": Target(
        _setting, "set", lambda: [b"boosting.rounds=3", b"data.template={prompt: 'a {prompt}', answer: ''}"]
    ),
    "sweep": Target(_sweep, "sweep.yaml", lambda: [b"preset: tiny\nover: {boosting.rounds: [1, 2]}\nseeds: [0, 1]\n"]),
    "events": Target(_log, "events.jsonl", _events),
    "heartbeat": Target(_heartbeat, "heartbeat", lambda: [b'{"pid": 1, "host": "a", "time": 1.5, "state": "running"}']),
    "lock": Target(_lock, "run.lock", lambda: [b'{"pid": 1, "host": "a", "time": 1.5}']),
    "stage": Target(_stage, "one/stage.json", _finished_stage),
    "ensemble": Target(_ensemble, "ensemble.json", _ensembles),
    "results": Target(_results, "results.json", _written_results),
    "scores": Target(_array, "argmax.npy", _arrays),
    "labels": Target(_labels, "labels.parquet", _written_labels),
    "correct": Target(_correct, "correct.parquet", _written_correct),
    "answer": Target(_answer, "answers.txt", lambda: [b"#### (.+)\0the answer is #### 1,000\0001000"]),
}
