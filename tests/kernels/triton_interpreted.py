"""The Triton kernels in Triton's interpreter, on the CPU. Run by ``test_triton.py`` in a process of its own.

``TRITON_INTERPRET`` must be set before anything imports triton.
"""

from __future__ import annotations

import itertools
import math
import os
from unittest import mock

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from ensemw2s import kernels
from ensemw2s.kernels.gpu import backend as triton_backend
from ensemw2s.kernels.gpu import launch as triton_launch
from ensemw2s.kernels.gpu.configs import Config
from ensemw2s.kernels.request import combine_request

if os.environ.get("TRITON_INTERPRET") != "1":
    raise RuntimeError("these tests need TRITON_INTERPRET=1")

# the interpreter is numpy, which warns where IEEE arithmetic is meant
pytestmark = [
    pytest.mark.filterwarnings("ignore::RuntimeWarning"),
    pytest.mark.usefixtures("patched_once_a_launch"),
]
RULES = ["mixture", "product", "vote"]
EPS = 2.0**-23

cases = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**32),
        "experts": st.integers(1, 5),
        "rows": st.integers(0, 3),
        "vocabulary": st.one_of(st.just(1), st.integers(1, 150)),
        "dtype": st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
        "rule": st.sampled_from(RULES),
        "kind": st.sampled_from(["normal", "peaked", "huge", "largest", "tied", "equal", "one-hot"]),
        "specials": st.lists(st.sampled_from(["nan", "+inf", "-inf", "-inf row"]), max_size=2),
        "temperature": st.sampled_from([1.0, 1.0, 0.7, 1e-300, 1e-6, 30.0, 1e300]),
        "alphas": st.lists(st.sampled_from([0.0, 1.0, 1.0, 0.3, 2.5, 1e-9, 1e200]), min_size=5, max_size=5),
        "layout": st.sampled_from(["stacked", "list", "transposed", "mixed"]),
        "top_k": st.sampled_from([None, None, None, None, 1, 3, 1000]),
        "block": st.sampled_from([16, 64]),
    }
)


@pytest.fixture(autouse=True)
def narrow_tiles():
    with mock.patch.object(triton_launch, "choose", return_value=Config(32, 4)):
        yield


def laid_out(logits: torch.Tensor, layout: str) -> torch.Tensor | list[torch.Tensor]:
    if layout == "list":
        return [x.clone() for x in logits]
    if layout == "transposed":
        return logits.transpose(1, 2).contiguous().transpose(1, 2)
    if layout == "mixed":  # other strides and another type for the last expert
        return [*logits[:-1], logits[-1].float().T.contiguous().T]
    return logits


class Allowed:
    """How far a float32 result may be from the truth, as :class:`TritonBackend` states it."""

    def __init__(self, row, rule: str, temperature: float, active: int) -> None:
        self.mixture = row.mixture if rule == "mixture" and active > 1 else None
        self.gain = max(1.0, 1.0 / temperature)

    def __call__(self, token: int, truth: float) -> float:
        with np.errstate(over="ignore", invalid="ignore"):
            scale = 0.0 if self.mixture is None else abs(self.mixture[token])
            return float((3e-6 + 6 * EPS * scale) * (1.0 if self.mixture is None else self.gain) + 6 * EPS * abs(truth))


def close(actual: float, truth: float, allowed: float) -> bool:
    with np.errstate(over="ignore"):
        truth = float(np.float32(truth))
    if allowed > 1e3 * (1 + abs(truth)):  # an extreme temperature: nothing is known but the sign
        return actual <= allowed
    if math.isnan(truth) or math.isinf(truth) or not math.isfinite(actual):
        return actual == truth or (math.isnan(actual) and math.isnan(truth))
    return abs(actual - truth) <= allowed


def first_twin(logits: np.ndarray, active: list[int], token: int) -> int:
    same = (logits[active] == logits[active][:, [token]]).all(axis=0)
    return int(np.flatnonzero(same)[0])


def check_ranking(result, n, row, shares, logits, active, rule, allowed) -> None:
    token = int(result.argmax[n])
    order = {"mixture": row.mixture, "product": row.log_probs, "vote": shares}[rule]
    slack = 0.0 if rule == "vote" else allowed(token, float(order[token]))
    assert order[token] >= order.max() - slack
    assert close(float(result.logprob[n]), row.log_probs[token], allowed(token, row.log_probs[token]))
    if rule != "vote":
        assert token == first_twin(logits, active, token)
        if len(active) == 1:
            assert token == int(np.argmax(logits[active[0]]))
    if result.topk_ids is None:
        return
    ids = result.topk_ids[n].tolist()
    assert ids[0] == token
    assert len(set(ids)) == len(ids)
    kept = [order[i] for i in ids]
    with np.errstate(invalid="ignore"):
        pairs = zip(itertools.pairwise(kept), ids[1:], strict=True)
        assert all(b <= a + slack + (slack and allowed(i, 0.0)) or a == b for (a, b), i in pairs)
    for j, i in enumerate(ids):
        assert close(float(result.topk_logprob[n, j]), row.log_probs[i], allowed(i, row.log_probs[i]))
        if rule != "vote":
            first = first_twin(logits, active, i)
            assert first == i or first in ids[:j]


def check_experts(result, n, row, logits, target) -> None:
    for k, own in enumerate(row.experts):
        total = float(result.logsumexp[k, n])
        if own is None:
            assert int(result.expert_argmax[k, n]) == 0
            assert math.isnan(result.expert_target_logprob[k, n])
            largest = float(np.max(logits[k]))
            assert total == largest or (math.isnan(total) and math.isnan(largest))
            continue
        assert int(result.expert_argmax[k, n]) == int(np.argmax(logits[k]))
        assert close(float(result.expert_target_logprob[k, n]), own[target], 1e-6 + 4 * EPS * abs(own[target]))
        peak = np.longdouble(logits[k].max())
        truth = peak + np.log(np.exp(logits[k].astype(np.longdouble) - peak).sum())
        assert close(total, truth, 1e-6 + 2 * EPS * abs(truth))


def check(case, oracle, make_logits) -> None:
    if case["kind"] == "largest":  # a distance beyond the range of float32 is none that a temperature could make small
        case = case | {"temperature": min(case["temperature"], 1.0)}
    shape = (case["experts"], case["rows"], case["vocabulary"])
    logits = make_logits(case["seed"], shape, case["dtype"], case["kind"], case["specials"])
    alphas = case["alphas"][: case["experts"]]
    if not any(alphas):
        alphas[0] = 1.0
    targets = torch.from_numpy(np.random.default_rng(case["seed"]).integers(0, case["vocabulary"], case["rows"]))
    options = {name: case[name] for name in ("rule", "temperature", "top_k")}
    with mock.patch.object(triton_launch, "choose", return_value=Config(case["block"], 4)):
        result = kernels.combine(
            laid_out(logits, case["layout"]), alphas, targets=targets, return_probs=True, backend="triton", **options
        )
    like = kernels.combine(logits, alphas, targets=targets, return_probs=True, backend="reference", **options)
    for name in like.__dataclass_fields__:
        a, b = getattr(result, name), getattr(like, name)
        assert (a is None) == (b is None)
        assert a is None or (a.shape, a.dtype) == (b.shape, b.dtype), name
    # 1/T is a float32 in the kernels; votes are counted in float64
    limits = (0.0, math.inf) if case["rule"] == "vote" else (1 / triton_launch.LARGEST, 1 / triton_launch.SMALLEST)
    temperature = min(max(case["temperature"], limits[0]), limits[1])
    wide = logits.double().numpy()
    scale = np.asarray(alphas) / max(alphas)
    active = [k for k in range(case["experts"]) if scale[k] > 0]
    for n in range(case["rows"]):
        row = oracle(wide[:, n], scale, case["rule"], temperature)
        check_experts(result, n, row, wide[:, n], int(targets[n]))
        if row.log_probs is None:
            assert int(result.argmax[n]) == 0
            assert math.isnan(result.logprob[n])
            assert math.isnan(result.target_logprob[n])
            assert bool(result.log_probs[n].isnan().all())
            if result.topk_ids is not None:
                assert result.topk_ids[n].tolist() == list(range(result.topk_ids.shape[1]))
                assert bool(result.topk_logprob[n].isnan().all())
            continue
        allowed = Allowed(row, case["rule"], temperature, len(active))
        assert not bool((result.log_probs[n] > 0).any())
        for v, truth in enumerate(row.log_probs):
            assert close(float(result.log_probs[n, v]), truth, allowed(v, truth)), (v, result.log_probs[n, v], truth)
        target = int(targets[n])
        assert close(float(result.target_logprob[n]), row.log_probs[target], allowed(target, row.log_probs[target]))
        # votes are ordered by shares in steps of 2^-20, whatever the temperature
        shares = np.round(np.exp(oracle(wide[:, n], scale, "vote", 1.0).log_probs) * 2**20)
        check_ranking(result, n, row, shares, wide[:, n], active, case["rule"], allowed)


FEW = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize=True,
    database=None,
    phases=[Phase.generate],  # shrinking takes minutes here
)


@FEW
@given(case=cases)
def test_combine_agrees_with_the_definitions(case, oracle, make_logits) -> None:
    check(case, oracle, make_logits)


@pytest.mark.slow
@settings(FEW, max_examples=1500)
@given(case=cases)
def test_combine_agrees_with_the_definitions_at_length(case, oracle, make_logits) -> None:
    check(case, oracle, make_logits)


@pytest.mark.slow
@pytest.mark.parametrize("rule", RULES)
def test_combine_at_the_size_of_a_real_vocabulary(rule, oracle, make_logits) -> None:
    case = {"seed": 3, "experts": 3, "rows": 2, "vocabulary": 50_257, "dtype": torch.bfloat16, "rule": rule}
    case |= {"kind": "normal", "specials": [], "temperature": 0.9, "alphas": [1.0, 0.3, 2.5], "layout": "list"}
    check({**case, "top_k": 16, "block": 4096}, oracle, make_logits)


def test_combine_is_the_same_in_tiles_of_any_width() -> None:
    logits = torch.randn(3, 2, 150, generator=torch.Generator().manual_seed(1)) * 5
    for rule in RULES:
        expected = kernels.combine(logits, [1, 2, 3], rule=rule, backend="reference")
        for block in (32, 128, 256):
            with mock.patch.object(triton_launch, "choose", lambda *_, b=block: Config(b, 4)):
                result = kernels.combine(logits, [1, 2, 3], rule=rule, backend="triton")
            assert torch.equal(result.argmax, expected.argmax)
            torch.testing.assert_close(result.logprob, expected.logprob, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("rule", RULES)
def test_combine_ties_go_to_the_lowest_index_across_tiles(rule) -> None:
    equal = torch.full((3, 1, 150), 0.1)
    result = kernels.combine(equal, [0.2, 0.3, 0.5], rule=rule, top_k=5, backend="triton")
    assert result.argmax.tolist() == [0]
    assert result.topk_ids.tolist() == [[0, 1, 2, 3, 4]]
    rng = torch.Generator().manual_seed(5)
    tied = torch.randn(3, 2, 150, generator=rng)
    tied[:, :, 140] = tied[:, :, 70] = tied[:, :, 5] = 7.3  # the same tokens in three tiles
    assert kernels.combine(tied, [0.2, 0.3, 0.5], rule=rule, backend="triton").argmax.tolist() == [5] * 2


def test_combine_reads_again_only_the_tiles_that_can_win() -> None:
    logits = torch.zeros(2, 1, 320)
    logits[:, 0, 200] = 9.0
    request = combine_request(
        logits, [1, 1], rule="mixture", temperature=1.0, targets=None, return_probs=False, top_k=None
    )
    problem = triton_launch.prepare(request)
    seen = []
    original = triton_launch.triton_rows.token_values

    def counting(*arguments, **named):
        seen.append(1)
        return original(*arguments, **named)

    with mock.patch.object(triton_launch.triton_rows, "token_values", counting):
        rows = problem.first_pass()
    assert rows.argmax.tolist() == [200]
    assert len(seen) == 1


def test_combine_ignored_expert_may_hold_anything() -> None:
    logits = torch.randn(3, 2, 40, generator=torch.Generator().manual_seed(1))
    spoilt = torch.cat([torch.full((1, 2, 40), math.nan), logits, torch.full((1, 2, 40), math.inf)])
    for rule in RULES:
        clean = kernels.combine(logits, [1, 2, 3], rule=rule, return_probs=True, top_k=4, backend="triton")
        same = kernels.combine(spoilt, [0, 1, 2, 3, 0], rule=rule, return_probs=True, top_k=4, backend="triton")
        for name in ("argmax", "logprob", "log_probs", "topk_ids", "topk_logprob"):
            assert torch.equal(getattr(clean, name), getattr(same, name)), (rule, name)
        assert torch.equal(same.expert_argmax[1:4], clean.expert_argmax)
        assert bool(same.logsumexp[0].isnan().all())
        assert bool((same.logsumexp[4] == math.inf).all())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("scale", [100.0, 1e8, 3e37, 3.4e38])
def test_combine_is_right_at_every_scale(rule, scale) -> None:
    logits = (torch.randn(3, 2, 150, generator=torch.Generator().manual_seed(7)).clamp(-1, 1) * scale).float()
    for temperature in (1.0, 0.02):
        options = {"rule": rule, "temperature": temperature, "return_probs": True, "targets": torch.tensor([3, 149])}
        found = kernels.combine(logits, [0.2, 0.3, 0.5], backend="triton", **options)
        right = kernels.combine(logits.double(), [0.2, 0.3, 0.5], backend="reference", **options)
        allowed = 5e-6 * (1.0 if rule != "mixture" else 1 / temperature)
        for name in ("log_probs", "logprob", "target_logprob"):
            ours = getattr(found, name)
            assert not bool((ours > 0).any())
            torch.testing.assert_close(ours, getattr(right, name).float(), rtol=1e-6, atol=allowed)


def test_combine_of_odd_tensors() -> None:
    logits = torch.randn(2, 3, 40, generator=torch.Generator().manual_seed(8))
    negated = torch.complex(torch.zeros_like(logits), -logits).conj().imag
    memory = torch.zeros(logits.numel() * 4 + 1, dtype=torch.uint8)
    memory[1:] = logits.view(torch.uint8).reshape(-1)
    misaligned = torch.frombuffer(memory.numpy().data, dtype=torch.float32, offset=1).reshape(logits.shape)
    expected = kernels.combine(logits, [1, 2], backend="triton")
    for odd in (negated, misaligned, logits.clone().requires_grad_()):
        found = kernels.combine(odd, [1, 2], backend="triton")
        assert torch.equal(found.logprob, expected.logprob)
        assert torch.equal(found.argmax, expected.argmax)
    with pytest.raises(ValueError, match="meta, which holds no numbers"):
        kernels.combine(logits.to("meta"), [1, 2], backend="triton")


def test_combine_in_pieces_changes_nothing(monkeypatch) -> None:
    logits = torch.randn(2, 3, 30, generator=torch.Generator().manual_seed(3))
    options = {"targets": torch.arange(3), "return_probs": True, "top_k": 3, "backend": "triton"}
    whole = kernels.combine(logits, [1, 2], **options)
    drawn = kernels.sample(logits, [1, 2], seed=4, top_k=3, backend="triton")
    monkeypatch.setattr(triton_backend, "_SCRATCH_ELEMENTS", 60)
    pieces = kernels.combine(logits, [1, 2], **options)
    for name in whole.__dataclass_fields__:
        assert torch.equal(getattr(whole, name), getattr(pieces, name)), name
    assert torch.equal(drawn, kernels.sample(logits, [1, 2], seed=4, top_k=3, backend="triton"))


def test_backend_takes_double_precision_through_the_reference() -> None:
    logits = torch.randn(2, 3, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    for result in (kernels.combine(logits, [1, 1], backend=name) for name in ("triton", "reference")):
        assert result.logprob.dtype == torch.float64
    assert torch.equal(*(kernels.sample(logits, [1, 1], seed=1, backend=name) for name in ("triton", "reference")))


def test_backend_is_never_chosen_on_the_cpu_unless_it_is_named() -> None:
    assert "triton" in kernels.available_backends("cpu")
    assert kernels.available_backends("cpu")[0] != "triton"
