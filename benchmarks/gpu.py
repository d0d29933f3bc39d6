"""The kernels on a GPU: correctness, error, bandwidth, ratios and memory, in one table that is printed last.

    python benchmarks/gpu.py            everything (a few minutes); writes benchmarks/results/gpu-<device>.{json,md}
    python benchmarks/gpu.py --quick    few shapes, bfloat16 only
    python benchmarks/gpu.py --tune     time the candidates of kernels/gpu/configs.py instead
    python benchmarks/gpu.py --dry      tiny shapes on the CPU: shows that everything runs; its times mean nothing

Times are medians (20th and 80th percentile in the JSON file) of CUDA events around one call, after a warm-up; before
each call the L2 cache is overwritten, and the ways run in turn. Ratios are medians over rounds. Baselines run on the same tensors in the same process: torch eager, torch.compile
and, where it is installed, flashinfer's sampling from the combined probabilities. A ratio above 1 says that ours is
faster.
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import gpu_cases
import torch
from case import LongCase, markdown_table
from gpu_cases import ALPHAS, DTYPES, SHAPES, Row

from ensemw2s import kernels
from ensemw2s.files import write_text
from ensemw2s.kernels.bench.timing import Run, Timing, timed, wall_clock

RESULTS = Path(__file__).parent / "results"
DRY_SHAPES = [(3, 4, 257)]
COLUMNS = (
    "operation", "dtype", "K", "N", "V", "ms", "share_of_copy", "eager_ms", "x_eager", "x_compile",
    "x_flashinfer", "peak_mib", "eager_peak_mib", "argmax", "error", "eager_error", "same_draws",
)  # fmt: skip


class Bench:
    """Times calls on a device; on a GPU from a cold L2 cache."""

    def __init__(self, device: torch.device, repeats: int) -> None:
        self.device = device
        self.repeats = repeats
        self.gpu = device.type == "cuda"
        self.flush = torch.empty(256 * 2**20 if self.gpu else 1, dtype=torch.int8, device=device)
        self.bandwidth = self.copy_bandwidth(2**30 if self.gpu else 2**20)

    def once(self, action: Run) -> float:
        """Seconds of one call on the GPU, from events around it."""
        self.flush.zero_()
        event: Any = torch.cuda.Event
        start, stop = event(enable_timing=True), event(enable_timing=True)
        start.record()
        action()
        stop.record()
        torch.cuda.synchronize()
        return float(start.elapsed_time(stop)) * 1e-3

    def timings(self, runs: Mapping[str, Run]) -> dict[str, Timing]:
        """Timings of several ways in turn."""
        for run in runs.values():
            run()
        stopwatch = self.once if self.gpu else wall_clock()
        found = timed(runs, rounds=self.repeats, seconds=math.inf, stopwatch=stopwatch)
        return {timing.name: timing for timing in found}

    def median(self, run: Run) -> float:
        """Seconds of one way."""
        return self.timings({"": run})[""].p50

    def peak(self, action: Run) -> float | None:
        """MiB that a call allocates beyond what is held before it."""
        if not self.gpu:
            return None
        action()
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        action()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - before) / 2**20

    def copy_bandwidth(self, size: int) -> float:
        """Bytes per second, read and written, of a copy on the device."""
        source = torch.empty(size, dtype=torch.int8, device=self.device)
        target = torch.empty_like(source)
        return 2 * size / self.median(lambda: target.copy_(source))

    def row(self, case: LongCase) -> Row:
        """One line of the table."""
        runs = dict(case.make())
        ours, *others = self.timings(runs).values()
        eager = next(timing for timing in others if timing.name == "eager")
        row: Row = {**dict.fromkeys(COLUMNS), "operation": case.name, **case.facts}
        row |= {"ms": ours.p50 * 1e3, "ms_p20": ours.p20 * 1e3, "ms_p80": ours.p80 * 1e3, "eager_ms": eager.p50 * 1e3}
        row |= {"share_of_copy": case.bytes_moved / ours.p50 / self.bandwidth}
        row |= {f"x_{timing.name}": ours.times_faster(timing) for timing in others}
        row |= {"peak_mib": self.peak(runs[ours.name]), "eager_peak_mib": self.peak(runs["eager"])}
        print(f"{case.name} {case.size}: {row['ms']:.3f} ms, x{row['x_eager']:.2f} of eager", flush=True)
        return row


def tuned(bench: Bench) -> Iterator[Row]:
    """Time every candidate of the configuration table."""
    from ensemw2s.kernels.gpu import launch as triton_launch
    from ensemw2s.kernels.gpu.configs import CANDIDATES

    for name, dtype in DTYPES.items():
        for shape in SHAPES:
            logits = torch.randn(*shape, device=bench.device).to(dtype)
            for candidate in CANDIDATES:
                with mock.patch.object(triton_launch, "choose", return_value=candidate):
                    middle = bench.median(partial(kernels.combine, logits, ALPHAS[: shape[0]], backend="triton"))
                share = logits.numel() * logits.element_size() / middle / bench.bandwidth
                yield {"dtype": name, "shape": shape, "config": str(candidate), "ms": middle * 1e3, "share": share}


def measured(bench: Bench, backend: str, *, quick: bool, compiling: bool) -> Iterator[Row]:
    """All lines of the table."""
    shapes = SHAPES if bench.gpu else DRY_SHAPES
    for dtype in list(DTYPES.values())[: 1 if quick else None]:
        for shape in shapes[2:4] if quick else shapes:
            cases = gpu_cases.logit_cases(shape, dtype, bench.device, backend, compiling=compiling)
            yield from map(bench.row, cases)


def right(row: Row) -> bool:
    """Whether a line's results are those of float64, as nearly as torch's are."""
    return bool(row["argmax"]) and row["error"] <= row["eager_error"] + 5e-6


def markdown(rows: list[Row], title: str) -> str:
    """The table, with the columns that hold anything."""

    def text(value: object) -> str:
        if value is None:
            return "–"
        if isinstance(value, bool):
            return "yes" if value else "NO"
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    names = COLUMNS if "operation" in rows[0] else list(dict.fromkeys(name for row in rows for name in row))
    names = [c for c in names if any(row.get(c) is not None for row in rows)]
    return f"{title}\n\n{markdown_table(names, ([text(row.get(c)) for c in names] for row in rows))}"


def report(options: argparse.Namespace, bench: Bench, backend: str) -> tuple[dict[str, Any], str, str]:
    """The record, the Markdown, and the name of their files."""
    import triton

    device = torch.cuda.get_device_name() if bench.gpu else "dry run on the CPU"
    name = "gpu-" + ("tune-" if options.tune else "") + re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    versions = {"torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version()}
    head = f"# {device}\n\ncopy {bench.bandwidth / 1e12:.2f} TB/s; " + ", ".join(
        f"{k} {v}" for k, v in versions.items()
    )
    record: dict[str, Any] = {"device": device, "copy_bytes_per_second": bench.bandwidth, "versions": versions}
    if options.tune:
        rows = []
        for row in tuned(bench):
            rows.append(row)
            print(row, flush=True)
        return {**record, "correct": True, "rows": rows}, markdown(rows, head), name
    awkward = gpu_cases.awkward_inputs(bench.device, backend)
    compiling = bench.gpu and not options.no_compile
    rows = list(measured(bench, backend, quick=options.quick, compiling=compiling))
    correct = awkward and all(map(right, rows))
    head += f"; awkward inputs and all arg-maxes as the float64 reference: {'yes' if correct else 'NO'}"
    return {**record, "correct": correct, "rows": rows}, markdown(rows, head), name


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="few shapes, bfloat16 only")
    parser.add_argument("--tune", action="store_true", help="time the candidates of the configuration table")
    parser.add_argument("--dry", action="store_true", help="tiny shapes on the CPU, without torch.compile")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", type=Path, help="folder for the results; default benchmarks/results, none for --dry")
    options = parser.parse_args()
    if options.dry:
        bench, backend = Bench(torch.device("cpu"), min(options.repeats, 3)), kernels.available_backends("cpu")[0]
    elif not torch.cuda.is_available() or "triton" not in kernels.available_backends("cuda"):
        print("no GPU that Triton can use: nothing to measure (--dry runs everything on the CPU)", file=sys.stderr)
        return 2
    else:
        bench, backend = Bench(torch.device("cuda"), options.repeats), "triton"
    record, table, name = report(options, bench, backend)
    folder = options.out or (None if options.dry else RESULTS)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / f"{name}.json", json.dumps(record, indent=1) + "\n")
        write_text(folder / f"{name}.md", table)
    print("\n" + table)
    return 0 if record["correct"] else 1


if __name__ == "__main__":
    sys.exit(main())
