"""What ``gpu.py`` measures: our kernels and what a straightforward implementation does instead, on the same tensors."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ensemw2s import kernels

ALPHAS = [1.4, 1.0, 0.7, 0.5, 0.3, 0.2, 0.2, 0.1]
SHAPES = [(3, 64, 50_257), (3, 512, 49_152), (5, 512, 151_936), (5, 64, 151_936), (5, 1, 151_936), (2, 4096, 32_000)]
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
CHECKED_ROWS = 64
Run = Callable[[], object]
Row = dict[str, Any]


@dataclass
class Case:
    """One line of the table."""

    operation: str
    kind: Row
    """Data type and sizes."""
    ours: Run
    eager: Run
    bytes_once: int
    """What has to move at least."""
    compiled: Callable[..., object] | None = None
    """What ``torch.compile`` gets, with ``arguments``."""
    arguments: tuple[Any, ...] = ()
    others: dict[str, Run] = field(default_factory=dict)
    """More ways to do the same, by column."""
    facts: Row = field(default_factory=dict)
    """Agreement with float64."""


def eager_combine(logits: Tensor, alphas: Tensor, targets: Tensor) -> tuple[Tensor, ...]:
    """What a straightforward implementation does: everything that ``combine`` returns, in torch operations."""
    log_probs = logits.float().log_softmax(dim=-1)
    mixed = torch.logsumexp(log_probs + alphas.log()[:, None, None], dim=0)
    best = mixed.max(dim=-1)
    wanted = targets[:, None]
    expert_targets = log_probs.gather(2, wanted.expand(len(logits), -1, 1))[..., 0]
    return best.indices, best.values, mixed.gather(1, wanted)[:, 0], logits.argmax(dim=-1), expert_targets


def eager_sample(logits: Tensor, alphas: Tensor) -> Tensor:
    """Draw one token for each row with ``torch.multinomial``."""
    probabilities = (logits.float().softmax(dim=-1) * alphas[:, None, None]).sum(dim=0)
    return torch.multinomial(probabilities, 1)[:, 0]


def flashinfer_sampler(logits: Tensor, alphas: Tensor) -> dict[str, Run]:
    """flashinfer draws from probabilities, which have to be combined first; nothing where it is not installed."""
    if importlib.util.find_spec("flashinfer") is None or logits.device.type != "cuda":
        return {}
    import flashinfer  # type: ignore[import-not-found,unused-ignore]

    def draw() -> object:
        probabilities = (logits.float().softmax(dim=-1) * alphas[:, None, None]).sum(dim=0)
        return flashinfer.sampling.sampling_from_probs(probabilities)

    return {"x_flashinfer": draw}


def largest_error(result: Any, truth: Any) -> float:
    """The largest difference of log-probabilities; ``result`` is ours, or what ``eager_combine`` gives."""
    names = ("logprob", "target_logprob", "expert_target_logprob")
    given = [result[i] for i in (1, 2, 4)] if isinstance(result, tuple) else [getattr(result, name) for name in names]
    pairs = zip(given, (getattr(truth, name) for name in names), strict=True)
    return max(float((a.double() - b).abs().max()) for a, b in pairs)


def agreement(logits: Tensor, alphas: list[float], targets: Tensor, backend: str) -> Row:
    """Against the float64 reference on the same device: arg-max, largest error, and that of torch in the same type."""
    share = torch.tensor(alphas, device=logits.device) / sum(alphas)
    part, wanted = logits[:, :CHECKED_ROWS], targets[:CHECKED_ROWS]
    ours = kernels.combine(part, alphas, targets=wanted, backend=backend)
    truth = kernels.combine(part.double(), alphas, targets=wanted, backend="reference")
    drawn = kernels.sample(part, alphas, seed=3, backend=backend)
    expected = kernels.sample(part, alphas, seed=3, backend="reference")
    same = torch.equal(ours.argmax, truth.argmax) and torch.equal(ours.expert_argmax, truth.expert_argmax)
    return {
        "argmax": bool(same),
        "error": largest_error(ours, truth),
        "eager_error": largest_error(eager_combine(part, share, wanted), truth),
        "same_draws": float((drawn == expected).double().mean()),
    }


def awkward_inputs(device: torch.device, backend: str) -> bool:
    """NaN, infinities, ties, equal and one-hot rows give what the reference gives."""
    generator = torch.Generator(device=device).manual_seed(1)
    logits = torch.randn(3, 12, 1003, device=device, generator=generator)
    logits[0, 1, 5] = float("nan")
    logits[1, 2, 7] = float("inf")
    logits[2, 3] = float("-inf")
    logits[:, 4] = 0.25
    logits[:, 5] = float("-inf")
    logits[:, 5, 900] = 1.0
    logits[:, 6] = logits[:, 6].round()
    logits[:, 7, 500:] = float("-inf")
    targets = torch.arange(12, device=device) * 80
    good = True
    for rule in ("mixture", "product", "vote"):
        for temperature in (1.0, 0.6):
            options: Row = {"rule": rule, "temperature": temperature, "return_probs": True, "top_k": 7}
            ours, theirs = (
                kernels.combine(logits, [1, 2, 0.5], targets=targets, backend=name, **options)
                for name in (backend, "reference")
            )
            for name in ours.__dataclass_fields__:
                a, b = getattr(ours, name), getattr(theirs, name)
                exact = a.dtype == torch.int64
                good &= torch.equal(a, b) if exact else torch.allclose(a, b, rtol=2e-6, atol=5e-6, equal_nan=True)
    return good


def logit_cases(shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device, backend: str) -> Iterator[Case]:
    """Combining and sampling from logits in memory."""
    experts, rows, vocabulary = shape
    generator = torch.Generator(device=device).manual_seed(0)
    logits = (torch.randn(*shape, device=device, generator=generator) * 3).to(dtype)
    peak = torch.randint(0, vocabulary, (rows,), device=device, generator=generator)
    logits[:, torch.arange(rows, device=device), peak] += 12  # language models are peaked
    targets = torch.randint(0, vocabulary, (rows,), device=device, generator=generator)
    alphas = ALPHAS[:experts]
    share = torch.tensor(alphas, device=device) / sum(alphas)
    flat = torch.zeros_like(logits)
    kind = {"dtype": str(dtype).removeprefix("torch."), "K": experts, "N": rows, "V": vocabulary}
    facts = agreement(logits, alphas, targets, backend)
    size = logits.numel() * logits.element_size()

    def combining(name: str, x: Tensor, **options: Any) -> Case:
        wanted: Row = {} if "return_probs" in options else {"targets": targets}
        return Case(
            operation=name,
            kind=kind,
            ours=lambda: kernels.combine(x, alphas, backend=backend, **wanted, **options),
            eager=lambda: eager_combine(x, share, targets),
            bytes_once=size,
            compiled=eager_combine,
            arguments=(x, share, targets),
            facts=facts,
        )

    def sampling(name: str, **options: Any) -> Case:
        return Case(
            operation=name,
            kind=kind,
            ours=lambda: kernels.sample(logits, alphas, seed=1, backend=backend, **options),
            eager=lambda: eager_sample(logits, share),
            bytes_once=size,
            compiled=eager_sample,
            arguments=(logits, share),
            others={} if options else flashinfer_sampler(logits, share),
            facts=facts,
        )

    yield combining("combine", logits)
    yield combining("combine, flat logits", flat)
    yield combining("combine, product", logits, rule="product")
    yield combining("combine, whole row", logits, return_probs=True)
    yield sampling("sample")
    yield sampling("sample, top-k 50, top-p 0.9", top_k=min(50, vocabulary - 1), top_p=0.9)
