"""Examples from a configured source: embedded puzzles, files with mapped columns, or known data sets."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ensemw2s.config.data import ColumnMap, SourceConfig
from ensemw2s.data.answers import read_answers
from ensemw2s.data.example import Example
from ensemw2s.data.fields import RowContext, Unread
from ensemw2s.data.files import as_path, decode, find_files, read_bytes, read_rows, unreadable
from ensemw2s.data.hub import hub_identity, hub_rows, hub_set, is_hub
from ensemw2s.data.known import KnownSet, set_in_files
from ensemw2s.data.levels import parse_difficulty
from ensemw2s.data.problems import Problem, Report, Row, RowError, raise_first
from ensemw2s.data.shortcuts import find_shortcut
from ensemw2s.errors import DataError, did_you_mean, shortened
from ensemw2s.files import JsonError, open_regular, parse_json
from ensemw2s.seeds import sub_seed

Annotations = dict[str, tuple[float | None, str]]


@dataclass(slots=True)
class Walk:
    """One pass over a source. Loading and checking walk the same way and differ in what they do with a problem.

    Attributes:
        cfg: the source.
        seed: seed of option orders and of the embedded puzzles.
        report: receives every problem.
        answers: whether a row without an answer is an error.
        files: the files that were read, in order.
        rows: rows seen, good or bad.
        places: id of every example to its file and line.
        counts: what converters count over all rows.
    """

    cfg: SourceConfig
    seed: int
    report: Report
    answers: bool = True
    files: list[str] = field(default_factory=list)
    rows: int = 0
    places: dict[str, Row] = field(default_factory=dict)
    counts: Counter[str] = field(default_factory=Counter)

    def examples(self) -> Iterator[Example]:
        """All examples in the order of the files; ids are unique."""
        if self.cfg.kind == "synthetic":
            from ensemw2s.data.synthetic import make_synthetic

            for made in make_synthetic(self.cfg.size, self.seed):
                self.rows += 1
                self.places[made.id] = Row({}, "synthetic", self.rows, self.rows, "row")
                yield made
            return
        known = set_in_files(self.cfg)
        notes = None
        if self.cfg.annotations is not None:
            notes = read_annotations(self.cfg.annotations, self.cfg.annotation_field, self.report)
        matched = 0
        for example in self._mapped(known) if self.cfg.kind == "file" else self._converted(known):
            if notes is not None and example.id in notes:
                matched += 1
                difficulty, level = notes[example.id]
                example = replace(example, difficulty=difficulty, level=level)
            yield example
        if notes and self.places and matched == 0:
            first = next(iter(self.places))
            message = (
                f"none of its {len(notes)} ids is the id of an example (the first example is {shortened(first)!r})"
            )
            self.report(Problem("annotations", message, str(self.cfg.annotations)))

    def _converted(self, known: KnownSet) -> Iterator[Example]:
        for label, row in self._numbered_rows(known):
            example = self._convert(known, row, label)
            if isinstance(example, Example):
                yield example

    def _mapped(self, known: KnownSet) -> Iterator[Example]:
        """Rows with mapped columns: how their answers are read depends on all of them."""
        found: list[tuple[Example | Unread, Row]] = []
        for label, row in self._numbered_rows(known):
            example = self._convert(known, row, label)
            if example is not None:
                # One row's content is enough to tell which columns there are.
                found.append((example, replace(row, data={}) if found else row))
        yield from finish_mapped(found, self.cfg.columns, self.report, self.counts["answer_repeated"])

    def _numbered_rows(self, known: KnownSet) -> Iterator[tuple[str, Row]]:
        """Rows of all files, each with the first part of the id that its row gets if it has none."""
        if is_hub(self.cfg):
            parts = hub_set(self.cfg)
            self.files.append(f"{parts.repository} ({', '.join(filter(None, (parts.subset, *parts.splits)))})")
            for split, row in hub_rows(self.cfg):
                self.rows += 1
                yield split, row
            return
        files = _data_files(self.cfg, known, self.report)
        stems = Counter(file.stem for file in files)
        for order, file in enumerate(files, start=1):
            self.files.append(str(file))
            label = file.stem if stems[file.stem] == 1 else f"{file.stem}-{order}"
            for row in read_rows(file, self.report, known.header):
                self.rows += 1
                yield label, row

    def _convert(self, known: KnownSet, row: Row, label: str) -> Example | Unread | None:
        def warn(kind: str, message: str, column: str | None = None) -> None:
            self.report(row.problem(kind, message, column, "warning"))

        name = f"{label}-{row.number}"
        context = RowContext(name, self.seed, self.answers, warn, self.cfg.support, label, self.counts)
        try:
            converted = known.convert(row.data, context)
            example = converted.example if isinstance(converted, Unread) else converted
            if example.id in self.places:
                message = f"id {shortened(example.id)!r} was given already at {self.places[example.id].place}"
                raise RowError("duplicate_id", message, hint="Ids must be unique over all files of a source.")
        except RowError as error:
            hint = error.hint
            if error.kind == "missing_column" and self.cfg.kind == "file":
                hint = "Map the columns: data.source.columns, or --column prompt=NAME (answer=, choices=)."
            self.report(row.problem(error.kind, error.message, error.column, hint=hint))
            return None
        self.places[example.id] = replace(row, data={})
        return converted


def finish_mapped(
    found: Sequence[tuple[Example | Unread, Row]], columns: ColumnMap, report: Report, repeated: int = 0
) -> list[Example]:
    """Rows with mapped columns as examples: their answers are read, and what gives the answers away is refused.

    ``found`` is what :func:`~ensemw2s.data.converters.mapped` made of the rows of a source, in order; the first row has
    its data. In ``repeated`` rows the answer is one of that row's distractors. Examples of which ``report`` gets a
    problem are left out.
    """
    unread = [(one, row) for one, row in found if isinstance(one, Unread)]
    answered = iter(read_answers(unread, columns, report))
    examples = [next(answered) if isinstance(one, Unread) else one for one, _ in found]
    good = [example for example in examples if example is not None]
    if columns.answer_is is None and good:
        problem = find_shortcut(good, columns, found[0][1], repeated)
        if problem is not None:
            report(problem)
    return good


def _data_files(cfg: SourceConfig, known: KnownSet, report: Report) -> list[Path]:
    """The files of a source without its annotations, which may lie in the same folder."""
    files = find_files(cfg.path, known.files, cfg.kind, report, known.folders)
    if cfg.annotations is None:
        return files
    aside = as_path(cfg.annotations).resolve()
    return [file for file in files if file.resolve() != aside]


def source_files(cfg: SourceConfig) -> list[Path]:
    """The local files that a source reads, its annotations last; none for the embedded puzzles.

    Raises:
        DataError: a file is missing or cannot be opened, or a folder has no file of the kind.
        ConfigError: the source has no path.
    """
    if cfg.kind == "synthetic":
        return []
    files = [] if is_hub(cfg) else _data_files(cfg, set_in_files(cfg), raise_first)
    if cfg.annotations is not None:
        files.append(as_path(cfg.annotations))
    for file in files:
        try:
            open_regular(file).close()
        except (OSError, ValueError) as error:
            raise_first(unreadable(file, error))
    return files


def source_identity(cfg: SourceConfig) -> list[list[str]]:
    """Identity of a source's content: names and SHA-256 of its files, or the hub's commit and splits.

    Raises:
        DataError: as in :func:`source_files`, or the hub cannot be reached and the data set was never fetched.
    """
    found = hub_identity(cfg) if is_hub(cfg) else []
    for path in source_files(cfg):
        with open_regular(path) as stream:
            found.append([path.name, hashlib.file_digest(stream, "sha256").hexdigest()])
    return found


def read_annotations(path: str, name: str, report: Report) -> Annotations:
    """Difficulty by example id from a JSON file ``{id: {field: value}}``; ids without the field are left out."""

    def problem(message: str, line: int | None = None) -> None:
        report(Problem("annotations", message, path, line))

    file = as_path(path)
    content = read_bytes(file, report)
    text = None if content is None else decode(content, str(file), report)
    if text is None:
        return {}
    try:
        value: Any = parse_json(text)
    except JsonError as error:
        problem(str(error), error.line)
        return {}
    if not isinstance(value, dict) or not all(isinstance(entry, dict) for entry in value.values()):
        problem("expected a JSON object {id: {field: value}}")
        return {}
    found: Annotations = {}
    for identifier, entry in value.items():
        try:
            difficulty = parse_difficulty(entry.get(name), name)
        except RowError as error:
            problem(f"id {shortened(identifier)!r}: {error.message}")
            continue
        if difficulty != (None, ""):
            found[identifier] = difficulty
    if not found:
        fields = dict.fromkeys(key for entry in value.values() for key in entry)
        problem(f"no id has a field {name!r}{did_you_mean(name, fields, 'fields')}")
    return found


def iter_source(cfg: SourceConfig, seed: int, *, answers: bool = True) -> Iterator[Example]:
    """The examples of :func:`load_source` one by one, as far as how they are read does not depend on all of them.

    Raises:
        DataError: as in :func:`load_source`, when the row is reached; nothing is said of a source without examples.
    """
    if cfg.limit is not None:
        return iter(load_source(cfg, seed, answers=answers))
    return Walk(cfg, seed, raise_first, answers).examples()


def load_source(cfg: SourceConfig, seed: int, *, answers: bool = True) -> list[Example]:
    """All examples of a source, in the order of its files, with unique ids.

    Args:
        cfg: the source; ``limit`` keeps that many examples, drawn by the seed, in their order.
        seed: fixes the draw of ``limit``, the order of options that have none, and the embedded puzzles.
        answers: False takes rows without an answer too (``answer`` is then None).

    Raises:
        DataError: the first problem that was found, with its file, line and column.
        ConfigError: the source has no path.
    """
    walk = Walk(cfg, seed, raise_first, answers)
    examples = list(walk.examples())
    if not examples:
        raise DataError(f"No examples in {', '.join(walk.files)}.")
    if cfg.limit is not None and cfg.limit < len(examples):
        generator = np.random.default_rng(sub_seed(seed, "limit"))
        keep = np.sort(generator.permutation(len(examples))[: cfg.limit])
        examples = [examples[at] for at in keep]
    return examples
