"""An independent statement of the contract: one row at a time, in extended precision, from the definitions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from unittest import mock

import numpy as np
import pytest
import torch

_Wide = np.longdouble


@dataclass(frozen=True)
class OracleRow:
    """Combined log-probabilities and each expert's own, of one position; None where undefined."""

    log_probs: np.ndarray | None
    mixture: np.ndarray | None
    experts: list[np.ndarray | None]


def _log_softmax(logits: np.ndarray) -> np.ndarray | None:
    x = logits.astype(_Wide)
    if np.isnan(x).any() or np.isposinf(x).any() or np.isneginf(x).all():
        return None
    shifted = x - x.max()
    return shifted - np.log(np.exp(shifted).sum())


def _log(x: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore"):
        return np.log(x)


def _first_argmax(row: np.ndarray) -> int:
    best = 0
    for v in range(1, len(row)):
        if row[v] > row[best]:
            best = v
    return best


def oracle_row(logits: np.ndarray, alphas: np.ndarray, rule: str, temperature: float) -> OracleRow:
    """``logits [K, V]`` float64, ``alphas [K]``."""
    share = alphas.astype(_Wide) / alphas.astype(_Wide).sum()
    experts = [_log_softmax(row) for row in logits]
    active = [k for k in range(len(alphas)) if alphas[k] > 0]
    parts = [experts[k] for k in active]
    if any(part is None for part in parts):
        return OracleRow(None, None, experts)
    stacked = np.stack(parts) + np.log(share[active])[:, None]
    top = stacked.max(axis=0)
    finite_top = np.where(np.isneginf(top), 0, top)
    mixture = _log(np.exp(stacked - finite_top).sum(axis=0)) + finite_top
    if rule == "mixture":
        combined = mixture
    elif rule == "product":
        combined = _log_softmax(sum(share[k] * experts[k] for k in active))
    else:
        votes = np.zeros(logits.shape[1], dtype=_Wide)
        for k in active:
            votes[_first_argmax(logits[k])] += share[k]
        combined = _log(votes)
    if combined is None:
        return OracleRow(None, None, experts)
    tempered = (combined - combined.max()) / _Wide(temperature)
    return OracleRow(tempered - np.log(np.exp(tempered).sum()), mixture, experts)


@pytest.fixture(scope="session")
def oracle() -> Callable[[np.ndarray, np.ndarray, str, float], OracleRow]:
    return oracle_row


def _make(seed: int, shape: tuple[int, int, int], dtype: torch.dtype, kind: str, specials: list[str]) -> torch.Tensor:
    """Logits ``[K, N, V]`` of a given character, with special values strewn in."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape) * {"normal": 3.0, "peaked": 40.0, "huge": 1e30, "tied": 1.0}.get(kind, 1.0)
    if kind == "equal":
        x = np.full(shape, 1.25)
    elif kind == "tied":
        x = np.round(x)
    elif kind == "largest":  # at and near both ends of the type's range, often equal
        x = np.clip(np.round(x, 1), -1, 1) * min(torch.finfo(dtype).max, torch.finfo(torch.float32).max)
    elif kind == "one-hot":
        x = np.full(shape, -np.inf)
        x[..., rng.integers(0, shape[2])] = 2.0
    values = {"nan": np.nan, "+inf": np.inf, "-inf": -np.inf}
    for special in specials:
        if x.size and special in values:
            for _ in range(3):
                x[tuple(rng.integers(0, side) for side in shape)] = values[special]
        elif x.size and special == "-inf row":
            x[rng.integers(0, shape[0]), rng.integers(0, shape[1])] = -np.inf
    if dtype == torch.float16:
        x = np.where(np.isfinite(x), np.clip(x, -6e4, 6e4), x)
    return torch.from_numpy(x).to(dtype)


@pytest.fixture(scope="session")
def make_logits() -> Callable[[int, tuple[int, int, int], torch.dtype, str, list[str]], torch.Tensor]:
    return _make


@pytest.fixture
def patched_once_a_launch():
    """Triton's interpreter patches the language again at every call of a helper, which takes most of the time."""
    from triton.runtime import interpreter

    from ensemw2s.kernels.gpu import launch as triton_launch

    seen = set()
    start = triton_launch.start

    def call(self, *arguments, **named):
        if self.fn.__module__ not in seen:
            seen.add(self.fn.__module__)
            interpreter._patch_lang(self.fn)
        return self.rewrite()(*arguments, **named)

    def launch(*arguments):
        seen.clear()
        start(*arguments)

    with (
        mock.patch.object(interpreter.InterpretedFunction, "__call__", call),
        mock.patch.object(triton_launch, "start", launch),
    ):
        yield
