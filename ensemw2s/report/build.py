"""Build a report from a run directory: ``report.html``, ``report.md``, the tables alone, and the plots as PNG."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ensemw2s.checksums import check_recorded, recording
from ensemw2s.errors import DataError
from ensemw2s.evaluation.over_cells import SweepResults
from ensemw2s.evaluation.over_seeds import AggregateResults
from ensemw2s.evaluation.results import Results
from ensemw2s.files import open_regular, unwritable_error, write_bytes
from ensemw2s.outputs import refuse_links
from ensemw2s.report import wording as w
from ensemw2s.report.findings import findings
from ensemw2s.report.html import Appendix, Block, Page, inline_plot, render
from ensemw2s.report.latex import latex_document
from ensemw2s.report.over_seeds_tables import seed_tables
from ensemw2s.report.plots import run_plots, seed_plots, sweep_plots
from ensemw2s.report.sweep_tables import shown, sweep_sentences, sweep_tables
from ensemw2s.report.table import Table, to_markdown, to_rich
from ensemw2s.report.tables import run_tables
from ensemw2s.report.theme import Mode
from ensemw2s.report.verdict import seed_verdict_sentences, verdict_sentences
from ensemw2s.text import markdown

if TYPE_CHECKING:
    from rich.console import Group

AnyResults = Results | AggregateResults | SweepResults
#: The file of each kind of results, in the order in which they are looked for.
_FILES: dict[str, type[AnyResults]] = {
    "results.json": Results,
    "aggregate.json": AggregateResults,
    "sweep.json": SweepResults,
}

_CAPTIONS = {
    "accuracy-by-round": "Accuracy by boosting round: each expert, and the ensembles of the members so far.",
    "error-and-weight": "Token error ε and expert weight α by round. An expert counts as long as α is above 0.",
    "students": "Students between the weak experts, which taught them, and the ceiling.",
    "reliability": "Reliability: how often answers are right, by how sure the model is. Bars: intervals.",
    "accuracy-against-cost": "Accuracy against cost: what it takes to build each arm, alone.",
    "seeds": "Every arm over seeds.",
    "paired-differences": "The planned claims, paired over seeds.",
    "cells": "Every cell: mean and standard deviation over seeds, a dot a seed; dotted: the baseline.",
    "controls": "The boosted ensemble minus each control of its training cost, with intervals.",
}

#: Which table a plot stands below, by the beginning of the table's title.
_PLACES = {
    "accuracy-by-round": "Boosting by round",
    "error-and-weight": "Boosting by round",
    "students": "Students",
    "reliability": "Calibration",
    "accuracy-against-cost": "Cost and accuracy",
    "seeds": "Accuracy",
    "cells": "Accuracy",
    "controls": "Boosted ensemble",
    "paired-differences": "Paired over seeds",
}
_MAX_SAMPLES, _MAX_HARD = 12, 8
_MOST_CONFIG = 1 << 20

#: How the tables begin that a terminal shows without being asked.
_MAIN = ("Accuracy", "Students", "Paired over seeds", "Boosted ensemble", "Against the baseline", "Failed runs")


def build_report(run_dir: Path, out: Path | None = None) -> Path:
    """Write the report of a run, of an aggregate over seeds, or of a sweep.

    Reads ``results.json``, ``aggregate.json`` or ``sweep.json``, whichever is there first, and, where they exist,
    ``config.yaml`` and ``events.jsonl``. Needs no model and no data.

    Args:
        run_dir: the run directory.
        out: folder for the files; ``run_dir/report`` by default.

    Returns:
        The path of ``report.html``. Beside it are ``report.md``, ``tables.md``, ``tables.tex`` and the plots.

    Raises:
        DamagedError: a file of the run is not what was written.
        DataError: there are no results, or they cannot be read.
        InputError: the folder cannot be written, or there is a symbolic link in the run's.
    """
    folder = run_dir / "report" if out is None else out
    if out is None:
        refuse_links(run_dir, "report")
    results = load_results(run_dir)
    for name in ("config.yaml", "events.jsonl"):
        if (run_dir / name).exists():
            check_recorded(run_dir / name)
    kind = _kind(results)
    tables = kind.tables(results, None)
    plots, wide, narrow = (kind.plots(results, mode) for mode in ("light", "page", "phone"))
    page = kind.page(results, run_dir)
    page.blocks = _blocks(tables, wide, narrow)
    page.appendix = _appendix(results, run_dir)
    files = {f"{stem}.png": png for stem, png in plots.items()}
    files["report.md"] = _markdown(page, tables, plots).encode()
    files["tables.md"] = "\n".join(to_markdown(table) for table in tables).encode()
    files["tables.tex"] = latex_document(tables).encode()
    files["report.html"] = render(page).encode()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with recording(folder, *files) if out is None else nullcontext():
            for name, content in files.items():
                write_bytes(folder / name, content)
    except OSError as error:
        hint = "Write the report elsewhere: ew2s report RUN --output DIR"
        raise unwritable_error(error, folder, hint) or error from error
    return folder / "report.html"


def load_results(run_dir: Path) -> AnyResults:
    """The results of a run directory: one run's, the aggregate of several seeds, or a sweep.

    Raises:
        DataError: none of ``results.json``, ``aggregate.json`` and ``sweep.json`` is there, or it cannot be read.
    """
    for name, kind in _FILES.items():
        if (run_dir / name).exists():
            return kind.read(run_dir / name)
    raise DataError(
        f"{run_dir} has no results.json and no aggregate.json.",
        hint="A run writes its results at its end; repeat its command to finish it, or name another run directory.",
    )


def console_report(results: AnyResults, width: int, *, full: bool = False) -> Group:
    """The tables that answer the main question, or all, and the verdict, for ``width`` characters (80 are enough)."""
    from rich.console import Group
    from rich.text import Text

    kind = _kind(results)
    tables, words = kind.tables(results, width), " ".join(kind.sentences(results))
    kept = tables if full else [table for table in tables if table.title.startswith(_MAIN)]
    parts: list[Any] = []
    for table in kept:
        parts += [to_rich(table), Text()]
    return Group(*parts, Text(words))


class _Kind(NamedTuple):
    """Tables, plots and words of one kind of results."""

    tables: Callable[[Any, int | None], list[Table]]
    plots: Callable[[Any, Mode], dict[str, bytes]]
    page: Callable[[Any, Path], Page]
    sentences: Callable[[Any], list[str]]


def _kind(results: AnyResults) -> _Kind:
    if isinstance(results, SweepResults):
        return _Kind(sweep_tables, sweep_plots, _sweep_page, sweep_sentences)
    if isinstance(results, AggregateResults):
        return _Kind(lambda results, _: seed_tables(results), seed_plots, _seed_page, seed_verdict_sentences)
    return _Kind(run_tables, run_plots, _run_page, verdict_sentences)


def _blocks(tables: Iterable[Table], wide: Mapping[str, bytes], narrow: Mapping[str, bytes]) -> list[Block]:
    """Every table, followed by the plots that belong to it; plots without a table come last."""
    blocks, placed = [], set()
    for table in tables:
        own = [stem for stem in wide if table.title.startswith(_PLACES[stem]) and stem not in placed]
        plots = [inline_plot(wide[stem], narrow[stem], _CAPTIONS[stem]) for stem in own]
        placed.update(own)
        blocks.append(Block(table, plots[0] if plots else None))
        blocks += [Block(plot=plot) for plot in plots[1:]]
    rest = [stem for stem in wide if stem not in placed]
    return blocks + [Block(plot=inline_plot(wide[stem], narrow[stem], _CAPTIONS[stem])) for stem in rest]


def _run_page(results: Results, run_dir: Path) -> Page:
    """Head, verdict and what the event log adds."""
    facts = [f"Seed {results.seed} · task {results.task}" + (f" · preset {results.preset}" if results.preset else "")]
    models = [
        f"{side} base {info.source} ({w.count(info.parameters)} parameters)" for side, info in results.models.items()
    ]
    sizes = [f"{w.count(n)} {name.replace('_', ' ')}" for name, n in results.split_sizes.items()]
    facts += [" · ".join(models)] if models else []
    facts += ["Examples: " + ", ".join(sizes)] if sizes else []
    samples, hard, warnings = _from_events(run_dir)
    return Page(
        title=f"{results.name}: weak-to-strong run",
        facts=facts,
        verdict=verdict_sentences(results),
        findings=findings(results),
        warnings=[*results.notes, *warnings],
        samples=samples,
        hard_tokens=hard,
    )


def _seed_page(results: AggregateResults, _: Path) -> Page:
    facts = [f"Seeds {', '.join(map(str, results.seeds))} · task {results.task}"]
    for name, chosen in results.selected_rounds.items():
        facts.append(f"Rounds chosen on validation, {name}: {', '.join(map(str, chosen))}")
    return Page(
        title=f"{results.name}: weak-to-strong runs over {len(results.seeds)} seeds",
        facts=facts,
        verdict=seed_verdict_sentences(results),
    )


def _sweep_page(results: SweepResults, _: Path) -> Page:
    facts = [f"Seeds {', '.join(map(str, results.seeds))} · task {results.task} · {len(results.cells)} cells"]
    facts += [f"{key}: {', '.join(map(shown, values))}" for key, values in results.over.items()]
    facts.append(f"Baseline: {results.baseline}")
    return Page(
        title=f"{results.name}: sweep over {len(results.cells)} configurations",
        facts=facts,
        verdict=sweep_sentences(results),
    )


def _from_events(run_dir: Path) -> tuple[list[dict[str, Any]], dict[str, Any] | None, list[str]]:
    """Label samples by teacher, the heaviest tokens of the last round that has them, and warnings."""
    from ensemw2s.runs.reader import read_events
    from ensemw2s.runs.schema import validate

    by_teacher: dict[str, list[dict[str, Any]]] = {}
    hard: dict[str, Any] | None = None
    warnings: list[str] = []
    for event in read_events(run_dir / "events.jsonl", kinds={"label_sample", "hard_tokens", "message"}):
        if validate(event):  # damaged, or by another version
            continue
        if event["kind"] == "label_sample":
            by_teacher.setdefault(event["teacher"], []).append(_sample(event))
        elif event["kind"] == "hard_tokens":
            hard = event
        elif event.get("level") in ("warning", "error") and event["text"] not in warnings:
            warnings.append(event["text"])
    # a resumed run reports its labels again: the last ones count
    samples = [
        {"teacher": w.teacher_label(name), "rows": rows[-_MAX_SAMPLES:]} for name, rows in sorted(by_teacher.items())
    ]
    return samples, None if hard is None else _hard_tokens(hard), warnings


def _sample(event: Mapping[str, Any]) -> dict[str, Any]:
    facts = [f"{name} {w.number(event[name])}" for name in ("confidence", "agreement") if event.get(name) is not None]
    return {"prompt": event["prompt"], "label": event["label"], "correct": event["correct"], "facts": ", ".join(facts)}


def _hard_tokens(event: Mapping[str, Any]) -> dict[str, Any]:
    """Tokens shaded by weight, the heaviest at 0.85 opacity."""
    examples = event["examples"][:_MAX_HARD]
    heaviest = max((weight for example in examples for weight in example["weights"]), default=0.0) or 1.0
    rows = []
    for example in examples:
        columns = (example["tokens"], example["weights"], example["wrong"], example["predicted"])
        tokens = [
            {
                "text": text,
                "shade": f"{0.85 * weight / heaviest:.2f}",
                "wrong": wrong > 0,
                "predicted": predicted.strip(),
            }
            for text, weight, wrong, predicted in zip(*columns, strict=False)
        ]
        rows.append({"prompt": example["prompt"], "tokens": tokens})
    return {"round": event["round"], "examples": rows}


def _appendix(results: AnyResults, run_dir: Path) -> list[Appendix]:
    items = []
    config = run_dir / "config.yaml"
    if config.exists():
        try:
            with open_regular(config) as file:
                items.append(Appendix("Configuration", file.read(_MOST_CONFIG).decode("utf-8", "replace")))
        except OSError as error:
            raise DataError(f"{config} cannot be read: {error.strerror}.") from error
    if isinstance(results, Results):
        lines = [f"{name} {version}" for name, version in results.versions.items()]
        items.append(Appendix("Versions", "\n".join([*lines, f"configuration {results.config_fingerprint}"])))
    return items


def _markdown(page: Page, tables: Iterable[Table], plots: Mapping[str, bytes]) -> str:
    """The report in Markdown, with links to the plots beside it."""
    parts = [f"# {markdown(page.title)}", "  \n".join(map(markdown, page.facts)), markdown(" ".join(page.verdict))]
    parts += [markdown(" ".join(page.findings))] if page.findings else []
    shown: set[str] = set()
    for table in tables:
        parts.append(to_markdown(table).rstrip())
        for stem in plots:
            if table.title.startswith(_PLACES[stem]):
                parts.append(f"![{_CAPTIONS[stem]}]({stem}.png)")
                shown.add(stem)
    parts += [f"![{_CAPTIONS[stem]}]({stem}.png)" for stem in plots if stem not in shown]
    return "\n\n".join(parts) + "\n"
