"""Labels, scores, generates and evaluates a file with a trained ensemble."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemw2s.config.data import SourceConfig
from ensemw2s.config.method import DecodingConfig
from ensemw2s.config.training import ComputeConfig
from ensemw2s.data.example import Example
from ensemw2s.data.sources import iter_source, load_source, source_files, source_identity
from ensemw2s.ensemble import Ensemble
from ensemw2s.errors import DataError
from ensemw2s.evaluation.matching import Match, text_correct
from ensemw2s.evaluation.metrics import summarise
from ensemw2s.sink import EventSink, NullSink
from ensemw2s.tasks.rows import (
    Milestones,
    Questions,
    Task,
    check_questions,
    check_rows_output,
    folders_of,
    inputs_of,
    options_of,
    write_rows,
)

#: What every row of an output has; an older one is known by them.
LABEL_COLUMNS = frozenset({"id", "prompt", "label", "confidence", "agreement"})
SCORE_COLUMNS = frozenset({"id", "label", "option", "scores", "choices"})
GENERATE_COLUMNS = frozenset({"prompt", "text", "token_ids", "ended"})


def load_ensemble(
    path: str | Path, compute: ComputeConfig | None = None, *, trust_remote_code: bool = False
) -> Ensemble:
    """The ensemble in a run directory or a folder of its own; see :meth:`Ensemble.load`."""
    from ensemw2s.models.loading.device import resolve_device

    ensemble = Ensemble.load(path, compute, trust_remote_code=trust_remote_code)
    resolve_device(ensemble.compute)
    return ensemble


def answer_examples(
    ensemble: Ensemble,
    examples: list[Example],
    *,
    decoding: DecodingConfig | None = None,
    seed: int = 0,
    first: int = 0,
    sink: EventSink | None = None,
) -> list[dict[str, Any]]:
    """Label examples: options are scored for ``task: choice``, text is written for ``task: generate``.

    Answers in the examples are not read. ``decoding`` is the ensemble's own by default, ``first`` the number of the
    first example where these are some of more.

    Returns:
        One dict an example with ``id``, ``prompt``, ``label``, ``confidence``, ``margin`` and ``agreement``; ``option``
        and ``scores`` for choices, ``token_ids`` and ``ended`` for text.
    """
    if ensemble.task == "choice":
        found = ensemble.score([example.hide_answer() for example in examples], sink)
        return [{"id": e.id, "prompt": e.prompt, **row} for e, row in zip(examples, found, strict=True)]
    written = ensemble.answer(examples, decoding, seed=seed, first=first, agreement_of_experts=True, sink=sink)
    shown = ("token_ids", "confidence", "margin", "agreement", "ended")
    return [
        {"id": example.id, "prompt": example.prompt, "label": row["text"], **{key: row[key] for key in shown}}
        for example, row in zip(examples, written, strict=True)
    ]


def label_file(
    ensemble_dir: str | Path,
    source: SourceConfig,
    out: Path,
    *,
    compute: ComputeConfig | None = None,
    decoding: DecodingConfig | None = None,
    seed: int = 0,
    sink: EventSink | None = None,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Label a file's questions with a trained ensemble and write JSON lines; :func:`write_rows` says how.

    ``ensemble_dir`` is a run directory or a saved ensemble; answers in ``source`` are not read; ``decoding`` is the
    ensemble's own by default.

    Returns:
        ``n``, ``mean_confidence``, ``mean_agreement`` and ``output``.

    Raises:
        Ew2sError: as :func:`write_rows`, or the output cannot be written, which is found out before any work.
    """
    files = source_files(source)
    check_rows_output(out, LABEL_COLUMNS, [*files, *folders_of(source)])
    ensemble = load_ensemble(ensemble_dir, compute, trust_remote_code=trust_remote_code)
    check_rows_output(out, LABEL_COLUMNS, inputs_of(ensemble))
    decoding, quiet = decoding or ensemble.decoding, Milestones(sink or NullSink())
    task = Task(
        "label",
        lambda part, first: answer_examples(ensemble, part, decoding=decoding, seed=seed, first=first, sink=quiet),
        partial(check_questions, ensemble, ensemble.task, decoding),
        LABEL_COLUMNS,
        options_of(ensemble.task, decoding, seed) | {"the columns": source.model_dump(mode="json", exclude={"path"})},
    )
    questions = Questions(
        lambda: iter_source(source, seed, answers=False),
        lambda: [source_identity(source), seed],
        ", ".join(map(str, files)) or source.kind,
        files,
    )
    total = {"confidence": 0.0, "agreement": 0.0}

    def add(row: Mapping[str, Any]) -> None:
        for name in total:
            total[name] += row[name]

    n = write_rows(ensemble, questions, task, out, add, sink)
    return {"n": n, **{f"mean_{name}": value / n for name, value in total.items()}, "output": str(out)}


def score_to_file(
    ensemble: Ensemble, questions: Sequence[Example], name: str, output: Path, sink: EventSink | None = None
) -> dict[str, int]:
    """Score the options of questions, which come from ``name``, into a JSON Lines file; see :func:`write_rows`.

    Returns:
        ``n``, ``known`` (questions with an answer) and ``correct``.
    """
    quiet = Milestones(sink or NullSink())

    def rows(part: list[Example], first: int) -> list[dict[str, Any]]:
        found = ensemble.score(part, quiet)
        return [{**row, "choices": question.choices} for question, row in zip(part, found, strict=True)]

    task = Task("score", rows, partial(check_questions, ensemble, "choice", ensemble.decoding), SCORE_COLUMNS, {})
    count = {"known": 0, "correct": 0}

    def add(row: Mapping[str, Any]) -> None:
        count["known"] += "correct" in row
        count["correct"] += bool(row.get("correct"))

    return {"n": write_rows(ensemble, _listed(questions, name), task, output, add, sink), **count}


def generate_to_file(
    ensemble: Ensemble,
    questions: Sequence[Example],
    name: str,
    output: Path,
    decoding: DecodingConfig,
    *,
    seed: int = 0,
    sink: EventSink | None = None,
) -> int:
    """Write answers to questions, which come from ``name``, into a JSON Lines file; see :func:`write_rows`.

    Returns:
        Number of answers.
    """
    quiet = Milestones(sink or NullSink())

    def rows(part: list[Example], first: int) -> list[dict[str, Any]]:
        return ensemble.answer(part, decoding, seed=seed, first=first, sink=quiet)

    check, options = partial(check_questions, ensemble, "generate", decoding), options_of("generate", decoding, seed)
    task = Task("generate", rows, check, GENERATE_COLUMNS, options)
    return write_rows(ensemble, _listed(questions, name), task, output, lambda row: None, sink)


def _listed(questions: Sequence[Example], name: str) -> Questions:
    """Questions that are in memory."""
    digest = hashlib.sha256()
    for question in questions:
        digest.update(json.dumps(question.to_json(), sort_keys=True).encode())
    found = digest.hexdigest()
    return Questions(lambda: questions, lambda: found, name)


def evaluate_file(
    ensemble_dir: str | Path,
    source: SourceConfig,
    *,
    compute: ComputeConfig | None = None,
    level: float | None = None,
    match: str | None = None,
    seed: int = 0,
    sink: EventSink | None = None,
    trust_remote_code: bool = False,
) -> dict[str, Any]:
    """Accuracy of a trained ensemble on a file with answers, measured as its run measures it: text is written greedily.

    ``ensemble_dir`` is a run directory or a saved ensemble. The ``level`` of the interval, and how generated answers
    are compared (``match``: ``exact`` or ``number``), are the run's by default; ``seed`` is for made-up sources.

    Returns:
        ``n``, ``correct``, ``accuracy``, Wilson's interval ``low``, ``high``, ``mean_confidence``, ``mean_agreement``,
        and ``left_out``: how many questions are not among the ``n`` since two of their options have the same tokens,
        so that being right about them would be luck.

    Raises:
        DataError: a question has no answer, or all are left out.
    """
    examples = _with_answers(source, seed)
    ensemble = load_ensemble(ensemble_dir, compute, trust_remote_code=trust_remote_code)
    greedy = ensemble.decoding.model_copy(update={"method": "greedy"})
    answered = answer_examples(ensemble, examples, decoding=greedy, sink=sink or NullSink())
    pairs = [(e, row) for e, row in zip(examples, answered, strict=True) if not row.get("indistinct")]
    if not pairs:
        raise DataError(
            f"All {len(answered)} questions have options with the same tokens, which no model tells apart.",
            hint="The tokenizer may not know their characters; `ew2s data check FILE --tokenizer MODEL` lists them.",
        )
    examples, rows = [e for e, _ in pairs], [row for _, row in pairs]
    right = _right(ensemble, examples, rows, match)
    result = summarise(right, level=level or ensemble.evaluation.level)
    return {
        "n": result.n,
        "correct": result.correct,
        "accuracy": result.accuracy,
        "low": result.low,
        "high": result.high,
        "mean_confidence": float(np.mean([row["confidence"] for row in rows])),
        "mean_agreement": float(np.mean([row["agreement"] for row in rows])),
        "left_out": len(answered) - len(rows),
    }


def _with_answers(source: SourceConfig, seed: int) -> list[Example]:
    examples = load_source(source, seed)
    for example in examples:
        if example.answer is None:
            raise DataError(
                f"Question {example.id!r} has no answer to compare with.",
                hint="Use `ew2s label` or `ew2s score` for questions without answers.",
            )
    return examples


def _right(
    ensemble: Ensemble, examples: list[Example], rows: list[dict[str, Any]], match: str | None
) -> NDArray[np.bool_]:
    """Whether each answer is right, as a run decides it."""
    if ensemble.task == "choice":
        return np.array([row["option"] == e.answer_index for row, e in zip(rows, examples, strict=True)], np.bool_)
    how: Match = "number" if (match or ensemble.evaluation.match) == "number" else "exact"
    true = [example.answer or "" for example in examples]
    return text_correct([row["label"] for row in rows], true, how, ensemble.template.answer_pattern)
