"""Event logs to look at: a run that has come far, a writer of 1000 events a second, and a log of a million events."""

from __future__ import annotations

import json
import math
import os
import platform
import sys
import time
from pathlib import Path
from typing import IO, Any

ROUNDS = 8
SAID = ("0", "3", "7", "9", " ")


def _line(at: float, kind: str, **fields: Any) -> str:
    return json.dumps({"v": 1, "t": round(at, 3), "kind": kind, **fields}, separators=(",", ":")) + "\n"


def _examples(round_: int) -> list[dict[str, Any]]:
    found = []
    for i in range(20):
        digits = f"{(i * 7919 + 12345) % 100000:05d}"
        found.append(
            {
                "id": f"ex-{(i + round_ * (i % 4)) % 40:03d}",
                "prompt": f"{('reverse', 'sort', 'sum of', 'largest of')[i % 4]} {digits}",
                "tokens": list(digits),
                "weights": [(1 + (round_ - 1) * (j % 3) * (20 - i) / 20) / 1600 for j in range(5)],
                "wrong": [float((j + i + round_) % 3 == 0) for j in range(5)],
                "predicted": [SAID[(i + j) % 5] for j in range(5)],
            }
        )
    return found


def stages(rounds: int) -> list[str]:
    """The plan of a run."""
    names = ["data", "baselines/zero-shot-strong", "baselines/zero-shot-weak"]
    names += [f"experts/round-{t:02d}" for t in range(1, rounds + 1)]
    names += [f"baselines/bagging/member-{t:02d}" for t in range(2, rounds + 1)]
    return [*names, "labels/plain", "labels/ensemble", "student/plain", "student/ensemble", "ceiling"]


def milestones(file: IO[str], at: float, rounds: int) -> None:
    """A run after ``rounds`` rounds of one more, with results of every kind."""

    def write(kind: str, **fields: Any) -> None:
        file.write(_line(at, kind, **fields))

    write("run_started", name="synthetic", seed=0, task="choice", preset="tiny", config_fingerprint="f",
          resumed=False, versions={}, host=platform.node())  # fmt: skip
    write("plan", stages=stages(rounds + 1))
    write("data_ready", counts={"train": 400, "test": 200, "hard_pool": 300}, tokens=1600, notes={})
    for t in range(1, rounds + 1):
        name = f"experts/round-{t:02d}"
        write("stage_started", stage=name)
        write("round_started", round=t, rounds=rounds + 1)
        for split, base in (("test", 0.66), ("hard_test", 0.5)):
            write("round_scored", round=t, arm="boosting", split=split, expert_accuracy=base - 0.2 * (1 - 1 / t),
                  ensemble_accuracy=base + 0.05 * (1 - 1 / t), expert_token_accuracy=0.6, ensemble_token_accuracy=0.7)  # fmt: skip
        write("hard_tokens", round=t, examples=_examples(t))
        write("round_finished", round=t, epsilon=0.3 + 0.4 * (1 - 1 / t), epsilon_raw=0.3, epsilon_prior=0.9,
              alpha=3.0 / t, kept=True, errors_from="train", n_eff=1600 / t, top1_share=0.01 * t, validation=0.6)  # fmt: skip
        write("stage_finished", stage=name, seconds=20.0, cached=False)
    for place, arm in enumerate(("weak_zero_shot", "plain", "bagging", "ensemble", "student_ensemble", "ceiling")):
        for split, base in (("test", 0.3), ("hard_test", 0.25)):
            value = base + 0.08 * place
            write("arm_result", arm=arm, split=split, accuracy=value, low=value - 0.03, high=value + 0.03, n=600,
                  token_accuracy=value)  # fmt: skip
    for i in range(40):
        write("label_sample", teacher="ensemble", prompt=f"sort {i * 37:06d}", label=str(i * 11),
              confidence=0.2 + 0.02 * i, agreement=(i % 5) / 4, correct=i % 3 != 0)  # fmt: skip
    write("stage_started", stage=f"experts/round-{rounds + 1:02d}")
    write("round_started", round=rounds + 1, rounds=rounds + 1)


def losses(file: IO[str], at: float, tag: str, steps: int) -> float:
    """Step metrics of one training, two lines a step; returns the time after it."""
    for step in range(1, steps + 1):
        at += 0.01
        loss = 1 + 6 * math.exp(-step / 200) + 0.1 * math.sin(step * 12.9898)
        file.write(
            f'{{"v":1,"t":{at:.3f},"kind":"train","tag":"{tag}","step":{step},"steps":{steps},"loss":{loss:.5f},'
            f'"learning_rate":0.0009,"tokens_per_second":12591.13}}\n'
            f'{{"v":1,"t":{at:.3f},"kind":"progress","task":"{tag}","done":{step},"total":{steps}}}\n'
        )
    return at


def beat(folder: Path, state: str = "running") -> None:
    """This process as the one that writes the run."""
    text = json.dumps({"pid": os.getpid(), "host": platform.node(), "time": time.time(), "state": state})
    (folder / "heartbeat.new").write_text(text)
    (folder / "heartbeat.new").replace(folder / "heartbeat")


def make(folder: Path, *, lines: int = 8000, state: str = "running") -> None:
    """A run directory with so many lines of step metrics over :data:`ROUNDS` rounds."""
    folder.mkdir(parents=True)
    at = time.time() - ROUNDS * 20.0
    with (folder / "events.jsonl").open("w") as file:
        milestones(file, at, ROUNDS)
        if state == "finished":
            file.write(_line(at, "run_finished", seconds=160.0))
    with (folder / "metrics.jsonl").open("w") as file:
        for t in range(1, ROUNDS + 1):
            at = losses(file, at, f"experts/round-{t:02d}", lines // (2 * ROUNDS))
    beat(folder, state)


def write_on(folder: Path, rate: float, seconds: float) -> None:
    """Events of every kind that repeats, at ``rate`` a second: three quarters step metrics, one quarter milestones."""
    tag = f"experts/round-{ROUNDS + 1:02d}"
    began = time.monotonic()
    sent = 0
    with (folder / "metrics.jsonl").open("a", buffering=1) as metrics, (folder / "events.jsonl").open("a", buffering=1) as events:  # fmt: skip
        while (passed := time.monotonic() - began) < seconds:
            if sent % 1000 < 20:
                beat(folder)
            while sent < passed * rate:
                sent += 1
                _one(metrics, events, tag, sent)
            time.sleep(0.01)
    beat(folder, "incomplete")


def _one(metrics: IO[str], events: IO[str], tag: str, number: int) -> None:
    now, kind = time.time(), number % 8
    if kind < 4:
        loss = 1 + 6 * math.exp(-number / 5000) + 0.1 * math.sin(number * 12.9898)
        metrics.write(_line(now, "train", tag=tag, step=number, steps=200_000, loss=loss, learning_rate=1e-3,
                            tokens_per_second=9000.0))  # fmt: skip
    elif kind == 4:
        metrics.write(_line(now, "progress", task=tag, done=number, total=200_000))
    elif kind == 5:
        metrics.write(_line(now, "system", cpu=93.0, rss=700_000_000))
    elif kind == 6:
        value = 0.5 + 0.1 * math.sin(number)
        events.write(_line(now, "round_scored", round=ROUNDS, arm="boosting", split="test", expert_accuracy=value,
                           ensemble_accuracy=value, expert_token_accuracy=value, ensemble_token_accuracy=value))  # fmt: skip
    else:
        events.write(_line(now, "message", level="info", text=f"event {number}"))


if __name__ == "__main__":
    write_on(Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
