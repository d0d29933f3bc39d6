"""The registry of backends, and what the package needs at import."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from ensemw2s import kernels
from ensemw2s.config.composition import compose
from ensemw2s.kernels import dispatch
from ensemw2s.registry import KERNEL_BACKENDS


class Toy:
    name = "toy"
    priority = 1000

    def unavailable(self, device: torch.device) -> str | None:
        return None if device.type == "cpu" else "it only knows the CPU"

    def combine(self, request: kernels.CombineRequest) -> kernels.CombineResult:
        zeros = torch.zeros(request.rows, dtype=torch.int64)
        return kernels.CombineResult(zeros + 7, zeros.float(), zeros[None], zeros[None].float())

    def sample(self, request: kernels.SampleRequest) -> torch.Tensor:
        return torch.zeros(request.rows, dtype=torch.int64) - 1


@pytest.fixture
def toy(monkeypatch):
    monkeypatch.setattr(KERNEL_BACKENDS, "_added", {})
    kernels.register(Toy())


def test_reference_is_always_there() -> None:
    assert "reference" in kernels.available_backends()
    assert "reference" in kernels.available_backends("cuda")


@pytest.mark.usefixtures("toy")
def test_auto_takes_the_highest_priority_that_can_run() -> None:
    assert kernels.available_backends()[0] == "toy"
    assert "toy" not in kernels.available_backends("meta")
    logits = torch.zeros(1, 2, 9)
    assert kernels.combine(logits, [1]).argmax.tolist() == [7, 7]
    assert kernels.combine(logits, [1], backend="reference").argmax.tolist() == [0, 0]


@pytest.mark.usefixtures("toy")
def test_forced_backend_that_cannot_run_says_why() -> None:
    with pytest.raises(ValueError, match=r"'toy' cannot run on meta: it only knows the CPU; available: .*reference"):
        dispatch.choose("toy", kernels.CombineRequest((torch.zeros(2, 9, device="meta"),), (1.0,), "mixture", 1.0))


@pytest.mark.usefixtures("toy")
def test_names_are_unique() -> None:
    with pytest.raises(ValueError, match="toy"):
        kernels.register(Toy())
    for name in ("auto", "native", "triton", "reference"):
        with pytest.raises(ValueError, match=name):
            kernels.register(type("Other", (Toy,), {"name": name})())


@pytest.mark.usefixtures("toy")
def test_a_registered_backend_can_be_configured() -> None:
    assert compose(sets=["compute.backend=toy"]).config.compute.backend == "toy"


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("tritn", r"'tritn' \(did you mean 'triton'\?\)"),
        ("Native", r"'Native' \(did you mean 'native'\?\)"),
        ("xyz", r"'xyz' \(known: 'native', 'triton', 'reference'.*\)"),
        ("", r"'' \(known: 'native'.*\)"),
        (None, r"None \(known: 'native'.*\)"),
    ],
)
def test_an_unknown_backend_is_an_error_that_names_the_nearest(name, meant) -> None:
    with pytest.raises(ValueError, match=f"unknown kernel backend {meant}; available for cpu: native, reference"):
        kernels.combine(torch.zeros(1, 2, 9), [1], backend=name)
    with pytest.raises(ValueError, match=f"unknown kernel backend {meant}"):
        kernels.sample(torch.zeros(1, 2, 9), [1], seed=0, backend=name)


@pytest.mark.usefixtures("toy")
def test_undefined_rows_of_any_backend_are_reported() -> None:
    with pytest.raises(ValueError, match="row 0"):
        kernels.sample(torch.zeros(1, 2, 9), [1], seed=0)


def test_imports_without_triton_and_without_other_rooms() -> None:
    code = (
        "import sys; sys.modules['triton'] = None\n"
        "import ensemw2s.kernels, torch\n"
        "ensemw2s.kernels.combine(torch.zeros(1, 1, 2), [1])\n"
        "heavy = {'transformers', 'datasets', 'scipy', 'pandas', 'matplotlib', 'ensemw2s.config', 'ensemw2s.data'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr
