"""The example of ``docs/extending.md``, as an installed distribution, does what the page says."""

from __future__ import annotations

import json
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from ensemw2s import kernels, registry
from ensemw2s.boosting.draws import Draw
from ensemw2s.boosting.loop import Booster
from ensemw2s.boosting.weights import TokenLayout
from ensemw2s.config.composition import compose
from ensemw2s.data.sources import load_source
from ensemw2s.models.training.losses import IGNORED, LossConfig, training_loss
from ensemw2s.registry import Registry
from ensemw2s.sink import NullSink

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"


@pytest.fixture
def example(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = PAGE.read_text(encoding="utf-8")
    project = tomllib.loads(re.findall(r"```toml\n(.*?)```", text, re.S)[0])["project"]
    name, version = project["name"], project["version"]
    info = tmp_path / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    points = [
        f"[{group}]\n" + "".join(f"{key} = {value}\n" for key, value in found.items())
        for group, found in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(points))
    (tmp_path / "ensemw2s_example").mkdir()
    for place, code in re.findall(r"```python\n# (\S+)\n(.*?)```", text, re.S):
        assert code.count("\n") < 30
        (tmp_path / place).write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    for one in vars(registry).values():
        if isinstance(one, Registry):
            monkeypatch.setattr(one, "_loaded", {})
    yield
    for module in [module for module in sys.modules if module.startswith("ensemw2s_example")]:
        del sys.modules[module]


class Stumps:
    """Experts whose errors are given."""

    wrong = (np.repeat([1.0, 0.0], [4, 16]), np.repeat([0.0, 1.0], [18, 2]))

    def fit(self, round_: int, draw: Draw) -> None:
        pass

    def errors(self, round_: int) -> np.ndarray:
        return self.wrong[round_ - 1]

    def base_errors(self) -> np.ndarray:
        return np.repeat([1.0, 0.0], [10, 10])

    def validation_score(self, alphas: list[float]) -> float:
        return float(len(alphas))


@pytest.mark.usefixtures("example")
def test_the_rule_boosts() -> None:
    config = compose(sets=["boosting.alpha=edge", "boosting.rounds=2", "boosting.draw=none"]).config.boosting
    booster = Booster(config, TokenLayout(np.arange(21)), Stumps(), classes=2, seed=0, sink=NullSink())
    first = np.exp(0.3)  # errors 0.2 of the expert, 0.5 of the base
    weights = np.repeat([first, 1.0], [4, 16])
    second = (4 * first + 6) / weights.sum() - 2 / weights.sum()
    assert booster.fit().alphas == pytest.approx([0.3, second], rel=1e-6)


@pytest.mark.usefixtures("example")
def test_the_loss_trains() -> None:
    loss = LossConfig(compose(sets=["student.loss=focal"]).config.student.loss)
    logits = torch.zeros(4, 5, requires_grad=True)
    labels = torch.tensor([0, 1, 2, IGNORED])
    optimizer = torch.optim.SGD([logits], lr=2.0)
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        value = training_loss(loss, logits, labels, torch.ones(4))
        value.backward()
        optimizer.step()
        losses.append(value.item())
    assert losses[0] == pytest.approx(3 * 0.8**2 * np.log(5), rel=1e-5)
    assert losses[-1] < 0.1 * losses[0]
    assert logits[:3].argmax(dim=1).tolist() == [0, 1, 2]
    assert not logits[3].any()


@pytest.mark.usefixtures("example")
def test_the_data_set_is_read(tmp_path: Path) -> None:
    rows = [{"riddle": f"What has {n} hands?", "solution": "a clock", "trap": "a crowd"} for n in (2, 3)]
    (tmp_path / "riddles-1.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = compose(sets=["data.source.kind=riddles", f"data.source.path={tmp_path}"]).config.data.source
    examples = load_source(source, 0)
    assert [found.prompt for found in examples] == [row["riddle"] for row in rows]
    assert all(found.answer == "a clock" and set(found.choices or ()) == {"a clock", "a crowd"} for found in examples)


@pytest.mark.usefixtures("example")
def test_the_backend_combines() -> None:
    backend = compose(sets=["compute.backend=double"]).config.compute.backend
    logits = torch.randn(2, 6, 40, generator=torch.Generator().manual_seed(1))
    found = kernels.combine(logits, [1.0, 2.0], backend=backend)
    expected = (torch.softmax(logits.double(), dim=2) * torch.tensor([1 / 3, 2 / 3])[:, None, None]).sum(dim=0)
    assert found.logprob.dtype == torch.float64
    torch.testing.assert_close(found.logprob.exp(), expected.max(dim=1).values)
    assert found.argmax.tolist() == expected.argmax(dim=1).tolist()
    drawn = kernels.sample(logits, [1.0, 2.0], seed=3, backend=backend)
    assert drawn.tolist() == kernels.sample(logits, [1.0, 2.0], seed=3, backend="reference").tolist()
    assert "double" not in kernels.available_backends()
