"""Compile every Triton kernel ahead of time, as the library launches it, and read the binaries' resources.

Needs no GPU. ``python benchmarks/triton_aot.py`` prints a table and writes ``benchmarks/results/triton-aot.md``;
``--json`` prints the records only. A kernel that spills registers, or needs a stack frame, makes it exit with 1.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.pop("TRITON_INTERPRET", None)

import torch
import triton
from case import markdown_table
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from ensemw2s import kernels
from ensemw2s.files import write_text
from ensemw2s.kernels.gpu import launch as triton_launch
from ensemw2s.kernels.request import combine_request, sample_request

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_100": GPUTarget("cuda", 100, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
POINTERS = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.int32: "*i32",
    torch.int64: "*i64",
    torch.float64: "*fp64",
}
Launch = tuple[Any, dict[str, int], dict[str, Any]]


def recorded(action: Callable[[], object]) -> list[Launch]:
    """The kernel launches of ``action``: kernel, options and arguments. Nothing is run."""
    launches: list[Launch] = []

    def note(kernel: Any, _: int, __: torch.device, options: dict[str, int], arguments: dict[str, Any]) -> None:
        launches.append((kernel, options, arguments))
        for value in arguments.values():
            if isinstance(value, torch.Tensor):
                value.zero_()  # what the kernel would write: later steps on the host must not meet anything

    with mock.patch.object(triton_launch, "start", note):
        action()
    return launches


def one_problem(experts: int, dtype: torch.dtype, vocabulary: int, rule: str) -> list[Launch]:
    """All launches that combining and sampling can lead to for one kind of input."""
    logits = torch.zeros(experts, 2, vocabulary, dtype=dtype)
    targets = torch.zeros(2, dtype=torch.int64)
    options: dict[str, Any] = {"rule": rule, "temperature": 0.7}
    wanted: dict[str, Any] = {"targets": targets, "return_probs": True, "top_k": 16}
    combining = combine_request(logits, [1.0] * experts, **options, **wanted)
    sampling = sample_request(logits, [1.0] * experts, **options, seed=2**40, top_k=50, top_p=0.9, index=targets)

    def combine() -> None:
        problem = triton_launch.prepare(combining)
        rows = problem.first_pass(targets, mass=True)
        for mode in ("mass", "log_probs"):
            problem.second_pass(rows, mode)
        problem.select(rows, 16)

    def sample() -> None:
        problem = triton_launch.prepare(sampling)
        rows = problem.first_pass(best=False, experts=False, mass=True)
        problem.draw(rows, 2**40, targets)
        problem.select(rows, 50, 0.9, 2**40, targets)
        problem.uniforms(2**40, targets)

    return recorded(combine) + recorded(sample)


def _argument(value: Any) -> tuple[Any, Any, list[list[Any]]]:
    """Type, constant and attributes of one argument, as a launch specialises them."""
    if isinstance(value, int) and value == 1:
        return "constexpr", value, []
    if isinstance(value, torch.Tensor):
        return POINTERS[value.dtype], None, [["tt.divisibility", 16]]
    if isinstance(value, float):
        return "fp32", None, []
    kind = "i32" if -(2**31) <= value < 2**31 else "i64"
    return kind, None, [["tt.divisibility", 16]] if value % 16 == 0 else []


def source_of(kernel: Any, arguments: dict[str, Any]) -> ASTSource:
    """What the compiler gets for a launch."""
    signature: dict[str, Any] = {}
    constants: dict[tuple[int, ...], Any] = {}
    attributes: dict[tuple[int, ...], list[list[Any]]] = {}
    for position, parameter in enumerate(kernel.params):
        value = arguments[parameter.name]
        if parameter.is_constexpr:
            signature[parameter.name], constants[(position,)] = "constexpr", value
            continue
        parts = value if isinstance(value, tuple) else (value,)
        kinds = []
        for inner, part in enumerate(parts):
            path = (position, inner) if isinstance(value, tuple) else (position,)
            kind, constant, marks = _argument(part)
            kinds.append(kind)
            if kind == "constexpr":
                constants[path] = constant
            if marks:
                attributes[path] = marks
        signature[parameter.name] = tuple(kinds) if isinstance(value, tuple) else kinds[0]
    return ASTSource(kernel, signature, constexprs=constants, attrs=attributes)


def resources(compiled: Any) -> dict[str, int]:
    """Registers, shared memory, stack and spills of a compiled kernel."""
    if "hsaco" in compiled.asm:
        text = compiled.asm["amdgcn"]

        def field(name: str) -> int:
            found = re.search(rf"\.{name}:\s+(\d+)", text)
            return int(found.group(1)) if found else -1

        memory = {"stack": field("private_segment_fixed_size"), "spills": field("vgpr_spill_count")}
        scalar = {"shared": compiled.metadata.shared, "scalar_to_lane": field("sgpr_spill_count")}
        return {"registers": field("vgpr_count"), **memory, **scalar}
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        command = [str(tool), "-res-usage", file.name]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    usage = {name: int(value) for name, value in re.findall(r"\b([A-Z]+):(\d+)", text)}
    out = {"registers": usage["REG"], "stack": usage["STACK"], "spills": usage["LOCAL"]}
    return {**out, "shared": compiled.metadata.shared, "scalar_to_lane": 0}


def problems(experts: int, dtypes: list[torch.dtype], vocabulary: int) -> Iterator[tuple[dict[str, Any], list[Launch]]]:
    """Kinds of input, and the launches that each leads to."""
    for dtype in dtypes:
        for rule in ("mixture", "product"):
            kind = {"rule": rule, "K": experts, "dtype": str(dtype).removeprefix("torch.")}
            yield kind, one_problem(experts, dtype, vocabulary, rule)


def name_of(kernel: Any, arguments: dict[str, Any]) -> str:
    """The kernel's name and which of its variants it is."""
    mode = arguments.get("mode", "")
    if "draw" in arguments:
        mode = "draw" if arguments["draw"] else "ids"
    name = f"{kernel.__name__}({mode})" if mode else str(kernel.__name__)
    return name + ("(masses)" if not arguments.get("want_experts", True) else "")


def records(targets: list[str], experts: int, dtypes: list[torch.dtype], vocabulary: int) -> Iterator[dict[str, Any]]:
    """One record for each kernel, kind of input and target."""
    for kind, launches in problems(experts, dtypes, vocabulary):
        done = set()
        for kernel, options, arguments in launches:
            name = name_of(kernel, arguments)
            if name in done:
                continue
            done.add(name)
            width = {"block": arguments["block"], "warps": options["num_warps"]}
            for target in targets:
                given = {**options, **triton_launch.OPTIONS}
                compiled = triton.compile(source_of(kernel, arguments), target=TARGETS[target], options=given)
                yield {"kernel": name, **kind, **width, "target": target, **resources(compiled)}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--targets", nargs="+", choices=list(TARGETS), default=list(TARGETS))
    parser.add_argument("--experts", type=int, nargs="+", default=[1, 5, 8])
    parser.add_argument(
        "--dtypes", nargs="+", choices=["bfloat16", "float16", "float32"], default=["bfloat16", "float32"]
    )
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--json", action="store_true", help="print the records and write no file")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "triton-aot.md")
    options = parser.parse_args()
    dtypes = [getattr(torch, name) for name in options.dtypes]
    rows = [row for count in options.experts for row in records(options.targets, count, dtypes, options.vocabulary)]
    if options.json:
        print(json.dumps(rows))
    else:
        text = f"# Triton kernels, compiled ahead of time\n\nTriton {triton.__version__}, V = {options.vocabulary}; "
        text += "`shared` and `stack` in bytes, `spills` in bytes of local memory (gfx942: vector registers);\n"
        text += (
            "`scalar_to_lane`: gfx942's scalar registers that live in lanes of vector registers (no memory traffic).\n"
        )
        text += "Written by `python benchmarks/triton_aot.py`; no GPU is needed.\n\n"
        text += markdown_table(list(rows[0]), (list(row.values()) for row in rows))
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write_text(options.out, text)
        print(text)
    return int(any(row["spills"] or row["stack"] for row in rows))


if __name__ == "__main__":
    if not kernels.available_backends():
        sys.exit(2)
    sys.exit(main())
