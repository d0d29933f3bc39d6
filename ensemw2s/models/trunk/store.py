"""Kept hidden states: immutable files in a folder that several runs may share, found by the content of their texts.

A folder below the root belongs to one trunk (weights, configuration, numerics). Its files are pairs: ``NAME.npy`` holds
the states of some texts one after the other, ``NAME.json`` says which texts and carries the checksum. Both are written
under other names and renamed, the second one last, so that processes may write at the same time.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ensemw2s.arrays import load_array, offsets_of
from ensemw2s.checksums import checksum, read_sealed, sealed
from ensemw2s.errors import DamagedError, DataError
from ensemw2s.files import dump_json, is_disk_full, replaced, write_text
from ensemw2s.sink import EventSink, NullSink

#: Bytes of hidden states that are written as one file.
FILE_BYTES = 2**26
#: Files of a folder that are mapped into memory at a time: each map holds one open, and a process may have few (256).
_OPEN_FILES = 64
#: What reading a damaged pair of files may raise.
_DAMAGE = (DamagedError, DataError, OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError)
#: Bytes that a text takes besides its states, at most; a file takes those of four.
_RECORD_BYTES = 128
#: Integers that hold the bits of a number of so many bytes: numpy knows no bfloat16.
_BITS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


class StateFolder:
    """Kept states of one trunk.

    Args:
        root: what bounds the size of all that is below it.
        name: the folder in it.
    """

    def __init__(self, root: TrunkStore, name: str) -> None:
        self.root = root
        self.path = root.path / name
        self._read: set[str] = set()
        self._places: dict[bytes, tuple[Path, int, int]] = {}
        self._waiting: dict[bytes, NDArray[Any]] = {}
        self._mapped = lru_cache(_OPEN_FILES)(load_array)
        self.dtype: torch.dtype | None = None

    def refresh(self) -> None:
        """Take in files that other processes have written."""
        if not self.path.is_dir():
            return
        for index in sorted(self.path.glob("*.json")):
            if index.name in self._read or not self._is_ours(index):
                continue
            self._take_in(index)

    def _take_in(self, index: Path) -> None:
        self._read.add(index.name)
        try:
            self._open(index)
        except _DAMAGE as error:
            text = f"Kept hidden states ({index.stem}) cannot be used and are computed again: {error}"
            self.root.sink.event("message", level="warning", text=text)
            for file in (index.with_suffix(".npy"), index):
                with suppress(OSError):
                    file.unlink()

    def __contains__(self, key: bytes) -> bool:
        return key in self._places or key in self._waiting

    def get(self, key: bytes, length: int) -> NDArray[Any] | None:
        """States ``[L, H]`` of a text of ``length`` tokens, as the bits of their type; None where they are not kept."""
        if key in self._waiting:
            return self._waiting[key]
        if key not in self._places or self.dtype is None:
            return None
        file, first, last = self._places[key]
        try:
            found = self._mapped(file, _BITS[self.dtype.itemsize], (None, None))[first:last]
        except DataError:  # another process removed it
            found = None
        if found is None or len(found) != length:
            del self._places[key]
            return None
        return found

    def put(self, key: bytes, states: Tensor) -> bool:
        """Keep the states ``[L, H]`` of a text; False where the limit or the disk leaves them out.

        They wait in memory until there are enough for a file, or for :meth:`flush`.
        """
        self.dtype = states.dtype
        waiting = [*self._waiting.values(), bits_of(states)]
        if not self.root.has_room(_file_size(waiting)):
            return False
        self._waiting[key] = waiting[-1]
        return _file_size(waiting) < FILE_BYTES or self.flush()

    def flush(self) -> bool:
        """Write what waits; False where that cannot be."""
        waiting, self._waiting = self._waiting, {}
        if not waiting:
            return True
        if not self.root.fits(_file_size(waiting.values())):  # another process was first
            return False
        from xxhash import xxh3_128

        name = xxh3_128(b"".join(waiting)).hexdigest()
        file, index = self.path / f"{name}.npy", self.path / f"{name}.json"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with replaced(file) as temporary, temporary.open("wb") as stream:
                np.save(stream, np.concatenate(list(waiting.values())), allow_pickle=False)
            texts = [[key.hex(), len(array)] for key, array in waiting.items()]
            record = {"dtype": str(self.dtype).removeprefix("torch."), "texts": texts, "file": checksum(file)}
            write_text(index, dump_json(sealed(record)))
        except OSError as error:  # a run does not need what cannot be kept
            with suppress(OSError):
                file.unlink()
            full = is_disk_full(error)
            self.root.close("reached the end of the disk" if full else f"cannot be written ({error.strerror})")
            return False
        self._take_in(index)
        return True

    def _open(self, index: Path) -> None:
        record = read_sealed(index) or {}
        file = index.with_suffix(".npy")
        if not self._is_ours(file) or list(checksum(file)) != list(record["file"]):
            raise DamagedError(file, "its content is not what was written")
        dtype = getattr(torch, record["dtype"])
        if self.dtype is not None and dtype != self.dtype:
            raise ValueError(f"{record['dtype']} in place of {self.dtype}")
        states = load_array(file, _BITS[dtype.itemsize], (None, None))
        ends = offsets_of([length for _, length in record["texts"]])
        if ends[-1] != len(states) or (np.diff(ends) < 1).any():
            raise ValueError("the lengths of its texts do not add up")
        places = zip(record["texts"], ends[:-1].tolist(), ends[1:].tolist(), strict=True)
        self._places |= {bytes.fromhex(key): (file, first, last) for (key, _), first, last in places}
        self.dtype = dtype

    def _is_ours(self, file: Path) -> bool:
        return file.is_file() and not file.is_symlink()


class TrunkStore:
    """All kept hidden states of a run, or of several that share them, and what was found out about trunks.

    Args:
        path: their folder; made when something is kept.
        limit: bytes that its files may take together.
        sink: gets a message where the limit is met, and what is said of a trunk once.
    """

    def __init__(self, path: Path, limit: int, sink: EventSink | None = None) -> None:
        self.path = path
        self.limit = limit
        self.sink = sink or NullSink()
        self.full = limit <= 0
        self.folders: dict[str, StateFolder] = {}
        self.works: dict[str, list[int | None] | None] = {}
        """Trunk → how its layers hand states on; None where it cannot be used."""
        self.said: set[str] = set()

    def folder(self, name: str) -> StateFolder:
        """The states of one trunk, by its fingerprint."""
        if name not in self.folders:
            self.folders[name] = StateFolder(self, name)
        return self.folders[name]

    def has_room(self, size: int) -> bool:
        """Whether files of ``size`` bytes more stay within the limit; where they do not, nothing more is kept."""
        if not self.full and not self.fits(size):
            self.close(f"reached compute.trunk_cache_gb, {self.limit / 1e9:g}")
        return not self.full

    def fits(self, size: int) -> bool:
        """Whether files of ``size`` bytes more stay within the limit."""
        return sum(self._sizes()) + size <= self.limit

    def close(self, why: str) -> None:
        """Keep nothing more."""
        self.full = True
        self.say(f"Kept hidden states {why}; those of other texts are computed for every batch.")

    def say(self, text: str) -> None:
        """Log a message, once."""
        if text not in self.said:
            self.said.add(text)
            self.sink.event("message", level="info", text=text)

    def _sizes(self) -> Iterator[int]:
        for place, _, files in os.walk(self.path):
            for name in files:
                try:
                    yield (Path(place) / name).lstat().st_size
                except OSError:  # another process renamed it
                    continue


def _file_size(states: Collection[NDArray[Any]]) -> int:
    """Bytes of a file with these states and of its index, at most."""
    return sum(array.nbytes for array in states) + (len(states) + 4) * _RECORD_BYTES


def bits_of(states: Tensor) -> NDArray[Any]:
    """A tensor's numbers as integers of the same bits."""
    flat: NDArray[Any] = states.contiguous().cpu().view(torch.uint8).numpy()
    return flat.view(_BITS[states.dtype.itemsize])


def tensor_of(bits: NDArray[Any], dtype: torch.dtype) -> Tensor:
    """The other way round; ``bits`` must be writable."""
    return torch.from_numpy(bits.view(np.uint8)).view(dtype)
