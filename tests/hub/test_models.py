from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.data.embedded import base_path

LOAD = """
import json, sys
from ensemw2s.config.training import ModelConfig
from ensemw2s.errors import Ew2sError
from ensemw2s.models.loading.fingerprint import model_fingerprint, pinned
from ensemw2s.models.loading.load import load_model
found = []
for asked in json.loads(sys.argv[1]):
    cfg = ModelConfig.model_validate({"path": "someone/weak", **asked})
    try:
        loaded = load_model(cfg)
        found.append([loaded.revision, loaded.parameters, model_fingerprint(cfg), pinned(cfg).revision])
    except Ew2sError as error:
        found.append([error.exit_code, error.message, error.hint])
print(json.dumps(found))
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(base_path("weak"), tmp_path / "weak"))


def ask(python: Any, *asked: dict[str, Any], offline: bool = False) -> Any:
    """Load the models in one process that knows the mirror as the hub."""
    done = python(LOAD, args=(json.dumps(asked or [{}]),), offline=offline)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_hub_models_with_their_commits(mirror: Any, python: Any, folder: Path) -> None:
    first = mirror.add_folder("models", "someone/weak", folder)
    whole, kept = ask(python, {}, {"keep_layers": 1})
    assert whole[0] == whole[3] == first
    assert whole[2] == f"someone/weak@{first}+float32"
    assert kept[2] == f"someone/weak@{first}+float32+layers1"
    assert kept[1] < whole[1]
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "note": "a second commit"}))
    second = mirror.add_folder("models", "someone/weak", folder)
    newest, pinned, none, wrong = ask(python, {}, {"revision": first}, {"path": "someone/none"}, {"revision": "v9"})
    assert newest[0] == second != first
    assert pinned[0] == first
    assert (none[0], "neither a local folder nor a model on the hub" in none[1]) == (2, True)
    assert "hf auth login" in none[2]
    assert (wrong[0], "someone/weak" in wrong[1]) == (2, True)
    mirror.server.shutdown()
    assert ask(python, {"revision": first}, {}, offline=True) == [pinned, newest]  # from the cache


def test_offline_says_how_to_fetch_it(mirror: Any, python: Any) -> None:
    ((code, message, hint),) = ask(python, offline=True)
    assert code == 2
    assert message == "someone/weak is not a local folder, and the hub cannot be reached to fetch its configuration."
    assert hint.startswith("Fetch it where there is a network (hf download someone/weak)")
