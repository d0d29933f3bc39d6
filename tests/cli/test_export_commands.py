"""``export`` and ``lm-eval``."""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.cli.commands import lm_eval as lm_eval_command

Command = Callable[..., Any]


class _Ensemble:
    """Stands in for a trained ensemble."""

    def __init__(self, path: Path, *, trust_remote_code: bool) -> None:
        self.path, self.trusted = path, trust_remote_code

    def save_pretrained(self, folder: Path, *, title: str | None) -> Any:
        from ensemw2s.ensemble.folder import SavedEnsemble

        folder.mkdir()
        (folder / "title").write_text(str(title))
        (folder / "trusted").write_text(str(self.trusted))
        return SavedEnsemble(folder, 3, 2_000_000, 30_000, 2_040_000)


@pytest.fixture
def ensemble(monkeypatch: pytest.MonkeyPatch) -> None:
    import ensemw2s.ensemble

    monkeypatch.setattr(ensemw2s.ensemble.Ensemble, "from_run", _Ensemble)


def test_an_ensemble_is_exported_with_its_size(ew2s: Command, ensemble: None) -> None:
    done = ew2s("export", "ensemble", "runs/x", "out")
    assert done.code == 0
    assert done.out == "out: 3 experts of 30 kB together, over one base of 2.0 MB; 2.0 MB in all\n"
    assert "ew2s lm-eval --model_args pretrained=out" in done.err
    found = json.loads(ew2s("export", "ensemble", "runs/x", "out2", "--json", "--trust-remote-code").out)
    assert [Path(folder, "trusted").read_text() for folder in ("out", "out2")] == ["False", "True"]
    assert found["base_bytes"] == 2_000_000
    assert found["commit"] is None


def test_pushing_uploads_the_folder(ew2s: Command, ensemble: None, monkeypatch: pytest.MonkeyPatch) -> None:
    from ensemw2s.ensemble import hub

    calls: list[Any] = []

    def push(folder: Path, repo_id: str, **options: Any) -> str:
        calls.append((folder, repo_id, options))
        return "https://hub/commit"

    monkeypatch.setattr(hub, "push_folder", push)
    done = ew2s("export", "ensemble", "runs/x", "out", "--push", "me/mine", "--private")
    assert "https://hub/commit" in done.out
    assert calls == [(Path("out"), "me/mine", {"kind": "model", "private": True})]
    assert Path("out/title").read_text() == "mine"
    done = ew2s("export", "ensemble", "runs/x", "out2", "--push", "mine")
    assert done.code == 2
    assert "OWNER/NAME" in done.err
    assert not Path("out2").exists()


def test_labels_need_a_run_with_labels(ew2s: Command, tmp_path: Path) -> None:
    done = ew2s("export", "labels", "runs/none", "out")
    assert done.code == 2
    assert "runs/none" in done.err
    assert not Path("out").exists()


def test_a_task_needs_questions(ew2s: Command) -> None:
    done = ew2s("export", "task", "runs/none", "out")
    assert done.code == 2
    assert "--split" in done.err


def test_lm_eval_says_how_to_install_it(ew2s: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lm_eval_command.importlib.util, "find_spec", lambda name: None)
    done = ew2s("lm-eval", "--tasks", "arc_easy")
    assert done.code == 2
    assert "lm-eval is not installed." in done.err
    assert "pip install 'ensemw2s[lm-eval]'" in done.err


@pytest.fixture
def harness(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """A stand-in for lm-eval that remembers its arguments."""
    calls: list[list[str]] = []

    def cli_evaluate() -> None:
        calls.append(list(sys.argv))
        if "--bad" in sys.argv:
            sys.exit(2)
        if "--help" in sys.argv:
            sys.exit(0)

    package, module = types.ModuleType("lm_eval"), types.ModuleType("lm_eval.__main__")
    module.cli_evaluate = cli_evaluate  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "lm_eval", package)
    monkeypatch.setitem(sys.modules, "lm_eval.__main__", module)
    monkeypatch.setattr(lm_eval_command.importlib.util, "find_spec", lambda name: True)
    return calls


def test_lm_eval_gets_its_arguments_and_knows_ensembles(ew2s: Command, harness: list[list[str]]) -> None:
    from transformers import AutoConfig

    before = list(sys.argv)
    done = ew2s("lm-eval", "run", "--model_args", "pretrained=x,dtype=float32", "--tasks", "a,b", "--limit", 5)
    assert done.code == 0
    assert harness[-1] == [
        "lm-eval",
        "run",
        "--model_args",
        "pretrained=x,dtype=float32",
        "--tasks",
        "a,b",
        "--limit",
        "5",
    ]
    assert sys.argv == before
    assert AutoConfig.for_model("ensemw2s").model_type == "ensemw2s"
    assert ew2s("lm-eval", "--", "--help").code == 0
    assert harness[-1] == ["lm-eval", "--help"]
    assert ew2s("lm-eval", "--bad").code == 2
    assert sys.argv == before
