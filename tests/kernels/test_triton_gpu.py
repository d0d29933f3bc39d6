"""The Triton backend on a GPU, against the reference on the same device."""

from __future__ import annotations

import pytest
import torch

from ensemw2s import kernels

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")]
FLOATS = ("logprob", "target_logprob", "logsumexp", "expert_target_logprob", "log_probs", "topk_logprob")
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def logits_of(dtype: torch.dtype, vocabulary: int) -> torch.Tensor:
    generator = torch.Generator(device="cuda").manual_seed(vocabulary)
    x = torch.randn(4, 9, vocabulary, device="cuda", generator=generator) * 4
    x[0, 1, 0] = float("nan")
    x[1, 2, -1] = float("inf")
    x[2, 3] = float("-inf")
    x[:, 4] = 0.5
    x[:, 5, 1:] = float("-inf")
    return x.to(dtype)


@pytest.mark.parametrize("rule", ["mixture", "product", "vote"])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("vocabulary", [1, 37, 50_257, 151_936])
def test_combine(rule, temperature, dtype, vocabulary) -> None:
    logits = logits_of(dtype, vocabulary)
    targets = torch.arange(9, device="cuda") % vocabulary
    options = {"rule": rule, "temperature": temperature, "targets": targets, "return_probs": True, "top_k": 16}
    ours, truth = (kernels.combine(logits, [1, 0.5, 0, 2], backend=name, **options) for name in ("triton", "reference"))
    assert torch.equal(ours.argmax, truth.argmax)
    assert torch.equal(ours.expert_argmax, truth.expert_argmax)
    for name in FLOATS:
        torch.testing.assert_close(getattr(ours, name), getattr(truth, name), rtol=3e-6, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("rule", ["mixture", "product", "vote"])
@pytest.mark.parametrize(
    "options", [{}, {"top_k": 40}, {"top_p": 0.9}, {"temperature": 0.7, "top_k": 50, "top_p": 0.8}]
)
def test_sample_takes_the_tokens_of_the_reference(rule, options) -> None:
    logits = torch.randn(3, 2000, 5003, device="cuda", generator=torch.Generator(device="cuda").manual_seed(1)) * 3
    ours, same = (
        kernels.sample(logits, [1, 2, 0.5], seed=7, rule=rule, backend=name, **options)
        for name in ("triton", "reference")
    )
    assert int((ours != same).sum()) <= 4  # the uniforms are the same; sums differ in their last digits


def test_same_bits_on_every_call_and_in_slices() -> None:
    logits = torch.randn(3, 64, 50_257, device="cuda", dtype=torch.bfloat16)
    first = kernels.combine(logits, [1, 2, 3], backend="triton")
    again = kernels.combine(logits[:, 10:20], [1, 2, 3], backend="triton")
    assert torch.equal(first.logprob[10:20], again.logprob)
    assert torch.equal(first.logsumexp[:, 10:20], again.logsumexp)


def test_chosen_by_itself() -> None:
    assert kernels.available_backends("cuda")[0] == "triton"
