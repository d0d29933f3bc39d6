"""Available memory and its limits, and visible CUDA devices, found without loading torch."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import psutil

_CGROUP = Path("/sys/fs/cgroup")
_LIMITING = threading.RLock()


def available_memory(cgroup: Path = _CGROUP) -> int:
    """Bytes that new processes can take: of the machine, or of the control group (container) where that is less."""
    available = int(psutil.virtual_memory().available)
    try:
        limit = int((cgroup / "memory.max").read_text())
        used = int((cgroup / "memory.current").read_text())
        # the page cache counts as used but is reclaimable
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        return min(available, max(0, limit - used + int(stat.get("inactive_file", 0))))
    except (OSError, ValueError):
        return available


@contextmanager
def bounded_memory(extra: int) -> Iterator[None]:
    """Within the block this process gets no more than ``extra`` bytes of new address space; then ``MemoryError``.

    For readers that believe the sizes in a file's headers, where a kilobyte can ask for gigabytes. Linux and other
    systems with ``RLIMIT_AS``; elsewhere nothing is bounded. The limit is that of the process: other threads have it,
    too, and one at a time sets it, so that it is taken back in the order in which it was set.
    """
    try:
        import resource
    except ImportError:
        yield
        return
    with _LIMITING:
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = int(psutil.Process().memory_info().vms) + extra
        if soft != resource.RLIM_INFINITY:
            limit = min(limit, soft)
        try:
            resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
        except (ValueError, OSError):
            yield
            return
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def parquet_memory(size: int) -> int:
    """Bytes that reading a Parquet file of ``size`` bytes may take: a hundred times as many, and a gigabyte."""
    return 2**30 + 100 * size


def process_memory(pid: int) -> int:
    """Resident memory of a process and its children in bytes; 0 if it is gone."""
    try:
        process = psutil.Process(pid)
        return sum(int(one.memory_info().rss) for one in (process, *process.children(recursive=True)))
    except psutil.Error:
        return 0


def visible_devices(environ: Mapping[str, str]) -> list[str]:
    """CUDA devices as ``CUDA_VISIBLE_DEVICES`` names them; empty where there is no driver."""
    given = environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [device.strip() for device in given.split(",") if device.strip() not in ("", "-1")]
    return [line.split(",")[0].strip() for line in _ask("index")]


def device_memory(device: str) -> int | None:
    """Free memory of a CUDA device in bytes; None where it cannot be told."""
    for line in _ask("memory.free", device):
        try:
            return int(line.strip()) * 2**20
        except ValueError:
            return None
    return None


def _ask(field: str, device: str | None = None) -> list[str]:
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, f"--query-gpu={field}", "--format=csv,noheader,nounits"]
    command += [] if device is None else [f"--id={device}"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return [line for line in done.stdout.splitlines() if line.strip()]
