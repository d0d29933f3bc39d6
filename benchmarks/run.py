"""Measure the native kernels on this machine: speed, memory, and the goals.

    python benchmarks/run.py                  all cases (about a quarter of an hour on two cores, 8 GB of memory)
    python benchmarks/run.py --quick          small ones (about a minute)
    python benchmarks/run.py --only combine   one of combine, samplers, updates

Writes ``benchmarks/results/cpu.json``, ``cpu.md`` and ``cpu.png`` (``--name`` for another name) and prints the table.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from machine import device
from plot import draw
from quiet import Usage, wait_until_quiet
from setups import Case, cases, extra_memory, reused_memory
from tables import markdown

from ensemw2s.kernels.bench.cases import Timing, timed

RESULTS = Path(__file__).parent / "results"


def measured(case: Case, rounds: int, seconds: float) -> dict[str, Any]:
    """Time all ways of one case, and the memory that each needs."""
    plain = {name: run for name, run in case.runs.items() if name not in case.tuned}
    timings = {t.name: t for t in timed(plain, rounds=rounds, seconds=seconds)}
    for name in case.tuned:  # apart, since the allocator serves all of a process; ours runs beside it for the ratio
        with reused_memory() as works:
            if works:
                pair = {f"{case.ours}, beside {name}": case.runs[case.ours], name: case.runs[name]}
                timings |= {t.name: t for t in timed(pair, rounds=rounds, seconds=seconds)}
    memory = {name: extra_memory(run) for name, run in plain.items() if name != "read"}
    return {
        "case": case.name,
        "ours": case.ours,
        "bytes": case.bytes_moved,
        "ways": {name: _way(timings[name], memory.get(name)) for name in timings},
        "ratios": {name: _ratio(case, timings, name) for name in timings if name != case.ours and "beside" not in name},
        "share_of_read": _share(case, timings),
        "goals": [_goal(case, goal.name, goal.against, goal.safe, goal.stretch, timings) for goal in case.goals],
        "skipped": case.skipped,
    }


def _way(timing: Timing, memory: int | None) -> dict[str, Any]:
    return {
        "best": min(timing.rounds),
        "p20": timing.p20,
        "p50": timing.p50,
        "p80": timing.p80,
        "rounds": len(timing.rounds),
        "memory": memory,
    }


def _ratio(case: Case, timings: Mapping[str, Timing], name: str) -> float:
    ours = timings.get(f"{case.ours}, beside {name}", timings[case.ours])
    return ours.times_faster(timings[name])


def _share(case: Case, timings: Mapping[str, Timing]) -> float:
    """Share of a plain read's bandwidth that the least number of bytes comes to: of the best times, which tell of the
    machine and not of its other work."""
    ours, read = min(timings[case.ours].rounds), min(timings["read"].rounds)
    return (case.bytes_moved / ours) / ((case.read_bytes or case.bytes_moved) / read)


def _goal(
    case: Case, name: str, against: tuple[str, ...], safe: float, stretch: float, timings: Mapping[str, Timing]
) -> dict[str, Any]:
    share = against == ("read",)
    reached = _share(case, timings) if share else min(_ratio(case, timings, x) for x in against if x in timings)
    verdict = "stretch" if reached >= stretch else "safe" if reached >= safe else "missed"
    return {"goal": name, "safe": safe, "stretch": stretch, "reached": reached, "verdict": verdict, "share": share}


def one_case(index: int, arguments: argparse.Namespace) -> int:
    """Measure the case of that number and print it as JSON; in a process of its own, with an allocator unused so far."""
    make = list(cases(quick=arguments.quick, only=arguments.only))[index]
    case = make()
    wait_until_quiet(arguments.patience)
    before = Usage.now()
    found = measured(case, arguments.rounds, arguments.seconds)
    after = Usage.now()
    found["others"] = after.others_since(before) if before is not None and after is not None else None
    print(json.dumps(found))
    return 0


def main() -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--only", choices=("combine", "samplers", "updates"))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=20.0, help="for each case, about")
    parser.add_argument("--patience", type=float, default=0.0, help="seconds to wait for a quiet machine before a case")
    parser.add_argument("--name", default="cpu", help="of the result files")
    parser.add_argument("--case", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.case is not None:
        return one_case(arguments.case, arguments)
    report: dict[str, Any] = {
        "measured": datetime.now(UTC).isoformat(timespec="seconds"),
        "device": device(),
        "quick": arguments.quick,
        "cases": [],
    }
    count = len(list(cases(quick=arguments.quick, only=arguments.only)))
    for index in range(count):
        command = [sys.executable, str(Path(__file__).resolve()), *sys.argv[1:], "--case", str(index)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        report["cases"].append(found)
        print(markdown({**report, "cases": [found]}, head=False), flush=True)
    RESULTS.mkdir(exist_ok=True)
    text = markdown(report)
    (RESULTS / f"{arguments.name}.json").write_text(json.dumps(report, indent=1) + "\n")
    (RESULTS / f"{arguments.name}.md").write_text(text)
    print(text)
    draw(report, RESULTS / f"{arguments.name}.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
