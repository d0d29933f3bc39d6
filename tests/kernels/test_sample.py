"""``sample``: frequencies, truncation, and what a draw depends on.

Chi-square tests use fixed seeds, so they give the same verdict every time; for a correct sampler each had a chance of
1e-4 to fail when the seeds were chosen, and about 40 of them make a false-alarm rate below 0.5 % in all.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from ensemw2s import _native, kernels
from ensemw2s.kernels.reference import invert, row_uniforms

FALSE_ALARM = 1e-4
DRAWS = 20_000


def chi_square(drawn: np.ndarray, probabilities: np.ndarray) -> float:
    """p-value; classes that are expected less than 5 times are pooled, impossible ones must not occur."""
    counts = np.bincount(drawn, minlength=len(probabilities)).astype(float)
    assert counts[probabilities == 0].sum() == 0
    expected = probabilities / probabilities.sum() * len(drawn)
    small = expected < 5
    observed = np.append(counts[~small], counts[small].sum())
    wanted = np.append(expected[~small], expected[small].sum())
    keep = wanted > 0
    if keep.sum() < 2:
        return 1.0
    return float(stats.chisquare(observed[keep], wanted[keep]).pvalue)


def truncated(log_probs: np.ndarray, top_k: int | None, top_p: float | None) -> np.ndarray:
    p = np.exp(log_probs.astype(float))
    order = sorted(range(len(p)), key=lambda v: (-p[v], v))
    kept = order if top_k is None else order[:top_k]
    if top_p is not None:
        total, before, nucleus = sum(p[v] for v in kept), 0.0, []
        for v in kept:
            if before / total >= top_p:
                break
            nucleus.append(v)
            before += p[v]
        kept = nucleus
    out = np.zeros_like(p)
    out[kept] = p[kept]
    return out / out.sum()


@pytest.mark.parametrize("rule", ["mixture", "product", "vote"])
@pytest.mark.parametrize(("top_k", "top_p"), [(None, None), (5, None), (None, 0.8), (7, 0.6)])
@pytest.mark.parametrize(("vocabulary", "temperature"), [(12, 1.0), (200, 1.0), (12, 0.6)])
@pytest.mark.parametrize("backend", ["native", "reference"])
def test_frequencies(backend, rule, top_k, top_p, vocabulary, temperature, oracle) -> None:
    rng = np.random.default_rng(vocabulary)
    row = rng.standard_normal((3, 1, vocabulary)) * 2
    alphas = [0.5, 1.0, 0.0]
    logits = torch.from_numpy(row).expand(3, DRAWS, vocabulary).float()
    options = {"rule": rule, "temperature": temperature, "top_k": top_k, "top_p": top_p, "backend": backend}
    drawn = kernels.sample(logits, alphas, seed=17, **options)
    assert drawn.dtype == torch.int64
    truth = oracle(logits[:, 0].double().numpy(), np.array(alphas), rule, temperature).log_probs
    assert chi_square(drawn.numpy(), truncated(truth, top_k, top_p)) > FALSE_ALARM


def test_rows_are_independent_of_each_other() -> None:
    logits = torch.zeros(1, DRAWS, 4)
    drawn = kernels.sample(logits, [1.0], seed=5).numpy()
    pairs = drawn[:-1:2] * 4 + drawn[1::2]
    assert chi_square(pairs, np.full(16, 1 / 16)) > FALSE_ALARM


def test_a_draw_depends_on_seed_and_index_only() -> None:
    logits = torch.randn(2, 50, 30, generator=torch.Generator().manual_seed(4))
    index = torch.arange(50) * 1_000_003 + 2**40
    whole = kernels.sample(logits, [1, 1], seed=2**64 - 1, index=index)
    some = torch.tensor([49, 3, 20, 3])
    again = kernels.sample(logits[:, some], [1, 1], seed=2**64 - 1, index=index[some])
    assert torch.equal(again, whole[some])
    assert not torch.equal(whole, kernels.sample(logits, [1, 1], seed=2**64 - 2, index=index))
    default = kernels.sample(logits, [1, 1], seed=3)
    assert torch.equal(default, kernels.sample(logits, [1, 1], seed=3, index=torch.arange(50, dtype=torch.int32)))


def test_one_possible_token_is_always_drawn() -> None:
    logits = torch.full((2, 300, 9), -math.inf)
    logits[:, :, 6] = 0.0
    assert bool((kernels.sample(logits, [1, 1], seed=0) == 6).all())
    noise = torch.randn(2, 300, 9, generator=torch.Generator().manual_seed(0))
    best = kernels.combine(noise, [1, 1]).argmax
    for options in ({"top_k": 1}, {"top_p": 1e-9}, {"temperature": 1e-300}):
        assert torch.equal(kernels.sample(noise, [1, 1], seed=0, **options), best)


def test_ties_at_the_edge_of_top_k_keep_the_lowest_ids() -> None:
    drawn = kernels.sample(torch.zeros(2, 2000, 40), [1, 1], seed=1, top_k=3)
    assert sorted(set(drawn.tolist())) == [0, 1, 2]
    nucleus = kernels.sample(torch.zeros(2, 2000, 40), [1, 1], seed=1, top_p=0.1)
    assert sorted(set(nucleus.tolist())) == [0, 1, 2, 3]


def test_wide_truncation_changes_nothing() -> None:
    logits = torch.randn(2, 40, 30, generator=torch.Generator().manual_seed(9))
    plain = kernels.sample(logits, [1, 2], seed=8)
    assert torch.equal(plain, kernels.sample(logits, [1, 2], seed=8, top_k=30, top_p=1.0))
    assert torch.equal(plain, kernels.sample(logits, [1, 2], seed=8, top_k=1000))


def test_no_rows() -> None:
    assert kernels.sample(torch.zeros(2, 0, 5), [1, 1], seed=0).shape == (0,)
    assert kernels.sample(torch.zeros(1, 3, 1), [1], seed=0).tolist() == [0, 0, 0]


def test_uniforms_are_uniform() -> None:
    u = row_uniforms(11, np.arange(-50_000, 50_000, dtype=np.int64))
    assert u.min() >= 0
    assert u.max() < 1
    assert stats.kstest(u, "uniform").pvalue > FALSE_ALARM


def test_uniforms_are_the_documented_bits_of_philox() -> None:
    seed = 0x0123456789ABCDEF
    for index in (0, 1, 2**32, 2**40 + 3, -1, -(2**63)):
        bits = index % 2**64
        counter = np.array([[bits & 0xFFFFFFFF, bits >> 32, 0, 0x53414D50]], dtype=np.uint32)
        words = _native.philox4x32(counter, np.array([0x89ABCDEF, 0x01234567], dtype=np.uint32))[0].tolist()
        expected = (words[0] | words[1] << 32) >> 11
        assert row_uniforms(seed, np.array([index]))[0] * 2**53 == expected


def test_inversion_at_the_edges() -> None:
    probabilities = torch.tensor([[0.0, 0.25, 0.0, 0.5, 0.25, 0.0]], dtype=torch.float64)
    for uniform, token in ((0.0, 1), (0.2499, 1), (0.25, 3), (0.7499, 3), (0.75, 4), (1 - 2**-53, 4)):
        assert invert(probabilities, torch.tensor([uniform], dtype=torch.float64)).tolist() == [token]
    many = torch.full((1, 3001), 1 / 3000, dtype=torch.float64)
    many[0, 3000] = 0.0
    assert invert(many, torch.tensor([1 - 2**-53], dtype=torch.float64)).tolist() == [2999]
    assert invert(many.float(), torch.tensor([1 - 2**-53], dtype=torch.float32)).tolist() == [2999]


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"seed": -1}, ValueError, "seed"),
        ({"seed": 2**64}, ValueError, "seed"),
        ({"seed": 0, "top_p": 0.0}, ValueError, "top_p"),
        ({"seed": 0, "top_p": 1.5}, ValueError, "top_p"),
        ({"seed": 0, "top_p": math.nan}, ValueError, "top_p"),
        ({"seed": 0, "top_k": 0}, ValueError, "top_k"),
        ({"seed": 0, "temperature": 0.0}, ValueError, "temperature"),
        ({"seed": 0, "index": torch.zeros(2, dtype=torch.int64)}, ValueError, "index"),
        ({"seed": 0, "index": torch.zeros(3)}, TypeError, "index"),
        ({"seed": 0, "backend": "cuda"}, ValueError, "available"),
    ],
)
def test_errors(arguments, error, words) -> None:
    with pytest.raises(error, match=words):
        kernels.sample(torch.zeros(2, 3, 4), [1, 1], **arguments)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_an_undefined_row_is_an_error_that_names_it(value) -> None:
    logits = torch.zeros(2, 3, 4)
    logits[1, 2] = value
    with pytest.raises(ValueError, match="row 2"):
        kernels.sample(logits, [1, 1], seed=0)
    assert kernels.sample(logits, [1, 0], seed=0).shape == (3,)
