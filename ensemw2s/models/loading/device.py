"""Choice of the device, CPU threads, and memory errors."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Iterator

import torch

from ensemw2s.config.training import ComputeConfig
from ensemw2s.errors import ConfigError
from ensemw2s.resources import available_memory


def resolve_device(compute: ComputeConfig) -> torch.device:
    """The device of the configuration, and torch's number of CPU threads set to :func:`cpu_threads`.

    ``auto`` is the first of CUDA, Apple's MPS and the CPU that is there; in a process of ``accelerate launch`` it is
    the GPU of the process's local rank.

    Raises:
        ConfigError: the device is not known, or not there.
    """
    threads = cpu_threads(compute)
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    return torch.device(_best()) if compute.device == "auto" else usable_device(compute.device, "compute.device")


def usable_device(name: str, key: str) -> torch.device:
    """A device by its name, which stands under ``key`` in the configuration.

    Raises:
        ConfigError: the device is not known, or not there.
    """
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ConfigError(f"{key}: {name!r} is not a device.", hint="Use auto, cpu, cuda, cuda:1 or mps.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(
            f"{key}: {name!r}, but torch sees no CUDA device.",
            hint="Use auto or cpu, or install a torch build for your GPU.",
        )
    if device.type == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise ConfigError(f"{key}: {name!r}, but there are {torch.cuda.device_count()} CUDA devices.")
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise ConfigError(f"{key}: {name!r}, but torch sees no MPS device.", hint="Use auto or cpu.")
    if device.type not in ("cpu", "cuda", "mps"):
        raise ConfigError(f"{key}: {name!r} is not supported.", hint="Use auto, cpu, cuda or mps.")
    return device


def memory_left(device: torch.device) -> int:
    """Bytes that are free on a CUDA device; for others, of the machine's memory."""
    return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else available_memory()


def cpu_threads(compute: ComputeConfig) -> int:
    """Threads of torch on the CPU: the configured number, or this process's share of the machine's cores.

    Never what the environment happens to say (``OMP_NUM_THREADS``): the order of floating-point sums depends on it.
    """
    if compute.threads is not None:
        return compute.threads
    return max(1, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def _best() -> str:
    if torch.cuda.is_available():
        return f"cuda:{os.environ.get('LOCAL_RANK', '0')}"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a failed torch operation ran out of memory, on whatever device."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


@contextlib.contextmanager
def memory_freed(device: torch.device) -> Iterator[None]:
    """Free what the block leaves in reference cycles, and the device's cache; a full collection takes longer."""
    gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()
        free_memory(device)


def free_memory(device: torch.device) -> None:
    """Give cached memory back to the device."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()
