"""``bench``: the kernels against torch and numpy, on this machine."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ensemw2s.cli import options as o
from ensemw2s.cli.help import help_text
from ensemw2s.cli.progress import duration
from ensemw2s.cli.terminal import terminal
from ensemw2s.errors import ConfigError, InputError
from ensemw2s.files import read_json, write_json
from ensemw2s.outputs import check_output_file

if TYPE_CHECKING:
    import torch
    from rich.progress import Progress
    from rich.table import Table

    from ensemw2s.kernels.bench.cases import Case, Result

#: Groups of cases, in the order in which they run.
GROUPS = ("combine", "sample", "samplers", "updates", "scoring")
_ON_CPU = ("samplers", "updates")


def bench(
    only: Annotated[
        list[str] | None, typer.Option("--only", metavar="GROUP", help=f"Repeatable: {', '.join(GROUPS)}.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Smaller cases: a few seconds.")] = False,
    device: o.Device = None,
    threads: o.Threads = None,
    output: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the JSON to a file, too.")
    ] = None,
    as_json: o.Json = False,
) -> None:
    """Compare the kernels."""
    unknown = set(only or ()) - set(GROUPS)
    if unknown:
        hint = f"Choose from {', '.join(GROUPS)}."
        raise InputError(f"--only is {min(unknown)!r}; there is no such group.", hint=hint)
    if output is not None:
        check_output_file(output, ours=lambda path: isinstance(read_json(path), dict))
    place = _place(device, threads)
    cases = [sizes for sizes in _cases(place, quick) if sizes[0].group in (only or GROUPS)]
    if not cases:
        raise ConfigError(f"There is no kernel for {place}, so there is nothing to compare.", hint="Try --device cpu.")
    results = _measured(cases, place)
    record = _record(results, place, quick)
    if output is not None:
        write_json(output, record)
    if as_json:
        terminal.json(record)
    else:
        _print(results, record)
    if output is not None:
        terminal.say(f"Written to {output}.")
    terminal.next("ew2s run --preset tiny")


def _place(device: str | None, threads: int | None) -> torch.device:
    import torch

    from ensemw2s.models.loading.device import resolve_device

    place = resolve_device(o.compute_options(device, threads, None))
    return torch.device("cuda", torch.cuda.current_device()) if place == torch.device("cuda") else place


def _cases(place: torch.device, quick: bool) -> list[list[Case]]:
    from ensemw2s.kernels.bench.cases import suite
    from ensemw2s.models.bench import scoring_case

    return [*suite(place, quick=quick), [scoring_case(place, quick=quick)]]


def available_memory(case: Case, place: torch.device) -> int:
    """Bytes that are free for a case, where it runs."""
    import torch

    from ensemw2s.models.loading.device import memory_left

    return memory_left(torch.device("cpu") if case.group in _ON_CPU else place)


def _measured(cases: Sequence[Sequence[Case]], place: torch.device) -> list[Result]:
    from ensemw2s.kernels.bench.cases import benchmark

    results: list[Result] = []
    with _Progress(cases) as progress:
        for result in benchmark(
            cases, available=lambda case: available_memory(case, place), device=place, before=progress.begin
        ):
            results.append(result)
            progress.end(result)
    return results


class _Progress:
    """Each case as a line when it is done, or a bar with the case at work; and about how long the rest takes."""

    def __init__(self, cases: Sequence[Sequence[Case]]) -> None:
        self.ahead = [sizes[0].seconds for sizes in cases]
        self.done = 0
        self.started = time.monotonic()
        self.bars: Progress | None = None

    def __enter__(self) -> _Progress:
        if terminal.animated:
            from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
            from rich.table import Column

            self.bars = terminal.bars(
                TextColumn("{task.description}", table_column=Column(min_width=26, max_width=44, no_wrap=True)),
                BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=8)),
                MofNCompleteColumn(),
                TextColumn("{task.fields[left]}", table_column=Column(min_width=12, no_wrap=True)),
                expand=True,
            )
            self.bars.add_task("", total=len(self.ahead), left=f"ETA {duration(sum(self.ahead))}")
            self.bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self.bars is not None:
            self.bars.stop()

    def begin(self, case: Case) -> None:
        """A case is about to be measured."""
        if self.bars is not None:
            self.bars.update(self.bars.task_ids[0], description=f"{case.name}, {case.size}")

    def end(self, result: Result) -> None:
        """A case was measured."""
        self.done += 1
        if self.bars is not None:
            self.bars.update(self.bars.task_ids[0], completed=self.done, left=f"ETA {duration(self.left)}")
            return
        total = len(self.ahead)
        left = f" (about {duration(self.left)} left)" if self.done < total else ""
        terminal.say(f"[{self.done}/{total}] {result.case.name}, {result.case.size}: {_summary(result)}{left}")

    @property
    def left(self) -> float:
        """Seconds: what the remaining cases are expected to take, at the pace so far."""
        pace = (time.monotonic() - self.started) / sum(self.ahead[: self.done])
        return sum(self.ahead[self.done :]) * pace


def _summary(result: Result) -> str:
    if not result.timings:
        return f"not run: {result.note}"
    return ", ".join(f"{_times(result.ours.times_faster(other))} against {other.name}" for other in result.others)


def _times(ratio: float) -> str:
    return f"×{ratio:.3g}"


def _record(results: Sequence[Result], place: torch.device, quick: bool) -> dict[str, Any]:
    """The results as JSON."""
    from datetime import UTC, datetime

    return {
        "version": 1,
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "quick": quick,
        "device": _device(place),
        "cases": [_case(result) for result in results],
    }


def _device(place: torch.device) -> dict[str, Any]:
    import platform

    import numpy as np
    import torch

    import ensemw2s._native as _native
    from ensemw2s._version import __version__
    from ensemw2s.kernels import available_backends

    build = _native.build_info()
    found: dict[str, Any] = {
        "name": str(place),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "simd": build["simd"],
        "backends": list(available_backends(place)),
        "versions": {
            "ensemw2s": __version__,
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
        },
    }
    if place.type == "cuda":
        found["model"] = torch.cuda.get_device_name(place)
    return found


def _case(result: Result) -> dict[str, Any]:
    case = result.case
    found: dict[str, Any] = {"group": case.group, "case": case.name, "size": case.size, "note": result.note}
    if not result.timings:
        return {**found, "ours": None, "ways": {}}
    ways = {
        timing.name: {
            "p20": timing.p20,
            "p50": timing.p50,
            "p80": timing.p80,
            "rounds": len(timing.rounds),
            "ours_is_faster": None if timing is result.ours else result.ours.times_faster(timing),
        }
        for timing in result.timings
    }
    found |= {"ours": result.ours.name, "bytes_per_second": result.bandwidth, "share_of_read": result.read_share}
    return {**found, "ways": ways, "skipped": dict(case.skipped)}


def _print(results: Sequence[Result], record: dict[str, Any]) -> None:
    about = record["device"]
    where = about.get("model") or about["system"]
    versions = f"torch {about['versions']['torch']}, numpy {about['versions']['numpy']}"
    terminal.out(f"{where}, {about['threads']} threads, {about['simd']}; {versions}")
    terminal.render(_table(results))
    for result in results:
        if result.note is not None:
            what = f"smaller, since {result.note}" if result.timings else f"not run, since it {result.note}"
            terminal.warn(f"{result.case.name}, {result.case.size}: {what}.")
    terminal.out("Times are medians; ratios are medians over rounds in which all ways ran in turn.")


def _table(results: Sequence[Result]) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("case", no_wrap=True)
    table.add_column("way", overflow="fold")
    for title in ("ms", "GB/s", "ours is"):
        table.add_column(title, justify="right", no_wrap=True)
    for result in results:
        if result.timings:
            for cells in _rows(result):
                table.add_row(*cells)
            table.add_section()
    return table


def _rows(result: Result) -> Iterator[tuple[str, str, str, str, str]]:
    """One line a way: ours, and then what it is compared with; the case's size stands in the second line."""
    speed = "" if result.bandwidth is None else f"{result.bandwidth / 1e9:.1f}"
    lines = [(result.ours.name, _ms(result.ours.p50), speed, "")]
    lines += [(t.name, _ms(t.p50), "", f"{_times(result.ours.times_faster(t))} faster") for t in result.others]
    lines += [(name, "", "", why) for name, why in result.case.skipped.items()]
    titles = [result.case.name, f"  {result.case.size}", *[""] * len(lines)]
    for title, line in zip(titles, lines, strict=False):
        yield title, *line


def _ms(seconds: float) -> str:
    return f"{seconds * 1e3:.2f}" if seconds < 0.1 else f"{seconds * 1e3:.0f}"


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        "bench",
        help=help_text(
            "Compare the kernels with torch and numpy on this machine.",
            [
                "ew2s bench                      # about a minute",
                "ew2s bench --quick --json       # seconds, for a script",
                "ew2s bench --only combine --threads 1",
                "ew2s bench --device cuda --out bench.json",
            ],
            "Cases that do not fit into the free memory are made smaller or left out, and named. Samplers and weight "
            "updates run on the CPU whatever the device. benchmarks/ in the repository has the long version.",
        ),
    )(bench)
