"""A run whose weak base is the first layers of the strong one, with adapters for experts and students."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensemw2s.data.store import read_splits
from ensemw2s.ensemble import Ensemble
from ensemw2s.errors import ConfigError, InputError
from ensemw2s.pipeline.context import Context
from ensemw2s.pipeline.run import execute
from ensemw2s.runs.directory import RunDirectory, remove_trunk
from ensemw2s.sink import NullSink


def test_experts_are_adapters_over_the_first_layers(tmp_path: Path, mini_config: Any, recorder: Any) -> None:
    settings = {
        "models.weak": {"path": "embedded:strong", "keep_layers": 2},
        "training.expert.lora": {"r": 4, "last_layers": 1},
        "training.student.lora": {"r": 4, "last_layers": 2},
        "arms.bagging": False,
        "arms.plain": False,
        "arms.students": ["ensemble"],
    }
    results = execute(mini_config(**settings), tmp_path / "run", sink=recorder, report=False)
    assert [
        event["text"].partition(": ")[2] for event in recorder.of("message") if "hidden states" in event["text"]
    ] == [
        "the hidden states that enter layer 2 are computed once for each text.",
        "the hidden states that enter layer 3 are computed once for each text.",
    ]
    assert not (tmp_path / "run" / "trunk").exists()
    models = results["models"]
    assert models["weak"]["parameters"] < models["strong"]["parameters"]
    expert = tmp_path / "run" / "experts" / "round-01" / "model"
    assert json.loads((expert / "base_model.json").read_text()) == {"keep_layers": 2}
    assert not (tmp_path / "run" / "student" / "ensemble" / "model" / "base_model.json").exists()
    test = read_splits(tmp_path / "run" / "data").test
    rows = Ensemble.load(tmp_path / "run").score(test)
    assert np.mean([row["correct"] for row in rows]) == results["arms"]["ensemble"]["test"]["accuracy"]


@pytest.mark.parametrize(("role", "side", "layers"), [("expert", "weak", 2), ("student", "strong", 4)])
def test_more_last_layers_than_there_are(tmp_path: Path, mini_config: Any, role: str, side: str, layers: int) -> None:
    """Found before anything is trained."""
    weak = {"path": "embedded:strong", "keep_layers": 2}
    config = mini_config(**{"models.weak": weak, f"training.{role}.lora": {"last_layers": layers + 1}})
    text = rf"training.{role}.lora.last_layers is {layers + 1}, but the {side} base has {layers} layers"
    with pytest.raises(ConfigError, match=text):
        execute(config, tmp_path / "run", sink=NullSink(), report=False)
    assert not (tmp_path / "run" / "experts").exists()


def test_kept_states_go_through_no_link_and_over_no_file(tmp_path: Path, mini_config: Any) -> None:
    for name in ("link", "file"):
        (tmp_path / name).mkdir()
    (tmp_path / "link" / "trunk").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "file" / "trunk").write_text("mine")
    for name, what in (("link", "is a symbolic link"), ("file", "is a file, where a folder is kept")):
        with pytest.raises(InputError, match=what):
            _ = Context(mini_config(), RunDirectory(tmp_path / name), NullSink()).trunk
    store = Context(mini_config(**{"compute.trunk_cache_gb": 0.5}), RunDirectory(tmp_path), NullSink()).trunk
    assert (store.path, store.limit) == (tmp_path / "trunk", 500_000_000)
    assert not store.path.exists()


def test_only_kept_states_are_removed(tmp_path: Path) -> None:
    """Several seeds may be run in a folder that had a ``trunk`` of its own, or get there by a link."""
    elsewhere = tmp_path / "elsewhere"
    for place in (tmp_path / "run" / "trunk", elsewhere, elsewhere / ("e" * 32)):
        place.mkdir(parents=True)
    trunk, mine = tmp_path / "run" / "trunk", ("code.py", "d" * 31 + "x")
    states = trunk / ("a" * 32)
    states.mkdir()
    (trunk / ("b" * 32)).symlink_to(elsewhere)
    for name in ("c" * 32 + ".npy", "c" * 32 + ".json", "." + "c" * 32 + ".npy.123.tmp"):
        (states / name).write_text("states")
        (elsewhere / name).write_text("mine")
    for name in mine:
        (trunk / name).write_text("mine")
    remove_trunk(tmp_path / "run")
    assert not states.exists()
    assert {entry.name for entry in trunk.iterdir()} == {*mine, "b" * 32}
    assert len(list(elsewhere.iterdir())) == 4
    for name in (*mine, "b" * 32):
        (trunk / name).unlink()
    remove_trunk(tmp_path / "run")
    assert not trunk.exists()
    trunk.symlink_to(elsewhere)
    remove_trunk(tmp_path / "run")
    assert len(list(elsewhere.iterdir())) == 4
    assert trunk.is_symlink()
