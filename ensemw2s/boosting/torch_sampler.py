"""A weighted sampler for ``torch.utils.data.DataLoader``: any number of weights, split over processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

import ensemw2s._native as _native
from ensemw2s.kernels.arguments import plain_tensor, whole_number

_BLOCK = 1 << 16  # draws made at a time, of all ranks together
_MOST_DRAWS = 1 << 60  # of a stream
_MOST_EPOCHS = (1 << 64) - 1

Weights = NDArray[np.float64] | NDArray[np.float32]


class WeightedTokenSampler(Sampler[int]):
    """Draws indices in proportion to weights; stands in for ``torch.utils.data.WeightedRandomSampler``.

    Differs from that in the number of weights, which ``torch.multinomial`` limits to 2^24, in speed, and in what the
    draws are: a function of the weights, ``seed`` and the epoch alone, the same on every machine.

    All ranks together see the draws that one would see: rank ``r`` of ``W`` takes draws ``r``, ``r + W``, ``r + 2W``, …
    So the first ``k`` draws of every rank are the first ``k·W`` draws, whatever ``W`` is. Nothing is added to make
    ranks equal: they have as many draws each if ``num_samples`` is a multiple of ``W``, else some have one less.

    Every pass is an epoch with draws of its own; a complete pass is followed by the next one, :meth:`set_epoch` chooses
    one. Libraries that split a sampler over processes themselves (accelerate does) get ``rank=0, world_size=1``.

    Args:
        weights: float64 or float32 ``[n]``, not negative, need not sum to 1: an array, a memory map, a CPU tensor or
            the path of a ``.npy`` file, which is memory-mapped. Read in place; must not change meanwhile. How small a
            weight beside others can still be drawn is said by ``ensemw2s._native.WeightedSampler.sample``.
        num_samples: draws in an epoch, of all ranks together.
        replacement: whether an index can be drawn again. Without replacement all draws of an epoch are made at once
            (8 bytes a draw).
        seed: in ``[0, 2**64)``.
        rank: of this process; None asks ``torch.distributed``, and is 0 where that is not in use.
        world_size: number of processes; None as for ``rank``.
        sorted: draws in increasing order, for data that is read front to back. These are other draws, made all at once,
            and need no table (which has 8 bytes a weight).

    Raises:
        ValueError: weights that are negative, NaN, infinite, all 0 or whose sum overflows; more draws without
            replacement than positive weights; a number outside its range.
        TypeError: an integer or a flag is none, or weights of another type.
    """

    def __init__(
        self,
        weights: Weights | torch.Tensor | str | os.PathLike[str],
        num_samples: int,
        *,
        replacement: bool = True,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        sorted: bool = False,
    ) -> None:
        self.weights = _array(weights)
        self.num_samples = _whole("num_samples", num_samples, 1, _MOST_DRAWS)
        self.replacement = replacement
        self.seed = seed
        self.sorted = sorted
        self.rank, self.world_size = _place(rank, world_size)
        self.epoch = 0
        self._skipped = 0  # draws of all ranks that the next pass leaves out
        self._latest: tuple[int, int] | None = None  # a pass's epoch and the draws of all ranks that it left out
        self._given = 0  # draws of this rank in that pass
        self._source: _native.WeightedSampler | None = None
        if not replacement and num_samples > self._draws.positive:
            raise ValueError(
                f"cannot draw {num_samples} without replacement: only {self._draws.positive} weights are positive"
            )
        # a bad seed or flag is an error now, not in the first pass
        self._draws.sample(0, seed, replacement=replacement, sorted=sorted)

    @property
    def _draws(self) -> _native.WeightedSampler:
        if self._source is None:
            self._source = _native.WeightedSampler(self.weights)
        return self._source

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_source": None}  # made again where it is needed

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass the one of ``epoch``: from its beginning, or from where a loaded state of it goes on."""
        epoch = _whole("epoch", epoch, 0, _MOST_EPOCHS)
        if epoch != self.epoch:
            self._skipped = 0
        self.epoch = epoch
        self._latest = None

    def __len__(self) -> int:
        """Draws of this rank in the next pass."""
        return len(range(self._skipped + self.rank, self.num_samples, self.world_size))

    def __iter__(self) -> Iterator[int]:
        """Draws of this rank; the epoch advances when all have been given."""
        start, self._skipped = self._skipped, 0
        self._latest, self._given = (self.epoch, start), 0
        for block in self._blocks(start):
            for index in block.tolist():
                self._given += 1
                yield index
        self.epoch += 1

    def _blocks(self, start: int) -> Iterator[NDArray[np.int64]]:
        """This rank's draws of the epoch from draw ``start`` on, in pieces."""
        if not self.replacement or self.sorted:
            drawn = self._draws.sample(
                self.num_samples, self.seed, self.epoch, replacement=self.replacement, sorted=self.sorted
            )
            yield drawn[start + self.rank :: self.world_size]
            return
        step = _BLOCK // self.world_size * self.world_size or self.world_size
        for first in range(start, self.num_samples, step):
            count = min(step, self.num_samples - first)
            yield self._draws.sample(count, self.seed, self.epoch, start=first)[self.rank :: self.world_size]

    def state_dict(self, given: int | None = None) -> dict[str, Any]:
        """Position in the latest pass, for :meth:`load_state_dict`; numbers and booleans only.

        Args:
            given: draws of this rank in the latest pass that count; None counts all that it has given. With worker
                processes these are ahead of training by what the loader has fetched: pass the number trained on.
        """
        epoch, used = self.epoch, self._skipped
        if self._latest is not None:
            epoch, start = self._latest
            used = start + (self._given if given is None else given) * self.world_size
            if used >= self.num_samples:
                epoch, used = epoch + 1, 0
        return {"seed": self.seed, "epoch": epoch, "used": used, **self._identity()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Make the next pass go on where ``state`` was taken.

        All ranks load one rank's state; their number may differ from what it was.

        Raises:
            ValueError: the state belongs to other weights or another way of drawing, or a number is out of range.
            TypeError: a number is missing or none.
        """
        for key, mine in self._identity().items():
            if state.get(key) != mine:
                raise ValueError(f"the state has {key} {state.get(key)}, this sampler {mine}")
        seed, epoch, used = (
            _whole(f"the state's {name}", state.get(name), 0, most)
            for name, most in (("seed", 2**64 - 1), ("epoch", _MOST_EPOCHS), ("used", self.num_samples - 1))
        )
        self.seed, self.epoch, self._skipped = seed, epoch, used
        self._latest = None

    def _identity(self) -> dict[str, Any]:
        return {
            "num_samples": self.num_samples,
            "replacement": self.replacement,
            "sorted": self.sorted,
            "weights": self._draws.size,
            "total": self._draws.total,
        }


def _array(weights: Weights | torch.Tensor | str | os.PathLike[str]) -> Weights:
    if isinstance(weights, torch.Tensor):
        plain = plain_tensor(weights, "weights", (torch.float64, torch.float32), "float64 or float32")
        if plain.device.type != "cpu":
            raise ValueError(f"weights are on {plain.device}; expected a CPU tensor, as .cpu() gives")
        array: Weights = plain.contiguous().numpy()
        return array
    if isinstance(weights, str | os.PathLike):
        mapped: Weights = np.load(weights, mmap_mode="r", allow_pickle=False)
        return mapped
    return weights


def _place(rank: int | None, world_size: int | None) -> tuple[int, int]:
    """This process's rank and the number of processes."""
    if (rank is None) != (world_size is None):
        raise ValueError("rank and world_size come together, or neither")
    if rank is None or world_size is None:
        distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
        if not distributed:
            return 0, 1
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    world_size = _whole("world_size", world_size, 1, _MOST_DRAWS)
    return _whole("rank", rank, 0, world_size - 1), world_size


def _whole(name: str, value: Any, least: int, most: int) -> int:
    """The integer, if it is one in this range."""
    expected = f"an integer from {least} to {most}"
    number = whole_number(value, name, expected)
    if not least <= number <= most:
        raise ValueError(f"{name} is {number}; expected {expected}")
    return number
