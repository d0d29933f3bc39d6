from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensemw2s.config.schema import RunConfig
from ensemw2s.config.training import ModelConfig
from ensemw2s.data.encode import encode_split
from ensemw2s.data.example import Example
from ensemw2s.data.split import make_splits
from ensemw2s.data.synthetic import make_synthetic
from ensemw2s.errors import DataError, InputError
from ensemw2s.models.inference.scoring import score_split
from ensemw2s.models.loading.load import load_model, load_tokenizer
from ensemw2s.tasks.rate_difficulty import assign_folds, probability_of_answers, rate_examples, rate_file

WEAK = ModelConfig(path="embedded:weak")


def config(**changes: Any) -> RunConfig:
    values: dict[str, Any] = {
        "data": {"source": {"size": 24}, "template": {"prompt": "{prompt} ", "answer": "{answer}"}},
        "training": {"expert": {"steps": 2, "batch_size": 4}},
        "compute": {"device": "cpu", "threads": 1},
    }
    return RunConfig.model_validate({**values, **changes})


@pytest.fixture(scope="module")
def examples() -> list[Example]:
    return list(make_synthetic(12, 3))


def test_twins_share_a_fold_and_folds_are_even() -> None:
    plain = [Example(f"e{i}", f"Question {i}?", "a") for i in range(20)]
    twins = [Example(f"t{i}", f"  question   {i}?", "b") for i in range(5)]
    for seed in range(5):
        fold = assign_folds([*plain, *twins], 4, seed)
        assert np.array_equal(fold[20:], fold[:5])
        sizes = np.bincount(fold, minlength=4)
        assert sizes.max() - sizes.min() <= 2
        assert np.array_equal(fold, assign_folds([*plain, *twins], 4, seed))
    assert not np.array_equal(assign_folds(plain, 4, 0), assign_folds(plain, 4, 1))
    with pytest.raises(DataError, match="1 different questions cannot be divided into 2 folds"):
        assign_folds([Example("a", "Same", "x"), Example("b", "same ", "y")], 2, 0)


def test_nobody_rates_what_it_was_trained_on(
    examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ensemw2s.models.training import finetune as module

    twin = replace(examples[0], id="twin", prompt=f" {examples[0].prompt}")
    rated = [*examples, twin]
    seen: dict[str, set[bytes]] = {}
    true = module.finetune

    def watched(base: Any, data: Any, *args: Any, tag: str, **keywords: Any) -> Any:
        offsets = data.prompt_offsets
        prompts = [data.prompt_ids[a:b] for a, b in pairwise(offsets)]
        seen[tag] = {prompt.tobytes() for prompt in prompts}
        return true(base, data, *args, tag=tag, **keywords)

    monkeypatch.setattr(module, "finetune", watched)
    rating = rate_examples(rated, [WEAK], config(), tmp_path, folds=3)
    enc = encode_split(rated, load_tokenizer(WEAK), config().data.template, "choice", None)
    assert sorted(seen) == [f"rater-1-fold-{k}" for k in (1, 2, 3)]
    for i, fold in enumerate(rating.fold):
        assert enc.prompts[i].tobytes() not in seen[f"rater-1-fold-{fold + 1}"]
    assert rating.fold[0] == rating.fold[-1]
    assert sum(len(prompts) for prompts in seen.values()) >= 2 * len(examples)
    assert ((rating.difficulty >= 0) & (rating.difficulty <= 1)).all()


def test_probabilities_are_the_softmax_of_the_options(examples: list[Example]) -> None:
    settings = config()
    enc = encode_split(examples, load_tokenizer(WEAK), settings.data.template, "choice", None)
    table = score_split(load_model(WEAK), enc, compute=settings.compute, top_k=1)
    p, right = probability_of_answers(table, enc, settings)
    for i in range(len(examples)):
        means = []
        for s in range(enc.example_offsets[i], enc.example_offsets[i + 1]):
            rows = slice(enc.row_offsets[s], enc.row_offsets[s + 1] - 1)
            means.append(float(np.mean(table.target_logprob[rows], dtype=np.float64)))
        shares = np.exp(means) / np.exp(means).sum()
        assert p[i] == pytest.approx(shares[enc.answer_index[i]], rel=1e-6)
        assert right[i] == float(np.argmax(means) == enc.answer_index[i])


def test_generated_answers_are_rated_by_their_mean_probability(examples: list[Example]) -> None:
    settings = config(task="generate")
    plain = [replace(example, choices=None) for example in examples]
    enc = encode_split(plain, load_tokenizer(WEAK), settings.data.template, "generate", None)
    table = score_split(load_model(WEAK), enc, compute=settings.compute, top_k=1)
    p, _ = probability_of_answers(table, enc, settings)
    first = np.exp(np.mean(table.target_logprob[: enc.row_offsets[1] - 1], dtype=np.float64))
    assert p[0] == pytest.approx(first, rel=1e-6)


def test_finished_folds_are_kept(examples: list[Example], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ensemw2s.models.training import finetune as module

    trained: list[str] = []
    true = module.finetune

    def counted(*args: Any, tag: str, **keywords: Any) -> Any:
        trained.append(tag)
        if len(trained) == 2:
            raise KeyboardInterrupt
        return true(*args, tag=tag, **keywords)

    monkeypatch.setattr(module, "finetune", counted)
    with pytest.raises(KeyboardInterrupt):
        rate_examples(examples, [WEAK], config(), tmp_path, folds=2)
    again = rate_examples(examples, [WEAK], config(), tmp_path, folds=2)
    assert trained == ["rater-1-fold-1", "rater-1-fold-2", "rater-1-fold-2"]
    whole = rate_examples(examples, [WEAK], config(), tmp_path / "other", folds=2)
    assert np.array_equal(again.difficulty, whole.difficulty)
    rate_examples(examples, [WEAK], config(seed=1), tmp_path, folds=2)
    assert len(trained) == 7  # another seed shares nothing


def test_the_file_is_what_a_split_by_difficulty_reads(tmp_path: Path) -> None:
    output = tmp_path / "hard.json"
    rows = [{"id": f"q{i}", "prompt": e.prompt, "answer": e.answer, "choices": list(e.choices or ())} for i, e in
            enumerate(make_synthetic(12, 3))]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"kind": "file", "path": str(tmp_path / "rows.jsonl"), "columns": {"id": "id", "choices": "choices"}}
    template = {"prompt": "{prompt} ", "answer": "{answer}"}
    settings = config(data={"source": source, "template": template})
    rating = rate_file(settings, [WEAK, ModelConfig(path="embedded:strong")], output, folds=2)
    assert rating.by_rater.shape == (2, 12)
    assert np.allclose(rating.difficulty, rating.by_rater.mean(axis=0))
    assert rating.correct is not None
    assert all(0.0 <= share <= 1.0 for share in rating.correct)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["hard.json", "rows.jsonl"]
    split = {"by": "difficulty", "hard_quantile": 0.5, "validation": 0.2, "test": 0.2}
    data = {"source": {**source, "annotations": str(output)}, "template": template, "split": split}
    splits = make_splits(config(data=data).data, 0, "choice")
    easy = max(e.difficulty for e in (*splits.train, *splits.validation, *splits.test) if e.difficulty is not None)
    hard = min(e.difficulty for e in (*splits.hard_pool, *splits.hard_test) if e.difficulty is not None)
    assert easy < hard


def test_what_cannot_be_rated(examples: list[Example], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="at least 2 folds"):
        rate_examples(examples, [WEAK], config(), tmp_path, folds=1)
    with pytest.raises(InputError, match="needs a model"):
        rate_examples(examples, [], config(), tmp_path)
    with pytest.raises(DataError, match="has no answer"):
        rate_examples([examples[0].hide_answer(), *examples[1:]], [WEAK], config(), tmp_path)
