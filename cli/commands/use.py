"""``score``, ``generate`` and ``evaluate``: a trained ensemble on a user's questions."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ensemw2s.cli import options as o
from ensemw2s.cli.help import help_text
from ensemw2s.cli.run_request import show_results
from ensemw2s.cli.terminal import shell_path, terminal
from ensemw2s.errors import DataError, InputError, shortened

if TYPE_CHECKING:
    from ensemw2s.config.method import DecodingConfig
    from ensemw2s.data.example import Example
    from ensemw2s.data.problems import Problem, Row
    from ensemw2s.ensemble import Ensemble
    from ensemw2s.sink import EventSink

#: Questions answered at a time, so that answers appear while a long file is read.
_CHUNK = 256

EnsembleDir = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, or folder with an ensemble.json.")]

Output = Annotated[
    Path | None,
    typer.Option("--output", metavar="FILE", help="JSON Lines file instead of stdout; the same command continues it."),
]


def _open_text(path: str) -> str:
    from ensemw2s.encoding import TextError, decode_text
    from ensemw2s.files import read_input

    try:
        if path == "-":
            if sys.stdin.isatty():
                terminal.say("Reading from the terminal; end with Ctrl-D.")
            return decode_text(sys.stdin.buffer.read())
        return decode_text(read_input(Path(path)))
    except TextError as error:
        raise DataError(f"{_called(path)}:{error.line}: {error}.", hint=error.hint) from error
    except OSError as error:
        hint = "Check the path; - reads standard input."
        raise DataError(f"{shortened(path, 200)} cannot be read: {error.strerror}.", hint=hint) from error


def _called(path: str) -> str:
    return "standard input" if path == "-" else path


_FORMAT = 'One question a line: {"prompt": "…", "choices": ["…", "…"]}, and optionally "answer" and "id".'


def _json_rows(path: str, text: str, convert: Callable[[Row], Any]) -> list[Any]:
    """Results of ``convert`` for every JSON line.

    Raises:
        DataError: the first line that is not JSON or that ``convert`` refuses; names file and line.
    """
    from ensemw2s.data.files import jsonl_rows
    from ensemw2s.data.problems import RowError

    found = []
    for row in jsonl_rows(text, _called(path), _refuse):
        try:
            found.append(convert(row))
        except RowError as error:
            raise DataError(f"{row.place}: {error.message}.", hint=error.hint or _FORMAT) from None
    return found


def _refuse(problem: Problem) -> None:
    if problem.severity == "error":
        doubtful = problem.kind in ("ambiguous_answer", "mixed_answers", "shortcut")
        hint = "Write the answers as the texts of choices." if doubtful else problem.hint or _FORMAT
        raise DataError(f"{problem.place}: {problem.message}.", hint=hint)


def read_questions(path: str) -> list[Example]:
    """Questions with choices from JSON lines; which choice an answer means is decided once for all of them.

    Raises:
        DataError: a line that is not such a question; names file and line.
    """
    from ensemw2s.config.data import ColumnMap
    from ensemw2s.data.converters import mapped
    from ensemw2s.data.fields import RowContext, text_of
    from ensemw2s.data.sources import finish_mapped

    columns = ColumnMap(choices="choices")

    def convert(row: Row) -> Any:
        context = RowContext(text_of(row.data.get("id"), "id") or str(row.number), 0, False, lambda *_: None)
        return mapped(row.data, columns, context), row

    found = _json_rows(path, _open_text(path), convert)
    if not found:
        raise DataError(f"{_called(path)} holds no questions.", hint=_FORMAT)
    return finish_mapped(found, columns, _refuse)


def read_prompts(path: str) -> list[str]:
    """Prompts from a text file (one a line) or JSON lines with a ``prompt``.

    Raises:
        DataError: no prompts, or a JSON line without one.
    """
    from ensemw2s.data.fields import required_text

    text = _open_text(path)
    lines = [line.removesuffix("\r") for line in text.split("\n") if line.strip()]
    if not lines:
        raise DataError(f"{_called(path)} holds no prompts.", hint="One prompt a line, as text or as JSON.")
    if not all(line.lstrip().startswith("{") for line in lines):
        return lines
    return _json_rows(path, text, lambda row: required_text(row.data, "prompt", "prompt"))


def score(
    run: EnsembleDir,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="JSON Lines file with questions; - is standard input.")
    ] = "-",
    output: Output = None,
    device: o.Device = None,
    threads: o.Threads = None,
    backend: o.Backend = None,
    trust: o.Trust = False,
) -> None:
    """Score the options of questions."""
    from ensemw2s.cli.progress import progress_sink
    from ensemw2s.tasks import use_ensemble as files

    _check_output(output, file, files.SCORE_COLUMNS)
    ensemble = files.load_ensemble(run, o.compute_options(device, threads, backend), trust_remote_code=trust)
    questions = read_questions(file)
    with progress_sink(terminal) as sink:
        if output is None:
            found = _print_scores(ensemble, questions, sink)
        else:
            found = files.score_to_file(ensemble, questions, _called(file), output, sink)
    known = f"; {found['correct']} of {found['known']} with an answer right" if found["known"] else ""
    terminal.say(f"{len(questions)} questions{known}.")
    where = shell_path(run)
    terminal.next(f"ew2s label -e {where} -i {shell_path(file) if file != '-' else 'FILE'} --output labels.jsonl")


def _print_scores(ensemble: Ensemble, questions: list[Example], sink: EventSink) -> dict[str, int]:
    """The answers on stdout, as they come."""
    found = {"known": 0, "correct": 0}
    for start in range(0, len(questions), _CHUNK):
        if terminal.unread:
            break
        part = questions[start : start + _CHUNK]
        for question, row in zip(part, ensemble.score(part, sink), strict=True):
            terminal.json_line({**row, "choices": question.choices})
            found["known"] += "correct" in row
            found["correct"] += bool(row.get("correct"))
    return found


def _check_output(output: Path | None, source: str, columns: frozenset[str]) -> None:
    """Find out before the work whether ``--output`` can be written."""
    from ensemw2s.tasks.rows import check_rows_output

    if output is None:
        return
    check_rows_output(output, columns, [] if source == "-" else [Path(source)])
    if source == "-":
        terminal.say(
            "Standard input cannot be read again: an interrupted command goes on only if it gets the same text once "
            "more. From a file it always does."
        )


Prompts = Annotated[
    list[str] | None, typer.Argument(metavar="PROMPT", help="Prompts; without any, they come from --input.")
]
Source = Annotated[
    str,
    typer.Option("--input", "-i", metavar="FILE", help="One prompt a line, as text or JSON; - is standard input."),
]
Experts = Annotated[
    str | None, typer.Option("--experts", metavar="WHICH", help="Sampling from all, or from one drawn for each token.")
]


def generate(
    run: EnsembleDir,
    prompts: Prompts = None,
    source: Source = "-",
    sample: Annotated[bool, typer.Option("--sample", help="Sample instead of taking the most probable token.")] = False,
    temperature: Annotated[float | None, typer.Option("--temperature", metavar="X", help="Of sampling.")] = None,
    top_p: Annotated[float | None, typer.Option("--top-p", metavar="X", help="Nucleus of sampling (mass).")] = None,
    top_k: Annotated[int | None, typer.Option("--top-k", metavar="N", help="Sample from the N most probable.")] = None,
    experts: Experts = None,
    max_new_tokens: Annotated[int | None, typer.Option("--max-new-tokens", metavar="N", help="Longest answer.")] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Seed of sampled answers.")] = 0,
    output: Output = None,
    device: o.Device = None,
    threads: o.Threads = None,
    backend: o.Backend = None,
    trust: o.Trust = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON object a prompt instead of text.")] = False,
) -> None:
    """Generate answers."""
    from ensemw2s.cli.progress import progress_sink
    from ensemw2s.data.example import Example
    from ensemw2s.tasks import use_ensemble as files

    sampling = {"temperature": temperature, "top_p": top_p, "top_k": top_k, "experts": experts}
    _check_prompts(prompts or [], output)
    _check_output(output, source, files.GENERATE_COLUMNS)
    questions = list(prompts or ()) or read_prompts(source)
    ensemble = files.load_ensemble(run, o.compute_options(device, threads, backend), trust_remote_code=trust)
    if any(value is not None for value in sampling.values()) and not sample:
        raise InputError("--temperature, --top-p, --top-k and --experts need --sample.")
    changes = {**sampling, "max_new_tokens": max_new_tokens}
    decoding = _decoding(ensemble.decoding, sample, {k: v for k, v in changes.items() if v is not None})
    with progress_sink(terminal) as sink:
        if output is None:
            _print_answers(ensemble, questions, decoding, seed, sink, as_json)
        else:
            asked = [Example(id=str(i), prompt=text, answer=None) for i, text in enumerate(questions)]
            n = files.generate_to_file(ensemble, asked, _called(source), output, decoding, seed=seed, sink=sink)
            terminal.say(f"{n} answers in {output}")
    terminal.next(f"ew2s generate {shell_path(run)} --sample --temperature 0.7 --json …")


def _check_prompts(prompts: list[str], output: Path | None) -> None:
    """Find a file among the prompts, and prompts whose answers would go to a file, before anything is loaded."""
    for prompt in prompts:
        if Path(prompt).suffix in (".jsonl", ".txt") and not any(map(str.isspace, prompt)):
            hint = f"Prompts from a file: --input {prompt}"
            raise InputError(f"{prompt} looks like a file, but arguments are prompts.", hint=hint)
    if output is not None and prompts:
        raise InputError("--output takes the answers to --input.", hint="Leave the prompts or --output out.")


def _print_answers(
    ensemble: Ensemble, prompts: list[str], decoding: DecodingConfig, seed: int, sink: EventSink, as_json: bool
) -> None:
    """The answers on stdout, as they come."""
    with ensemble.kept_in_memory():
        for first in range(0, len(prompts), _CHUNK):
            if terminal.unread:
                break
            part = prompts[first : first + _CHUNK]
            for row in ensemble.generate(part, decoding, seed=seed, first=first, sink=sink):
                if as_json:
                    terminal.json_line(row)
                else:
                    terminal.data(row["text"])


def _decoding(own: DecodingConfig, sample: bool, changes: dict[str, Any]) -> DecodingConfig:
    """The ensemble's own decoding with what was asked for, checked."""
    from ensemw2s.config.composition import compose

    values = {**own.model_dump(), **({"method": "sample"} if sample else {}), **changes}
    flags = {
        "--sample" if key == "method" else f"--{key.replace('_', '-')}": (f"labelling.decoding.{key}", value)
        for key, value in values.items()
    }
    return compose(flags=flags).config.labelling.decoding


def evaluate(
    run: EnsembleDir,
    files: Annotated[list[str] | None, typer.Argument(metavar="FILE", help="Files with questions and answers.")] = None,
    kind: o.Kind = "file",
    column: o.Columns = None,
    split: Annotated[
        str | None,
        typer.Option(
            "--split", metavar="NAME", help="A split of the run instead of a file: validation, test, hard_test."
        ),
    ] = None,
    match: Annotated[
        str | None,
        typer.Option(
            "--match",
            metavar="HOW",
            help="Generated answers as text (exact) or as numbers (number); by default as in the run.",
        ),
    ] = None,
    device: o.Device = None,
    threads: o.Threads = None,
    backend: o.Backend = None,
    trust: o.Trust = False,
    as_json: o.Json = False,
) -> None:
    """Accuracy on a file or a split."""
    if not files and split is None:
        show_results(run, as_json)
        return
    if files and split is not None:
        raise InputError("Give files or --split, not both.")
    if match not in (None, "exact", "number"):
        raise InputError(f"--match is {match!r}; expected exact or number.")
    from ensemw2s.cli.progress import progress_sink
    from ensemw2s.tasks.use_ensemble import evaluate_file

    source = o.source_options(files, kind, column) if files else o.split_source(split_file(run, str(split)))
    compute = o.compute_options(device, threads, backend)
    with progress_sink(terminal) as sink:
        found = evaluate_file(run, source, compute=compute, match=match, sink=sink, trust_remote_code=trust)
    if as_json:
        terminal.json(found)
    else:
        share, low, high = (100 * found[key] for key in ("accuracy", "low", "high"))
        without = f"; {found['left_out']} questions left out" if found["left_out"] else ""
        terminal.out(f"{found['correct']} of {found['n']} right: {share:.1f} % [{low:.1f}, {high:.1f}]{without}")
    terminal.next(f"ew2s report {shell_path(run)} --full")


def split_file(run: Path, split: str) -> str:
    """The file of a run's split, as the run prepared it.

    Raises:
        DamagedError: the prepared data is not what was written.
        DataError: the same, in a run of an older version.
        InputError: there is no such split, or no such file.
    """
    names = ("train", "validation", "test", "hard_pool", "hard_test")
    if split not in names:
        raise InputError(f"There is no split {split!r}.", hint=f"Splits: {', '.join(names)}.")
    path = run / "data" / f"{split}.jsonl"
    if not path.exists():
        raise InputError(f"{run} holds no split {split} ({path} is missing).", hint="Give a run directory or a file.")
    from ensemw2s.data.store import read_splits

    read_splits(path.parent)
    return str(path)


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    line = """'{"prompt": "…", "choices": ["…", "…"]}'"""
    app.command(
        "evaluate",
        help=help_text(
            "Evaluate an ensemble, or show a run's results.",
            [
                "ew2s evaluate runs/…                        # the results of the run",
                "ew2s evaluate runs/… --split hard_test      # measured again",
                "ew2s evaluate runs/… my.csv --column prompt=question --column answer=label",
            ],
        ),
    )(evaluate)
    app.command(
        "score",
        help=help_text(
            "Score multiple-choice questions with a trained ensemble.",
            [
                "ew2s score runs/… questions.jsonl",
                "ew2s score runs/… questions.jsonl --output scores.jsonl",
                f"echo {line} | ew2s score runs/…",
            ],
            "Each question is a JSON object on a line. Each answer is one, too, with the score of every choice (a "
            "log-probability), the label, its confidence, the margin to the runner-up, and the experts' agreement.",
        ),
    )(score)
    app.command(
        "generate",
        help=help_text(
            "Generate text with a trained ensemble.",
            [
                'ew2s generate runs/… "2 1 3 sorted is"',
                "ew2s generate runs/… --input prompts.txt --json",
                "ew2s generate runs/… -i prompts.txt --output answers.jsonl",
                "ew2s generate runs/… -i prompts.txt --sample --temperature 0.7 --seed 1",
            ],
        ),
    )(generate)
