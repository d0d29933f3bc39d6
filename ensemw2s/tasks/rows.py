"""Resumable inference over questions, with rows in JSON Lines."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ensemw2s.config.data import SourceConfig
from ensemw2s.config.method import DecodingConfig
from ensemw2s.data.example import Example
from ensemw2s.data.files import as_path
from ensemw2s.errors import DataError, Interrupted, RunFailedError
from ensemw2s.files import disk_full_error, is_disk_full, open_regular, parse_json
from ensemw2s.outputs import check_output_file
from ensemw2s.sink import EventSink, NullSink
from ensemw2s.tasks.row_parts import AGAIN, Parts

if TYPE_CHECKING:
    from ensemw2s.ensemble import Ensemble

Rows = list[dict[str, Any]]
#: Rows in a part. They are computed together, so that what they give does not depend on where work was taken up again.
PART_ROWS = 256
#: Questions that are looked at in one go before the work.
_CHECKED = 4096
_FIRST_LINE = 2**24


@dataclass(frozen=True, slots=True)
class Questions:
    """Source of questions.

    Attributes:
        read: gives them, as often as it is called the same.
        identity: of what is read: changes when it does. Called again at the end of the work.
        name: how a person calls it.
        files: that are read.
    """

    read: Callable[[], Iterable[Example]]
    identity: Callable[[], Any]
    name: str
    files: Sequence[Path] = ()


@dataclass(frozen=True, slots=True)
class Task:
    """A task on questions.

    Attributes:
        name: such as ``label``; parts of one are no parts of another.
        answer: the rows for questions of which the first has this number among all.
        check: raises a DataError about questions that cannot be answered; no weights are read for it.
        columns: that every row has, by which an older output is known.
        options: what else rows depend on, by name.
    """

    name: str
    answer: Callable[[list[Example], int], Rows]
    check: Callable[[list[Example]], None]
    columns: frozenset[str]
    options: Mapping[str, Any]


def check_rows_output(output: Path, columns: frozenset[str], inputs: Iterable[Path]) -> None:
    """Find out before any work whether rows can be written.

    Raises:
        InputError: see :func:`ensemw2s.outputs.check_output_file`.
    """
    check_output_file(output, inputs=inputs, ours=lambda path: _holds_rows(path, columns))


def _holds_rows(path: Path, columns: frozenset[str]) -> bool:
    try:
        with open_regular(path) as stream:
            first = parse_json(stream.readline(_FIRST_LINE))
    except (OSError, ValueError):
        return False
    return isinstance(first, dict) and columns <= first.keys()


class Milestones(NullSink):
    """Passes on milestones alone: parts are told as one piece of work."""

    def __init__(self, sink: EventSink) -> None:
        self.sink = sink

    def event(self, kind: str, **fields: Any) -> None:
        """Pass a milestone on."""
        self.sink.event(kind, **fields)


def check_questions(ensemble: Ensemble, task: str, decoding: DecodingConfig, part: list[Example]) -> None:
    """Whether an ensemble can answer questions, as far as that is known without its weights.

    Raises:
        DataError: a question has no options to choose from, or is longer than a model reads.
    """
    from ensemw2s.ensemble.answer import prompts_of
    from ensemw2s.ensemble.score import check_choices, readers
    from ensemw2s.models.loading.load import load_tokenizer

    if task == "choice":
        check_choices(ensemble, part)
    for k in readers(ensemble, task):
        if task == "choice":
            ensemble.encode_for(k, part)
        else:
            prompts_of(ensemble, k, part, load_tokenizer(ensemble.model_config(k)), decoding)


def options_of(task: str, decoding: DecodingConfig, seed: int) -> dict[str, Any]:
    """Options that rows depend on, as :class:`Task` names them."""
    if task == "choice":
        return {}
    sampled = decoding.method == "sample"
    return {"decoding": decoding.model_dump(mode="json"), **({"seed": seed} if sampled else {})}


def folders_of(source: SourceConfig) -> list[Path]:
    """Folders that stand for all files in them, so that an output there would be read the next time."""
    given = [source.path] if isinstance(source.path, str) else source.path or []
    return [place for place in map(as_path, given) if place.is_dir()]


def inputs_of(ensemble: Ensemble) -> list[Path]:
    """The files and folders of an ensemble's experts."""
    return [expert for expert in ensemble.experts if isinstance(expert, Path)]


def parts_of(items: Iterable[Example], size: int) -> Iterator[list[Example]]:
    """Lists of ``size`` items, the last one shorter."""
    iterator = iter(items)
    while part := list(itertools.islice(iterator, size)):
        yield part


def available_room(ensemble: Ensemble) -> int:
    """Bytes that weights can take on the ensemble's device."""
    from ensemw2s.models.loading.device import memory_left, resolve_device

    return memory_left(resolve_device(ensemble.compute))


def write_rows(
    ensemble: Ensemble,
    questions: Questions,
    task: Task,
    output: Path,
    each: Callable[[Mapping[str, Any]], None],
    sink: EventSink | None = None,
) -> int:
    """Answer all questions into a JSON Lines file, in their order.

    Rows lie in ``OUTPUT.parts/`` until all are there. The same call continues after an interruption of whatever kind,
    and gives the bytes of one that was not interrupted. Memory does not grow with the number of rows, as far as
    ``questions`` do not.

    ``output`` is checked by :func:`check_rows_output`; ``each`` is handed every row of the finished file, in order.

    Returns:
        Number of rows.

    Raises:
        InputError: there are unfinished parts of other work (a changed input, ensemble or option), or somebody writes
            them at the moment.
        DataError: there are no questions, or some cannot be answered.
        RunFailedError: the disk is full, or the questions changed meanwhile.
        Interrupted: by Ctrl-C or the system; says what is kept.
    """
    sink = sink or NullSink()
    source = questions.identity()
    identity = {"the command": task.name, "the input": source, "the ensemble": ensemble.identity(), **task.options}
    with Parts(output, identity | {"device": _device(ensemble)}, _settings(ensemble)) as parts:
        try:
            _begin(questions, task, parts, sink)
            _keep_settings(ensemble, parts.settings, sink)
            if not parts.finished:
                _answer_missing(ensemble, questions, task, parts, sink)
                if questions.identity() != source:
                    raise RunFailedError(f"{questions.name} changed while they were read.", hint=AGAIN)
            total = parts.total or 0
            parts.join()
        except KeyboardInterrupt as error:
            raise Interrupted(_kept(parts)) from error
        except OSError as error:
            if is_disk_full(error):
                raise disk_full_error(output.parent, task.name) from error
            raise RunFailedError(f"{output} cannot be written: {error.strerror or error}.", hint=AGAIN) from error
    with open_regular(output) as stream:
        for line in stream:
            each(parse_json(line))
    return total


def _device(ensemble: Ensemble) -> str:
    from ensemw2s.models.loading.device import resolve_device

    return resolve_device(ensemble.compute).type


def _settings(ensemble: Ensemble) -> dict[str, int | str]:
    """Settings that change last digits; and the date that a chat is told, which is that of the beginning."""
    from ensemw2s.models.loading.device import cpu_threads

    compute = ensemble.compute
    found = {"part_rows": PART_ROWS, "threads": cpu_threads(compute), "batch_tokens": compute.batch_tokens}
    return found | ({"date": str(ensemble.template.date)} if ensemble.undated else {})


def _keep_settings(ensemble: Ensemble, kept: Mapping[str, Any], sink: EventSink) -> None:
    """Compute as the work was begun."""
    now = _settings(ensemble)
    changes = [f"{name} {value}" for name, value in kept.items() if value != now.get(name)]
    if changes:
        text = f"Continued as it was begun, with {', '.join(changes)}: so rows do not depend on the interruption."
        sink.event("message", level="info", text=text)
    ensemble.compute = ensemble.compute.model_copy(update={name: kept[name] for name in ("threads", "batch_tokens")})
    if ensemble.undated:
        ensemble.template = ensemble.template.model_copy(update={"date": kept["date"]})


def _begin(questions: Questions, task: Task, parts: Parts, sink: EventSink) -> None:
    """Look at all questions and count them, unless an earlier start has."""
    if parts.total is not None:
        if parts.kept:
            text = f"{parts.kept} of {parts.total} rows are kept from before, in {parts.folder}."
            sink.event("message", level="info", text=text)
        return
    total = 0
    for part in parts_of(questions.read(), _CHECKED):
        task.check(part)
        total += len(part)
    if not total:
        raise DataError(f"No questions in {questions.name}.")
    parts.begin(total)


def _answer_missing(ensemble: Ensemble, questions: Questions, task: Task, parts: Parts, sink: EventSink) -> None:
    total = parts.total or 0
    with contextlib.ExitStack() as stack:
        working = False
        read = parts_of(questions.read(), parts.size)
        for start in parts.starts():
            part = next(read, [])
            if len(part) != min(parts.size, total - start):
                raise RunFailedError(f"{questions.name} changed while they were read.", hint=AGAIN)
            key = _hash(part)
            if parts.has(start, key):
                continue
            if not working:  # no weights are read where nothing is left to do
                stack.enter_context(ensemble.kept_in_memory(available_room(ensemble)))
                sink.progress(task.name, parts.kept, total)
                working = True
            parts.write(start, key, task.answer(part, start))
            sink.progress(task.name, parts.kept, total)
        if next(read, None):
            text = f"{questions.name} has more than the {total} questions that were counted."
            raise RunFailedError(text, hint=parts.anew())


def _hash(part: Sequence[Example]) -> str:
    content = json.dumps([example.to_json() for example in part], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _kept(parts: Parts) -> str:
    if not parts.kept:
        return "Before the first row; the same command begins."
    return f"{parts.kept} of {parts.total} rows are kept in {parts.folder}; the same command continues."
