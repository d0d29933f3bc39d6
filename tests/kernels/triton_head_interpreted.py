"""The fused LM head in Triton's interpreter, on the CPU. Run by ``test_triton.py`` in a process of its own."""

from __future__ import annotations

import math
import os
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ensemw2s import kernels
from ensemw2s.kernels import triton_head_tiles, triton_lm_head
from ensemw2s.kernels.gpu import backend as triton_backend
from ensemw2s.kernels.gpu.configs import HeadConfig

if os.environ.get("TRITON_INTERPRET") != "1":
    raise RuntimeError("these tests need TRITON_INTERPRET=1")

# the interpreter is numpy, which warns where IEEE arithmetic is meant
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.usefixtures("patched_once_a_launch"),
]
RULES = ["mixture", "product", "vote"]
FLOATS = ("logprob", "target_logprob", "logsumexp", "expert_target_logprob", "topk_logprob")
SMALL = HeadConfig(16, 32, 16, 4, 1)
HEADS = triton_lm_head.choose_head

cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32),
        "widths": st.lists(st.sampled_from([1, 5, 16, 32, 40]), min_size=1, max_size=4),
        "same_width": st.booleans(),
        "rows": st.sampled_from([0, 1, 2, 4]),
        "vocabulary": st.one_of(st.just(1), st.integers(1, 90)),
        "dtype": st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
        "rule": st.sampled_from(RULES),
        "scale": st.sampled_from([1.0, 1.0, 0.0, 6.0]),
        "special": st.sampled_from([None, None, "nan", "masked", "nothing left"]),
        "temperature": st.sampled_from([1.0, 1.0, 0.6, 7.0, 1e30]),
        "alphas": st.lists(st.sampled_from([0.0, 1.0, 1.0, 0.3, 1e-9]), min_size=4, max_size=4),
        "bias": st.booleans(),
        "strided": st.booleans(),
    }
)


@pytest.fixture(autouse=True)
def narrow_tiles():
    with mock.patch.object(triton_lm_head, "choose_head", return_value=SMALL):
        yield


def made(case) -> tuple[list, list, list]:
    """Hidden states, heads and biases."""
    generator = torch.Generator().manual_seed(case["seed"])
    vocabulary, rows, dtype = case["vocabulary"], case["rows"], case["dtype"]
    hidden, weights, biases = [], [], []
    for k, width in enumerate(case["widths"]):
        columns = case["widths"][0] if case["same_width"] else width
        weight = torch.randn(vocabulary, columns, generator=generator) * case["scale"]
        hidden.append(torch.randn(rows, columns, generator=generator).to(dtype))
        weights.append((weight.T.contiguous().T if case["strided"] else weight).to(dtype))
        biases.append(torch.randn(vocabulary, generator=generator).to(dtype) if case["bias"] and k != 1 else None)
    if case["special"] == "nan" and rows:
        hidden[-1][0, 0] = math.nan
    elif case["special"] in ("masked", "nothing left"):
        masked = torch.rand(vocabulary, generator=generator) < (0.5 if case["special"] == "masked" else 2.0)
        biases[-1] = torch.zeros(vocabulary).masked_fill_(masked, -math.inf).to(dtype)
    return hidden, weights, biases


def logits_of(hidden, weights, biases) -> list[torch.Tensor]:
    products = (h.double() @ w.double().T for h, w in zip(hidden, weights, strict=True))
    return [x if b is None else x + b.double() for x, b in zip(products, biases, strict=True)]


def tolerance(hidden, weights, temperature: float) -> float:
    """float32 sums of products, and what a temperature makes of their error."""
    products = (h.double().abs() @ w.double().abs().T for h, w in zip(hidden, weights, strict=True))
    largest = max((float(x.nan_to_num(0.0).max()) for x in products if x.numel()), default=0.0)
    return (1e-5 + 2e-6 * largest) * max(1.0, 1.0 / temperature)


def assert_same_tokens(ours, theirs, values, allowed: float) -> None:
    """Tokens may differ where their values ``[…, V]`` are closer than rounding can tell."""
    assert (ours.dtype, ours.shape) == (torch.int64, theirs.shape)
    if ours.ndim < values.ndim:
        ours, theirs = ours[..., None], theirs[..., None]
    a, b = values.gather(-1, ours), values.gather(-1, theirs)
    assert bool(((ours == theirs) | ((a - b).abs() <= allowed)).all()), (ours, theirs)


def check(case, top_k: int | None = None) -> None:
    hidden, weights, biases = made(case)
    count, rule = len(hidden), case["rule"]
    alphas = case["alphas"][:count] if any(case["alphas"][:count]) else [1.0] * count
    targets = torch.randint(0, case["vocabulary"], (case["rows"],), generator=torch.Generator().manual_seed(1))
    options = {"rule": rule, "temperature": case["temperature"], "targets": targets, "top_k": top_k}
    found = kernels.combine_from_hidden(hidden, weights, alphas, biases=biases, backend="triton", **options)
    logits = logits_of(hidden, weights, biases)
    expected = kernels.combine(logits, alphas, backend="reference", **options)
    allowed = tolerance(hidden, weights, case["temperature"])
    for name in FLOATS:
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert (ours is None) == (theirs is None), name
        if ours is not None:
            assert ours.dtype == torch.float32
            torch.testing.assert_close(ours.double(), theirs, rtol=1e-5, atol=allowed, equal_nan=True)
    # equal shares of votes are ordered by the mixture, and so are the tokens that nobody chose
    order = {"rule": "mixture" if rule == "vote" else rule, "return_probs": True, "backend": "reference"}
    values = kernels.combine(logits, alphas, **order).log_probs
    assert_same_tokens(found.argmax, expected.argmax, values, allowed)
    assert_same_tokens(found.expert_argmax, expected.expert_argmax, torch.stack(logits), allowed)
    assert found.log_probs is None
    if top_k is not None:
        assert_same_tokens(found.topk_ids, expected.topk_ids, values, allowed)
        assert all(len(set(row)) == len(row) for row in found.topk_ids.tolist())


FEW = settings(
    max_examples=14,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # shrinking takes minutes here
)
PLAIN = {"seed": 5, "widths": [16, 40], "same_width": False, "rows": 3, "vocabulary": 75, "dtype": torch.float32}
PLAIN |= {"scale": 1.0, "special": None, "temperature": 1.0, "alphas": [1.0, 0.3, 1.0, 1.0], "bias": True}
PLAIN |= {"strided": False}


@FEW
@given(case=cases)
def test_head_agrees_with_float64(case) -> None:
    check(case)


@pytest.mark.slow
@settings(FEW, max_examples=140)
@given(case=cases, top_k=st.sampled_from([None, None, 1, 2, 40, 1000]))
def test_head_agrees_with_float64_at_length(case, top_k) -> None:
    check(case, top_k)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_head_with_the_tiles_of_the_library(rule) -> None:
    case = {**PLAIN, "rule": rule, "rows": 40, "vocabulary": 1000, "widths": [64, 64, 96], "dtype": torch.bfloat16}
    with mock.patch.object(triton_lm_head, "choose_head", HEADS):
        check(case, top_k=9)


@pytest.mark.parametrize("rule", RULES)
def test_head_top_k(rule) -> None:
    check({**PLAIN, "rule": rule, "rows": 1}, top_k=2)


def test_head_top_k_of_undefined_and_masked_rows() -> None:
    check({**PLAIN, "rule": "mixture", "special": "nan", "rows": 2, "vocabulary": 40}, top_k=3)
    few = {**PLAIN, "widths": [16], "rule": "mixture", "special": "masked", "rows": 1, "vocabulary": 40}
    check(few, top_k=35)


@pytest.mark.parametrize("rule", RULES)
def test_head_ties_go_to_the_lowest_index_across_tiles(rule) -> None:
    hidden, weights, _ = made({**PLAIN, "rule": rule})
    for h, weight in zip(hidden, weights, strict=True):
        h[:] = 1.0
        weight[70] = weight[40] = weight[3] = 2.0  # the same most probable token in three tiles
    result = kernels.combine_from_hidden(hidden, weights, [1, 2], rule=rule, backend="triton")
    assert result.argmax.tolist() == [3] * 3
    assert result.expert_argmax.tolist() == [[3] * 3] * 2


def test_head_multiplies_again_only_the_tiles_that_can_win() -> None:
    hidden, weights, _ = made({**PLAIN, "rule": "mixture", "rows": 2, "vocabulary": 160})
    for h, weight in zip(hidden, weights, strict=True):
        weight[100] = 9.0 * h[0]
        weight[20] = 9.0 * h[1]
    formed = []
    original = triton_head_tiles.logits_of

    def counting(*arguments, **named):
        formed.append(1)
        return original(*arguments, **named)

    with mock.patch.object(triton_head_tiles, "logits_of", counting):
        result = kernels.combine_from_hidden(hidden, weights, [1, 1], backend="triton")
    assert result.argmax.tolist() == [100, 20]
    assert len(formed) == 2 * (5 + 2)  # two experts: five tiles once, and then two


def test_head_never_holds_the_logits() -> None:
    case = {**PLAIN, "rule": "mixture", "rows": 3, "vocabulary": 500, "temperature": 0.7}
    hidden, weights, biases = made(case)
    sizes = []
    original = triton_lm_head.HeadProblem.empty

    def noting(self, *shape, **named):
        sizes.append(math.prod(shape))
        return original(self, *shape, **named)

    with mock.patch.object(triton_lm_head.HeadProblem, "empty", noting):
        kernels.combine_from_hidden(hidden, weights, [1, 1], biases=biases, temperature=0.7, backend="triton")
    assert max(sizes) <= 2 * 3 * -(-500 // SMALL.block)


def test_head_in_pieces_changes_nothing(monkeypatch) -> None:
    hidden, weights, biases = made({**PLAIN, "rule": "mixture", "rows": 17, "vocabulary": 40})
    options = {"biases": biases, "targets": torch.arange(17), "backend": "triton"}
    whole = kernels.combine_from_hidden(hidden, weights, [1, 2], **options)
    monkeypatch.setattr(triton_backend, "_HEAD_TILES", 1)
    pieces = kernels.combine_from_hidden(hidden, weights, [1, 2], **options)
    for name in whole.__dataclass_fields__:
        ours, theirs = getattr(whole, name), getattr(pieces, name)
        assert ours is theirs is None or torch.equal(ours, theirs), name


def test_head_ignored_expert_may_hold_anything() -> None:
    hidden, weights, _ = made({**PLAIN, "rule": "mixture"})
    spoilt, alphas = [torch.full_like(hidden[0], math.nan), *hidden], [0.0, 1.0, 2.0]
    for rule in RULES:
        clean = kernels.combine_from_hidden(hidden, weights, alphas[1:], rule=rule, backend="triton")
        same = kernels.combine_from_hidden(spoilt, [weights[0], *weights], alphas, rule=rule, backend="triton")
        assert torch.equal(same.argmax, clean.argmax)
        assert torch.equal(same.logprob, clean.logprob)
        assert torch.equal(same.logsumexp[1:], clean.logsumexp)
        assert bool(same.logsumexp[0].isnan().all())


@pytest.mark.parametrize("types", [(torch.float64, torch.float64), (torch.float32, torch.bfloat16)])
def test_head_of_other_types_takes_rows_of_logits(types) -> None:
    hidden, weights, _ = made({**PLAIN, "rule": "mixture", "vocabulary": 40})
    hidden, weights = ([x.to(t) for x, t in zip(xs, types, strict=True)] for xs in (hidden, weights))
    with mock.patch.object(triton_backend.TritonBackend, "combine_heads", side_effect=AssertionError):
        found = kernels.combine_from_hidden(hidden, weights, [1, 1], backend="triton")
    expected = kernels.combine(logits_of(hidden, weights, [None, None]), [1, 1], backend="reference")
    torch.testing.assert_close(found.logprob.double(), expected.logprob, rtol=2e-2, atol=2e-2)
