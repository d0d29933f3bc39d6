"""``export``: an ensemble, its labels or a task for lm-eval as a folder of its own, and on the hub."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from ensemw2s.cli import options as o
from ensemw2s.cli.help import help_text
from ensemw2s.cli.terminal import shell_path, terminal
from ensemw2s.errors import InputError

Run = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory, or folder of a saved ensemble.")]
RunOnly = Annotated[Path, typer.Argument(metavar="RUN", help="Run directory.")]
Target = Annotated[Path, typer.Argument(metavar="DIR", help="Folder to write.")]
Push = Annotated[
    str | None, typer.Option("--push", metavar="OWNER/NAME", help="Also upload it to the Hugging Face hub.")
]
Private = Annotated[bool, typer.Option("--private", help="Make the repository private if it is new.")]
Title = Annotated[str | None, typer.Option("--title", metavar="TEXT", help="Heading of the card.")]


def _check_push(repo_id: str | None) -> None:
    """Find a bad name before anything is written."""
    if repo_id is not None and not re.fullmatch(r"[\w.-]+/[\w.-]+", repo_id):
        raise InputError(f"--push {repo_id!r} is not of the form OWNER/NAME.")


def _push(folder: Path, repo_id: str, kind: str, private: bool) -> str:
    from ensemw2s.ensemble.hub import push_folder

    terminal.say(f"Uploading {folder} to {repo_id}")
    return push_folder(folder, repo_id, kind=kind, private=private or None)


def ensemble(
    run: Run,
    folder: Target,
    push: Push = None,
    private: Private = False,
    title: Title = None,
    trust: o.Trust = False,
    as_json: o.Json = False,
) -> None:
    """A trained ensemble as one self-contained model folder."""
    from ensemw2s.ensemble import Ensemble
    from ensemw2s.ensemble.folder import size_text

    _check_push(push)
    found = Ensemble.from_run(run, trust_remote_code=trust)
    saved = found.save_pretrained(folder, title=title or (push.split("/")[1] if push else None))
    address = None if push is None else _push(folder, push, "model", private)
    if as_json:
        sizes = {"experts_bytes": saved.expert_bytes, "base_bytes": saved.base_bytes, "bytes": saved.total_bytes}
        terminal.json({"folder": str(folder), "experts": saved.experts, **sizes, "commit": address})
    else:
        base = f", over one base of {size_text(saved.base_bytes)}" if saved.base_bytes else ""
        terminal.out(
            f"{folder}: {saved.experts} experts of {size_text(saved.expert_bytes)} together{base}; "
            f"{size_text(saved.total_bytes)} in all"
        )
        if address is not None:
            terminal.out(address)
    terminal.next(
        f"ew2s generate {shell_path(folder)} PROMPT",
        f"ew2s lm-eval --model_args pretrained={shell_path(folder)} --tasks TASK",
    )


def labels(
    run: RunOnly,
    folder: Target,
    teacher: Annotated[
        list[str] | None, typer.Option("--teacher", metavar="NAME", help="Only this teacher's; can repeat.")
    ] = None,
    push: Push = None,
    private: Private = False,
    title: Title = None,
    as_json: o.Json = False,
) -> None:
    """A run's pseudo-labels as a data set."""
    from ensemw2s.tasks.export_labels import export_run_labels

    _check_push(push)
    counts = export_run_labels(run, folder, teacher or (), title=title)
    address = None if push is None else _push(folder, push, "dataset", private)
    if as_json:
        terminal.json({"folder": str(folder), "labels": counts, "commit": address})
    else:
        terminal.out(f"{folder}: " + ", ".join(f"{count} labels of {name}" for name, count in counts.items()))
        if address is not None:
            terminal.out(address)
    terminal.say(f'Load them: datasets.load_dataset("{folder}")')


def task(
    run: Run,
    folder: Target,
    files: Annotated[list[str] | None, typer.Argument(metavar="FILE", help="Files with questions and answers.")] = None,
    split: Annotated[
        str | None,
        typer.Option("--split", metavar="NAME", help="A split of the run instead: validation, test, hard_test."),
    ] = None,
    name: Annotated[
        str | None, typer.Option("--name", metavar="TEXT", help="Of the task; by default the split's, or questions.")
    ] = None,
    kind: o.Kind = "file",
    column: o.Columns = None,
    trust: o.Trust = False,
    as_json: o.Json = False,
) -> None:
    """Questions as a task of lm-eval."""
    from ensemw2s.cli.commands.use import split_file
    from ensemw2s.data.sources import load_source
    from ensemw2s.ensemble import Ensemble
    from ensemw2s.ensemble.lm_eval_task import write_task

    if bool(files) == (split is not None):
        raise InputError("Give files with questions, or --split.")
    source = o.source_options(files, kind, column) if files else o.split_source(split_file(run, str(split)))
    called = name or split or "questions"
    count = write_task(Ensemble.from_run(run, trust_remote_code=trust), load_source(source, 0), folder, called)
    if as_json:
        terminal.json({"folder": str(folder), "task": called, "n": count})
    else:
        terminal.out(f"{folder}: task {called}, {count} questions")
    terminal.next(f"ew2s lm-eval --model_args pretrained=SAVED --include_path {shell_path(folder)} --tasks {called}")


def register(app: typer.Typer) -> None:
    """Add the commands to the application."""
    group = typer.Typer(
        no_args_is_help=True,
        rich_markup_mode=None,
        help=help_text(
            "Export an ensemble, its labels or an lm-eval task.",
            [
                "ew2s export ensemble runs/… my-ensemble",
                "ew2s export labels runs/… my-labels",
                "ew2s export task runs/… my-task --split hard_test",
            ],
        ),
    )
    group.command(
        "ensemble",
        help=help_text(
            "Write a trained ensemble as one model folder.",
            [
                "ew2s export ensemble runs/… my-ensemble",
                "ew2s export ensemble runs/… my-ensemble --push me/my-ensemble",
            ],
            "The folder holds all experts (LoRA experts over one copy of their base), the tokenizer and a model card. "
            "transformers loads it like any model once ensemw2s.ensemble is imported; so do ew2s score, generate, "
            "evaluate and lm-eval.",
        ),
    )(ensemble)
    group.command(
        "labels",
        help=help_text(
            "Write a run's pseudo-labels as a data set with a card.",
            ["ew2s export labels runs/… my-labels", "ew2s export labels runs/… my-labels --teacher ensemble"],
            "Parquet files that datasets.load_dataset reads, a configuration for each teacher. True answers are left "
            "out.",
        ),
    )(labels)
    group.command(
        "task",
        help=help_text(
            "Write questions as a task of the LM Evaluation Harness.",
            [
                "ew2s export task runs/… my-task --split hard_test",
                "ew2s export task runs/… my-task my.csv --column prompt=question",
            ],
            "Questions are asked and scored as the ensemble does it, so that lm-eval's accuracy is that of ew2s "
            "evaluate.",
        ),
    )(task)
    app.add_typer(group, name="export")
