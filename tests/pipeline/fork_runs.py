"""Runs pipelines in forked processes and kills them on demand; started by test_resume.py as a program.

The libraries are imported once. Each line on stdin is a JSON object ``{config, folder, at}``: a child runs the
configuration in the folder and kills itself with SIGKILL at the ``at``-th thing that its sink hears of (0: never). The
answer on stdout is ``{status, heard}``: the child's exit code (negative: the signal) and how much its sink heard.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

import torch

import ensemw2s.models.inference.scoring
import ensemw2s.models.training.finetune
import ensemw2s.models.training.trainer
import ensemw2s.pipeline.run
from ensemw2s.config.schema import RunConfig
from ensemw2s.config.training import ModelConfig
from ensemw2s.models.loading.load import load_model
from ensemw2s.sink import NullSink


class Killer(NullSink):
    """Counts what it hears, into a file, and ends its process at the n-th."""

    def __init__(self, at: int, counter: Path) -> None:
        self.at = at
        self.heard = 0
        self.counter = counter

    def _hear(self) -> None:
        self.heard += 1
        self.counter.write_text(str(self.heard))
        if self.heard == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def event(self, kind: str, **fields: Any) -> None:
        self._hear()

    def metric(self, kind: str, **fields: Any) -> None:
        self._hear()

    def progress(self, task: str, done: int, total: int) -> None:
        self._hear()


def child(order: dict[str, Any], counter: Path) -> int:
    try:
        config = RunConfig.model_validate(order["config"])
        killer = Killer(order["at"], counter)
        ensemw2s.pipeline.run.execute(config, Path(order["folder"]), sink=killer, report=False)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def main() -> None:
    torch.set_num_threads(1)
    load_model(ModelConfig(path="embedded:weak"))  # children inherit what the first loading imports and prepares
    for line in sys.stdin:
        with tempfile.TemporaryDirectory() as folder:
            counter = Path(folder) / "heard"
            counter.write_text("0")
            pid = os.fork()
            if pid == 0:
                os._exit(child(json.loads(line), counter))
            status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            print(json.dumps({"status": status, "heard": int(counter.read_text() or 0)}), flush=True)
    os._exit(0)  # taking the libraries down takes seconds


if __name__ == "__main__":
    main()
