"""Cases of ``gpu.py``: our kernels, torch eager, torch.compile and flashinfer on the same tensors."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from typing import Any

import torch
from case import LongCase
from torch import Tensor

from ensemw2s import kernels
from ensemw2s.kernels.bench.baselines import EAGER, multinomial
from ensemw2s.kernels.bench.timing import Run

ALPHAS = [1.4, 1.0, 0.7, 0.5, 0.3, 0.2, 0.2, 0.1]
SHAPES = [(3, 64, 50_257), (3, 512, 49_152), (5, 512, 151_936), (5, 64, 151_936), (5, 1, 151_936), (2, 4096, 32_000)]
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}
CHECKED_ROWS = 64
Row = dict[str, Any]


def flashinfer_sampler(logits: Tensor, alphas: Tensor) -> dict[str, Run]:
    """flashinfer draws from probabilities, which have to be combined first; nothing where it is not installed."""
    if importlib.util.find_spec("flashinfer") is None or logits.device.type != "cuda":
        return {}
    import flashinfer  # type: ignore[import-not-found,unused-ignore]

    def draw() -> object:
        probabilities = (logits.float().softmax(dim=-1) * alphas[:, None, None]).sum(dim=0)
        return flashinfer.sampling.sampling_from_probs(probabilities)

    return {"flashinfer": draw}


def compiled(formula: Callable[..., object], *arguments: object) -> dict[str, Run]:
    """What ``torch.compile`` makes of a formula."""
    torch._dynamo.reset()  # else, after eight shapes, eager would run in disguise
    run = torch.compile(formula, dynamic=False)
    return {"compile": lambda: run(*arguments)}


def results_of(found: kernels.CombineResult) -> tuple[Tensor, ...]:
    """The results in the order of ``baselines.eager``."""
    names = ("argmax", "logprob", "target_logprob", "expert_argmax", "logsumexp", "expert_target_logprob")
    return tuple(getattr(found, name) for name in names)


def largest_error(given: tuple[Tensor, ...], truth: tuple[Tensor, ...]) -> float:
    """The largest difference of log-probabilities; both as ``baselines.eager`` gives them."""
    return max(float((given[i].double() - truth[i]).abs().max()) for i in (1, 2, 5))


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
        "error": largest_error(results_of(ours), results_of(truth)),
        "eager_error": largest_error(EAGER["mixture"](part.unbind(), share, wanted), results_of(truth)),
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


def logit_cases(
    shape: tuple[int, int, int], dtype: torch.dtype, device: torch.device, backend: str, *, compiling: bool
) -> Iterator[LongCase]:
    """Combining and sampling from logits in memory."""
    experts, rows, vocabulary = shape
    generator = torch.Generator(device=device).manual_seed(0)
    logits = (torch.randn(*shape, device=device, generator=generator) * 3).to(dtype)
    peak = torch.randint(0, vocabulary, (rows,), device=device, generator=generator)
    logits[:, torch.arange(rows, device=device), peak] += 12  # language models are peaked
    targets = torch.randint(0, vocabulary, (rows,), device=device, generator=generator)
    alphas = ALPHAS[:experts]
    share = torch.tensor(alphas, device=device) / sum(alphas)
    kind = {"dtype": str(dtype).removeprefix("torch."), "K": experts, "N": rows, "V": vocabulary}
    facts = kind | agreement(logits, alphas, targets, backend)

    def case(name: str, ways: Callable[[], dict[str, Run]]) -> LongCase:
        size = " ".join(map(str, kind.values()))
        return LongCase("gpu", name, size, ways, bytes_moved=logits.numel() * dtype.itemsize, facts=facts)

    def combining(name: str, x: Tensor, rule: str = "mixture", **options: Any) -> LongCase:
        formula: Callable[..., object] = EAGER[rule]
        wanted: Row = {} if "return_probs" in options else {"targets": targets}

        def ways() -> dict[str, Run]:
            runs: dict[str, Run] = {
                backend: lambda: kernels.combine(x, alphas, rule=rule, backend=backend, **wanted, **options),
                "eager": lambda: formula(x.unbind(), share, targets),
            }
            return runs | (compiled(formula, x.unbind(), share, targets) if compiling else {})

        return case(name, ways)

    def sampling(name: str, **options: Any) -> LongCase:
        def ways() -> dict[str, Run]:
            runs: dict[str, Run] = {
                backend: lambda: kernels.sample(logits, alphas, seed=1, backend=backend, **options),
                "eager": lambda: multinomial(logits.unbind(), share),
            }
            runs |= {} if options else flashinfer_sampler(logits, share)
            return runs | (compiled(multinomial, logits.unbind(), share) if compiling else {})

        return case(name, ways)

    yield combining("combine", logits)
    yield combining("combine, flat logits", torch.zeros_like(logits))
    yield combining("combine, product", logits, rule="product")
    yield combining("combine, whole row", logits, return_probs=True)
    yield sampling("sample")
    yield sampling("sample, top-k 50, top-p 0.9", top_k=min(50, vocabulary - 1), top_p=0.9)
