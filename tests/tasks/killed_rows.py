"""Files through an ensemble in forked processes that are killed on demand; started by test_rows.py as a program.

The libraries are imported once. Each line on stdin is a JSON object ``{command, ensemble, input, output, rows, at}``: a
child does the command with parts of ``rows`` rows and kills itself with SIGKILL before the ``at``-th operation on a
file in the output's folder (0: never). The answer on stdout is ``{status, seen, error, done}``: the child's exit code
(negative: the signal), how many operations there were, the message of an error, and what the command returned.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from ensemw2s.config.data import ColumnMap, SourceConfig
from ensemw2s.config.method import DecodingConfig
from ensemw2s.config.training import ComputeConfig, ModelConfig
from ensemw2s.data.sources import iter_source
from ensemw2s.errors import Ew2sError, Interrupted
from ensemw2s.models.loading.load import load_model
from ensemw2s.sink import NullSink
from ensemw2s.tasks import rows
from ensemw2s.tasks import use_ensemble as files

_OPERATIONS = frozenset({"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate"})


class Killer:
    """Counts operations on files in a folder, and ends its process before the n-th."""

    def __init__(self, folder: Path, at: int, counter: Path) -> None:
        self.folder, self.at, self.seen = str(folder), at, 0
        self.counter = os.open(counter, os.O_WRONLY)
        sync = os.fsync
        os.fsync = lambda descriptor: (self.count(), sync(descriptor))[1]  # type: ignore[assignment]
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event in _OPERATIONS and any(isinstance(a, str) and a.startswith(self.folder) for a in arguments):
            self.count()

    def count(self) -> None:
        self.seen += 1
        os.pwrite(self.counter, str(self.seen).encode(), 0)
        if self.seen == self.at:
            os.kill(os.getpid(), signal.SIGKILL)


class Stop(NullSink):
    """Presses Ctrl-C when so many rows are done."""

    def __init__(self, at: int | None) -> None:
        self.at = at

    def progress(self, task: str, done: int, total: int) -> None:
        if self.at is not None and task in ("label", "score", "generate") and done >= self.at:
            raise KeyboardInterrupt


def work(order: dict[str, Any]) -> Any:
    rows.PART_ROWS = order["rows"]
    compute = ComputeConfig(threads=1, device="cpu", batch_tokens=order.get("batch_tokens", 16384))
    decoding = DecodingConfig(**order["decoding"]) if "decoding" in order else None
    output, sink = Path(order["output"]), Stop(order.get("stop"))
    source = SourceConfig(kind="file", path=order["input"], columns=ColumnMap(choices="choices", id="id"))
    if order["command"] == "label":
        return files.label_file(
            order["ensemble"], source, output, compute=compute, decoding=decoding, seed=order.get("seed", 0), sink=sink
        )
    ensemble = files.load_ensemble(order["ensemble"], compute)
    questions = list(iter_source(source, 0))
    columns = files.SCORE_COLUMNS if order["command"] == "score" else files.GENERATE_COLUMNS
    rows.check_rows_output(output, columns, [Path(order["input"])])
    if order["command"] == "score":
        return files.score_to_file(ensemble, questions, "the questions", output, sink)
    assert decoding is not None
    return files.generate_to_file(ensemble, questions, "the questions", output, decoding, seed=3, sink=sink)


def child(order: dict[str, Any], answer: Path, counter: Path) -> int:
    Killer(Path(order["output"]).parent, order["at"], counter)
    try:
        answer.write_text(json.dumps({"done": work(order)}))
    except (Ew2sError, Interrupted) as error:
        answer.write_text(json.dumps({"error": str(error), "kind": type(error).__name__}))
        return 1
    return 0


def main() -> None:
    torch.set_num_threads(1)
    load_model(ModelConfig(path="embedded:weak"))  # children inherit what the first loading imports and prepares
    for line in sys.stdin:
        with tempfile.TemporaryDirectory() as folder:
            answer, counter = Path(folder) / "answer", Path(folder) / "seen"
            counter.write_text("0")
            pid = os.fork()
            if pid == 0:
                os._exit(child(json.loads(line), answer, counter))
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            found = json.loads(answer.read_text()) if answer.exists() else {}
            print(json.dumps({"status": status, "seen": int(counter.read_text() or 0), **found}), flush=True)
    os._exit(0)  # taking the libraries down takes seconds


if __name__ == "__main__":
    main()
