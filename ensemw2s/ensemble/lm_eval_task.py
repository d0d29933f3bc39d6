"""A task of the LM Evaluation Harness with the ensemble's prompts and length norm.

The harness scores by sums of log-probabilities, or sums divided by characters or bytes. The task has a scoring function
of its own, so that its accuracy is that of ``ew2s evaluate`` under every length norm.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ensemw2s.data.chat import prompt_texts
from ensemw2s.data.example import Example
from ensemw2s.data.template import render_answer
from ensemw2s.ensemble.spec import EnsembleSpec
from ensemw2s.errors import DataError, InputError
from ensemw2s.files import write_text
from ensemw2s.models.loading.load import load_tokenizer
from ensemw2s.outputs import check_output_folder

_TASK = """task: {name}
custom_dataset: !function scoring.questions
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{text}}}}"
doc_to_choice: choices
doc_to_target: label
target_delimiter: ""
process_results: !function scoring.accuracy
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""

_SCORING = '''"""Questions and scoring of the task in this folder; read by lm-eval."""

from pathlib import Path

from datasets import Dataset, DatasetDict


def questions(**_):
    """The questions beside this file."""
    return DatasetDict({"test": Dataset.from_json(str(Path(__file__).with_name("questions.jsonl")))})


def accuracy(doc, results):
    """Whether the choice with the best log-probability, divided by its length, is the right one.

    White space between text and choices counts as part of every choice in lm-eval; where there is some, it is also the
    last choice, and what that gets is taken off the others.
    """
    scores = [logprob for logprob, _ in results]
    extra = scores.pop() if doc["space"] else 0.0
    scores = [(score - extra) / length for score, length in zip(scores, doc["lengths"])]
    return {"acc": float(scores.index(max(scores)) == doc["label"])}
'''


def write_task(ensemble: EnsembleSpec, examples: Sequence[Example], folder: Path, name: str) -> int:
    """Write ``NAME.yaml``, ``questions.jsonl`` and ``scoring.py`` into a folder for ``lm-eval --include_path``.

    Returns:
        Number of questions; those of which two options have the same tokens are left out, as `evaluate_file` does.

    Raises:
        InputError: the name is not of letters, digits, ``_`` and ``-``.
        DataError: the ensemble does not score choices, a question has no answer, or all are left out.
    """
    if not re.fullmatch(r"[\w-]+", name):
        raise InputError(f"{name!r} cannot be a task's name.", hint="Use letters, digits, _ and -.")
    if ensemble.task != "choice":
        raise DataError("This ensemble was trained with task: generate; it has no options to score.")
    for example in examples:
        if example.answer is None:
            raise DataError(f"Question {example.id!r} has no answer to compare with.")
    inputs = [expert for expert in ensemble.experts if isinstance(expert, Path)]
    written = {"questions.jsonl", "scoring.py", f"{name}.yaml"}

    def ours(place: Path) -> bool:
        return {entry.name for entry in place.iterdir()} - {"__pycache__"} == written

    check_output_folder(folder, inputs=inputs, ours=ours, what="this task of lm-eval")
    rows = _rows(ensemble, examples)
    if not rows:
        raise DataError("Every question has options with the same tokens, which no model tells apart.")
    folder.mkdir(parents=True, exist_ok=True)
    write_text(folder / "questions.jsonl", "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    write_text(folder / "scoring.py", _SCORING)
    write_text(folder / f"{name}.yaml", _TASK.format(name=name))
    return len(rows)


def _rows(ensemble: EnsembleSpec, examples: Sequence[Example]) -> list[dict[str, Any]]:
    enc = ensemble.encode(examples)
    tokens = np.diff(enc.row_offsets) - 1
    lengths = {"sum": np.ones_like(tokens), "mean": tokens, "byte": enc.option_bytes}[ensemble.config.length_norm]
    texts = prompt_texts(examples, load_tokenizer(ensemble.model_config(0)), ensemble.template)
    rows = []
    for i, (example, text) in enumerate(zip(examples, texts, strict=True)):
        if enc.indistinct[i]:
            continue
        prompt = text.rstrip()
        space = text[len(prompt) :]
        choices = [render_answer(choice, ensemble.template) for choice in example.choices or ()]
        own = lengths[enc.example_offsets[i] : enc.example_offsets[i + 1]]
        rows.append(
            {
                "id": example.id,
                "text": prompt,
                "choices": [space + choice for choice in choices] + ([space] if space else []),
                "label": example.answer_index,
                "lengths": [int(n) for n in own],
                "space": bool(space),
            }
        )
    return rows
