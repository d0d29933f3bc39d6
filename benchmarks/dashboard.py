"""Measure the dashboard as a user has it: in a terminal, with keys, while events arrive.

    python benchmarks/dashboard.py [--only keys|million|idle] [--note TEXT] [--out FOLDER]

A key counts as answered when the output that shows its effect has arrived at the terminal, not with the first byte.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dashboard_logs as logs
from dashboard_terminal import Screen, Terminal

SIZES = ((80, 24), (120, 40), (200, 60))
RATE = 1000.0
Check = Callable[[Screen], bool]
#: Milliseconds from key to answer; when the key was sent, later replaced by the milliseconds between its being read and
#: the answer being written; milliseconds of processor time of all threads.
Answer = tuple[float, float, float]


@dataclass
class Key:
    """A key, what it is called in the table, and from the screen before: the check that its effect is seen."""

    text: str
    group: str
    effect: Callable[[Screen], Check]


def shows(words: str) -> Callable[[Screen], Check]:
    """The words appear."""
    return lambda before: lambda screen: words in screen.text


def hides(words: str) -> Callable[[Screen], Check]:
    """The words disappear."""
    return lambda before: lambda screen: words not in screen.text


def changes(pattern: str) -> Callable[[Screen], Check]:
    """What a pattern finds is something else than before."""

    def effect(before: Screen) -> Check:
        old = re.findall(pattern, before.text)
        return lambda screen: re.findall(pattern, screen.text) != old

    return effect


def recolours(words: str) -> Callable[[Screen], Check]:
    """The character to the left of the words (a border) has another style."""

    def effect(before: Screen) -> Check:
        lines = before.text.split("\n")
        row = next((i for i, line in enumerate(lines) if words in line), 1)
        column = max(0, lines[row].find(words) - 2)
        old = before.style(row, column)
        return lambda screen: screen.style(row, column) != old

    return effect


TOUR = (
    Key("2", "view", shows("Expert weight")),
    Key("m", "chart", shows("smoothed 0.6")),
    Key("y", "chart", shows("log")),
    Key("+", "chart", shows("zoom ×2")),
    Key("0", "chart", hides("zoom ×2")),
    Key("y", "chart", hides("· log")),
    *(Key("m", "chart", shows(f"smoothed {level}")) for level in ("0.85", "0.95", "0.99")),
    Key("m", "chart", hides("smoothed")),
    Key("f", "full screen", hides("Expert weight")),
    Key("f", "full screen", shows("Expert weight")),
    Key("3", "view", shows("Heaviest")),
    *(Key(key, "list", changes(r"(ex-\d+)  round")) for key in "jjkk"),
    Key("o", "list", shows("by wrong")),
    *(Key("o", "list", shows(f"by {order}")) for order in ("growth", "prompt", "weight")),
    Key("/", "search", shows("Search in")),
    Key("z", "search", shows("Nothing matches")),
    Key("\x1b", "search", hides("Nothing matches")),
    Key("4", "view", shows("Teachers")),
    Key("]", "list", changes(r"▸ \S (\S+ \S+)")),
    Key("[", "list", changes(r"▸ \S (\S+ \S+)")),
    Key("5", "view", shows("Student accuracy")),
    Key("6", "view", shows("Compared")),
    Key("7", "view", shows("Process of the run")),
    Key("1", "view", shows("Comparison")),
    Key("\t", "focus", recolours("Messages")),
    Key("?", "help", shows("Esc closes")),
    Key("\x1b", "help", hides("Esc closes")),
    Key("d", "theme", recolours("Comparison")),
    Key("d", "theme", recolours("Comparison")),
)


@contextlib.contextmanager
def dashboard(folder: Path, width: int, height: int, clock: Path | None = None) -> Iterator[Terminal]:
    """The dashboard on a folder, in a terminal; with a clock, whose times are in a file after it."""
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    watched = {"PYTHONPATH": paths, "TEXTUAL_DRIVER": "dashboard_clock:Driver", "DASHBOARD_CLOCK": str(clock)}
    command = [sys.executable, "-m", "ensemw2s", "dashboard", str(folder)]
    terminal = Terminal(command, width, height, {} if clock is None else watched)
    try:
        yield terminal
    finally:
        terminal.close()


def press(terminal: Terminal, key: Key) -> Answer:
    """Press a key and wait until its effect is on the screen.

    Raises:
        RuntimeError: it never was.
    """
    check = key.effect(terminal.screen)
    ran = terminal.ran()
    sent = terminal.send(key.text)
    arrived = terminal.until(check, 5.0)
    if arrived is None:
        raise RuntimeError(f"{key.text!r} had no effect:\n{terminal.screen.text}")
    return 1000.0 * (arrived - sent), sent, 1000.0 * (terminal.ran() - ran)


def keys(seconds: float) -> list[dict[str, Any]]:
    """Latency of every key at three sizes while events arrive."""
    found = []
    for width, height in SIZES:
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place) / "run"
            logs.make(folder)
            writer = subprocess.Popen([sys.executable, logs.__file__, str(folder), str(RATE), str(seconds + 30)])
            try:
                clock = Path(place) / "clock.json"
                with dashboard(folder, width, height, clock) as terminal:
                    terminal.until(shows("plain fine-tune")(terminal.screen), 20.0)
                    terminal.watch(3.0)
                    found.append({"size": f"{width}×{height}", **_tours(terminal, seconds)})
                found[-1]["times"] = _inside(found[-1]["times"], json.loads(clock.read_text()))
            finally:
                writer.terminate()
                writer.wait()
        print(_summary(found[-1]), file=sys.stderr)
    return found


def _tours(terminal: Terminal, seconds: float) -> dict[str, Any]:
    times: dict[str, list[Answer]] = {}
    for key in TOUR:  # once to warm up
        press(terminal, key)
        terminal.watch(0.1)
    began, cpu, count = time.perf_counter(), terminal.cpu(), 0
    while time.perf_counter() - began < seconds:
        for key in TOUR:
            count += 1
            terminal.watch(0.1 + 0.2 * (count * 0.618034 % 1.0))  # in every phase of a redraw
            times.setdefault(key.group, []).append(press(terminal, key))
    passed = time.perf_counter() - began
    return {
        "times": times,
        "cpu": 100.0 * (terminal.cpu() - cpu) / passed,
        "load": os.getloadavg()[0],
        "memory": terminal.memory()[1],
    }


def _inside(times: dict[str, list[Answer]], clock: dict[str, list[float]]) -> dict[str, list[Answer]]:
    """How long the dashboard itself had each key: from reading it to writing the answer."""

    def own(answer: Answer) -> Answer:
        elapsed, sent, cpu = answer
        read = next((at for at in clock["read"] if at >= sent), sent)
        written = max((at for at in clock["written"] if at <= sent + elapsed / 1000.0), default=read)
        return elapsed, 1000.0 * max(0.0, written - read), cpu

    return {group: [own(answer) for answer in answers] for group, answers in times.items()}


def _figures(times: list[Answer]) -> dict[str, float]:
    ordered = sorted(value for value, _, _ in times)
    own = sorted(inside for _, inside, _ in times)
    cpu = sorted(ran for _, _, ran in times)
    place = min(len(ordered) - 1, int(0.95 * len(ordered)))
    return {
        "n": len(ordered),
        "p50": statistics.median(ordered),
        "p95": ordered[place],
        "max": ordered[-1],
        "over 50 ms": sum(value > 50.0 for value in ordered) / len(ordered),
        "own p50": statistics.median(own),
        "own p95": own[place],
        "own max": own[-1],
        "CPU p50": statistics.median(cpu),
        "CPU p95": cpu[place],
        "CPU max": cpu[-1],
    }


def _summary(entry: dict[str, Any]) -> str:
    every = _figures([value for times in entry["times"].values() for value in times])
    return f"{entry['size']}: " + ", ".join(f"{name} {value:.3g}" for name, value in every.items())


def million() -> dict[str, Any]:
    """First screen, memory, and keys while history is read, with a log of a million lines."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "run"
        logs.make(folder, lines=1_000_000, state="finished")
        size = (folder / "metrics.jsonl").stat().st_size / 1e6
        with dashboard(folder, 120, 40) as terminal:
            first = terminal.until(shows("plain fine-tune")(terminal.screen), 60.0)
            result = {
                "bytes": size,
                "first screen": (first or float("nan")) - terminal.started,
                "load": os.getloadavg()[0],
            }
            terminal.watch(1.0)
            times = []
            while "history" in terminal.screen.text.split("\n", 1)[0]:
                for key in (Key("2", "", shows("Expert weight")), Key("1", "", shows("Comparison"))):
                    times.append(press(terminal, key))
                    terminal.watch(0.3)
            result |= {"history": time.perf_counter() - terminal.started, "keys": times, "memory": terminal.memory()[1]}
    return result


def idle() -> list[dict[str, Any]]:
    """Processor time while nothing happens, and while a run writes two lines a second."""
    found = []
    for state in ("finished", "running"):
        for view, name in (("1", "Overview"), ("6", "Runs"), ("7", "System")):
            with tempfile.TemporaryDirectory() as place:
                folder = Path(place) / "runs" / "run"
                logs.make(folder, state=state)
                command = [sys.executable, logs.__file__, str(folder), "2", "60"]
                writer = subprocess.Popen(command) if state == "running" else None
                try:
                    with dashboard(folder.parent, 120, 40) as terminal:
                        terminal.until(shows("plain fine-tune")(terminal.screen), 20.0)
                        terminal.send(view)
                        terminal.watch(3.0)
                        cpu = terminal.cpu()
                        terminal.watch(8.0)
                        found.append({"run": state, "view": name, "cpu": 100.0 * (terminal.cpu() - cpu) / 8.0})
                finally:
                    if writer is not None:
                        writer.terminate()
                        writer.wait()
    return found


def machine(note: str) -> dict[str, Any]:
    """What was measured on."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    name = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    versions = {name: importlib.metadata.version(name) for name in ("textual", "rich", "numpy")}
    return {
        "cpu": name,
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.release()}",
        "versions": {"python": platform.python_version(), **versions},
        "note": note,
    }


def table(data: dict[str, Any]) -> str:
    """The results as Markdown."""
    on = data["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in on["versions"].items())
    lines = ["# The dashboard, measured", "", f"{on['cpu']}, {on['cores']} cores, {on['system']}; {versions}.", ""]
    lines += [on["note"], ""] if on["note"] else []
    if "keys" in data:
        lines += _key_table(data["keys"])
    if "million" in data:
        lines += _million_table(data["million"])
    if "idle" in data:
        lines += ["## At rest", "", "Per cent of one core over 8 seconds, 120×40.", "", "| run | view | CPU, % |"]
        lines += ["| --- | --- | --- |", *(f"| {e['run']} | {e['view']} | {e['cpu']:.1f} |" for e in data["idle"]), ""]
    return "\n".join(lines).rstrip() + "\n"


def _key_table(entries: list[dict[str, Any]]) -> list[str]:
    lines = [
        "## Keys while 1000 events a second arrive",
        "",
        "Milliseconds from the key press to the output that shows its effect, in a pseudo-terminal; one other process",
        "writes the events. Own: from the moment at which the dashboard reads the key to its writing of that output;",
        "the rest is the terminal's way, which other programs delay on a busy machine, and the 10 ms for which Escape",
        "waits. CPU: processor time of all threads from key to answer. Load: the machine's load average at the end.",
        "",
        "| terminal | keys | n | p50 | p95 | max | over 50 ms | own p50 | own p95 | own max | CPU p50 | CPU p95 | CPU max "
        "| CPU, % | load |",
        "|" + " --- |" * 15,
    ]
    for entry in entries:
        groups = {"all": [value for times in entry["times"].values() for value in times], **entry["times"]}
        for name, times in groups.items():
            f = _figures(times)
            rest = f"{entry['cpu']:.0f} | {entry['load']:.1f}" if name == "all" else "| "
            cells = [f"{f[x]:.0f}" for x in ("n", "p50", "p95", "max")] + [f"{100 * f['over 50 ms']:.1f} %"]
            cells += [f"{f[f'{what} {x}']:.0f}" for what in ("own", "CPU") for x in ("p50", "p95", "max")]
            lines.append(f"| {entry['size']} | {name} | {' | '.join(cells)} | {rest} |")
    return [*lines, ""]


def _million_table(entry: dict[str, Any]) -> list[str]:
    f = _figures(entry["keys"]) if entry["keys"] else {}
    keys_text = f"p50 {f['p50']:.0f} ms, max {f['max']:.0f} ms, n {f['n']}" if f else "history was read at once"
    return [
        "## A log of a million events",
        "",
        f"{entry['bytes']:.0f} MB of step metrics; from the start of the process, 120×40, load {entry['load']:.1f}.",
        "",
        "| | |",
        "| --- | --- |",
        f"| first screen with results | {entry['first screen']:.2f} s |",
        f"| all history read | {entry['history']:.0f} s |",
        f"| memory at most | {entry['memory']:.0f} MB |",
        f"| keys (views) while history is read | {keys_text} |",
        "",
    ]


def main() -> None:
    """Measure, print, and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--only", choices=("keys", "million", "idle"), action="append")
    parser.add_argument("--seconds", type=float, default=25.0, help="for each size of the terminal")
    parser.add_argument("--note", default="", help="a line for the table")
    parser.add_argument("--out", type=Path, help="folder for dashboard.json and dashboard.md")
    options = parser.parse_args()
    file = options.out / "dashboard.json" if options.out is not None else None
    data: dict[str, Any] = json.loads(file.read_text()) if file is not None and file.exists() else {}
    data["machine"] = machine(options.note)
    wanted = options.only or ["keys", "million", "idle"]
    if "keys" in wanted:
        data["keys"] = keys(options.seconds)
    if "million" in wanted:
        data["million"] = million()
    if "idle" in wanted:
        data["idle"] = idle()
    print(table(data))
    if file is not None:
        file.write_text(json.dumps(data, indent=1) + "\n")
        file.with_suffix(".md").write_text(table(data))


if __name__ == "__main__":
    main()
