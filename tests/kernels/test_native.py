"""The compiled backend against float64 numpy: long rows, block edges, awkward values, threads, and the error budget."""

from __future__ import annotations

import math
import threading

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensemw2s import kernels
from ensemw2s.kernels.dispatch import choose
from ensemw2s.kernels.request import CombineRequest

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
RULES = ["mixture", "product", "vote"]
RELATIVE, ABSOLUTE = 2.5e-7, 2.5e-7  # the stated tolerance of float32 results against the truth


def log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def truth(logits: np.ndarray, alphas: np.ndarray, rule: str, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    """Combined log-probabilities ``[N, V]`` and the experts' own ``[K, N, V]`` in float64; NaN rows are undefined."""
    with np.errstate(invalid="ignore", divide="ignore", over="ignore"):
        own = log_softmax(logits)
        own[~np.isfinite(logits.max(axis=-1))] = np.nan
        active = np.flatnonzero(alphas > 0)
        share = alphas[active] / alphas.sum()
        if rule == "product":
            combined = log_softmax(np.tensordot(share, own[active], axes=(0, 0)))
        elif rule == "mixture":
            combined = np.logaddexp.reduce(own[active] + np.log(share)[:, None, None], axis=0)
        else:
            votes = np.zeros(own.shape[1:])
            for k, part in zip(active, share, strict=True):
                np.put_along_axis(
                    votes,
                    logits[k].argmax(-1)[:, None],
                    np.take_along_axis(votes, logits[k].argmax(-1)[:, None], 1) + part,
                    1,
                )
            combined = np.log(votes)
            combined[np.isnan(own[active]).any(axis=(0, 2))] = np.nan
        if temperature != 1.0:
            combined = log_softmax((combined - combined.max(axis=-1, keepdims=True)) / temperature)
    return combined, own


def assert_close(actual: torch.Tensor, expected: np.ndarray) -> None:
    found = actual.double().numpy()
    assert np.array_equal(np.isnan(found), np.isnan(expected))
    with np.errstate(over="ignore"):
        stored = expected.astype(np.float32)
    infinite = np.isinf(stored)
    assert np.array_equal(found[infinite], stored[infinite])
    finite = ~infinite & ~np.isnan(expected)
    excess = np.abs(found[finite] - expected[finite]) - RELATIVE * np.abs(expected[finite])
    assert excess.max(initial=0.0) <= ABSOLUTE


def twins(logits: torch.Tensor, active: list[int], token: int) -> int:
    """The lowest id with the logits of ``token``."""
    same = (logits[active] == logits[active][:, token, None]).all(dim=0)
    return int(same.nonzero()[0, 0])


def ranked(result: kernels.CombineResult, count: int) -> torch.Tensor:
    """The order that the returned distribution itself implies: falling, then by id."""
    return torch.sort(result.log_probs, dim=1, descending=True, stable=True).indices[:, :count]


cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32),
        "experts": st.integers(1, 8),
        "rows": st.integers(0, 3),
        "vocabulary": st.one_of(st.sampled_from([63, 64, 65, 511, 512, 513, 2047, 2048, 2049]), st.integers(1, 6000)),
        "dtype": st.sampled_from(DTYPES),
        "rule": st.sampled_from(RULES),
        "kind": st.sampled_from(["normal", "peaked", "huge", "largest", "tied", "equal", "one-hot"]),
        "specials": st.lists(st.sampled_from(["nan", "+inf", "-inf", "-inf row"]), max_size=2),
        "temperature": st.sampled_from([1.0, 1.0, 0.7, 30.0]),
        "zero": st.booleans(),
        "layout": st.sampled_from(["stacked", "transposed", "strided", "rows"]),
        "top_k": st.sampled_from([1, 3, 16, 700, 10_000]),
    }
)


def laid_out(logits: torch.Tensor, layout: str) -> torch.Tensor:
    if layout == "transposed":
        return logits.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "strided":
        return torch.stack([logits, torch.full_like(logits, math.nan)], dim=-1)[..., 0]
    if layout == "rows":
        return torch.nn.functional.pad(logits, (3, 2), value=math.nan)[..., 3:-2]
    return logits


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow], derandomize=True)
@given(case=cases)
def test_agrees_with_float64(case, make_logits) -> None:
    shape = (case["experts"], case["rows"], case["vocabulary"])
    logits = make_logits(case["seed"], shape, case["dtype"], case["kind"], case["specials"])
    rng = np.random.default_rng(case["seed"])
    alphas = rng.uniform(0.1, 2.0, case["experts"])
    if case["zero"] and case["experts"] > 1:
        alphas[rng.integers(case["experts"])] = 0.0
    targets = torch.from_numpy(rng.integers(0, case["vocabulary"], case["rows"]))
    result = kernels.combine(
        laid_out(logits, case["layout"]),
        alphas.tolist(),
        rule=case["rule"],
        temperature=case["temperature"],
        targets=targets,
        return_probs=True,
        top_k=case["top_k"],
        backend="native",
    )
    combined, own = truth(logits.double().numpy(), alphas, case["rule"], case["temperature"])
    assert_close(result.log_probs, combined)
    assert_close(result.target_logprob, np.take_along_axis(combined, targets.numpy()[:, None], 1)[:, 0])
    assert not bool((result.log_probs > 0).any())
    assert_close(result.expert_target_logprob, np.take_along_axis(own, targets.numpy()[None, :, None], 2)[..., 0])
    defined = ~np.isnan(own[..., 0])
    wide = logits.double().numpy()
    assert np.array_equal(result.expert_argmax.numpy()[defined], wide.argmax(-1)[defined])
    assert not result.expert_argmax.numpy()[~defined].any()
    with np.errstate(invalid="ignore"):
        peaks = wide.max(axis=-1) if wide.size else np.zeros(shape[:2])
        assert_close(
            result.logsumexp, np.where(defined, peaks + np.log(np.exp(wide - peaks[..., None]).sum(-1)), peaks)
        )
    check_order(case, logits, alphas, result, combined)


def check_order(case, logits, alphas, result, combined) -> None:
    active = [k for k in range(len(alphas)) if alphas[k] > 0]
    count = min(case["top_k"], case["vocabulary"])
    assert torch.equal(result.argmax, result.topk_ids[:, 0])
    assert torch.equal(result.topk_logprob[:, 0].nan_to_num(), result.logprob.nan_to_num())
    for n in range(case["rows"]):
        ids = result.topk_ids[n]
        if np.isnan(combined[n, 0]):
            assert ids.tolist() == list(range(count))
            continue
        assert len(set(ids.tolist())) == count
        assert torch.equal(result.log_probs[n, ids], result.topk_logprob[n])
        if case["rule"] == "vote":
            continue
        assert int(ids[0]) == twins(logits[:, n], active, int(ids[0]))
        if len(active) == 1:
            assert (
                ids.tolist() == torch.sort(logits[active[0], n], descending=True, stable=True).indices[:count].tolist()
            )
        elif case["temperature"] == 1.0:
            assert ids.tolist() == ranked(result, count)[n].tolist()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scale", [0.01, 3.0, 30.0])
def test_long_rows(dtype, rule, scale) -> None:
    logits = (torch.randn(3, 2, 260_001, generator=torch.Generator().manual_seed(8)) * scale).to(dtype)
    targets = torch.tensor([260_000, 17])
    result = kernels.combine(
        logits, [1, 2, 3], rule=rule, targets=targets, return_probs=True, top_k=50, backend="native"
    )
    combined, own = truth(logits.double().numpy(), np.array([1.0, 2.0, 3.0]), rule, 1.0)
    assert_close(result.log_probs, combined)
    assert_close(result.expert_target_logprob, np.stack([own[:, 0, 260_000], own[:, 1, 17]], axis=1))
    if rule != "vote":
        assert torch.equal(result.topk_ids, ranked(result, 50))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("vocabulary", "scale"), [(300, 1.0), (50_000, 1.0), (150_000, 3.0), (150_000, 25.0)])
def test_error_is_within_torchs_own_and_a_little(dtype, vocabulary, scale) -> None:
    logits = (torch.randn(4, 8, vocabulary, generator=torch.Generator().manual_seed(3)) * scale).to(dtype)
    targets = torch.randint(0, vocabulary, (8,), generator=torch.Generator().manual_seed(4))
    exact = torch.logsumexp(logits.double(), dim=2)
    picked = logits.double().gather(2, targets.expand(4, 8)[..., None])[..., 0]
    right = torch.logsumexp(picked - exact, dim=0) - math.log(4)
    plain = torch.logsumexp(logits.float(), dim=2)
    theirs = torch.logsumexp(picked.float() - plain, dim=0) - math.log(4)
    result = kernels.combine(logits, [1] * 4, targets=targets, backend="native")
    assert (result.logsumexp - exact).abs().max() <= (plain - exact).abs().max() + 1e-6
    assert (result.target_logprob - right).abs().max() <= (theirs - right).abs().max() + 1e-6


@pytest.mark.parametrize("offset", [0.0, 500.0, 513.0, -4000.0, 1e6])
def test_a_shift_of_all_logits_changes_little(offset) -> None:
    logits = torch.randn(1, 3, 9000, generator=torch.Generator().manual_seed(5)).round(decimals=1)
    shifted = (logits + offset).float()
    exact = torch.log_softmax(shifted.double(), dim=2)[0]
    result = kernels.combine(shifted, [1], return_probs=True, backend="native")
    assert_close(result.log_probs, exact.numpy())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("rows", "vocabulary"), [(1, 200_000), (3, 40_000), (70, 700), (5, 3000)])
def test_any_number_of_threads_gives_the_same_bits(rule, dtype, rows, vocabulary) -> None:
    logits = (torch.randn(3, rows, vocabulary, generator=torch.Generator().manual_seed(6)) * 4).to(dtype)
    before = torch.get_num_threads()
    seen = []
    try:
        for threads in (1, 2, 3, 7):
            torch.set_num_threads(threads)
            options = {"rule": rule, "backend": "native"}
            result = kernels.combine(logits, [3, 1, 2], top_k=9, return_probs=True, temperature=0.9, **options)
            drawn = kernels.sample(logits, [3, 1, 2], seed=1, top_p=0.8, **options)
            tensors = [getattr(result, name) for name in result.__dataclass_fields__]
            seen.append([drawn.numpy().tobytes(), *(t.numpy().tobytes() for t in tensors if t is not None)])
    finally:
        torch.set_num_threads(before)
    assert all(other == seen[0] for other in seen[1:])


def test_ties_across_blocks_go_to_the_lowest_index() -> None:
    for vocabulary in (5000, 150_000):
        for logits in (torch.zeros(3, 2, vocabulary), torch.randn(3, 2, 1).expand(3, 2, vocabulary)):
            result = kernels.combine(logits, [0.2, 0.3, 0.5], top_k=700, backend="native")
            assert result.topk_ids.tolist() == [list(range(700))] * 2
    logits = torch.randn(2, 1, 5000, generator=torch.Generator().manual_seed(1)).clamp(max=3)
    for low, high in ((3, 4999), (511, 512), (600, 1030), (70, 130)):
        twin = logits.clone()
        twin[:, 0, low] = twin[:, 0, high] = 9.0
        result = kernels.combine(twin, [1, 1], top_k=2, backend="native")
        assert result.topk_ids.tolist() == [[low, high]]
    swapped = logits.clone()
    swapped[:, 0, 4000] = torch.tensor([8.0, 9.0])
    swapped[:, 0, 40] = torch.tensor([9.0, 8.0])
    assert int(kernels.combine(swapped, [1, 1], backend="native").argmax) == int(
        ranked(kernels.combine(swapped, [1, 1], return_probs=True, backend="native"), 1)[0, 0]
    )


@pytest.mark.parametrize("order", ["rising", "falling"])
def test_sorted_logits_defeat_no_pruning(order) -> None:
    logits = torch.linspace(-3, 3, 60_000).expand(3, 2, 60_000)
    logits = logits if order == "rising" else logits.flip(2)
    result = kernels.combine(logits, [1, 1, 2], top_k=100, return_probs=True, backend="native")
    assert torch.equal(result.topk_ids, ranked(result, 100))


@pytest.mark.parametrize("place", [0, 63, 511, 512, 4095, 59_999])
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("dtype", DTYPES)
def test_no_special_value_is_overlooked(place, value, dtype) -> None:
    logits = torch.randn(2, 2, 60_000).to(dtype)
    logits[1, 0, place] = value
    result = kernels.combine(logits, [1, 1], targets=torch.tensor([5, 5]), return_probs=True, backend="native")
    assert result.logprob.isnan().tolist() == [True, False]
    assert bool(result.log_probs[0].isnan().all())
    assert not bool(result.log_probs[1].isnan().any())
    assert result.expert_target_logprob.isnan().tolist() == [[False, False], [True, False]]
    assert str(float(result.logsumexp[1, 0])) == str(value)
    both = logits.clone()
    both[1, 0, 30_000] = math.nan
    both[1, 0, 30_001] = math.inf
    assert math.isnan(kernels.combine(both, [1, 1], backend="native").logsumexp[1, 0])
    assert not kernels.combine(logits, [1, 0], backend="native").logprob.isnan().any()


def test_masked_blocks_and_rows() -> None:
    logits = torch.full((2, 2, 9000), -math.inf)
    logits[0, 0, 7000] = 3.0
    logits[1, 0, 100] = 1.0
    result = kernels.combine(logits, [1, 3], return_probs=True, top_k=4, backend="native")
    assert result.topk_ids.tolist() == [[100, 7000, 0, 1], [0, 1, 2, 3]]
    torch.testing.assert_close(result.topk_logprob[0].exp(), torch.tensor([0.75, 0.25, 0, 0]), rtol=1e-7, atol=0)
    assert bool(result.log_probs[1].isnan().all())
    expected = torch.tensor([[3.0, -math.inf], [1.0, -math.inf]])
    torch.testing.assert_close(result.logsumexp, expected, rtol=2e-7, atol=0)


def test_float16_values_are_all_exact() -> None:
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16)
    values = bits.view(torch.float16)
    finite = values[torch.isfinite(values)]
    logits = torch.stack([finite, torch.zeros_like(finite)], dim=1)[None]
    result = kernels.combine(logits, [1], targets=torch.zeros(len(finite), dtype=torch.int64), backend="native")
    assert_close(result.target_logprob, torch.log_softmax(logits[0].double(), dim=1)[:, 0].numpy())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("vocabulary", "dtype"), [(1, DTYPES[0]), (40, DTYPES[0]), (513, DTYPES[2]), (4000, DTYPES[1])]
)
@pytest.mark.parametrize(("top_k", "top_p"), [(None, None), (5, None), (None, 0.8), (None, 0.999), (300, 0.9)])
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_draws_the_tokens_of_the_reference(rule, dtype, vocabulary, top_k, top_p, temperature) -> None:
    logits = (torch.randn(3, 16, vocabulary, generator=torch.Generator().manual_seed(vocabulary)) * 2).to(dtype)
    logits[2] = math.nan
    options = {"seed": 77, "rule": rule, "top_k": top_k, "top_p": top_p, "temperature": temperature}
    drawn = [kernels.sample(logits, [1, 2, 0], backend=name, **options) for name in ("native", "reference")]
    assert torch.equal(*drawn)


def test_draws_from_long_flat_rows_agree() -> None:
    logits = torch.randn(2, 4, 60_000, generator=torch.Generator().manual_seed(2)) * 0.5
    for options in ({}, {"top_p": 0.5}, {"top_p": 0.99, "temperature": 2.0}, {"top_k": 3000}):
        drawn = [kernels.sample(logits, [1, 2], seed=9, backend=name, **options) for name in ("native", "reference")]
        assert torch.equal(*drawn)


def test_is_the_first_choice_on_the_cpu_only() -> None:
    assert kernels.available_backends()[0] == "native"
    assert "native" not in kernels.available_backends("cuda")
    with pytest.raises(ValueError, match=r"'native' cannot run on meta: .*available: reference"):
        choose("native", CombineRequest((torch.zeros(2, 9, device="meta"),), (1.0,), "mixture", 1.0))


def test_float64_goes_to_the_reference() -> None:
    logits = torch.randn(2, 3, 50, dtype=torch.float64)
    native = kernels.combine(logits, [1, 1], return_probs=True, backend="native")
    reference = kernels.combine(logits, [1, 1], return_probs=True, backend="reference")
    assert native.log_probs.dtype == torch.float64
    assert torch.equal(native.log_probs, reference.log_probs)
    mixed = [logits[0].float(), logits[1].bfloat16()]
    expected = kernels.combine([part.double() for part in mixed], [1, 1], return_probs=True).log_probs
    assert_close(kernels.combine(mixed, [1, 1], return_probs=True, backend="native").log_probs, expected.numpy())
    assert kernels.sample(logits, [1, 1], seed=0, backend="native").shape == (3,)


def test_other_threads_run_meanwhile() -> None:
    logits = torch.randn(3, 40, 60_000)
    counted = 0
    worker = threading.Thread(target=lambda: kernels.combine(logits, [1, 1, 1], return_probs=True, backend="native"))
    worker.start()
    while worker.is_alive():
        counted += 1
    worker.join()
    assert counted > 100
