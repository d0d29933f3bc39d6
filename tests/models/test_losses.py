from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemw2s.errors import ConfigError, RunFailedError
from ensemw2s.models.training.losses import (
    IGNORED,
    LossConfig,
    StudentLoss,
    hardened,
    logconf_nll,
    rce_nll,
    soft_nll,
    token_nll,
    training_loss,
)
from ensemw2s.registry import STUDENT_LOSSES


def log_softmax(x: np.ndarray) -> np.ndarray:
    """Independent reference in extended precision."""
    y = np.asarray(x, dtype=np.longdouble)
    y = y - y.max(axis=-1, keepdims=True)
    return (y - np.log(np.exp(y).sum(axis=-1, keepdims=True))).astype(np.float64)


def top_k(rng: np.random.Generator, rows: int, vocabulary: int, k: int) -> tuple[np.ndarray, np.ndarray]:
    logp = log_softmax(rng.normal(size=(rows, vocabulary)) * 2)
    ids = np.argsort(-logp, axis=1)[:, :k]
    return ids, np.take_along_axis(logp, ids, axis=1)


def numerical_gradient(function, x: np.ndarray, step: float = 1e-6) -> np.ndarray:
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape):
        above, below = x.copy(), x.copy()
        above[i] += step
        below[i] -= step
        gradient[i] = (function(above) - function(below)) / (2 * step)
    return gradient


def test_xent_by_hand() -> None:
    logits = torch.tensor([[0.0, 0.0], [np.log(3.0), 0.0]], dtype=torch.float64)
    loss = training_loss(LossConfig(), logits, torch.tensor([0, 1]), torch.tensor([2.0, 0.5]))
    assert loss.item() == pytest.approx(2 * np.log(2) + 0.5 * np.log(4), rel=1e-12)


def test_xent_is_a_sum_and_ignores_marked_rows() -> None:
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(5, 7))
    labels = np.array([3, IGNORED, 0, 6, IGNORED])
    weights = np.array([1.0, 9.0, 0.0, 2.5, 9.0])
    expected = sum(
        -w * log_softmax(logits)[i, y] for i, (y, w) in enumerate(zip(labels, weights, strict=True)) if y >= 0
    )
    got = training_loss(LossConfig(), *(torch.from_numpy(a) for a in (logits, labels, weights)))
    assert got.item() == pytest.approx(expected, rel=1e-12)
    twice = training_loss(LossConfig(), *(torch.from_numpy(np.concatenate([a, a])) for a in (logits, labels, weights)))
    assert twice.item() == pytest.approx(2 * expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_summed_in_float32(dtype: torch.dtype) -> None:
    logits = torch.randn(4, 50).to(dtype)
    labels = torch.tensor([1, 2, 3, 4])
    loss = training_loss(LossConfig(), logits, labels, torch.ones(4))
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(-log_softmax(logits.double().numpy())[range(4), labels].sum(), rel=1e-5)


@given(seed=st.integers(0, 2**31), rows=st.integers(1, 4), vocabulary=st.integers(2, 9), k=st.integers(1, 9))
@settings(max_examples=40, deadline=None)
def test_soft_is_the_cross_entropy_over_tokens_and_one_bucket(seed: int, rows: int, vocabulary: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    k = min(k, vocabulary)
    logits = rng.normal(size=(rows, vocabulary)) * 3
    ids, logp = top_k(rng, rows, vocabulary, k)
    q = np.exp(log_softmax(logits))
    expected = np.zeros(rows)
    for r in range(rows):
        p = np.exp(logp[r])
        expected[r] = -(p * np.log(q[r, ids[r]])).sum()
        rest = np.delete(q[r], ids[r]).sum()
        if rest > 0:
            expected[r] -= max(0.0, 1 - p.sum()) * np.log(rest)
    got = soft_nll(*map(torch.from_numpy, (logits, np.zeros(rows, dtype=np.int64), ids, logp)))
    np.testing.assert_allclose(got.numpy(), expected, rtol=1e-9, atol=1e-12)


def test_soft_gradient_by_finite_differences() -> None:
    rng = np.random.default_rng(3)
    logits = rng.normal(size=(3, 6))
    ids, logp = top_k(rng, 3, 6, 2)
    ids[1, 1], logp[1, 1] = -1, -np.inf  # a row with one candidate
    ids[2], logp[2] = -1, -np.inf  # a row with its hard label only
    labels = torch.tensor([0, 1, 4])

    def loss(x: np.ndarray) -> float:
        return soft_nll(torch.from_numpy(x), labels, torch.from_numpy(ids), torch.from_numpy(logp)).sum().item()

    x = torch.from_numpy(logits).requires_grad_()
    soft_nll(x, labels, torch.from_numpy(ids), torch.from_numpy(logp)).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), numerical_gradient(loss, logits), rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(loss(logits), loss(logits + 5.0), rtol=1e-12)  # invariant to a shift


def test_soft_with_all_tokens_named_has_no_rest_and_a_finite_gradient() -> None:
    rng = np.random.default_rng(5)
    ids, logp = top_k(rng, 2, 4, 4)
    x = torch.from_numpy(rng.normal(size=(2, 4))).requires_grad_()
    losses = soft_nll(x, torch.zeros(2, dtype=torch.int64), torch.from_numpy(ids), torch.from_numpy(logp))
    losses.sum().backward()
    p = np.zeros((2, 4))
    np.put_along_axis(p, ids, np.exp(logp), axis=1)
    np.testing.assert_allclose(losses.detach().numpy(), -(p * log_softmax(x.detach().numpy())).sum(axis=1), rtol=1e-9)
    np.testing.assert_allclose(x.grad.numpy(), np.exp(log_softmax(x.detach().numpy())) - p, rtol=1e-7, atol=1e-9)


def test_soft_rest_is_stable_when_the_student_is_sure() -> None:
    """1 − Σ q_k would be 0 in float32 here; the bucket's log-probability is about −60."""
    logits = torch.zeros(1, 100)
    logits[0, 7] = 65.0
    losses = soft_nll(logits, torch.tensor([7]), torch.tensor([[7]]), torch.tensor([[np.log(0.9)]]))
    assert losses.item() == pytest.approx(0.1 * (65 - np.log(99)), rel=1e-4)


def test_soft_one_hot_equals_xent_and_ignores_marked_rows() -> None:
    logits = torch.randn(3, 8, dtype=torch.float64)
    labels = torch.tensor([2, 5, IGNORED])
    losses = soft_nll(logits, labels, labels.clamp(min=0)[:, None], torch.zeros(3, 1))
    torch.testing.assert_close(losses, token_nll(logits, labels))
    assert losses[2] == 0


def test_soft_needs_distributions() -> None:
    with pytest.raises(ValueError, match="soft"):
        training_loss(LossConfig("soft"), torch.zeros(1, 2), torch.tensor([0]), torch.ones(1))


def test_an_unknown_loss_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"Unknown student loss 'logconv' .did you mean 'logconf'"):
        training_loss(LossConfig("logconv"), torch.zeros(1, 2), torch.tensor([0]), torch.ones(1))


def test_a_loss_of_another_shape_or_with_unknown_needs_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    mean = StudentLoss(lambda rows: token_nll(rows.logits, rows.labels).mean())
    monkeypatch.setattr(STUDENT_LOSSES, "_added", {"mean": mean})
    with pytest.raises(RunFailedError, match=r"'mean' gave shape \[\], not \[1\]"):
        training_loss(LossConfig("mean"), torch.zeros(1, 2), torch.tensor([0]), torch.ones(1))
    with pytest.raises(ValueError, match="expected some of"):
        StudentLoss(mean.nll, needs=frozenset({"softness"}))


def test_logconf_by_hand_and_gradient() -> None:
    rng = np.random.default_rng(11)
    logits = rng.normal(size=(4, 5))
    labels = torch.tensor([0, 1, 2, IGNORED])
    own = logits.argmax(axis=1)
    logq = log_softmax(logits)
    expected = [-0.7 * logq[r, labels[r]] - 0.3 * logq[r, own[r]] for r in range(3)] + [0.0]
    np.testing.assert_allclose(logconf_nll(torch.from_numpy(logits), labels, 0.3).numpy(), expected, rtol=1e-12)

    def loss(x: np.ndarray) -> float:
        fixed = log_softmax(x)  # own prediction held fixed, as the gradient must see it
        return sum(-0.7 * fixed[r, labels[r]] - 0.3 * fixed[r, own[r]] for r in range(3))

    x = torch.from_numpy(logits).requires_grad_()
    logconf_nll(x, labels, 0.3).sum().backward()
    np.testing.assert_allclose(x.grad.numpy(), numerical_gradient(loss, logits), rtol=1e-6, atol=1e-8)


def test_hardened_at_the_class_balanced_threshold() -> None:
    """The student always prefers token 3, but half of the weak labels are token 5."""
    logits = torch.zeros(6, 8)
    logits[:, 3] = torch.tensor([2.0, 9.0, 3.0, 8.0, 4.0, 0.0])
    logits[4, 1] = 50.0  # not a class: odds are taken between the two classes alone
    labels = torch.tensor([3, 5, 3, 5, 5, 0])  # the last row is no class row (end-of-sequence)
    assert hardened(logits, labels).tolist() == [3, 3, 3, 3, 1, 0]
    assert hardened(logits, labels, (3, 5)).tolist() == [5, 3, 5, 3, 5, 0]


def test_hardened_ties_go_to_earlier_rows() -> None:
    assert hardened(torch.zeros(4, 3), torch.tensor([1, 2, 2, 1]), (1, 2)).tolist() == [1, 1, 2, 2]


def test_logconf_warms_up_linearly_without_a_jump() -> None:
    config = LossConfig("logconf", coefficient=0.6, warmup_steps=4)
    assert [config.coefficient_at(s) for s in range(7)] == pytest.approx([0, 0.15, 0.3, 0.45, 0.6, 0.6, 0.6])
    assert LossConfig("logconf", coefficient=0.6).coefficient_at(0) == 0.6
    logits, labels = torch.randn(2, 4), torch.tensor([1, 2])
    at_start = training_loss(config, logits, labels, torch.ones(2), step=0)
    torch.testing.assert_close(at_start, token_nll(logits, labels).sum())


@pytest.mark.parametrize("bad", [{"coefficient": 1.5}, {"coefficient": -0.1}, {"warmup_steps": -1}])
def test_loss_config_is_checked(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="coefficient"):
        LossConfig("logconf", **bad)


def reverse_by_hand(x: np.ndarray, labels: np.ndarray, share: float) -> list[float]:
    """``(1 − c)·CE + c·RCE`` with ``RCE = −Σ_v q(v)·log p(v)`` as a sum over the vocabulary, ``log 0 := −4``."""
    q = np.exp(log_softmax(x))
    log_p = np.full_like(x, -4.0)
    log_p[np.arange(len(x)), labels.clip(min=0)] = 0.0
    both = (1 - share) * -np.log(q[np.arange(len(x)), labels.clip(min=0)]) - share * (q * log_p).sum(axis=1)
    return [0.0 if label == IGNORED else float(loss) for label, loss in zip(labels, both, strict=True)]


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_reverse_cross_entropy_by_hand_and_gradient(share: float) -> None:
    rng = np.random.default_rng(12)
    logits, labels = rng.normal(size=(5, 6)) * 2, np.array([0, 5, 2, IGNORED, 1])
    x = torch.from_numpy(logits).requires_grad_()
    config = LossConfig("rce", coefficient=share)
    got = training_loss(config, x, torch.from_numpy(labels), torch.ones(5, dtype=torch.float64))
    assert got.item() == pytest.approx(sum(reverse_by_hand(logits, labels, share)), rel=1e-12)
    got.backward()
    expected = numerical_gradient(lambda y: sum(reverse_by_hand(y, labels, share)), logits)
    np.testing.assert_allclose(x.grad.numpy(), expected, rtol=1e-6, atol=1e-8)


def test_reverse_cross_entropy_of_labels_that_are_impossible_or_certain() -> None:
    """At most ``−A`` however unlikely the label is, 0 where it is certain; float16 logits do not overflow."""
    logits = torch.tensor([[-3e4, 3e4, 0.0], [-3e4, 3e4, 0.0]], dtype=torch.float16)
    assert rce_nll(logits, torch.tensor([0, 1]), 1.0).tolist() == [4.0, 0.0]
    x = logits.float().requires_grad_()
    rce_nll(x, torch.tensor([0, 1]), 1.0).sum().backward()
    assert x.grad.abs().max() == 0.0


def test_reverse_cross_entropy_without_its_share_is_cross_entropy() -> None:
    logits, labels = torch.randn(4, 7), torch.tensor([3, 0, IGNORED, 6])
    assert torch.equal(rce_nll(logits, labels, 0.0), token_nll(logits, labels))
