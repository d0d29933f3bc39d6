"""Weighted draws for a ``torch.utils.data.DataLoader``, of any number of weights and shared by several processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Sampler

from ensemw2s import _native

_BLOCK = 1 << 16  # draws made at a time, of all ranks together

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
            the path of a ``.npy`` file, which is memory-mapped. Read in place; must not change meanwhile.
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
        self.num_samples = num_samples
        self.replacement = replacement
        self.seed = seed
        self.sorted = sorted
        self.rank, self.world_size = _place(rank, world_size)
        self.epoch = 0
        self._skipped = 0  # draws of all ranks that the next pass leaves out
        self._latest: tuple[int, int] | None = None  # a pass's epoch and the draws of all ranks that it left out
        self._given = 0  # draws of this rank in that pass
        self._source: _native.WeightedSampler | None = None
        if num_samples < 1:
            raise ValueError(f"num_samples is {num_samples}; expected at least 1")
        if not replacement and num_samples > self._draws.positive:
            raise ValueError(
                f"cannot draw {num_samples} without replacement: only {self._draws.positive} weights are positive"
            )
        self._draws.sample(0, seed)  # a seed out of range is an error now, not in the first pass

    @property
    def _draws(self) -> _native.WeightedSampler:
        if self._source is None:
            self._source = _native.WeightedSampler(self.weights)
        return self._source

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_source": None}  # made again where it is needed

    def set_epoch(self, epoch: int) -> None:
        """Make the next pass the one of ``epoch``: from its beginning, or from where a loaded state of it goes on."""
        if epoch < 0:
            raise ValueError(f"epoch is {epoch}; expected at least 0")
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
        """Where the latest pass is, to go on from there with :meth:`load_state_dict`; numbers and booleans only.

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
            ValueError: the state belongs to other weights or another way of drawing.
        """
        for key, mine in self._identity().items():
            if state.get(key) != mine:
                raise ValueError(f"the state has {key} {state.get(key)}, this sampler {mine}")
        self.seed = state["seed"]
        self.epoch = state["epoch"]
        self._skipped = state["used"]
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
        array: Weights = weights.detach().contiguous().numpy()
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
    if not 0 <= rank < world_size:
        raise ValueError(f"rank is {rank} of {world_size}; expected a number from 0 to below world_size")
    return rank, world_size
