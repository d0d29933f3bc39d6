"""Combination of expert logits: one contract, several backends, chosen by the device that holds the tensors.

:func:`combine` gives the ensemble's arg-max and log-probabilities, :func:`sample` draws tokens from the ensemble. They
check their arguments once, in the same way for every backend. Needs torch and numpy only.
"""

from __future__ import annotations

from ensemw2s._native import philox4x32
from ensemw2s.kernels.dispatch import Backend, available_backends, combine, register, sample
from ensemw2s.kernels.request import CombineRequest, Rule, SampleRequest
from ensemw2s.kernels.result import CombineResult

__all__ = [
    "Backend",
    "CombineRequest",
    "CombineResult",
    "Rule",
    "SampleRequest",
    "available_backends",
    "combine",
    "philox4x32",
    "register",
    "sample",
]
