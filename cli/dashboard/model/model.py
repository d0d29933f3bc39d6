"""The state of one run, folded from its log (``fold_events``, ``fold_metrics``): plain data, no screen.

Numbers that are missing are NaN. Every part of the model has a revision that grows with each change, so that whoever
shows it redraws only what changed.
"""

from __future__ import annotations

import threading
from array import array
from collections import defaultdict, deque
from dataclasses import dataclass, field
from typing import Any, Literal

from ensemw2s.cli.dashboard.model.fields import NAN
from ensemw2s.cli.dashboard.model.series import Series
from ensemw2s.stage_names import StageInfo, earlier_info

Life = Literal["waiting", "running", "finished", "failed", "dead", "interrupted", "gone", "unknown"]
StageState = Literal["waiting", "running", "done", "kept", "skipped", "stopped"]
Part = Literal["run", "stages", "progress", "data", "rounds", "arms", "train", "labels", "tokens", "messages", "system"]

PARTS: tuple[Part, ...] = (
    "run", "stages", "progress", "data", "rounds", "arms", "train", "labels", "tokens", "messages", "system",
)  # fmt: skip
MESSAGES_KEPT = 500
BINS = 20


@dataclass
class Stage:
    """One stage of the plan. ``done`` of ``total`` are units of its current task."""

    name: str
    info: StageInfo = field(default_factory=StageInfo)
    state: StageState = "waiting"
    started: float = NAN
    ended: float = NAN
    seconds: float = NAN
    done: int = 0
    total: int = 0
    task: str = ""
    note: str = ""

    def clear(self) -> None:
        """Back to waiting: the run was started again."""
        self.state, self.started, self.ended, self.seconds = "waiting", NAN, NAN, NAN
        self.done, self.total, self.task = 0, 0, ""


@dataclass
class Score:
    """Accuracy of one arm on one split with its interval."""

    accuracy: float = NAN
    low: float = NAN
    high: float = NAN
    n: int = 0
    token_accuracy: float = NAN


@dataclass
class RoundPoint:
    """One expert and the ensemble so far on one split."""

    expert: float = NAN
    ensemble: float = NAN
    expert_tokens: float = NAN
    ensemble_tokens: float = NAN


@dataclass
class Round:
    """One boosting round."""

    number: int
    epsilon: float = NAN
    epsilon_raw: float = NAN
    prior: float = NAN
    alpha: float = NAN
    kept: bool = True
    finished: bool = False
    errors_from: str = ""
    n_eff: float = NAN
    top1_share: float = NAN
    validation: float = NAN


@dataclass
class Curve:
    """Training loss of one fine-tuning by step."""

    tag: str
    steps: int = 0
    step: int = 0
    loss: Series = field(default_factory=Series)
    learning_rate: float = NAN
    tokens_per_second: float = NAN
    time: float = NAN


@dataclass
class HardExample:
    """One of the heaviest training examples of a round; lists have one entry for each answer token."""

    id: str
    prompt: str
    tokens: list[str]
    weights: array[float]
    wrong: array[float]
    predicted: list[str]

    @property
    def weight(self) -> float:
        """Weight of the example, ``Σ_j D_t(i,j)``."""
        return sum(value for value in self.weights if value == value)

    @property
    def wrong_tokens(self) -> int:
        """Tokens that the expert got wrong (at least half, where errors are smoothed)."""
        return sum(1 for value in self.wrong if value >= 0.5)


@dataclass
class LabelSample:
    """One pseudo-label. ``correct`` is None where the truth is unknown."""

    prompt: str
    label: str
    confidence: float
    agreement: float
    correct: bool | None


@dataclass
class TeacherView:
    """Labels of one teacher so far; the histogram covers the labels ``first_done`` to ``counted``."""

    name: str
    done: int = 0
    total: int = 0
    per_second: float = NAN
    kept: int = 0
    mean_confidence: float = NAN
    mean_agreement: float = NAN
    accuracy: float = NAN
    finished: bool = False
    histogram: list[int] = field(default_factory=lambda: [0] * BINS)
    first_done: int = 0
    counted: int = 0
    samples: list[LabelSample] = field(default_factory=list)


@dataclass
class Message:
    """A line for the reader."""

    time: float
    level: str
    text: str


@dataclass
class RunModel:
    """Everything that is known of one run.

    Attributes:
        lock: hold it while folding, and while reading from another thread.
        revisions: part → number of changes.
        life: how the run stands.
        now: the time at which things stand: the clock's, or the log's in a replay.
        scores: (arm, split) → round → scores; the arm is an ensemble.
        arms: arm → split → score.
        results: the content of ``results.json``, once it is there and of this configuration.
        history: share of the metrics file that has been read, 0 to 1.
    """

    lock: threading.RLock = field(default_factory=threading.RLock)
    revisions: dict[str, int] = field(default_factory=lambda: dict.fromkeys(PARTS, 0))
    life: Life = "waiting"
    life_note: str = ""
    now: float = NAN
    name: str = ""
    path: str = ""
    seed: int | None = None
    task: str = ""
    preset: str = ""
    fingerprint: str = ""
    host: str = ""
    versions: dict[str, Any] = field(default_factory=dict)
    starts: int = 0
    started: float = NAN
    updated: float = NAN
    seconds: float = NAN
    error: str = ""
    ended: Literal["", "finished", "failed"] = ""
    stages: dict[str, Stage] = field(default_factory=dict)
    records: dict[str, StageInfo] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)
    tokens: int = 0
    notes: dict[str, Any] = field(default_factory=dict)
    rounds_planned: int = 0
    current_round: int = 0
    rounds: dict[int, Round] = field(default_factory=dict)
    scores: dict[tuple[str, str], dict[int, RoundPoint]] = field(default_factory=lambda: defaultdict(dict))
    stop_reason: str = ""
    selected_rounds: int = 0
    arms: dict[str, dict[str, Score]] = field(default_factory=dict)
    results: dict[str, Any] | None = None
    curves: dict[str, Curve] = field(default_factory=dict)
    teachers: dict[str, TeacherView] = field(default_factory=dict)
    hard: dict[int, list[HardExample]] = field(default_factory=dict)
    messages: deque[Message] = field(default_factory=lambda: deque(maxlen=MESSAGES_KEPT))
    cpu: Series = field(default_factory=lambda: Series(2048))
    rss: Series = field(default_factory=lambda: Series(2048))
    unreadable: int = 0
    history: float = 1.0

    def info(self, stage: str) -> StageInfo:
        """The plan's record of a stage."""
        return self.records.get(stage) or earlier_info(stage)

    def touch(self, *parts: Part) -> None:
        """Mark parts as changed."""
        for part in parts:
            self.revisions[part] += 1

    def clear(self) -> None:
        """Forget everything: the log was replaced. Lock and revisions stay."""
        for name, value in vars(RunModel()).items():
            if name not in ("lock", "revisions", "path"):
                setattr(self, name, value)
        self.touch(*PARTS)

    def clear_metrics(self) -> None:
        """Forget what came from the step metrics."""
        self.curves.clear()
        self.cpu, self.rss = Series(2048), Series(2048)
        for teacher in self.teachers.values():
            teacher.histogram, teacher.first_done, teacher.counted = [0] * BINS, 0, 0
        self.touch("train", "labels", "system", "progress")

    @property
    def running_stage(self) -> Stage | None:
        """The stage at work, the last one that was started."""
        running = [stage for stage in self.stages.values() if stage.state == "running"]
        return running[-1] if running else None

    @property
    def elapsed(self) -> float:
        """Seconds since this process of the run started, or that it took."""
        if self.seconds == self.seconds:
            return self.seconds
        end = self.now if self.life == "running" else self.updated
        return max(0.0, end - self.started)
