"""A world for a fault to happen in: a folder with a configuration, inputs and runs, and things outside of it."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as parquet

SIZES = {"hard_above": 5, "train": 48, "validation": 16, "test": 24, "hard_pool": 32, "hard_test": 24}
CONFIG: dict[str, Any] = {
    "name": "mini",
    "data": {"source": {"kind": "synthetic", "size": 500}, "split": SIZES},
    "training": {
        "expert": {"steps": 4, "batch_size": 16, "learning_rate": 2e-3, "log_steps": 2, "checkpoint_steps": 2},
        "student": {"steps": 4, "batch_size": 16, "learning_rate": 2e-3, "log_steps": 2},
    },
    "boosting": {"rounds": 2},
    "arms": {"students": ["ensemble"]},
    "evaluation": {"bootstrap": 100},
    "compute": {"threads": 1},
}
WRITTEN: dict[str, Any] = {
    **CONFIG,
    "name": "written",
    "task": "generate",
    "arms": {"students": ["ensemble"], "bagging": False},
    "labelling": {"decoding": {"max_new_tokens": 6}},
    "evaluation": {"bootstrap": 100, "match": "number"},
}


@dataclass
class Order:
    """Command lines to run at the same time, and the fault in their writes.

    Attributes:
        commands: argument lists of ``ew2s``.
        action: ``SIGKILL``, ``SIGTERM``, ``SIGINT``, ``full``, ``read-only`` or ``broken`` (errors last until the end).
        at: before which change below the world's folder, from 1; 0 is never.
        clock: seconds that the clock is off by.
        closed: ``stdout`` or ``stderr``: a pipe that nobody reads.
        report: draw the report, too.
        stagger: seconds between the starts of several commands.
    """

    commands: Sequence[Sequence[str]]
    action: str = ""
    at: int = 0
    clock: float = 0.0
    closed: str | None = None
    report: bool = False
    stagger: float = 0.0
    seconds: float = 120.0


@dataclass
class Ended:
    """How the commands of an order ended."""

    codes: list[int | None]
    out: list[str] = field(default_factory=list)
    err: list[str] = field(default_factory=list)
    heard: int = 0

    @property
    def code(self) -> int | None:
        return self.codes[0]


class Worker:
    """A server that forks, and worlds below a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.logs = folder / "logs"
        self.logs.mkdir(parents=True)
        self.server = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def close(self) -> None:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        self.server.stdin.close()
        self.server.wait(timeout=60)
        self.server.stdout.close()

    def run(self, world: World, order: Order) -> Ended:
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        for old in self.logs.iterdir():
            old.unlink()
        places = {"folder": str(world.folder), "home": str(world.outside), "logs": str(self.logs)}
        self.server.stdin.write(json.dumps({**asdict(order), **places}) + "\n")
        self.server.stdin.flush()
        ended = Ended(json.loads(self.server.stdout.readline()))
        for index in range(len(order.commands)):
            ended.out.append(self._log(f"{index}.stdout"))
            ended.err.append(self._log(f"{index}.stderr"))
        ended.heard = int(self._log("0.heard") or 0)
        return ended

    def _log(self, name: str) -> str:
        path = self.logs / name
        return path.read_text("utf-8", "replace") if path.exists() else ""


class World:
    """Folders ``inside`` and ``outside``; whatever happens inside, outside must stay as it was."""

    def __init__(self, folder: Path, source: World | None = None) -> None:
        if folder.exists():
            shutil.rmtree(folder)
        self.root = folder
        self.folder = folder / "inside"
        self.outside = folder / "outside"
        if source is not None:
            shutil.copytree(source.root, folder, symlinks=True)
        else:
            self.folder.mkdir(parents=True)
            self._make()
        self.before = snapshot(self.outside)

    def _make(self) -> None:
        (self.folder / "choice.yaml").write_text(json.dumps(CONFIG))  # JSON is YAML
        (self.folder / "written.yaml").write_text(json.dumps(WRITTEN))
        rows = []
        for i in range(700):
            choices = [f"{i}", f"{i + 7}", "12"]
            rows.append({"id": str(i), "prompt": f"reverse {i % 9 + 1} {i // 9 % 9 + 1}", "choices": choices})
        lines = [json.dumps(row) + "\n" for row in rows]
        (self.folder / "questions.jsonl").write_text("".join(lines))
        (self.folder / "few.jsonl").write_text("".join(lines[:8]))
        self.outside.mkdir()
        (self.outside / ".bashrc").write_text("alias ls=ls\n")
        (self.outside / "authorized_keys").write_text("ssh-ed25519 AAAA somebody\n" * 20)
        (self.outside / "kept" / "deep").mkdir(parents=True)
        (self.outside / "kept" / "deep" / "thesis.txt").write_text("the only copy\n")

    def touched(self) -> list[str]:
        """What changed outside."""
        now = snapshot(self.outside)
        return sorted(path for path in self.before.keys() | now.keys() if self.before.get(path) != now.get(path))


def snapshot(folder: Path) -> dict[str, str]:
    """Content and mode of every file below a folder; links are not followed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        status = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() and not path.is_symlink() else "-"
        found[str(path.relative_to(folder))] = f"{content} {status.st_mode:o}"
    return found


def _results(path: Path) -> Any:
    content = json.loads(path.read_text(encoding="utf-8"))
    for key in ("times", "memory"):
        content.pop(key, None)
    return content


def numbers(folder: Path) -> dict[str, Any]:
    """Everything that a run, several seeds, a sweep or a file of labels found: what must not depend on faults.

    Results without clock and memory, and the content of models, arrays, labels and answers, by path.
    """
    found: dict[str, Any] = {}
    for path in sorted([folder] if folder.is_file() else folder.rglob("*")):
        name = path.name if folder.is_file() else str(path.relative_to(folder))
        if path.name in ("results.json", "aggregate.json"):
            found[name] = _results(path)
        elif path.suffix in (".npy", ".safetensors", ".jsonl", ".csv") and path.stem not in ("events", "metrics"):
            found[name] = hashlib.sha256(path.read_bytes()).hexdigest()
        elif path.suffix == ".parquet":
            found[name] = parquet.read_table(path).to_pylist()
    return found


def leftovers(folder: Path) -> list[str]:
    """Names of unfinished pieces below a folder."""
    ends = (".partial", ".stale", ".tmp", ".parts")
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name.endswith(ends))
