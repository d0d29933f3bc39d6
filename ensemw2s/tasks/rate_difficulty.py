"""Difficulty rated by models: cross-fitted ``1 − p(correct)``."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ensemw2s.config.schema import RunConfig
from ensemw2s.config.training import ModelConfig
from ensemw2s.data.example import Example
from ensemw2s.errors import ConfigError, DataError, InputError
from ensemw2s.files import read_json, write_text
from ensemw2s.outputs import beside, check_output_file, check_work_folder
from ensemw2s.pipeline.date import dated
from ensemw2s.seeds import sub_seed
from ensemw2s.sink import EventSink, NullSink

if TYPE_CHECKING:
    from ensemw2s.data.encode import EncodedSplit
    from ensemw2s.models.inference.score_table import ScoreTable

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Rating:
    """Difficulty of the examples of a source.

    Attributes:
        ids: of every example.
        difficulty: float64 [n], mean over the raters of ``1 − p(correct)``, in [0, 1].
        fold: int64 [n], the fold that each example was in: the models that rated it were trained on the others.
        by_rater: float64 [raters, n].
        correct: for each rater the share of examples that it answers right (``task: choice``), else None.
    """

    ids: list[str]
    difficulty: Floats
    fold: NDArray[np.int64]
    by_rater: Floats
    correct: list[float] | None

    def annotations(self) -> dict[str, dict[str, float | int]]:
        """``{id: {"difficulty": …, "fold": …}}``: what ``data.source.annotations`` reads."""
        return {
            name: {"difficulty": round(float(d), 6), "fold": int(f)}
            for name, d, f in zip(self.ids, self.difficulty, self.fold, strict=True)
        }


def assign_folds(examples: Sequence[Example], folds: int, seed: int) -> NDArray[np.int64]:
    """Fold of every example, int64 [n], in [0, folds). Sizes differ by at most the largest group of twins.

    Examples that ask the same question (white space and case aside) share a fold: otherwise a model would rate a
    question whose twin it was trained on.

    Raises:
        DataError: there are fewer different questions than folds.
    """
    from ensemw2s.data.duplicates import question_key

    groups: dict[tuple[str, ...], list[int]] = {}
    for at, example in enumerate(examples):
        groups.setdefault(question_key(example), []).append(at)
    if len(groups) < folds:
        raise DataError(f"{len(groups)} different questions cannot be divided into {folds} folds.", hint="Use fewer.")
    members = list(groups.values())
    order = np.random.default_rng(sub_seed(seed, "rate", "folds")).permutation(len(members))
    fold = np.empty(len(examples), dtype=np.int64)
    sizes = np.zeros(folds, dtype=np.int64)
    for group in order:
        smallest = int(np.argmin(sizes))
        fold[members[group]] = smallest
        sizes[smallest] += len(members[group])
    return fold


def rate_examples(
    examples: Sequence[Example],
    raters: Sequence[ModelConfig],
    config: RunConfig,
    work: Path,
    *,
    folds: int = 5,
    sink: EventSink | None = None,
) -> Rating:
    """Rate how hard every example is for models that were trained on other examples.

    For every rater and fold a fresh copy of the rater is fine-tuned on the true answers of the other folds and scores
    the fold. ``p(correct)`` is the softmax over the options of their scores (``task: choice``; scores are normalised
    by length as ``ensemble.length_norm`` says), or the geometric mean probability of the answer's tokens
    (``task: generate``). Raters should be unrelated to the weak base of the run that uses the ratings: difficulty by
    the weak base's own loss would make its failures hard by definition.

    Args:
        examples: with known answers and unique ids.
        raters: base models.
        config: task, template, ``training.expert``, compute, length norm and seed.
        work: folder for unfinished work; scores of finished folds are found there again.
        folds: number of folds, at least 2.
        sink: gets progress and training metrics.

    Raises:
        InputError: fewer than 2 folds, or no rater.
        ConfigError: ``training.expert`` has something to find on validation data.
        DataError: an answer is unknown, or there are fewer questions than folds.
        ModelError: a rater cannot be loaded.
    """
    _check(examples, raters, folds)
    if config.training.expert.automatic:
        raise ConfigError(
            "training.expert: steps and learning_rate cannot be auto here: there is no validation data.",
            hint="Give numbers: --set training.expert.steps=300 --set training.expert.learning_rate=0.001",
        )
    fold = assign_folds(examples, folds, config.seed)
    rated = np.empty((len(raters), len(examples)))
    right = np.empty((len(raters), len(examples)))
    for r, rater in enumerate(raters):
        enc = _encode(examples, rater, config)
        for k in range(folds):
            place = work / f"rater-{r + 1}-fold-{k + 1}"
            inside = np.flatnonzero(fold == k)
            p, hits = _fold(examples, rater, config, enc, inside, place, sink or NullSink())
            rated[r, inside], right[r, inside] = 1.0 - p, hits
    shares = [float(share) for share in right.mean(axis=1)] if config.task == "choice" else None
    return Rating([e.id for e in examples], rated.mean(axis=0), fold, rated, shares)


def _check(examples: Sequence[Example], raters: Sequence[ModelConfig], folds: int) -> None:
    if folds < 2:
        raise InputError(
            f"Rating needs at least 2 folds, not {folds}.", hint="With one, a model would rate what it saw."
        )
    if not raters:
        raise InputError("Rating needs a model.")
    unknown = [example.id for example in examples if example.answer is None]
    if unknown:
        raise DataError(f"Example {unknown[0]!r} has no answer, so nobody can be right about it.")


def _encode(examples: Sequence[Example], rater: ModelConfig, config: RunConfig) -> EncodedSplit:
    from ensemw2s.data.encode import encode_split
    from ensemw2s.models.loading.info import configured_context_length
    from ensemw2s.models.loading.load import load_tokenizer

    limit = configured_context_length(rater)
    return encode_split(list(examples), load_tokenizer(rater), config.data.template, config.task, limit)


def _fold(
    examples: Sequence[Example],
    rater: ModelConfig,
    config: RunConfig,
    enc: EncodedSplit,
    inside: NDArray[np.int64],
    place: Path,
    sink: EventSink,
) -> tuple[Floats, Floats]:
    """``p(correct)`` and whether right of the fold's examples, by the rater trained on all others."""
    from ensemw2s.data.encode import encode_split
    from ensemw2s.models.inference.scoring import score_split
    from ensemw2s.models.loading.device import resolve_device
    from ensemw2s.models.loading.fingerprint import model_fingerprint
    from ensemw2s.models.loading.load import load_model, load_tokenizer
    from ensemw2s.models.training.finetune import finetune
    from ensemw2s.models.training.training_set import TrainingSet

    outside = np.setdiff1d(np.arange(len(examples)), inside)
    answers = [enc.options[i][enc.answer_index[i]] for i in outside]
    data = TrainingSet.from_sequences([enc.prompts[i] for i in outside], answers, eos_id=enc.eos_id)
    seed = sub_seed(config.seed, "rate", place.name, bits=31)
    training = config.training.expert.fixed()
    held_out = [examples[i] for i in inside]
    part = encode_split(held_out, load_tokenizer(rater), config.data.template, config.task, None)
    identity = _identity(
        model_fingerprint(rater), data.fingerprint(), part.fingerprint(), training.model_dump(mode="json"), seed,
        config.ensemble.length_norm,
    )  # fmt: skip
    kept = _finished(place / "scores.json", identity)
    if kept is not None:
        return kept
    mean_length = float(np.mean([answer.size + 1 for answer in answers]))
    finetune(
        rater, data, training, place / "model", seed=seed, loss_constant=mean_length, compute=config.compute, sink=sink,
        tag=place.name,
    )  # fmt: skip
    loaded = load_model(rater.model_copy(update={"path": str(place / "model")}), resolve_device(config.compute))
    table = score_split(loaded, part, compute=config.compute, top_k=1, sink=sink, tag=f"{place.name}/scores")
    p, correct = probability_of_answers(table, part, config)
    _finish(place, identity, p, correct)
    return p, correct


def probability_of_answers(table: ScoreTable, enc: EncodedSplit, config: RunConfig) -> tuple[Floats, Floats]:
    """``p(correct)`` float64 [n], and 1 where the answer is what the model would choose (``task: choice``), else 0."""
    from ensemw2s.ensemble.combine.option_scores import choose, sequence_scores

    norm = config.ensemble.length_norm if config.task == "choice" else "mean"
    scores = sequence_scores(table.target_logprob, enc, norm)
    p, right = np.empty(len(enc)), np.zeros(len(enc))
    if config.task == "choice":
        right[:] = choose(scores, enc).option == enc.answer_index
    for i, (begin, end) in enumerate(zip(enc.example_offsets[:-1], enc.example_offsets[1:], strict=True)):
        own, answer = scores[begin:end], int(enc.answer_index[i])
        if config.task == "choice":
            shares = np.exp(own - own.max())
            p[i] = shares[answer] / shares.sum()
        else:
            p[i] = np.exp(own[answer])
    return p, right


def _identity(*parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _finished(file: Path, identity: str) -> tuple[Floats, Floats] | None:
    """Scores that an earlier start left, if they are of the same fold, rater and settings."""
    content = read_json(file)
    if not isinstance(content, dict) or content.get("identity") != identity:
        return None
    return np.asarray(content["p"], dtype=np.float64), np.asarray(content["correct"], dtype=np.float64)


def _finish(place: Path, identity: str, p: Floats, correct: Floats) -> None:
    """Keep the scores and let go of the model."""
    content = {"identity": identity, "p": p.tolist(), "correct": correct.tolist()}
    write_text(place / "scores.json", json.dumps(content))
    shutil.rmtree(place / "model", ignore_errors=True)


_WORK = re.compile(r"rater-\d+-fold-\d+|date\.txt|\..*\.tmp")


def _holds_ratings(path: Path) -> bool:
    """Whether a file is :meth:`Rating.annotations`."""
    content = read_json(path)
    rows = content.values() if isinstance(content, dict) else [None]
    return all(isinstance(row, dict) and row.keys() == {"difficulty", "fold"} for row in rows)


def rate_file(
    config: RunConfig, raters: Sequence[ModelConfig], output: Path, *, folds: int = 5, sink: EventSink | None = None
) -> Rating:
    """Rate ``data.source`` of a configuration and write the annotations that ``data.source.annotations`` reads.

    Unfinished work lies beside ``output`` in ``<name>.work`` and is removed at the end.

    Raises:
        Ew2sError: as in :func:`rate_examples`, or the source cannot be read.
    """
    from ensemw2s.data.sources import load_source, source_files

    source = config.data.source.model_copy(update={"annotations": None})
    check_output_file(output, inputs=source_files(source), ours=_holds_ratings)
    work = beside(output, "work")
    check_work_folder(work, _WORK)
    seed = config.data.seed if config.data.seed is not None else config.seed
    # The seeds of a run, so that its options come in the same order and its limit keeps the same examples.
    examples = load_source(source, sub_seed(sub_seed(seed, "data"), "data", "source"))
    if config.task == "generate":
        examples = [dataclasses.replace(example, choices=None) for example in examples]
    template = dated(config.data.template, work)
    config = config.model_copy(update={"data": config.data.model_copy(update={"template": template})})
    rating = rate_examples(examples, raters, config, work, folds=folds, sink=sink)
    write_text(output, json.dumps(rating.annotations(), indent=1) + "\n")
    shutil.rmtree(work, ignore_errors=True)
    return rating
