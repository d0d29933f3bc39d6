from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.config.composition import compose
from ensemw2s.config.presets import list_presets
from ensemw2s.config.schema import RunConfig
from ensemw2s.config.training import ComputeConfig, ModelConfig
from ensemw2s.data.embedded import base_path
from ensemw2s.estimate import sizes as module
from ensemw2s.estimate.estimate import Estimate, Speed, estimate, measure_speed
from ensemw2s.estimate.sizes import data_size, model_size
from ensemw2s.pipeline.plan import planned_stages

SPEED = Speed("cpu", 1e11, 2e10)
PAPER = [preset.name for preset in list_presets() if preset.name.startswith("paper-")]


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_fetch_configuration", lambda hub_id, revision: None)


@pytest.mark.parametrize("until", [None, "experts"])
def test_every_stage_but_the_data_has_a_cost(until: str | None) -> None:
    config = compose(preset="tiny").config
    found = estimate(config, until, speed=SPEED)
    assert [stage.stage for stage in found.stages] == planned_stages(config, until)[1:]
    total = found.total()
    assert total.tokens == sum(stage.tokens for stage in found.stages)
    assert total.flops == sum(stage.flops or 0 for stage in found.stages)
    assert total.memory == max(stage.memory or 0 for stage in found.stages)
    assert sum(group.tokens for group in found.groups().values()) == total.tokens
    doubled = estimate(config, until, seeds=2, speed=SPEED).total()
    assert (doubled.tokens, doubled.flops, doubled.memory) == (2 * total.tokens, 2 * (total.flops or 0), total.memory)
    json.dumps(found.to_json())


def test_tokens_and_operations_are_those_of_the_run(finished: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = finished
    config = RunConfig.model_validate(_config(folder))
    stages = {stage.stage: stage for stage in estimate(config, speed=SPEED).stages}
    compared = 0
    for name, stage in stages.items():
        record = folder / name / "stage.json"
        if not record.exists():
            continue
        work = json.loads(record.read_text())["cost"]["work"]
        tokens, flops = sum(piece["tokens"] for piece in work), sum(piece["flops"] for piece in work)
        if not tokens:
            continue
        compared += 1
        assert stage.tokens == pytest.approx(tokens, rel=0.1), name
        assert stage.flops == pytest.approx(flops, rel=0.1), name
    assert compared >= 7


def _config(folder: Path) -> dict[str, Any]:
    from ensemw2s.config.composition import load_config

    return load_config(folder / "config.yaml").model_dump()


@pytest.mark.parametrize("name", PAPER)
def test_paper_presets_are_estimated_offline(name: str) -> None:
    config = compose(preset=name).config
    assert config.boosting.rounds == (10 if name in ("paper-quartz", "paper-amazon-polarity") else 5)
    found = estimate(config, speed=SPEED)
    total = found.total()
    assert total.flops is not None
    assert total.flops > 1e14
    assert found.data.known_from == "published sizes"
    assert found.weak.known_from.startswith("its name")
    assert found.weak.parameters is not None
    assert found.strong.parameters is not None
    assert found.weak.parameters < found.strong.parameters


@pytest.mark.parametrize(
    ("path", "parameters"),
    [
        ("EleutherAI/pythia-160m", 160_000_000),
        ("Qwen/Qwen2.5-0.5B-Instruct", 500_000_000),
        ("meta-llama/Llama-3.2-1B", 1_000_000_000),
        ("someone/model", None),
    ],
)
def test_sizes_by_name(path: str, parameters: int | None) -> None:
    size = model_size(ModelConfig(path=path))
    assert size.parameters == parameters
    assert "hub cannot be reached" in size.known_from
    if parameters is None:
        config = compose(preset="tiny", sets=[f"models.weak.path={path}"]).config
        assert estimate(config, speed=SPEED).total().seconds is None


def test_a_configuration_from_the_hub_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    content = (base_path("strong") / "config.json").read_bytes()
    monkeypatch.setattr(module, "_fetch_configuration", lambda hub_id, revision: content)
    found, local = model_size(ModelConfig(path="someone/model")), model_size(ModelConfig(path="embedded:strong"))
    assert (found.parameters, found.layers, found.hidden) == (local.parameters, local.layers, local.hidden)
    assert found.known_from == "its configuration on the hub"
    half = model_size(ModelConfig(path="someone/model", keep_layers=2))
    assert half.layers == 2
    assert (half.parameters or 0) < (found.parameters or 0)


def test_what_is_missing_is_said_and_guessed(tmp_path: Path) -> None:
    lost = model_size(ModelConfig(path=str(tmp_path / "model-7b")))
    assert "There is no model folder" in lost.known_from
    config = RunConfig.model_validate({"data": {"source": {"kind": "gsm8k", "path": str(tmp_path / "none.jsonl")}}})
    found = data_size(config)
    assert found.known_from.startswith("guessed:")
    assert "does not exist" in found.known_from


def test_settings_that_cost_more_or_less() -> None:
    def flops(*sets: str) -> int:
        found = estimate(compose(preset="tiny", sets=sets).config, speed=SPEED).total().flops
        assert found is not None
        return found

    plain = flops()
    assert flops("training.student.lora={r: 4}") < plain < flops("training.student.gradient_checkpointing=true")
    assert plain < flops("boosting.rounds=7")
    assert flops("arms.plain_long=false") < plain
    assert flops("student.generations=1") < plain < flops("student.generations=3")


def test_adapters_in_the_last_layers_take_less_time() -> None:
    def estimated(last: str) -> Estimate:
        sets = [f"training.{role}.lora={{r: 4, last_layers: {last}}}" for role in ("expert", "student")]
        return estimate(compose(preset="tiny", sets=sets).config, speed=SPEED)

    one, two, every = map(estimated, ("1", "2", "null"))
    assert (one.total().flops or 0) < (two.total().flops or 0) < (every.total().flops or 0)
    assert (one.total().seconds or 0) < (two.total().seconds or 0) < (every.total().seconds or 0)
    for few, all_ in zip(one.stages, every.stages, strict=True):
        if few.stage.startswith("baselines/zero-shot"):  # it runs the whole model
            assert few == all_
        elif few.stage.endswith("/scores"):
            assert (few.seconds or 0) <= (all_.seconds or 0)


def test_a_generating_run(finished: tuple[Path, dict[str, Any]]) -> None:
    config = compose(preset="tiny", sets=["task=generate", "student.labels=hard", "student.generations=1"]).config
    found = estimate(config, speed=SPEED)
    answers = [stage for stage in found.stages if stage.stage.startswith("answers/")]
    assert answers
    assert all((stage.flops or 0) > 0 for stage in answers)


def test_the_speed_of_this_machine() -> None:
    speed = measure_speed(ComputeConfig(device="cpu", threads=1))
    assert speed.device == "cpu"
    assert 1e8 < speed.flops < 1e14
    assert 1e8 < speed.bandwidth < 1e13
