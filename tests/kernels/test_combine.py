"""``combine`` against the definitions, on every rule, data type and awkward input."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensemw2s import kernels

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64]
RULES = ["mixture", "product", "vote"]
# relative and absolute error against the truth; float32 results are rounded from a float64 computation
TOLERANCE = {torch.float32: (2.5e-7, 1e-7), torch.float64: (1e-11, 1e-11)}

cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32),
        "experts": st.integers(1, 5),
        "rows": st.integers(0, 4),
        "vocabulary": st.one_of(st.just(1), st.integers(1, 300)),
        "dtype": st.sampled_from(DTYPES),
        "rule": st.sampled_from(RULES),
        "kind": st.sampled_from(["normal", "peaked", "huge", "largest", "tied", "equal", "one-hot"]),
        "specials": st.lists(st.sampled_from(["nan", "+inf", "-inf", "-inf row"]), max_size=2),
        "temperature": st.sampled_from([1.0, 1.0, 0.7, 5e-324, 1e-308, 1e-6, 30.0, 1e300]),
        "alphas": st.lists(st.sampled_from([0.0, 1.0, 1.0, 0.3, 2.5, 1e-9, 1e200]), min_size=5, max_size=5),
        "layout": st.sampled_from(["stacked", "list", "transposed", "strided"]),
        "top_k": st.sampled_from([None, 1, 3, 16, 1000]),
    }
)


def laid_out(logits: torch.Tensor, layout: str) -> torch.Tensor | list[torch.Tensor]:
    if layout == "list":
        return list(logits)
    if layout == "transposed":
        return logits.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "strided":
        return torch.stack([logits, torch.full_like(logits, math.nan)], dim=-1)[..., 0]
    return logits


def close(actual: float, expected: float, dtype: torch.dtype) -> bool:
    with np.errstate(over="ignore"):
        truth = float(expected) if dtype == torch.float64 else float(np.float32(expected))
    if math.isnan(truth) or math.isinf(truth):
        return actual == truth or (math.isnan(actual) and math.isnan(truth))
    relative, absolute = TOLERANCE[dtype]
    return abs(actual - truth) <= relative * abs(truth) + absolute


def first_twin(logits: np.ndarray, active: list[int], token: int) -> int:
    """The lowest id whose logits equal those of ``token`` in every expert that counts."""
    same = (logits[active] == logits[active][:, [token]]).all(axis=0)
    return int(np.flatnonzero(same)[0])


def check_ranking(result, n, row, plain, logits, active, rule, dtype) -> None:
    """``row`` has the temperature, ``plain`` is without it; shares of the vote rule are compared to 1e-6."""
    token = int(result.argmax[n])
    untempered = np.exp(plain.log_probs) if rule == "vote" else plain.log_probs
    slack = 2e-6 if rule == "vote" else 1e-6 * (1 + abs(float(untempered.max())))
    assert untempered[token] >= untempered.max() - slack
    assert close(float(result.logprob[n]), row.log_probs[token], dtype)
    if rule != "vote":
        assert token == first_twin(logits, active, token)
        if len(active) == 1:
            assert token == int(np.argmax(logits[active[0]]))
    if result.topk_ids is not None:
        ids = result.topk_ids[n].tolist()
        assert ids[0] == token
        assert len(set(ids)) == len(ids)
        kept = [untempered[i] for i in ids]
        last = [slack + (2.5e-7 * abs(a) if np.isfinite(a) else 0.0) for a in kept]  # what differs by less is a tie
        assert all(b <= a + s or a == b for (a, b), s in zip(itertools.pairwise(kept), last[:-1], strict=True))
        left_out = np.delete(untempered, ids)
        assert left_out.size == 0 or kept[-1] >= left_out.max() - last[-1]
        assert all(close(float(result.topk_logprob[n, j]), row.log_probs[i], dtype) for j, i in enumerate(ids))
        if rule != "vote":
            for a in range(len(ids)):  # twins appear in the order of their ids, none skipped
                first = first_twin(logits, active, ids[a])
                assert first == ids[a] or first in ids[:a]


@pytest.mark.parametrize("backend", ["native", "reference"])
@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(case=cases)
def test_agrees_with_the_definitions(backend, case, oracle, make_logits) -> None:
    shape = (case["experts"], case["rows"], case["vocabulary"])
    logits = make_logits(case["seed"], shape, case["dtype"], case["kind"], case["specials"])
    alphas = case["alphas"][: case["experts"]]
    if not any(alphas):
        alphas[0] = 1.0
    rng = np.random.default_rng(case["seed"])
    targets = torch.from_numpy(rng.integers(0, case["vocabulary"], case["rows"]))
    result = kernels.combine(
        laid_out(logits, case["layout"]),
        alphas,
        rule=case["rule"],
        temperature=case["temperature"],
        targets=targets,
        return_probs=True,
        top_k=case["top_k"],
        backend=backend,
    )
    dtype = torch.float64 if case["dtype"] == torch.float64 else torch.float32
    check_types(result, shape, dtype, case["top_k"])
    wide = logits.double().numpy()
    scale = np.asarray(alphas) / max(alphas)
    active = [k for k in range(case["experts"]) if scale[k] > 0]
    for n in range(case["rows"]):
        row = oracle(wide[:, n], scale, case["rule"], case["temperature"])
        check_experts(result, n, row, wide[:, n], int(targets[n]), dtype)
        if row.log_probs is None:
            assert int(result.argmax[n]) == 0
            assert math.isnan(result.logprob[n])
            assert math.isnan(result.target_logprob[n])
            assert bool(result.log_probs[n].isnan().all())
            if result.topk_ids is not None:
                assert result.topk_ids[n].tolist() == list(range(result.topk_ids.shape[1]))
                assert bool(result.topk_logprob[n].isnan().all())
            continue
        assert all(close(float(a), b, dtype) for a, b in zip(result.log_probs[n], row.log_probs, strict=True))
        assert not bool((result.log_probs[n] > 0).any())
        assert close(float(result.target_logprob[n]), row.log_probs[int(targets[n])], dtype)
        plain = oracle(wide[:, n], scale, case["rule"], 1.0)
        check_ranking(result, n, row, plain, wide[:, n], active, case["rule"], dtype)


def check_types(result, shape, dtype, top_k) -> None:
    experts, rows, vocabulary = shape
    count = None if top_k is None else min(top_k, vocabulary)
    expected = {
        "argmax": ((rows,), torch.int64),
        "logprob": ((rows,), dtype),
        "target_logprob": ((rows,), dtype),
        "expert_argmax": ((experts, rows), torch.int64),
        "logsumexp": ((experts, rows), dtype),
        "expert_target_logprob": ((experts, rows), dtype),
        "log_probs": ((rows, vocabulary), dtype),
        "topk_ids": ((rows, count), torch.int64),
        "topk_logprob": ((rows, count), dtype),
    }
    for name, (size, kind) in expected.items():
        tensor = getattr(result, name)
        if name.startswith("topk") and top_k is None:
            assert tensor is None
            continue
        assert (tuple(tensor.shape), tensor.dtype) == (size, kind), name


def check_experts(result, n, row, logits, target, dtype) -> None:
    for k, own in enumerate(row.experts):
        total = float(result.logsumexp[k, n])
        if own is None:
            assert int(result.expert_argmax[k, n]) == 0
            assert math.isnan(result.expert_target_logprob[k, n])
            largest = float(np.max(logits[k]))  # NaN where there is one
            assert total == largest or (math.isnan(total) and math.isnan(largest))
            continue
        assert int(result.expert_argmax[k, n]) == int(np.argmax(logits[k]))
        assert close(float(result.expert_target_logprob[k, n]), own[target], dtype)
        peak = np.longdouble(logits[k].max())
        assert close(total, peak + np.log(np.exp(logits[k].astype(np.longdouble) - peak).sum()), dtype)


def test_ignored_expert_may_hold_anything() -> None:
    logits = torch.randn(3, 5, 40, generator=torch.Generator().manual_seed(1))
    spoilt = torch.cat([logits, torch.full((1, 5, 40), math.nan), torch.full((1, 5, 40), math.inf)])
    for rule in RULES:
        clean = kernels.combine(logits, [1, 2, 3], rule=rule, return_probs=True, top_k=4)
        same = kernels.combine(spoilt, [1, 2, 3, 0, 0], rule=rule, return_probs=True, top_k=4)
        for name in ("argmax", "logprob", "log_probs", "topk_ids", "topk_logprob"):
            assert torch.equal(getattr(clean, name), getattr(same, name)), (rule, name)


def test_scale_of_the_weights_does_not_matter() -> None:
    logits = torch.randn(3, 4, 50, generator=torch.Generator().manual_seed(2))
    base = kernels.combine(logits, [0.1, 0.2, 0.7], return_probs=True).log_probs
    for factor in (1e-300, 1e-3, 1e300):
        scaled = kernels.combine(logits, [0.1 * factor, 0.2 * factor, 0.7 * factor], return_probs=True).log_probs
        torch.testing.assert_close(base, scaled, rtol=1e-6, atol=0)


def test_vote_ties_go_to_the_mixture_then_to_the_lowest_index() -> None:
    one = torch.tensor([0.0, 0.0, 1.0, 0.0])
    two = torch.tensor([0.0, 3.0, 0.0, 0.0])
    assert int(kernels.combine(torch.stack([one, two])[:, None], [1.0, 1.0], rule="vote").argmax) == 1
    assert int(kernels.combine(torch.stack([two, one])[:, None], [1.0, 1.0], rule="vote").argmax) == 1
    mirror = torch.tensor([0.0, 1.0, 0.0, 0.0])
    assert int(kernels.combine(torch.stack([one, mirror])[:, None], [1.0, 1.0], rule="vote").argmax) == 1
    three = torch.stack([one, one, two])[:, None]
    for alphas in ([0.1, 0.2, 0.3], [0.01, 0.14, 0.15], [0.01, 0.68, 0.69]):  # ties but for rounding
        result = kernels.combine(three, alphas, rule="vote", top_k=4)
        assert result.topk_ids.tolist() == [[1, 2, 0, 3]]
        assert result.topk_logprob[0, 2] == -math.inf


def test_what_the_result_cannot_tell_apart_is_a_tie() -> None:
    flat = torch.zeros(1, 6)
    peaked = torch.tensor([[0.0, 0.0, 0.0, 5.0, 0.0, 0.0]])
    result = kernels.combine([flat, peaked], [1.0, 1e-10], top_k=3)
    assert result.argmax.tolist() == [0]
    assert result.topk_ids.tolist() == [[0, 1, 2]]
    assert kernels.combine([flat, peaked], [1.0, 1e-4]).argmax.tolist() == [3]
    assert kernels.combine([flat.double(), peaked.double()], [1.0, 1e-10]).argmax.tolist() == [3]


def test_vote_gives_unchosen_targets_minus_infinity() -> None:
    logits = torch.tensor([[[0.0, 1.0, 0.0]], [[2.0, 0.0, 0.0]]])
    result = kernels.combine(logits, [1.0, 3.0], rule="vote", return_probs=True, targets=torch.tensor([2]))
    assert result.target_logprob.tolist() == [-math.inf]
    torch.testing.assert_close(result.log_probs.exp(), torch.tensor([[0.75, 0.25, 0.0]]))


def test_product_of_disjoint_supports_is_undefined() -> None:
    logits = torch.tensor([[[0.0, -math.inf]], [[-math.inf, 0.0]]])
    result = kernels.combine(logits, [1.0, 1.0], rule="product")
    assert int(result.argmax) == 0
    assert math.isnan(result.logprob)
    assert not math.isnan(kernels.combine(logits, [1.0, 1.0], rule="mixture").logprob)


def test_equal_logits_are_ties_at_every_width() -> None:
    for vocabulary in (1, 2, 7, 8, 9, 31, 33, 100, 1001):
        logits = torch.full((3, 2, vocabulary), 0.1)
        for rule in RULES:
            result = kernels.combine(logits, [0.2, 0.3, 0.5], rule=rule, top_k=5)
            assert result.argmax.tolist() == [0, 0]
            assert result.topk_ids.tolist() == [list(range(min(5, vocabulary)))] * 2


def test_blocks_of_rows_change_nothing(monkeypatch) -> None:
    from ensemw2s.kernels import reference

    logits = torch.randn(2, 7, 30, generator=torch.Generator().manual_seed(3))
    options = {"targets": torch.arange(7), "return_probs": True, "top_k": 3, "backend": "reference"}
    whole = kernels.combine(logits, [1, 2], **options)
    monkeypatch.setattr(reference, "_BLOCK_ELEMENTS", 60)
    blocks = kernels.combine(logits, [1, 2], **options)
    for name in whole.__dataclass_fields__:
        torch.testing.assert_close(getattr(whole, name), getattr(blocks, name), rtol=1e-6, atol=1e-7)


def test_records_no_gradient() -> None:
    logits = torch.randn(2, 3, 5, requires_grad=True)
    assert not kernels.combine(logits, torch.tensor([1.0, 1.0], requires_grad=True)).logprob.requires_grad


LOGITS = torch.zeros(2, 3, 4)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"alphas": [1.0, -0.5]}, ValueError, r"alphas\[1\] is -0.5"),
        ({"alphas": [math.nan, 1.0]}, ValueError, r"alphas\[0\] is nan"),
        ({"alphas": [math.inf, 1.0]}, ValueError, "finite"),
        ({"alphas": [0.0, 0.0]}, ValueError, "all alphas are 0"),
        ({"alphas": [1.0]}, ValueError, "1 alphas for 2 experts"),
        ({"targets": torch.tensor([0, 4, 1])}, ValueError, r"targets\[1\] is 4; expected a token id in \[0, 4\)"),
        ({"targets": torch.tensor([0, -1, 1])}, ValueError, r"targets\[1\] is -1"),
        ({"targets": torch.tensor([0, 1])}, ValueError, "shape"),
        ({"targets": torch.tensor([0.0, 1.0, 2.0])}, TypeError, "integers"),
        ({"temperature": 0.0}, ValueError, "temperature"),
        ({"temperature": -1.0}, ValueError, "temperature"),
        ({"temperature": math.nan}, ValueError, "temperature"),
        ({"temperature": math.inf}, ValueError, "temperature"),
        ({"top_k": 0}, ValueError, "top_k"),
        ({"rule": "mean"}, ValueError, "expected one of mixture, product, vote"),
        ({"backend": "cuda"}, ValueError, "available for cpu: .*reference"),
        ({"logits": torch.zeros(3, 4)}, ValueError, r"\[K, N, V\]"),
        ({"logits": torch.zeros(2, 3, 0)}, ValueError, "V = 0"),
        ({"logits": torch.zeros(0, 3, 4)}, ValueError, "K = 0"),
        ({"logits": [torch.zeros(3, 4), torch.zeros(3, 5)]}, ValueError, "expert 1 have shape"),
        ({"logits": [torch.zeros(3, 4), torch.zeros(3, 4, dtype=torch.int32)]}, TypeError, "int32"),
        ({"logits": [torch.zeros(3, 4), np.zeros((3, 4))]}, TypeError, "ndarray"),
        ({"logits": [torch.zeros(3, 4), torch.zeros(3, 4, device="meta")]}, ValueError, "meta"),
    ],
)
def test_errors_say_what_was_expected(arguments, error, words) -> None:
    full = {"logits": LOGITS, "alphas": [1.0, 1.0]} | arguments
    with pytest.raises(error, match=words):
        kernels.combine(full.pop("logits"), full.pop("alphas"), **full)
