"""Early stopping of students in a run: what is held out, looked at, kept, counted and told."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from ensemw2s.config.data import TemplateConfig
from ensemw2s.config.training import ModelConfig
from ensemw2s.data.encode import encode_split
from ensemw2s.data.store import read_splits
from ensemw2s.errors import ConfigError, RunFailedError
from ensemw2s.labelling.labels import Labels
from ensemw2s.models.loading.load import load_model
from ensemw2s.pipeline import students
from ensemw2s.pipeline.held_out import hold_out
from ensemw2s.pipeline.results import _early_stops
from ensemw2s.pipeline.run import execute
from ensemw2s.runs.cost import forward_flops
from ensemw2s.sink import NullSink

STUDENT = {"arms.students": ["ensemble"], "arms.ceiling": False}
NAME = "student/ensemble"


def stop(**changes):
    return {"student.early_stop": {"holdout": 0.25, "every": 3, "patience": 1, **changes}}


@pytest.fixture
def held(monkeypatch):
    """What students held out: the labels and their indices, training by training."""
    found = []

    def noted(ctx, labels, kept):
        chosen, out = hold_out(ctx, labels, kept)
        found.append((labels, np.setdiff1d(kept, chosen)))
        return chosen, out

    monkeypatch.setattr(students, "hold_out", noted)
    return found


def trained(folder):
    return json.loads((folder / NAME / "trained.json").read_text(encoding="utf-8"))


@torch.no_grad()
def option_agreement(folder: Path, labels: Labels, held) -> float:
    """Share of held-out questions on which the saved student prefers the label, option by option, by plain torch."""
    loaded = load_model(ModelConfig(path=str(folder / NAME / "model")))
    pool = read_splits(folder / "data").hard_pool
    enc = encode_split([pool[i] for i in held], loaded.tokenizer, TemplateConfig(), "choice", None)
    right = 0
    for prompt, options, label in zip(enc.prompts, enc.options, labels.options[held], strict=True):
        scores = []
        for option in options:
            ids = torch.from_numpy(np.concatenate([prompt, option]).astype(np.int64))[None]
            logp = loaded.model(input_ids=ids).logits[0].log_softmax(-1)
            scores.append(float(logp[len(prompt) - 1 : -1].gather(1, ids[0, len(prompt) :, None]).mean()))
        right += int(np.argmax(scores)) == int(label)
    return right / len(held)


def test_agreement_is_that_of_the_student_with_labels_it_was_not_taught(finished, copy_of, mini_config, held, recorder):
    folder = copy_of(finished[0])
    results = execute(mini_config(**STUDENT, **stop()), folder, sink=recorder)
    ((labels, out),) = held
    assert out.size == 20
    done = trained(folder)
    looks = dict(done["looks"])
    assert list(looks) == list(range(3, done["steps"] + 1, 3))
    assert option_agreement(folder, labels, out) == pytest.approx(looks[done["kept"]])
    pieces = {piece["what"]: piece for piece in results["costs"][NAME]["work"]}
    assert set(pieces) == {"", "held_out"}
    assert pieces["held_out"]["tokens"] % len(looks) == 0
    parameters = results["models"]["strong"]["parameters"]
    assert pieces["held_out"]["flops"] == forward_flops(parameters, pieces["held_out"]["tokens"])
    costs = results["arm_costs"]
    assert costs["student_ensemble"]["training"] == costs["ensemble"]["training"] + results["costs"][NAME]["flops"]
    told = [event["text"] for event in recorder.of("message") if "held out" in event["text"]]
    assert told == [note for note in results["notes"] if "held out" in note]
    assert bool(told) == (done["kept"] < done["steps"])


def test_one_that_is_not_ended_is_the_student_of_the_same_labels(finished, copy_of, mini_config, held, monkeypatch):
    folder = copy_of(finished[0])
    execute(mini_config(**STUDENT, **stop(patience=99)), folder, sink=NullSink(), report=False)
    done, weights = trained(folder), (folder / NAME / "model/model.safetensors").read_bytes()
    assert (done["steps"], done["kept"], len(done["looks"])) == (12, 12, 4)
    ((_, out),) = held
    monkeypatch.setattr(students, "hold_out", lambda ctx, labels, kept: (np.setdiff1d(kept, out), None))
    execute(mini_config(**STUDENT), folder, sink=NullSink(), report=False)
    assert trained(folder)["looks"] == []
    assert (folder / NAME / "model/model.safetensors").read_bytes() == weights


def test_written_answers_agree_where_the_greedy_answer_is_the_label(written, copy_of, generate_config, held):
    folder = copy_of(written[0])
    config = generate_config(**{**STUDENT, **stop(holdout=0.5, every=12)})
    execute(config, folder, sink=NullSink(), report=False)
    ((labels, out),) = held
    ((step, agreement),) = trained(folder)["looks"]
    assert step == 12
    loaded = load_model(ModelConfig(path=str(folder / NAME / "model")))
    pool, same = read_splits(folder / "data").hard_pool, 0
    enc = encode_split([pool[i] for i in out], loaded.tokenizer, TemplateConfig(), "generate", None)
    for prompt, i in zip(enc.prompts, out, strict=True):
        expected = [*labels.token_ids[i].tolist(), *([loaded.eos_id] if labels.ended[i] else [])]
        ids = prompt.tolist()
        for _ in expected:
            with torch.no_grad():
                ids.append(int(loaded.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax()))
        same += ids[len(prompt) :] == expected
    assert agreement == pytest.approx(same / len(out))


def test_too_few_labels_and_several_processes_are_refused(finished, copy_of, mini_config, monkeypatch):
    folder = copy_of(finished[0])
    with pytest.raises(RunFailedError, match="1 label of ensemble is left"):
        execute(mini_config(**STUDENT, **stop(), **{"student.keep_fraction": 0.001}), folder, sink=NullSink())
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="in one process, and this run has 2"):
        execute(mini_config(**STUDENT, **stop()), folder, sink=NullSink())


def test_a_look_that_never_comes_is_refused(mini_config):
    with pytest.raises(ValueError, match=r"early_stop\.every is 13, but students take 12 steps"):
        mini_config(**stop(every=13))
    mini_config(**stop(every=13), **{"training.student": {"steps": "auto", "max_steps": 13}})
    with pytest.raises(ValueError, match=r"every is 14, but students take at most 13 steps"):
        mini_config(**stop(every=14), **{"training.student": {"steps": "auto", "max_steps": 13}})


def test_steps_that_were_found_may_leave_no_look(mini_config):
    """With ``steps: auto`` it is seen too late to refuse it, so a note says so."""

    def notes(steps):
        config = mini_config(**stop(every=50), **{"training.student": {"steps": "auto"}})
        strong = SimpleNamespace(steps=steps)
        return _early_stops(SimpleNamespace(config=config, training=lambda _side: strong, stages={}))

    assert notes(50) == []
    (note,) = notes(40)
    assert "take 40 optimiser steps, and student.early_stop looks at them after 50" in note
