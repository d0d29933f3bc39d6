"""The stated tolerance at every temperature, scale, size, rule and data type, against extended precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from ensemw2s import kernels

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
RULES = ["mixture", "product", "vote"]
Wide = np.longdouble

cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32),
        "experts": st.integers(1, 4),
        "vocabulary": st.sampled_from([2, 600, 2048, 2049, 3000, 20_000]),
        "scale": st.sampled_from([0.0, 1e-3, 1.0, 5.0, 100.0, 1e4, 1e9, 3e37, "largest"]),
        "temperature": st.sampled_from([1.0, 0.9, 0.3, 0.05, 0.02, 1e-3, 1e-5, 1e-7, 2.0, 1e3, 1e9]),
        "rule": st.sampled_from(RULES),
        "dtype": st.sampled_from(DTYPES),
        "alphas": st.sampled_from([[1, 1, 1, 1], [0.1, 3, 1, 0.7], [1, 1e-6, 1, 2]]),
        "special": st.sampled_from([None, None, "masked", "one-hot", "peaked"]),
    }
)


def made(case: dict) -> torch.Tensor:
    rng = np.random.default_rng(case["seed"])
    limit = min(torch.finfo(case["dtype"]).max, torch.finfo(torch.float32).max)
    x = rng.standard_normal((case["experts"], 2, case["vocabulary"]))
    scaled = np.clip(x, -1, 1) * limit if case["scale"] == "largest" else x * case["scale"]
    x = np.clip(scaled, -limit, limit)
    if case["special"] == "masked":
        x[:, :, 1::3] = -np.inf
    elif case["special"] == "one-hot":
        x[:, :, 1:] = -np.inf
    elif case["special"] == "peaked":
        x[..., case["vocabulary"] // 2] = x.max() + 30.0
    return torch.from_numpy(np.clip(x, -np.inf, limit)).to(case["dtype"])


def log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def truth(logits: np.ndarray, alphas: np.ndarray, rule: str, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Log-probabilities ``[N, V]``, and what enters them before temperature, which its rounding errors go with."""
    share = alphas.astype(Wide) / alphas.astype(Wide).sum()
    own = log_softmax(logits.astype(Wide))
    with np.errstate(divide="ignore", invalid="ignore"):
        if rule == "product":
            combined = np.tensordot(share, own, axes=(0, 0))
            size = np.abs(combined) + np.tensordot(share, np.abs(own - own.max(axis=-1, keepdims=True)), axes=(0, 0))
        elif rule == "mixture":
            combined = np.logaddexp.reduce(own + np.log(share)[:, None, None], axis=0)
            size = np.abs(combined)
        else:
            votes = np.zeros(logits.shape[1:], Wide)
            for k in range(len(share)):
                votes[np.arange(len(votes)), logits[k].argmax(axis=-1)] += share[k]
            combined, size = np.log(votes), np.zeros(logits.shape[1:])
        tempered = (combined - combined.max(axis=-1, keepdims=True)) / Wide(temperature)
        return log_softmax(tempered), np.where(np.isfinite(size), size, 0.0)


@pytest.mark.parametrize("backend", ["native", "reference"])
@settings(max_examples=120, deadline=None, derandomize=True, phases=[Phase.generate])
@given(case=cases)
def test_results_are_within_the_stated_tolerance(backend, case) -> None:
    logits = made(case)
    alphas = case["alphas"][: case["experts"]]
    targets = torch.tensor([0, case["vocabulary"] - 1])
    options = {"rule": case["rule"], "temperature": case["temperature"], "backend": backend}
    found = kernels.combine(logits, alphas, targets=targets, return_probs=True, top_k=5, **options)
    right, size = truth(logits.double().numpy(), np.array(alphas, float), case["rule"], case["temperature"])
    with np.errstate(over="ignore"):
        stored = right.astype(np.float32)
    ours = found.log_probs.double().numpy()
    absolute = 1e-7 if case["vocabulary"] <= 2048 or backend == "reference" else 2.5e-7
    best = size[np.arange(2), right.argmax(axis=-1)][:, None]  # the normaliser is relative to the best token
    with np.errstate(over="ignore"):
        allowed = 2.5e-7 * np.abs(right) + absolute + 1e-15 / case["temperature"] * (1 + size + best).astype(float)
    finite = np.isfinite(stored)
    assert np.array_equal(ours[~finite], stored[~finite]) or case["scale"] in (3e37, "largest")
    with np.errstate(invalid="ignore"):
        assert np.all((np.abs(ours - right) <= allowed)[finite]), np.max((np.abs(ours - right) - allowed)[finite])
    assert not bool((found.log_probs > 0).any())
    for name in ("logprob", "target_logprob", "topk_logprob", "expert_target_logprob"):
        assert not bool((getattr(found, name) > 0).any()), name
    assert torch.equal(found.target_logprob, found.log_probs.gather(1, targets[:, None])[:, 0])
    assert torch.equal(found.topk_logprob, found.log_probs.gather(1, found.topk_ids))


@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("scale", [100.0, 3e37, 3.4e38])
def test_products_know_ties_at_any_scale(backend, scale) -> None:
    """Two tokens of equal sums, and one far below: half each, whatever cancels in the sums."""
    logits = torch.tensor([[[1.0, -1.0, -1.0]], [[-1.0, 1.0, -1.0]]]) * scale
    found = kernels.combine(logits, [1, 1], rule="product", return_probs=True, backend=backend)
    half = -float(np.log(2.0))
    np.testing.assert_allclose(found.log_probs[0, :2], [half, half], rtol=2e-7)
    assert float(found.log_probs[0, 2]) <= -0.9 * scale
    assert found.argmax.tolist() == [0]


def test_products_of_float64_reach_its_ends() -> None:
    largest = torch.finfo(torch.float64).max
    logits = torch.tensor([[[1.0, -1.0, -1.0]], [[-1.0, 1.0, -1.0]]], dtype=torch.float64) * largest
    found = kernels.combine(logits, [1, 1], rule="product", return_probs=True)
    np.testing.assert_allclose(found.log_probs[0], [-np.log(2.0), -np.log(2.0), -largest], rtol=1e-15)


def test_one_hot_experts_are_certain() -> None:
    logits = torch.full((3, 1, 5000), -torch.inf)
    logits[:, 0, 17] = 3.0
    for alphas in ([0.3, 0.3, 0.4], [1, 2, 3], [1e-9, 1, 0.1]):
        for rule in RULES:
            for backend in ("native", "reference"):
                for dtype in (torch.float32, torch.float64):
                    given_logits = logits.to(dtype)
                    found = kernels.combine(
                        given_logits, alphas, rule=rule, return_probs=True, top_k=2, backend=backend
                    )
                    assert -1e-7 <= float(found.logprob) <= 0.0
                    assert not bool((found.log_probs > 0).any())
