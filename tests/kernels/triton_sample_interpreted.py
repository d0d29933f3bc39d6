"""Draws by the Triton kernels in Triton's interpreter. Run by ``test_triton.py`` in a process of its own."""

from __future__ import annotations

import math
import os
from unittest import mock

import numpy as np
import pytest
import torch
from scipy import stats

from ensemw2s import kernels
from ensemw2s.kernels.gpu import launch as triton_launch
from ensemw2s.kernels.gpu.configs import Config
from ensemw2s.kernels.reference import row_uniforms
from ensemw2s.kernels.request import combine_request

if os.environ.get("TRITON_INTERPRET") != "1":
    raise RuntimeError("these tests need TRITON_INTERPRET=1")

# the interpreter is numpy, which warns where IEEE arithmetic is meant
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.usefixtures("patched_once_a_launch"),
]
RULES = ["mixture", "product", "vote"]
FALSE_ALARM = 1e-4  # of each chi-square test, when its seed was chosen; the seeds are fixed, so the verdicts are too


@pytest.fixture(autouse=True)
def narrow_tiles():
    with mock.patch.object(triton_launch, "choose", return_value=Config(32, 4)):
        yield


def test_sample_uniforms_are_those_of_the_contract() -> None:
    index = torch.tensor([0, 1, 2**31, 2**40 + 7, -1, -(2**62), 2**63 - 1])
    logits = torch.zeros(1, len(index), 4)
    request = combine_request(
        logits, [1], rule="mixture", temperature=1.0, targets=None, return_probs=False, top_k=None
    )
    problem = triton_launch.prepare(request)
    for seed in (0, 1, 2**31 - 1, 2**31, 2**32, 2**63, 2**64 - 1):
        got = problem.uniforms(seed, index).numpy()
        assert got.tolist() == row_uniforms(seed, index.numpy()).tolist()


def chi_square(drawn: np.ndarray, probabilities: np.ndarray) -> float:
    counts = np.bincount(drawn, minlength=len(probabilities)).astype(float)
    assert counts[probabilities == 0].sum() == 0
    expected = probabilities / probabilities.sum() * len(drawn)
    small = expected < 5
    observed = np.append(counts[~small], counts[small].sum())
    wanted = np.append(expected[~small], expected[small].sum())
    keep = wanted > 0
    return 1.0 if keep.sum() < 2 else float(stats.chisquare(observed[keep], wanted[keep]).pvalue)


def truncated(log_probs: np.ndarray, top_k: int | None, top_p: float | None) -> np.ndarray:
    p = np.exp(log_probs.astype(float))
    order = sorted(range(len(p)), key=lambda v: (-p[v], v))[:top_k]
    if top_p is not None:
        share = p[order] / p[order].sum()
        order = [v for v, before in zip(order, np.cumsum(share) - share, strict=True) if before < top_p]
    out = np.zeros_like(p)
    out[order] = p[order]
    return out / out.sum()


def frequencies(draws, rule, top_k, top_p, temperature, oracle) -> None:
    row = np.random.default_rng(12).standard_normal((3, 1, 40)) * 2
    logits = torch.from_numpy(row).float().expand(3, draws, 40)
    alphas = [0.5, 1.0, 0.0]
    options = {"rule": rule, "top_k": top_k, "top_p": top_p, "temperature": temperature, "seed": 17}
    drawn = kernels.sample(logits, alphas, backend="triton", **options)
    assert drawn.dtype == torch.int64
    truth = oracle(logits[:, 0].double().numpy(), np.array(alphas), rule, temperature).log_probs
    assert chi_square(drawn.numpy(), truncated(truth, top_k, top_p)) > FALSE_ALARM
    same = kernels.sample(logits, alphas, backend="reference", **options)
    assert int((drawn != same).sum()) <= draws // 1000  # the uniforms are the same; sums differ in their last digits


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_sample_frequencies(rule, temperature, oracle) -> None:
    frequencies(24, rule, None, None, temperature, oracle)


@pytest.mark.parametrize(("rule", "top_k", "top_p"), [("mixture", 5, None), ("product", None, 0.8), ("vote", 7, 0.6)])
def test_sample_frequencies_truncated(rule, top_k, top_p, oracle) -> None:
    frequencies(8, rule, top_k, top_p, 1.0, oracle)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("top_k", "top_p"), [(None, None), (5, None), (None, 0.8), (7, 0.6)])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_sample_frequencies_at_length(rule, top_k, top_p, temperature, oracle) -> None:
    frequencies(250, rule, top_k, top_p, temperature, oracle)


def test_sample_one_possible_token_is_always_drawn() -> None:
    logits = torch.full((2, 4, 70), -math.inf)
    logits[:, :, 66] = 0.0
    assert bool((kernels.sample(logits, [1, 1], seed=0, backend="triton") == 66).all())
    noise = torch.randn(2, 3, 70, generator=torch.Generator().manual_seed(0))
    best = kernels.combine(noise, [1, 1]).argmax
    for options in ({"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-300}):
        assert torch.equal(kernels.sample(noise, [1, 1], seed=0, backend="triton", **options), best)


def test_sample_ties_at_the_edge_keep_the_lowest_ids() -> None:
    equal = torch.zeros(2, 5, 40)
    drawn = kernels.sample(equal, [1, 1], seed=1, top_k=3, backend="triton")
    assert set(drawn.tolist()) <= {0, 1, 2}
    assert torch.equal(drawn, kernels.sample(equal, [1, 1], seed=1, top_k=3, backend="reference"))
    nucleus = kernels.sample(equal, [1, 1], seed=1, top_p=0.1, backend="triton")
    assert torch.equal(nucleus, kernels.sample(equal, [1, 1], seed=1, top_p=0.1, backend="reference"))
    assert set(nucleus.tolist()) <= {0, 1, 2, 3}


def test_sample_depends_on_seed_and_index_only() -> None:
    logits = torch.randn(2, 20, 30, generator=torch.Generator().manual_seed(4))
    index = torch.arange(20) * 1_000_003 + 2**40
    whole = kernels.sample(logits, [1, 1], seed=2**64 - 1, index=index, backend="triton")
    some = torch.tensor([19, 3, 10, 3])
    again = kernels.sample(logits[:, some], [1, 1], seed=2**64 - 1, index=index[some], backend="triton")
    assert torch.equal(again, whole[some])
    assert torch.equal(whole, kernels.sample(logits, [1, 1], seed=2**64 - 1, index=index, backend="reference"))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_sample_undefined_row_is_an_error_that_names_it(rule, value) -> None:
    logits = torch.zeros(2, 3, 4)
    logits[1, 2] = value
    for options in ({}, {"top_k": 2}, {"temperature": 0.5}):
        with pytest.raises(ValueError, match="row 2"):
            kernels.sample(logits, [1, 1], seed=0, rule=rule, backend="triton", **options)
    assert kernels.sample(logits, [1, 0], seed=0, rule=rule, backend="triton").shape == (3,)


def test_sample_no_rows_and_one_token() -> None:
    for options in ({}, {"top_k": 2}, {"rule": "vote"}):
        assert kernels.sample(torch.zeros(2, 0, 5), [1, 1], seed=0, backend="triton", **options).shape == (0,)
        assert kernels.sample(torch.zeros(1, 3, 1), [1], seed=0, backend="triton", **options).tolist() == [0, 0, 0]
