"""``combine_from_hidden`` gives what ``combine`` gives for the whole logits, a tile of rows at a time."""

from __future__ import annotations

import pytest
import torch

from ensemw2s import kernels
from ensemw2s.kernels import lm_head


def experts(rows: int, dtype: torch.dtype, *, bias: bool = True) -> tuple[list, list, list]:
    generator = torch.Generator().manual_seed(rows)
    widths, vocabulary = (8, 16, 4), 700
    hidden = [torch.randn(rows, width, generator=generator).to(dtype) for width in widths]
    weights = [torch.randn(vocabulary, width, generator=generator).to(dtype) for width in widths]
    biases = [torch.randn(vocabulary, generator=generator).to(dtype) if bias else None, None, None]
    return hidden, weights, biases


def whole_logits(hidden: list, weights: list, biases: list) -> list[torch.Tensor]:
    products = (h @ w.T for h, w in zip(hidden, weights, strict=True))
    return [x if b is None else x + b for x, b in zip(products, biases, strict=True)]


@pytest.mark.parametrize("rule", ["mixture", "product", "vote"])
@pytest.mark.parametrize("backend", ["native", "reference"])
@pytest.mark.parametrize("tile_bytes", [1, 30_000, 1 << 30])
@pytest.mark.parametrize("rows", [0, 1, 9])
def test_same_as_combine(rule, backend, tile_bytes, rows, monkeypatch) -> None:
    monkeypatch.setattr(lm_head, "_TILE_BYTES", tile_bytes)
    hidden, weights, biases = experts(rows, torch.float32)
    targets = torch.arange(rows) * 70
    options = {"rule": rule, "targets": targets, "top_k": 5, "temperature": 0.9, "backend": backend}
    found = kernels.combine_from_hidden(hidden, weights, [1, 2, 3], biases=biases, **options)
    expected = kernels.combine(whole_logits(hidden, weights, biases), [1, 2, 3], **options)
    for name in expected.__dataclass_fields__:
        one, other = getattr(found, name), getattr(expected, name)
        if one is None or other is None:
            assert one is other is None
        else:
            torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types(dtype) -> None:
    hidden, weights, biases = experts(6, dtype, bias=False)
    found = kernels.combine_from_hidden(hidden, weights, [1, 1, 1])
    expected = kernels.combine(whole_logits(hidden, weights, biases), [1, 1, 1])
    torch.testing.assert_close(found.logprob, expected.logprob, rtol=1e-3, atol=1e-3)
    assert found.log_probs is None
    assert found.target_logprob is None


def test_an_ignored_expert_may_hold_anything() -> None:
    hidden, weights, _ = experts(5, torch.float32)
    clean = kernels.combine_from_hidden(hidden, weights, [1, 1, 0])
    hidden[2].fill_(torch.nan)
    assert torch.equal(kernels.combine_from_hidden(hidden, weights, [1, 1, 0]).logprob, clean.logprob)


def test_tiles_bound_the_logits(monkeypatch) -> None:
    monkeypatch.setattr(lm_head, "_TILE_BYTES", 4 * 700 * 4 * 3)
    seen = []
    native = lm_head.choose("native", kernels.CombineRequest((torch.zeros(1, 1),), (1.0,), "mixture", 1.0))
    original = native.combine
    monkeypatch.setattr(native, "combine", lambda request: seen.append(request.rows) or original(request))
    hidden, weights, _ = experts(10, torch.float32)
    kernels.combine_from_hidden(hidden, weights, [1, 1, 1], backend="native")
    assert seen == [4, 4, 2]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda h, w, b: (h[:2], w, b), ValueError, "2 hidden states, 3 heads"),
        (lambda h, w, b: ([], [], []), ValueError, "at least one expert"),
        (lambda h, w, b: ([h[1], *h[1:]], w, b), ValueError, r"expert 0 has hidden states .* expected \[N, H\]"),
        (lambda h, w, b: ([*h[:2], h[2][:3]], w, b), ValueError, "expert 2 has N = 3"),
        (lambda h, w, b: (h, [*w[:2], w[2][:3]], b), ValueError, "expert 2 has N = 5, V = 3"),
        (lambda h, w, b: (h, w, [b[0][:4], None, None]), ValueError, "the bias of expert 0"),
        (lambda h, w, b: ([h[0].double(), *h[1:]], w, b), TypeError, "expert 0 mixes torch.float32, torch.float64"),
    ],
)
def test_errors(change, error, words) -> None:
    hidden, weights, biases = change(*experts(5, torch.float32))
    with pytest.raises(error, match=words):
        kernels.combine_from_hidden(hidden, weights, [1, 1, 1], biases=biases)


@pytest.mark.parametrize(
    ("options", "words"),
    [({"targets": torch.tensor([0, 1, 2, 3, 700])}, r"targets\[4\] is 700"), ({"backend": "cuda"}, "available")],
)
def test_errors_of_combine(options, words) -> None:
    hidden, weights, _ = experts(5, torch.float32)
    with pytest.raises(ValueError, match=words):
        kernels.combine_from_hidden(hidden, weights, [1, 1, 1], **options)
