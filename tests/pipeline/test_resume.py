"""A run killed again and again ends with the numbers of one that was left alone."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def run_in_process():
    """Runs a configuration in a process of its own: (config, folder, at) → (exit code, events heard)."""
    server = subprocess.Popen(
        [sys.executable, "-P", str(Path(__file__).with_name("fork_runs.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def run(config, folder, at=0):
        order = {"config": config.model_dump(mode="json"), "folder": str(folder), "at": at}
        server.stdin.write(json.dumps(order) + "\n")
        server.stdin.flush()
        answer = json.loads(server.stdout.readline())
        return answer["status"], answer["heard"]

    yield run
    server.stdin.close()
    server.wait(timeout=30)
    server.stdout.close()


CHECKPOINTS = {f"training.{role}.checkpoint_steps": 5 for role in ("expert", "student")}


@pytest.mark.parametrize(
    ("task", "changes", "pieces"),
    [
        pytest.param("choice", {}, 12, marks=pytest.mark.slow),
        ("choice", CHECKPOINTS, 12),
        pytest.param("generate", {"ensemble.rule": "product"}, 8, marks=pytest.mark.slow),
    ],
    ids=["plain", "trainer-checkpoints", "written-answers"],
)
def test_kill_anywhere_and_repeat(
    run_in_process, tmp_path, mini_config, generate_config, read_numbers, task, changes, pieces
):
    settings = {"arms.plain": False, "arms.bagging": False, "arms.students": ["single", "ensemble"], **changes}
    config = (mini_config if task == "choice" else generate_config)(**settings)
    calm, hunted = tmp_path / "calm", tmp_path / "hunted"
    status, heard = run_in_process(config, calm)
    assert status == 0
    # A repeated start hears of the finished stages too, so each of these kills comes later in the run than the last.
    kills = 0
    for at in range(heard // pieces, heard, heard // pieces):
        status, _ = run_in_process(config, hunted, at)
        if status == 0:
            break
        assert status == -signal.SIGKILL
        kills += 1
    assert kills >= pieces // 2 - 1
    assert run_in_process(config, hunted)[0] == 0
    assert read_numbers(hunted) == read_numbers(calm)
    assert not list(hunted.rglob("*.partial"))
    for answers in calm.rglob("answers.jsonl"):
        assert (hunted / answers.relative_to(calm)).read_bytes() == answers.read_bytes()
