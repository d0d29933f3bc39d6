"""``doctor``: versions, devices and kernels of this installation, and what is broken."""

from __future__ import annotations

import os
import platform
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer

from ensemw2s.cli import options as o
from ensemw2s.cli.help import help_text
from ensemw2s.cli.terminal import terminal
from ensemw2s.errors import EXIT_FAILED

_NEEDED = (
    "torch", "transformers", "accelerate", "datasets", "numpy", "scipy", "pyarrow", "safetensors", "pydantic", "peft",
    "matplotlib", "psutil", "rich", "typer", "textual",
)  # fmt: skip
#: Where sweeps go that are described by a file.
SWEEPS = Path("sweeps")
_OPTIONAL = ("triton", "tensorboard", "wandb", "trackio", "deepspeed", "textual-serve", "nvidia-ml-py")


def _version(package: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def _torch() -> dict[str, Any]:
    import torch

    devices: list[dict[str, Any]] = [{"name": "cpu", "threads": torch.get_num_threads()}]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        about = torch.cuda.get_device_properties(index)
        devices.append({"name": f"cuda:{index}", "model": about.name, "memory": about.total_memory})
    if torch.backends.mps.is_available():
        devices.append({"name": "mps"})
    return {"devices": devices, "cuda": torch.version.cuda}


def _native() -> dict[str, Any]:
    import importlib

    native = importlib.import_module("ensemw2s._native")
    found: dict[str, Any] = {"file": getattr(native, "__file__", None)}
    about = getattr(native, "build_info", None)
    if about is not None:
        found["build"] = about() if callable(about) else about
    return found


def _kernels() -> dict[str, Any]:
    import torch

    from ensemw2s.kernels import available_backends

    places = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    return {place: list(available_backends(place)) for place in places}


def _embedded() -> dict[str, Any]:
    from ensemw2s.data.embedded import base_path

    found = {}
    for name in ("weak", "strong"):
        path = base_path(name)
        if not (path / "config.json").is_file():
            raise FileNotFoundError(f"{path} is incomplete")
        found[name] = str(path)
    return found


def _machine() -> dict[str, Any]:
    import psutil

    memory = psutil.virtual_memory()
    disk = shutil.disk_usage(Path.cwd())
    return {
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "memory": memory.total,
        "memory_free": memory.available,
        "disk_free": disk.free,
    }


def found_runs() -> dict[str, Any]:
    """Runs and sweeps in the default folders."""
    from ensemw2s.cli.rundirs import runs_root
    from ensemw2s.runs.listing import list_runs, list_sweeps

    root = runs_root()
    runs = list_runs(root)
    sweeps = [sweep for folder in dict.fromkeys((root, SWEEPS)) for sweep in list_sweeps(folder)]
    keys = ("path", "state", "total", "finished", "failed")
    return {
        "folder": str(root),
        "runs": len(runs),
        "running": sum(run.state == "running" for run in runs),
        "sweeps": [{key: sweep.to_json()[key] for key in keys} for sweep in sweeps],
    }


def examine() -> dict[str, Any]:
    """Everything about the installation, and under ``problems`` what keeps it from working."""
    from ensemw2s._version import __version__

    needed = {package: _version(package) for package in _NEEDED}
    found: dict[str, Any] = {
        "ensemw2s": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "packages": needed,
        "optional": {package: _version(package) for package in _OPTIONAL},
    }
    problems = [f"{package} is not installed" for package, version in needed.items() if version is None]
    parts: dict[str, Callable[[], dict[str, Any]]] = {
        "torch": _torch,
        "native": _native,
        "kernels": _kernels,
        "embedded": _embedded,
        "machine": _machine,
        "runs": found_runs,
    }
    for name, part in parts.items():
        try:
            found[name] = part()
        except Exception as error:  # reported as a problem, with exit code 1
            found[name] = None
            problems.append(f"{name}: {type(error).__name__}: {error}")
    found["problems"] = problems
    return found


def doctor(as_json: o.Json = False) -> None:
    """Examine the installation."""
    found = examine()
    if as_json:
        terminal.json(found)
    else:
        for line in describe(found):
            terminal.out(line)
    if found["problems"]:
        terminal.next("install what is missing (`make install` in a clone), then ew2s doctor")
        raise typer.Exit(EXIT_FAILED)
    terminal.next("ew2s run --preset tiny")


def describe(found: dict[str, Any]) -> list[str]:
    """The report as lines."""
    rows = [
        ("EnsemW2S", found["ensemw2s"]),
        ("Python", f"{found['python']} ({found['executable']})"),
        ("Packages", ", ".join(f"{name} {version}" for name, version in found["packages"].items() if version)),
        ("Optional", ", ".join(f"{name} {version or 'no'}" for name, version in found["optional"].items())),
    ]
    if found["torch"]:
        rows += [("Device", _device(device)) for device in found["torch"]["devices"]]
    if found["native"]:
        build = found["native"].get("build")
        rows.append(("Native", f"{found['native']['file']}" + (f" ({_flat(build)})" if build else "")))
    if found["kernels"]:
        rows += [(f"Kernels {place}", ", ".join(names)) for place, names in found["kernels"].items()]
    if found["embedded"]:
        rows.append(("Bases", ", ".join(found["embedded"].values())))
    if found["machine"]:
        machine = found["machine"]
        memory = f"{machine['memory_free'] / 2**30:.1f} of {machine['memory'] / 2**30:.1f} GiB memory free"
        rows.append(("Machine", f"{machine['system']}, {machine['cores']} cores"))
        rows.append(("", f"{memory}, {machine['disk_free'] / 2**30:.1f} GiB disk free here"))
    if found["runs"]:
        rows += run_rows(found["runs"])
    lines = [line for title, text in rows for line in _wrapped(title, text)]
    if found["problems"]:
        return [*lines, *(f"PROBLEM       {problem}" for problem in found["problems"])]
    return [*lines, "No problems found."]


def run_rows(runs: dict[str, Any]) -> list[tuple[str, str]]:
    """Title and text of runs and sweeps."""
    count = runs["runs"]
    text = f"{count or 'no'} run{'s' * (count != 1)} in {runs['folder']}"
    rows = [("Runs", text + (f", {runs['running']} running" if runs["running"] else ""))]
    for sweep in runs["sweeps"]:
        done = f"{sweep['finished']}/{sweep['total']} done" + (f", {sweep['failed']} failed" if sweep["failed"] else "")
        rows.append(("Sweep", f"{sweep['path']}: {sweep['state']}, {done}"))
    return rows


def _wrapped(title: str, text: str) -> list[str]:
    import textwrap

    style = textwrap.TextWrapper(width=80, break_long_words=False, break_on_hyphens=False)
    style.initial_indent, style.subsequent_indent = f"{title:<13} ", " " * 14
    return style.wrap(text)


def _device(device: dict[str, Any]) -> str:
    about = [f"{device['threads']} threads"] if "threads" in device else []
    about += [device["model"], f"{device['memory'] / 2**30:.0f} GiB"] if "model" in device else []
    return str(device["name"]) + (f" ({', '.join(about)})" if about else "")


def _flat(value: Any) -> str:
    if isinstance(value, list):
        return "/".join(map(str, value))
    if isinstance(value, dict):
        return ", ".join(f"{key} {_flat(entry)}" for key, entry in value.items() if entry not in ("", None))
    return str(value)


def register(app: typer.Typer) -> None:
    """Add the command to the application."""
    app.command(
        "doctor",
        help=help_text(
            "Show versions, devices and kernels, and what is broken.",
            ["ew2s doctor", "ew2s doctor --json"],
            "Exit code 1 if something that is needed does not work.",
        ),
    )(doctor)
