"""Tensors that are not what they seem, and numbers that are none: the right result or one clear error."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch

from ensemw2s import kernels

BACKENDS = ["native", "reference"]
PLAIN = torch.randn(2, 3, 50, generator=torch.Generator().manual_seed(0))


def negated(x: torch.Tensor) -> torch.Tensor:
    """The same values in a view whose flag negates what its memory holds."""
    out = torch.complex(torch.zeros_like(x), -x).conj().imag
    assert out.is_neg()
    return out


def misaligned(x: torch.Tensor) -> torch.Tensor:
    size = x.element_size()
    memory = torch.zeros(x.numel() * size + 1, dtype=torch.uint8)
    memory[1:] = x.contiguous().view(torch.uint8).reshape(-1)
    out = torch.frombuffer(memory.numpy().data, dtype=x.dtype, offset=1).reshape(x.shape)
    assert out.data_ptr() % size
    return out


def inferred(x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return x.clone()


def strided(x: torch.Tensor) -> torch.Tensor:
    return torch.stack([x, torch.full_like(x, math.nan)], dim=-1)[..., 0]


ODD = {
    "negative bit": negated,
    "misaligned": misaligned,
    "inference": inferred,
    "gradient": lambda x: x.clone().requires_grad_(),
    "parameter": lambda x: torch.nn.Parameter(x.clone()),
    "expanded": lambda x: x[..., :1].expand(x.shape),
    "reversed": lambda x: x.flip(-1).flip(-1),
    "strided": strided,
    "transposed": lambda x: x.transpose(-1, -2).contiguous().transpose(-1, -2),
}


def same(found: kernels.CombineResult, expected: kernels.CombineResult) -> None:
    for name in expected.__dataclass_fields__:
        ours, theirs = getattr(found, name), getattr(expected, name)
        assert not ours.requires_grad
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_odd_tensors_give_what_their_values_say(kind, dtype, backend) -> None:
    plain = PLAIN.to(dtype)
    if kind == "negative bit" and dtype == torch.bfloat16:
        pytest.skip("complex numbers of bfloat16 do not exist")
    odd = ODD[kind](plain)
    plain = odd.detach().clone().resolve_neg().contiguous()
    targets = torch.tensor([3, 0, 49])
    options = {"return_probs": True, "top_k": 4, "backend": backend, "rule": "product", "temperature": 0.5}
    expected = kernels.combine(plain, [1, 2], targets=targets, **options)
    same(kernels.combine(odd, [1, 2], targets=targets, **options), expected)
    same(kernels.combine(list(odd.unbind(0)), [1, 2], targets=targets, **options), expected)
    same(kernels.combine([odd[0], plain[1]], [1, 2], targets=targets, **options), expected)
    if kind != "transposed":
        alphas = ODD[kind](torch.tensor([1.0, 2.0], dtype=dtype))
        weights = [1, 1] if kind == "expanded" else [1, 2]
        expected = kernels.combine(plain, weights, targets=targets, **options)
        same(kernels.combine(plain, alphas, targets=targets, **options), expected)
    if kind in ("misaligned", "inference", "expanded"):
        places = ODD[kind](torch.tensor([3, 3, 3]))
        expected = kernels.combine(plain, [1, 2], targets=torch.tensor([3, 3, 3]), **options)
        same(kernels.combine(odd, [1, 2], targets=places, **options), expected)
        drawn = [kernels.sample(x, [1, 2], seed=5, index=places, backend=backend) for x in (odd, plain)]
        assert torch.equal(*drawn)


META = torch.zeros(2, 3, 50, device="meta")


def unusual(make):
    """A tensor of a kind whose making torch comments on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return make()


BAD_LOGITS = [
    (META, ValueError, "device meta, which holds no numbers"),
    ([PLAIN[0], META[0]], ValueError, "expert 1 are on the device meta"),
    (PLAIN.to_sparse(), TypeError, "sparse_coo tensor; expected a dense one"),
    (unusual(lambda: [PLAIN[0].to_sparse_csr()] * 2), TypeError, "expert 0 are a sparse_csr tensor"),
    (
        unusual(lambda: torch.nested.nested_tensor([PLAIN[0], PLAIN[1]])),
        TypeError,
        "nested tensor; expected a dense one",
    ),
    (
        unusual(lambda: torch.quantize_per_tensor(PLAIN, 0.1, 0, torch.qint8)),
        TypeError,
        "torch.qint8; expected float32",
    ),
    (torch.complex(PLAIN, PLAIN).conj(), TypeError, "complex64; expected float32"),
    (PLAIN > 0, TypeError, "torch.bool"),
    (PLAIN.numpy(), TypeError, r"ndarray; expected a tensor \[K, N, V\]"),
    ([PLAIN.numpy()[0]] * 2, TypeError, "ndarray, not a torch.Tensor"),
    (None, TypeError, "NoneType; expected a tensor"),
    ({"a": PLAIN}, TypeError, "dict; expected a tensor"),
    ("logits", TypeError, "str; expected a tensor"),
]


@pytest.mark.parametrize("backend", ["auto", *BACKENDS])
@pytest.mark.parametrize(("logits", "error", "words"), BAD_LOGITS, ids=[words[:24] for _, _, words in BAD_LOGITS])
def test_other_tensors_are_one_clear_error(logits, error, words, backend) -> None:
    with pytest.raises(error, match=words):
        kernels.combine(logits, [1, 2], backend=backend)
    with pytest.raises(error, match=words):
        kernels.sample(logits, [1, 2], seed=0, backend=backend)


def test_a_mapped_tensor_is_one_clear_error() -> None:
    with pytest.raises(TypeError, match="inside vmap"):
        torch.vmap(lambda x: kernels.combine(x[None], [1]).logprob)(PLAIN)


NOT_INTEGERS = [1.5, 1.0, "7", b"7", None, True, np.bool_(True), np.float64(1.0), [1], math.nan, torch.tensor(1.0)]


@pytest.mark.parametrize("seed", NOT_INTEGERS)
def test_seeds_are_integers(seed) -> None:
    with pytest.raises(TypeError, match=r"seed is .*expected an integer in \[0, 2\*\*64\)"):
        kernels.sample(PLAIN, [1, 2], seed=seed)


def test_integers_of_any_library_are_integers() -> None:
    expected = kernels.sample(PLAIN, [1, 2], seed=3, top_k=5)
    for kind in (np.int64, np.uint8, torch.tensor, np.array):
        assert torch.equal(kernels.sample(PLAIN, [1, 2], seed=kind(3), top_k=kind(5)), expected)
        assert kernels.combine(PLAIN, [1, 2], top_k=kind(5)).topk_ids.shape == (3, 5)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"temperature": "1"}, TypeError, "temperature is '1', a str; expected a positive number"),
        ({"temperature": None}, TypeError, "temperature is None"),
        ({"temperature": True}, TypeError, "temperature is True"),
        ({"temperature": 10**400}, ValueError, "temperature is too large"),
        ({"temperature": 1j}, TypeError, "temperature is 1j"),
        ({"temperature": torch.ones(2)}, TypeError, "temperature is"),
        ({"alphas": "12"}, TypeError, "alphas are str; expected 2 numbers"),
        ({"alphas": None}, TypeError, "alphas are NoneType"),
        ({"alphas": [1, "2"]}, TypeError, r"alphas\[1\] is '2', a str"),
        ({"alphas": [1, True]}, TypeError, r"alphas\[1\] is True"),
        ({"alphas": torch.ones(2, device="meta")}, ValueError, "alphas are on the device meta"),
        ({"alphas": torch.ones(2).to_sparse()}, TypeError, "alphas are a sparse_coo tensor"),
        ({"alphas": torch.ones(2, dtype=torch.complex64)}, TypeError, "alphas are torch.complex64"),
        ({"top_k": 1.5}, TypeError, "top_k is 1.5, a float"),
        ({"top_k": 3.0}, TypeError, "top_k is 3.0, a float"),
        ({"top_k": "3"}, TypeError, "top_k is '3'"),
        ({"top_k": True}, TypeError, "top_k is True"),
        ({"top_k": -(2**70)}, ValueError, "top_k is -1180591620717411303424"),
        ({"rule": None}, ValueError, "unknown rule None"),
        ({"rule": np.array(["mixture", "vote"])}, ValueError, "unknown rule"),
        ({"targets": [0, 1, 2]}, TypeError, "targets are list, not a torch.Tensor"),
        ({"targets": torch.tensor([0, 1, 2]).to_sparse()}, TypeError, "targets are a sparse_coo tensor"),
        ({"targets": torch.zeros(3, dtype=torch.int64, device="meta")}, ValueError, "targets are on the device meta"),
        ({"targets": torch.zeros(3, dtype=torch.bool)}, TypeError, "targets are torch.bool"),
        ({"top_p": "0.5"}, TypeError, "top_p is '0.5'"),
        ({"top_p": True}, TypeError, "top_p is True"),
    ],
)
def test_other_arguments_are_one_clear_error(options, error, words) -> None:
    call = kernels.sample if "top_p" in options else kernels.combine
    seed = {"seed": 1} if "top_p" in options else {}
    given = {"alphas": [1, 2]} | options | seed
    with pytest.raises(error, match=words):
        call(PLAIN, given.pop("alphas"), **given)
