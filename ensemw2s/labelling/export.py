"""Pseudo-labels as a data set folder that ``datasets.load_dataset`` reads: Parquet files and a card."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ensemw2s.arms import ENSEMBLE
from ensemw2s.data.example import Example
from ensemw2s.errors import DataError
from ensemw2s.evaluation.results import LabelResult
from ensemw2s.files import replaced, write_text
from ensemw2s.labelling.labels import Labels
from ensemw2s.text import markdown, scalar

_FIELDS = (
    ("id", "the question's id"),
    ("prompt", "the question, before any template"),
    ("choices", "its options; null where answers are written freely"),
    ("label", "the teacher's answer"),
    ("option", "which of the choices that is; −1 where answers are written freely"),
    ("confidence", "geometric mean probability of the label's tokens"),
    ("margin", "how far the label is ahead of the runner-up, in nats"),
    ("agreement", "share of ᾱ whose own answer is the same"),
    ("ended", "whether the answer ended by itself"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Provenance:
    """Provenance of one teacher's labels, and what the run measured about them, if it did."""

    alphas: Sequence[float]
    """Its experts' weights ``α_t``, not normalised."""
    rule: str
    length_norm: str
    result: LabelResult | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The run that all labels come from."""

    title: str
    task: str
    weak: str
    """The weak base, as the run knew it."""
    source: str
    """The data source, in words."""
    seed: int
    fingerprint: str
    """Of the run's configuration."""
    versions: Mapping[str, str]
    """Package → version."""


def export_labels(
    labels: Mapping[str, Labels],
    examples: Sequence[Example],
    provenance: Mapping[str, Provenance],
    origin: Origin,
    folder: Path,
) -> dict[str, int]:
    """Write ``TEACHER/train.parquet`` for every teacher, and ``README.md``.

    True answers are not written, even where the examples have them. ``labels`` and ``provenance`` are by teacher; the
    first is the data set's default configuration.

    Returns:
        Number of labels by teacher.

    Raises:
        DataError: a label belongs to no example.
    """
    by_id = {example.id: example for example in examples}
    for teacher, found in labels.items():
        unknown = [name for name in found.ids if name not in by_id]
        if unknown:
            raise DataError(
                f"The labels of {teacher} are for a question {unknown[0]!r} that is not in the data.",
                hint="Run the labelling again: its data changed.",
            )
        _write_parquet(found, [by_id[name] for name in found.ids], folder / teacher / "train.parquet")
    text = _card(labels, provenance, origin)
    write_text(folder / "README.md", text)
    return {teacher: len(found) for teacher, found in labels.items()}


def _write_parquet(labels: Labels, examples: Sequence[Example], path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    choices = [None if example.choices is None else list(example.choices) for example in examples]
    columns = {
        "id": pa.array(labels.ids, pa.string()),
        "prompt": pa.array([example.prompt for example in examples], pa.string()),
        "choices": pa.array(choices, pa.list_(pa.string())),
        "label": pa.array(labels.texts, pa.string()),
        "option": pa.array(labels.options, pa.int32()),
        "confidence": pa.array(labels.confidence, pa.float64()),
        "margin": pa.array(labels.margin, pa.float64()),
        "agreement": pa.array(labels.agreement, pa.float64()),
        "ended": pa.array(labels.ended, pa.bool_()),
    }
    table = pa.table({name: columns[name] for name, _ in _FIELDS})
    path.parent.mkdir(parents=True, exist_ok=True)
    with replaced(path) as temporary:
        pq.write_table(table, temporary)


def _card(labels: Mapping[str, Labels], provenance: Mapping[str, Provenance], origin: Origin) -> str:
    configs = []
    for place, teacher in enumerate(labels):
        configs += [f"- config_name: {teacher}", *(["  default: true"] if place == 0 else [])]
        configs += ["  data_files:", "  - split: train", f"    path: {teacher}/train.parquet"]
    header = [
        "---",
        f"pretty_name: {scalar(origin.title)}",
        "task_categories:",
        "- question-answering" if origin.task == "choice" else "- text-generation",
        "tags:",
        *(f"- {tag}" for tag in ("ensemw2s", "pseudo-labels", "synthetic", "weak-to-strong-generalization")),
        "configs:",
        *configs,
        "---",
    ]
    return "\n".join([*header, "", *_body(labels, provenance, origin)]) + "\n"


_ABOUT = """\
**Machine-made labels.** Weak language models, boosted on easy questions, answered harder ones that nobody labelled,
with [EnsemW2S](https://arxiv.org/abs/2505.21959). Many labels are wrong; the true answers are not part of this data
set."""

_KEPT = """\
*kept*: used to train the run's student, after its filters. *right*: share of labels that equal the hidden answer, with
Wilson's 95 % interval, measured once at the end of the run. *confidence* and *agreement*: means."""

_LOADING = """\
```python
from datasets import load_dataset

labels = load_dataset("PATH_OR_HUB_ID", "{teacher}", split="train")
```

The questions have the licence of their source."""


def _body(labels: Mapping[str, Labels], provenance: Mapping[str, Provenance], origin: Origin) -> list[str]:
    norms = sorted({of.length_norm for of in provenance.values()})
    scored = f" Options were scored by log-probability ({', '.join(norms)} norm)." if origin.task == "choice" else ""
    versions = ", ".join(f"{name} {version}" for name, version in origin.versions.items())
    return [
        *(f"# {markdown(origin.title)}", "", _ABOUT, ""),
        *(f"- Questions: {markdown(origin.source)}", f"- Weak base: `{markdown(origin.weak)}`"),
        f"- Run: seed {origin.seed}, configuration `{origin.fingerprint[:16]}`",
        *([f"- Versions: {versions}"] if versions else []),
        *("", "## Teachers", ""),
        "| teacher | experts (α) | rule | labels | kept | right | confidence | agreement |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
        *(_teacher_row(teacher, found, provenance[teacher]) for teacher, found in labels.items()),
        *("", _KEPT + scored, "", "Confidence by decile of the labels, lowest first:", ""),
        *(f"- {teacher}: {_deciles(found)}" for teacher, found in labels.items()),
        *("", "## Fields", "", "| field | meaning |", "| --- | --- |"),
        *(f"| `{name}` | {meaning} |" for name, meaning in _FIELDS),
        *("", "## How to load it", "", _LOADING.format(teacher=next(iter(labels), ENSEMBLE))),
    ]


def _deciles(labels: Labels) -> str:
    if not len(labels):
        return "no labels"
    return ", ".join(f"{cut:.3f}" for cut in np.quantile(labels.confidence, np.linspace(0, 1, 11)))


def _teacher_row(teacher: str, labels: Labels, of: Provenance) -> str:
    shown = ", ".join(f"{alpha:.3f}" for alpha in of.alphas)
    kept, right = "", ""
    if of.result is not None:
        kept = str(of.result.kept)
        if of.result.accuracy is not None and of.result.low is not None and of.result.high is not None:
            right = f"{100 * of.result.accuracy:.1f} % [{100 * of.result.low:.1f}, {100 * of.result.high:.1f}]"
    confidence = f"{labels.confidence.mean():.3f}" if len(labels) else ""
    agreement = f"{labels.agreement.mean():.3f}" if len(labels) else ""
    cells = [teacher, f"{len(of.alphas)} ({shown})", of.rule, str(len(labels)), kept, right, confidence, agreement]
    return "| " + " | ".join(cells) + " |"
