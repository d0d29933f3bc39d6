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
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from case import Goal, LongCase
from combine import combine_cases
from machine import device
from memory import extra_memory, reused_memory
from plot import draw
from quiet import Usage, wait_until_quiet
from samplers import sampler_cases, update_cases
from tables import markdown

from ensemw2s.kernels.bench.cases import READ
from ensemw2s.kernels.bench.timing import Timing, timed

RESULTS = Path(__file__).parent / "results"
CASES = {"combine": combine_cases, "samplers": sampler_cases, "updates": update_cases}


def cases(*, quick: bool, only: str | None) -> Iterator[LongCase]:
    """The cases that were asked for; their data are made when one is measured."""
    for name, made in CASES.items():
        if only in (None, name):
            yield from made(quick=quick)


def measured(case: LongCase, rounds: int, seconds: float) -> dict[str, Any]:
    """Time all ways of one case, and the memory that each needs."""
    runs = dict(case.make())
    ours = next(iter(runs))
    plain = {name: run for name, run in runs.items() if name not in case.tuned}
    timings = {t.name: t for t in timed(plain, rounds=rounds, seconds=seconds)}
    for name in case.tuned:  # apart, since the allocator serves all of a process; ours runs beside it for the ratio
        with reused_memory() as works:
            if works:
                pair = {f"{ours}, beside {name}": runs[ours], name: runs[name]}
                timings |= {t.name: t for t in timed(pair, rounds=rounds, seconds=seconds)}
    memory = {name: extra_memory(run) for name, run in plain.items() if name != READ}
    ratios = {name: _ratio(ours, timings, name) for name in timings if name != ours and "beside" not in name}
    share = _share(case, timings[ours], timings[READ])
    return {
        "case": f"{case.name} {case.size}",
        "ours": ours,
        "bytes": case.bytes_moved,
        "ways": {name: _way(timings[name], memory.get(name)) for name in timings},
        "ratios": ratios,
        "share_of_read": share,
        "goals": [_goal(goal, ratios, share) for goal in case.goals],
        "skipped": dict(case.skipped),
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


def _ratio(ours: str, timings: Mapping[str, Timing], name: str) -> float:
    return timings.get(f"{ours}, beside {name}", timings[ours]).times_faster(timings[name])


def _share(case: LongCase, ours: Timing, read: Timing) -> float:
    """Share of a plain read's bandwidth that the least number of bytes comes to: of the best times, which tell of the
    machine and not of its other work."""
    return (case.bytes_moved / min(ours.rounds)) / ((case.read_bytes or case.bytes_moved) / min(read.rounds))


def _goal(goal: Goal, ratios: Mapping[str, float], share: float) -> dict[str, Any]:
    of_read = goal.against == (READ,)
    reached = share if of_read else min(ratios[name] for name in goal.against if name in ratios)
    verdict = "stretch" if reached >= goal.stretch else "safe" if reached >= goal.safe else "missed"
    numbers = {"safe": goal.safe, "stretch": goal.stretch, "reached": reached}
    return {"goal": goal.name, **numbers, "verdict": verdict, "share": of_read}


def one_case(index: int, arguments: argparse.Namespace) -> int:
    """Measure the case of that number and print it as JSON; in a process of its own, with an allocator unused so far."""
    case = list(cases(quick=arguments.quick, only=arguments.only))[index]
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
    parser.add_argument("--only", choices=tuple(CASES))
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
