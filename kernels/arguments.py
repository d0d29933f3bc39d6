"""Checks of single arguments: integers, real numbers, and tensors whose memory a kernel can read in place."""

from __future__ import annotations

import operator
from typing import Any

import numpy as np
import torch
from torch import Tensor


def _unexpected(value: Any, name: str, expected: str) -> TypeError:
    shown = repr(value)
    shown = shown if len(shown) <= 60 else shown[:60] + "…"
    return TypeError(f"{name} is {shown}, a {type(value).__name__}; expected {expected}")


def whole_number(value: Any, name: str, expected: str) -> int:
    """An integer of Python, numpy or torch: no float, text or boolean.

    Raises:
        TypeError: it is no integer.
    """
    if isinstance(value, bool | np.bool_):
        raise _unexpected(value, name, expected)
    try:
        return operator.index(value)
    except TypeError:
        raise _unexpected(value, name, expected) from None


def real_number(value: Any, name: str, expected: str) -> float:
    """A number of Python, numpy or torch.

    Raises:
        TypeError: it is no number.
        ValueError: it is too large for float64.
    """
    if isinstance(value, bool | np.bool_ | str | bytes | bytearray):
        raise _unexpected(value, name, expected)
    try:
        return float(value)
    except (TypeError, ValueError, NotImplementedError, RuntimeError):
        raise _unexpected(value, name, expected) from None
    except OverflowError:
        raise ValueError(f"{name} is too large for float64; expected {expected}") from None


def plain_tensor(value: Any, name: str, dtypes: tuple[torch.dtype, ...], expected: str) -> Tensor:
    """The tensor without its gradient, dense and aligned.

    Views with the negative or conjugate bit and misaligned tensors are copied; strides of any kind stay.

    Args:
        value: the argument.
        name: its name in messages, in the plural.
        dtypes: allowed data types.
        expected: their name in messages.

    Raises:
        TypeError: it is no tensor, not dense, or of another type.
        ValueError: it is on the meta device.
    """
    if not isinstance(value, Tensor):
        raise TypeError(f"{name} are {type(value).__name__}, not a torch.Tensor")
    if value.dtype not in dtypes:
        raise TypeError(f"{name} are {value.dtype}; expected {expected}")
    if value.layout != torch.strided or value.is_nested:
        kind = "nested" if value.is_nested else str(value.layout).removeprefix("torch.")
        raise TypeError(f"{name} are a {kind} tensor; expected a dense one, as to_dense() or to_padded_tensor() gives")
    if value.device.type == "meta":
        raise ValueError(f"{name} are on the device meta, which holds no numbers; expected a CPU or GPU tensor")
    plain = value.detach().resolve_conj().resolve_neg()
    try:
        address = plain.data_ptr()
    except RuntimeError:
        raise TypeError(f"{name} have no memory (a tensor inside vmap or tracing); expected a tensor itself") from None
    return plain.clone() if address % plain.element_size() else plain
