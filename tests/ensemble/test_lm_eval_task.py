"""Tasks for the LM Evaluation Harness, and the harness itself where it is installed."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensemw2s.config.data import SourceConfig, TemplateConfig
from ensemw2s.config.method import CombineConfig
from ensemw2s.config.training import ComputeConfig
from ensemw2s.data.example import Example
from ensemw2s.ensemble import Ensemble
from ensemw2s.ensemble.lm_eval_task import write_task
from ensemw2s.errors import DataError, InputError

CPU = ComputeConfig(device="cpu", threads=1)


def questions(count: int = 25) -> list[Example]:
    rng = np.random.default_rng(0)
    letters = list("abcdefghij0123456789")
    out = []
    for i in range(count):
        choices = tuple({"".join(rng.choice(letters, size=rng.integers(1, 5))): None for _ in range(6)})[:4]
        prompt = "".join(rng.choice(letters, size=rng.integers(3, 9)))
        out.append(Example(id=f"q{i}", prompt=prompt, answer=choices[int(rng.integers(4))], choices=choices))
    return out


def ensemble_of(folders: list[Path], norm: str, prompt: str = "{prompt}?", **changes: Any) -> Ensemble:
    return Ensemble(
        experts=folders,
        alphas=[1.0, 2.0, 0.5],
        config=CombineConfig(length_norm=norm, **changes),
        template=TemplateConfig(prompt=prompt, answer=" {answer}"),
        compute=CPU,
    )


@pytest.mark.parametrize("norm", ["sum", "mean", "byte"])
@pytest.mark.parametrize("prompt", ["{prompt}?", "{prompt}  "])
def test_the_tasks_scoring_is_that_of_the_ensemble(
    model_folders: list[Path], tmp_path: Path, norm: str, prompt: str
) -> None:
    """The harness's part, log-probabilities of texts, is played by the ensemble's own model."""
    ensemble = ensemble_of(model_folders, norm, prompt)
    examples = questions()
    assert write_task(ensemble, examples, tmp_path, "mine") == 25
    spec = importlib.util.spec_from_file_location("scoring", tmp_path / "scoring.py")
    assert spec is not None
    assert spec.loader is not None
    scoring = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(scoring)
    model, tokenizer = ensemble.causal_lm(), ensemble.load_experts()[0].tokenizer
    right = []
    for line in (tmp_path / "questions.jsonl").read_text(encoding="utf-8").splitlines():
        doc = json.loads(line)
        assert doc["text"] == doc["text"].rstrip()
        results = []
        for choice in doc["choices"]:
            start, ids = len(tokenizer(doc["text"])["input_ids"]), tokenizer(doc["text"] + choice, return_tensors="pt")
            logs = model(ids["input_ids"]).logits[0, start - 1 : -1]
            results.append((float(logs.gather(-1, ids["input_ids"][0, start:, None]).sum()), False))
        right.append(scoring.accuracy(doc, results)["acc"])
    expected = [float(row["correct"]) for row in ensemble.score(examples)]
    assert right == expected
    assert 0 < sum(right) < 25
    assert "task: mine" in (tmp_path / "mine.yaml").read_text()


def test_what_makes_no_task(model_folders: list[Path], tmp_path: Path) -> None:
    ensemble = ensemble_of(model_folders, "sum")
    with pytest.raises(InputError, match="cannot be a task's name"):
        write_task(ensemble, questions(2), tmp_path, "a b")
    with pytest.raises(DataError, match="'q0' has no answer"):
        write_task(ensemble, [example.hide_answer() for example in questions(2)], tmp_path, "mine")
    ensemble.task = "generate"
    with pytest.raises(DataError, match="no options to score"):
        write_task(ensemble, questions(2), tmp_path, "mine")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
@pytest.mark.parametrize(("norm", "rule"), [("sum", "mixture"), ("mean", "product"), ("byte", "mixture")])
def test_lm_eval_gives_the_accuracy_of_evaluate(
    model_folders: list[Path], tmp_path: Path, norm: str, rule: str
) -> None:
    pytest.importorskip("lm_eval")
    from ensemw2s.tasks.use_ensemble import evaluate_file

    saved = ensemble_of(model_folders, norm, rule=rule).save_pretrained(tmp_path / "saved").path
    examples = questions(120)
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(example.to_json()) + "\n" for example in examples))
    columns = {"prompt": "prompt", "answer": "answer", "choices": "choices", "id": "id"}
    expected = evaluate_file(saved, SourceConfig(kind="file", path=str(file), columns=columns), compute=CPU)
    write_task(Ensemble.from_pretrained(saved, CPU), examples, tmp_path / "task", "mine")
    command = [
        *(sys.executable, "-m", "ensemw2s", "lm-eval", "--model", "hf", "--model_args", f"pretrained={saved}"),
        *("--include_path", str(tmp_path / "task"), "--tasks", "mine", "--batch_size", "8", "--device", "cpu"),
        *("--output_path", str(tmp_path / "found")),
    ]
    path = os.pathsep.join(p for p in sys.path if p)
    environ = {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1", "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(command, env=environ, cwd=tmp_path, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    (report,) = (tmp_path / "found").rglob("results_*.json")
    found = json.loads(report.read_text())["results"]["mine"]["acc,none"]
    assert found == pytest.approx(expected["accuracy"], abs=1e-12)
    assert 0.05 < found < 0.95
    assert re.search(r"\|mine\s*\|", done.stdout)
