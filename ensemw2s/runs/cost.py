"""Cost of stages: tokens, FLOPs, seconds and peak memory.

Tokens and operations follow from what a stage does, not from how often it was interrupted: they are the same for every
start. Seconds and memory are measured, and carried over when an interrupted stage is taken up again.

Operations are estimated as is usual for transformers (Kaplan et al. 2020, section 2.1): with ``N`` parameters and ``D``
tokens, a forward pass takes ``2·N·D`` and a training step ``6·N·D`` (the backward pass is twice the forward). ``N``
counts all parameters, tied ones once; ``D`` counts the tokens that are read, without padding, and a prompt that several
options share once. Attention over the context, which is small for short contexts, and the optimiser are left out.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from ensemw2s.sink import NullSink

WorkKind = Literal["train", "score", "decode"]

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True, slots=True)
class Work:
    """A piece of work.

    Attributes:
        kind: ``train``, ``score`` (teacher-forced) or ``decode``.
        what: what was worked on, for example a split; a fine-tuning has no more to say.
        tokens: tokens read, padding excluded, over all models.
        flops: floating-point operations.
    """

    kind: WorkKind
    what: str
    tokens: int
    flops: int


def training_flops(
    parameters: int, tokens: int, *, lora: bool = False, checkpointing: bool = False, above: int | None = None
) -> int:
    """``6·N·D``.

    With low-rank adapters ``4·N·D``: no gradients of the frozen weights are computed, and the adapters' own share is
    left out. With gradient checkpointing ``2·N·D`` more, for the second forward pass. Where adapters are in the last
    layers only, no more than ``above`` parameters are passed backwards, ``2·N·D`` forwards; that hidden states are kept
    is left out, so that the figure does not depend on who came first.
    """
    passed = parameters if above is None else above
    return (2 * parameters + ((2 if lora else 4) + (2 if checkpointing else 0)) * passed) * tokens


def parameters_above(parameters: int, layers: int | None, last: int | None) -> int:
    """Of ``parameters``, about those of the ``last`` layers; all where there is no such number."""
    return parameters if last is None or not layers else parameters * min(last, layers) // layers


def forward_flops(parameters: int, tokens: int) -> int:
    """``2·N·D``: scoring, and decoding with a key-value cache."""
    return 2 * parameters * tokens


class DecodeCounter(NullSink):
    """An event sink that adds up the tokens of decoding (metrics of kind ``decode``)."""

    def __init__(self) -> None:
        self.tokens = 0

    def metric(self, kind: str, **fields: Any) -> None:
        """Count tokens: every expert reads the prompts and what is decoded."""
        if kind == "decode":
            self.tokens += fields["models"] * (fields["prompt_tokens"] + fields["new_tokens"])


def resident_memory() -> int | None:
    """Resident memory of this process in bytes; None where it cannot be told."""
    import psutil

    try:
        return int(psutil.Process().memory_info().rss)
    except psutil.Error:
        return None


def _reset_peak() -> bool:
    """Let the kernel measure the peak of resident memory from now on; False where it does not."""
    try:
        _CLEAR.write_text("5")
    except OSError:
        return False
    return True


def _kernel_peak() -> int | None:
    try:
        for line in _STATUS.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        return None
    return None


def _cuda() -> Any | None:
    """``torch.cuda`` if this process has used it already; nothing is imported or started for it."""
    torch = sys.modules.get("torch")
    cuda = getattr(torch, "cuda", None)
    return cuda if cuda is not None and cuda.is_initialized() else None


class Meter:
    """Seconds and peak memory of one stage, over all its starts.

    Args:
        before: what an earlier, interrupted start noted (:meth:`reading`); empty for the first.
    """

    def __init__(self, before: Mapping[str, Any] | None = None) -> None:
        before = before or {}
        self._seconds = float(before.get("seconds") or 0.0)
        self._starts = int(before.get("starts") or 0) + 1
        self._memory = before.get("peak_memory")
        self._device = before.get("peak_device_memory")
        self._began = time.monotonic()
        self._exact = _reset_peak()
        cuda = _cuda()
        if cuda is not None:
            for device in range(cuda.device_count()):
                cuda.reset_peak_memory_stats(device)

    def _measure(self) -> None:
        now = _kernel_peak() if self._exact else None
        self._memory = _largest(self._memory, now if now is not None else resident_memory())
        cuda = _cuda()
        if cuda is not None:
            peaks = [int(cuda.max_memory_allocated(device)) for device in range(cuda.device_count())]
            self._device = _largest(self._device, max(peaks, default=None))

    def reading(self) -> dict[str, Any]:
        """Cost so far, as JSON: ``seconds``, ``starts``, ``peak_memory`` and ``peak_device_memory`` in bytes.

        Memory is the largest resident memory of this process during the stage (libraries included), and the largest
        that PyTorch had allocated on one CUDA device; None where unknown.
        """
        self._measure()
        return {
            "seconds": self._seconds + time.monotonic() - self._began,
            "starts": self._starts,
            "peak_memory": self._memory,
            "peak_device_memory": self._device,
        }


def _largest(old: int | None, new: int | None) -> int | None:
    return new if old is None else old if new is None else max(old, new)


def cost_record(work: list[Work], reading: Mapping[str, Any]) -> dict[str, Any]:
    """The ``cost`` of ``stage.json``: the work, and what was measured besides the seconds."""
    measured = {name: reading[name] for name in ("starts", "peak_memory", "peak_device_memory")}
    return {"work": [asdict(piece) for piece in work], **measured}
