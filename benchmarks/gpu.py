"""The kernels on a GPU: correctness, error, bandwidth, ratios and memory, in one table that is printed last.

    python benchmarks/gpu.py            everything (a few minutes); writes benchmarks/results/gpu-<device>.{json,md}
    python benchmarks/gpu.py --quick    two shapes only
    python benchmarks/gpu.py --tune     time the tile widths of kernels/triton_configs.py instead

Times are medians (20th and 80th percentile in the JSON file) of CUDA events around one call, after a warm-up; before
each call the L2 cache is overwritten. Baselines run on the same tensors in the same process: torch eager, torch.compile
and, where it is installed, flashinfer's sampling from the combined probabilities.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import re
import statistics
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from ensemw2s import kernels

RESULTS = Path(__file__).parent / "results"
ALPHAS = [1.4, 1.0, 0.7, 0.5, 0.3, 0.2, 0.2, 0.1]
SHAPES = [(3, 64, 50_257), (3, 512, 49_152), (5, 512, 151_936), (5, 64, 151_936), (5, 1, 151_936), (2, 4096, 32_000)]
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
Row = dict[str, Any]


def eager_combine(logits: Tensor, alphas: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """What a straightforward implementation does: everything that ``combine`` returns, in torch operations."""
    log_probs = logits.float().log_softmax(dim=-1)
    mixed = torch.logsumexp(log_probs + alphas.log()[:, None, None], dim=0)
    best = mixed.max(dim=-1)
    wanted = targets[:, None]
    expert_targets = log_probs.gather(2, wanted.expand(len(logits), -1, 1))[..., 0]
    return best.indices, best.values, mixed.gather(1, wanted)[:, 0], logits.argmax(dim=-1), expert_targets


def eager_sample(logits: Tensor, alphas: Tensor) -> Tensor:
    """Draw one token for each row with ``torch.multinomial``."""
    probabilities = (logits.float().softmax(dim=-1) * alphas[:, None, None]).sum(dim=0)
    return torch.multinomial(probabilities, 1)[:, 0]


class Timer:
    """Times calls on the current device, from a cold L2 cache."""

    def __init__(self, repeats: int) -> None:
        self.repeats = repeats
        self.flush = torch.empty(256 * 2**20, dtype=torch.int8, device="cuda")

    def __call__(self, action: Callable[[], object]) -> tuple[float, float, float]:
        """Seconds: 20th, 50th and 80th percentile."""
        for _ in range(3):
            action()
        times = []
        for _ in range(self.repeats):
            self.flush.zero_()
            start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            action()
            stop.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(stop) * 1e-3)
        low, _, _, high = statistics.quantiles(times, n=5)
        return low, statistics.median(times), high


def peak_memory(action: Callable[[], object]) -> int:
    """Bytes that a call allocates beyond what is held before it."""
    action()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    action()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated() - before


def copy_bandwidth(timer: Timer) -> float:
    """Bytes per second, read and written, of a 1 GiB device-to-device copy."""
    source = torch.empty(2**30, dtype=torch.int8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / timer(lambda: target.copy_(source))[1]


def agreement(logits: Tensor, alphas: list[float], targets: Tensor) -> Row:
    """Against the float64 reference on the same device: arg-max, largest error, and that of torch in the same type."""
    share = torch.tensor(alphas, device=logits.device) / sum(alphas)
    rows = slice(0, min(64, logits.shape[1]))
    part, wanted = logits[:, rows], targets[rows]
    ours = kernels.combine(part, alphas, targets=wanted, backend="triton")
    truth = kernels.combine(part.double(), alphas, targets=wanted, backend="reference")
    _, logprob, target, _, expert_target = eager_combine(part, share, wanted)

    def error(a: Tensor, b: Tensor) -> float:
        return float((a.double() - b).abs().max())

    drawn = kernels.sample(part, alphas, seed=3, backend="triton")
    expected = kernels.sample(part, alphas, seed=3, backend="reference")
    return {
        "argmax": bool(torch.equal(ours.argmax, truth.argmax))
        and bool(torch.equal(ours.expert_argmax, truth.expert_argmax)),
        "error": max(
            error(ours.logprob, truth.logprob),
            error(ours.target_logprob, truth.target_logprob),
            error(ours.expert_target_logprob, truth.expert_target_logprob),
        ),
        "eager_error": max(
            error(logprob, truth.logprob),
            error(target, truth.target_logprob),
            error(expert_target, truth.expert_target_logprob),
        ),
        "same_draws": float((drawn == expected).double().mean()),
    }


def awkward_inputs() -> bool:
    """NaN, infinities, ties, equal and one-hot rows give what the reference gives."""
    generator = torch.Generator(device="cuda").manual_seed(1)
    logits = torch.randn(3, 12, 1003, device="cuda", generator=generator)
    logits[0, 1, 5] = float("nan")
    logits[1, 2, 7] = float("inf")
    logits[2, 3] = float("-inf")
    logits[:, 4] = 0.25
    logits[:, 5] = float("-inf")
    logits[:, 5, 900] = 1.0
    logits[:, 6] = logits[:, 6].round()
    logits[:, 7, 500:] = float("-inf")
    good = True
    for rule in ("mixture", "product", "vote"):
        for temperature in (1.0, 0.6):
            options = {"rule": rule, "temperature": temperature, "return_probs": True, "top_k": 7}
            targets = torch.arange(12, device="cuda") * 80
            both = [
                kernels.combine(logits, [1, 2, 0.5], targets=targets, backend=name, **options)
                for name in ("triton", "reference")
            ]
            for name in ("argmax", "expert_argmax", "topk_ids"):
                good &= bool(torch.equal(*(getattr(result, name) for result in both)))
            for name in (
                "logprob",
                "target_logprob",
                "logsumexp",
                "expert_target_logprob",
                "log_probs",
                "topk_logprob",
            ):
                a, b = (getattr(result, name) for result in both)
                good &= bool(torch.allclose(a, b, rtol=2e-6, atol=5e-6, equal_nan=True))
    return good


def flashinfer_sampler(logits: Tensor, alphas: Tensor) -> Callable[[], object] | None:
    """flashinfer draws from probabilities, which have to be combined first; None where it is not installed."""
    if importlib.util.find_spec("flashinfer") is None:
        return None
    import flashinfer

    def draw() -> object:
        probabilities = (logits.float().softmax(dim=-1) * alphas[:, None, None]).sum(dim=0)
        return flashinfer.sampling.sampling_from_probs(probabilities)

    return draw


def measure(
    shape: tuple[int, int, int], dtype: torch.dtype, timer: Timer, bandwidth: float, compiling: bool
) -> list[Row]:
    """One row of the table for each operation."""
    experts, rows, vocabulary = shape
    generator = torch.Generator(device="cuda").manual_seed(0)
    logits = (torch.randn(*shape, device="cuda", generator=generator) * 3).to(dtype)
    peak = torch.randint(0, vocabulary, (rows,), device="cuda", generator=generator)
    logits[:, torch.arange(rows, device="cuda"), peak] += 12  # language models are peaked
    targets = torch.randint(0, vocabulary, (rows,), device="cuda", generator=generator)
    alphas = ALPHAS[:experts]
    share = torch.tensor(alphas, device="cuda") / sum(alphas)
    bytes_once = logits.numel() * logits.element_size()
    flat = torch.zeros_like(logits)

    def combining(x: Tensor, **options: Any) -> Callable[[], object]:
        return lambda: kernels.combine(x, alphas, backend="triton", **options)

    jobs: dict[str, tuple[Callable[[], object], int, Callable[[], object]]] = {
        "combine": (combining(logits, targets=targets), 1, lambda: eager_combine(logits, share, targets)),
        "combine, flat logits": (combining(flat, targets=targets), 2, lambda: eager_combine(flat, share, targets)),
        "combine, product": (
            combining(logits, targets=targets, rule="product"),
            1,
            lambda: eager_combine(logits, share, targets),
        ),
        "combine, whole row": (combining(logits, return_probs=True), 2, lambda: eager_combine(logits, share, targets)),
        "sample": (
            lambda: kernels.sample(logits, alphas, seed=1, backend="triton"),
            1,
            lambda: eager_sample(logits, share),
        ),
        "sample, top-k 50, top-p 0.9": (
            lambda: kernels.sample(logits, alphas, seed=1, top_k=50, top_p=0.9, backend="triton"),
            2,
            lambda: eager_sample(logits, share),
        ),
    }
    facts = agreement(logits, alphas, targets)
    out = []
    for name, (ours, _reads, eager) in jobs.items():
        low, middle, high = timer(ours)
        row: Row = {
            "operation": name,
            "dtype": str(dtype).removeprefix("torch."),
            "K": experts,
            "N": rows,
            "V": vocabulary,
        }
        row |= {"ms": middle * 1e3, "ms_p20": low * 1e3, "ms_p80": high * 1e3}
        row["share_of_copy"] = bytes_once / middle / bandwidth
        base = timer(eager)[1]
        row |= {"eager_ms": base * 1e3, "x_eager": base / middle, "x_compile": None, "x_flashinfer": None}
        if compiling:
            torch._dynamo.reset()
            sampling = name.startswith("sample")
            compiled = torch.compile(eager_sample if sampling else eager_combine, dynamic=False)
            x = flat if "flat" in name else logits
            arguments = (x, share) if sampling else (x, share, targets)
            row["x_compile"] = timer(lambda f=compiled, a=arguments: f(*a))[1] / middle
        other = flashinfer_sampler(logits, share) if name == "sample" else None
        if other is not None:
            row["x_flashinfer"] = timer(other)[1] / middle
        row |= {"peak_mib": peak_memory(ours) / 2**20, "eager_peak_mib": peak_memory(eager) / 2**20, **facts}
        out.append(row)
        print(f"{name} {row['dtype']} {shape}: {middle * 1e3:.3f} ms, {row['share_of_copy']:.0%} of copy", flush=True)
    return out


def tune(timer: Timer, bandwidth: float) -> list[Row]:
    """Time every candidate of the configuration table."""
    from ensemw2s.kernels import triton_launch
    from ensemw2s.kernels.triton_configs import CANDIDATES

    out = []
    for dtype in DTYPES.values():
        for shape in SHAPES:
            logits = torch.randn(*shape, device="cuda").to(dtype)
            for candidate in CANDIDATES:
                with mock.patch.object(triton_launch, "choose", lambda *_, c=candidate: c):
                    middle = timer(lambda x=logits: kernels.combine(x, ALPHAS[: len(x)], backend="triton"))[1]
                share = logits.numel() * logits.element_size() / middle / bandwidth
                kind = {"dtype": str(dtype).removeprefix("torch."), "shape": list(shape)}
                out.append(
                    {
                        **kind,
                        "block": candidate.block,
                        "warps": candidate.tile_warps,
                        "ms": middle * 1e3,
                        "share_of_copy": share,
                    }
                )
                print(out[-1], flush=True)
    return out


def markdown(rows: list[Row], title: str) -> str:
    """The table."""

    def text(value: object) -> str:
        if value is None:
            return "–"
        if isinstance(value, bool):
            return "yes" if value else "NO"
        return f"{value:.3g}" if isinstance(value, float) else str(value)

    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + " --- |" * len(columns)]
    return (
        title
        + "\n\n"
        + "\n".join(lines + ["| " + " | ".join(text(row[c]) for c in columns) + " |" for row in rows])
        + "\n"
    )


def write(path: Path, text: str) -> None:
    """Write a file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two shapes, bfloat16 only")
    parser.add_argument("--tune", action="store_true", help="time the candidates of the configuration table")
    parser.add_argument("--no-compile", action="store_true", help="leave torch.compile out")
    parser.add_argument("--repeats", type=int, default=30)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if not torch.cuda.is_available() or "triton" not in kernels.available_backends("cuda"):
        print("no GPU that Triton can use: nothing to measure", file=sys.stderr)
        return 2
    timer = Timer(options.repeats)
    bandwidth = copy_bandwidth(timer)
    device = torch.cuda.get_device_name()
    import triton

    versions = {"torch": torch.__version__, "triton": triton.__version__, "python": platform.python_version()}
    name = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    head = f"# {device}\n\ncopy {bandwidth / 1e12:.2f} TB/s; " + ", ".join(f"{k} {v}" for k, v in versions.items())
    if options.tune:
        rows, name, correct = tune(timer, bandwidth), f"tune-{name}", True
    else:
        correct = awkward_inputs()
        dtypes = {"bfloat16": torch.bfloat16} if options.quick else DTYPES
        rows = []
        for dtype in dtypes.values():
            for shape in SHAPES[2:4] if options.quick else SHAPES:
                rows += measure(shape, dtype, timer, bandwidth, not options.no_compile)
        correct = correct and all(row["argmax"] and row["error"] <= row["eager_error"] + 5e-6 for row in rows)
        head += f"; awkward inputs and all arg-maxes as the float64 reference: {'yes' if correct else 'NO'}"
    record = {
        "device": device,
        "copy_bytes_per_second": bandwidth,
        "versions": versions,
        "correct": correct,
        "rows": rows,
    }
    write(options.out / f"gpu-{name}.json", json.dumps(record, indent=1) + "\n")
    table = markdown(rows, head)
    write(options.out / f"gpu-{name}.md", table)
    print("\n" + table)
    return 0 if correct else 1


if __name__ == "__main__":
    sys.exit(main())
