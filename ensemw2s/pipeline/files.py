"""A trained ensemble at work on somebody's own file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from ensemw2s.config.data import SourceConfig
from ensemw2s.config.method import DecodingConfig
from ensemw2s.config.training import ComputeConfig
from ensemw2s.data.example import Example
from ensemw2s.ensemble import Ensemble
from ensemw2s.errors import DataError
from ensemw2s.evaluation import summarise, text_correct
from ensemw2s.pipeline.teachers import write_label_rows
from ensemw2s.sink import EventSink, NullSink


def load_ensemble(path: str | Path, compute: ComputeConfig | None = None) -> Ensemble:
    """The ensemble in a run directory or a folder of its own; see :meth:`Ensemble.load`."""
    from ensemw2s.models.device import resolve_device

    ensemble = Ensemble.load(path, compute)
    resolve_device(ensemble.compute)
    return ensemble


def answer_examples(
    ensemble: Ensemble,
    examples: list[Example],
    *,
    decoding: DecodingConfig | None = None,
    seed: int = 0,
    sink: EventSink | None = None,
) -> list[dict[str, Any]]:
    """Label examples: options are scored for ``task: choice``, text is written for ``task: generate``.

    Returns:
        One dict an example with ``id``, ``prompt``, ``label``, ``confidence``, ``agreement``, and for choices
        ``option``, ``margin`` and ``scores``.
    """
    if ensemble.task == "choice":
        found = ensemble.score([example.hide_answer() for example in examples], sink)
        return [{"id": e.id, "prompt": e.prompt, **row} for e, row in zip(examples, found, strict=True)]
    prompts = [example.prompt for example in examples]
    written = ensemble.generate(prompts, decoding, seed=seed, agreement_of_experts=True, sink=sink)
    return [
        {
            "id": example.id,
            "prompt": example.prompt,
            "label": row["text"],
            "confidence": row["confidence"],
            "agreement": row["agreement"],
            "ended": row["ended"],
        }
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
) -> dict[str, Any]:
    """Label a file's questions with a trained ensemble and write JSON lines.

    Args:
        ensemble_dir: run directory or saved ensemble.
        source: the questions; answers in it are not read.
        out: the JSON Lines file to write.
        compute: device and batch size.
        decoding: for ``task: generate``; the ensemble's own by default.
        seed: for sampling.
        sink: gets progress.

    Returns:
        ``n``, ``mean_confidence``, ``mean_agreement`` and ``output``.
    """
    from ensemw2s.data.sources import load_source

    examples = load_source(source, seed, answers=False)
    ensemble = load_ensemble(ensemble_dir, compute)
    rows = answer_examples(ensemble, examples, decoding=decoding, seed=seed, sink=sink or NullSink())
    write_label_rows(out, rows)
    return {
        "n": len(rows),
        "mean_confidence": float(np.mean([row["confidence"] for row in rows])),
        "mean_agreement": float(np.mean([row["agreement"] for row in rows])),
        "output": str(out),
    }


def evaluate_file(
    ensemble_dir: str | Path,
    source: SourceConfig,
    *,
    compute: ComputeConfig | None = None,
    level: float = 0.95,
    match: str = "exact",
    seed: int = 0,
    sink: EventSink | None = None,
) -> dict[str, Any]:
    """Accuracy of a trained ensemble on a file with answers.

    Returns:
        ``n``, ``correct``, ``accuracy`` and Wilson's interval ``low``, ``high``.

    Raises:
        DataError: a question has no answer.
    """
    from ensemw2s.data.sources import load_source

    examples = load_source(source, seed)
    for example in examples:
        if example.answer is None:
            raise DataError(
                f"Question {example.id!r} has no answer to compare with.",
                hint="Use `ew2s label` or `ew2s score` for questions without answers.",
            )
    ensemble = load_ensemble(ensemble_dir, compute)
    rows = answer_examples(ensemble, examples, seed=seed, sink=sink or NullSink())
    if ensemble.task == "choice":
        right = np.array([row["label"] == e.answer for row, e in zip(rows, examples, strict=True)], dtype=np.bool_)
    else:
        labels = [row["label"] for row in rows]
        true = [example.answer or "" for example in examples]
        pattern = ensemble.template.answer_pattern
        right = text_correct(labels, true, "number" if match == "number" else "exact", pattern)
    result = summarise(right, level=level)
    return {
        "n": result.n,
        "correct": result.correct,
        "accuracy": result.accuracy,
        "low": result.low,
        "high": result.high,
    }
