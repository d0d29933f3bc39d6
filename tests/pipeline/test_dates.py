"""Chat templates with a clock: one date a run, kept, and used by whatever comes later."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ensemw2s.config.data import TemplateConfig
from ensemw2s.config.schema import RunConfig
from ensemw2s.ensemble import Ensemble
from ensemw2s.errors import InputError
from ensemw2s.pipeline.date import dated
from ensemw2s.pipeline.run import execute
from ensemw2s.sink import NullSink

CLOCK = "{{ strftime_now('%H:%M:%S') }}{% for m in messages %}{{ m.content }}{% endfor %}\n"


@pytest.fixture(scope="session")
def chat_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small random model over bytes whose chat template tells the time in seconds."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("chat") / "model"
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    backend = Tokenizer(models.BPE(vocab={c: at for at, c in enumerate([*alphabet, "<eos>"])}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    tokenizer.chat_template = CLOCK
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 256, "eos_token_id": tokenizer.eos_token_id}
    LlamaForCausalLM(LlamaConfig(**small, **sizes, bos_token_id=None)).save_pretrained(folder)
    return folder


def _config(model: Path, questions: Path) -> RunConfig:
    rows = [
        {"id": str(n), "prompt": f"q {n}", "choices": ["red", "sky"], "answer": ["red", "sky"][n % 2]}
        for n in range(30)
    ]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    columns = {"choices": "choices", "id": "id"}
    return RunConfig.model_validate(
        {
            "data": {
                "source": {"kind": "file", "path": str(questions), "columns": columns},
                "split": {"by": "random"},
                "template": {"chat": True, "answer": "{answer}"},
            },
            "models": {"weak": {"path": str(model)}, "strong": {"path": str(model)}},
            "training": {"expert": {"steps": 1, "batch_size": 4}, "student": {"steps": 1, "batch_size": 4}},
            "boosting": {"rounds": 1},
            "arms": {"plain": False, "bagging": False, "zero_shot": False, "students": [], "ceiling": False},
            "evaluation": {"bootstrap": 100},
            "compute": {"threads": 1, "device": "cpu"},
        }
    )


def _clock(monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    monkeypatch.setattr("ensemw2s.data.chat.now", lambda: says)


def test_a_run_keeps_its_date(chat_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recorder: Any) -> None:
    config, run = _config(chat_model, tmp_path / "q.jsonl"), tmp_path / "run"
    _clock(monkeypatch, "2026-03-05T23:59:50")
    execute(config, run, sink=NullSink(), until="experts")
    assert (run / "date.txt").read_text() == "2026-03-05T23:59:50\n"
    before = Ensemble.load(run)
    _clock(monkeypatch, "2026-03-06T00:00:10")
    execute(config, run, sink=recorder, until="experts")
    assert recorder.of("stage_rerun") == []
    assert all(stage["cached"] for stage in recorder.of("stage_finished"))
    later = Ensemble.load(run)
    assert later.template.date == before.template.date == "2026-03-05T23:59:50"
    from ensemw2s.data.example import Example

    question = [Example("q", "which?", None, ("a", "b"))]
    shown = bytes(later.encode(question).prompts[0].tolist()).decode("latin-1")
    assert np.array_equal(later.encode(question).prompts[0], before.encode(question).prompts[0]), shown


def test_runs_that_belong_together_share_their_date(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    template = TemplateConfig(chat=True)
    _clock(monkeypatch, "2026-03-05T08:00:00")
    shared = dated(template, tmp_path / "sweep").date
    _clock(monkeypatch, "2026-03-06T08:00:00")
    assert dated(template, tmp_path / "sweep").date == shared == "2026-03-05T08:00:00"
    assert dated(template, tmp_path / "seed-0", shared).date == shared
    _clock(monkeypatch, "2026-03-07T08:00:00")
    assert dated(template, tmp_path / "seed-0").date == shared, "a run goes on with the date that it was given"
    assert dated(template, tmp_path / "alone").date == "2026-03-07T08:00:00"


def test_only_chats_without_a_date_of_their_own_get_one(tmp_path: Path) -> None:
    for template in (TemplateConfig(), TemplateConfig(chat=True, date="2026-03-05")):
        assert dated(template, tmp_path) == template
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_a_date(tmp_path: Path) -> None:
    (tmp_path / "date.txt").write_bytes(b"\x1b]52;c;\xff" * 100)
    with pytest.raises(InputError, match="holds no date"):
        dated(TemplateConfig(chat=True), tmp_path)
    (tmp_path / "date.txt").unlink()
    (tmp_path / "date.txt").mkdir()
    with pytest.raises(InputError, match="cannot be read"):
        dated(TemplateConfig(chat=True), tmp_path)


def test_seeds_hand_their_date_to_every_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chat_model: Path) -> None:
    from ensemw2s.sweeps import seeds

    told: list[str | None] = []

    def stop(config: RunConfig, folder: Path, *, date: str | None, **rest: Any) -> None:
        told.append(date)
        if len(told) % 2 == 0:
            raise KeyboardInterrupt

    monkeypatch.setattr(seeds, "execute", stop)
    config = _config(chat_model, tmp_path / "q.jsonl")
    for says in ("2026-03-05T08:00:00", "2026-03-06T08:00:00"):
        _clock(monkeypatch, says)
        with pytest.raises(KeyboardInterrupt):
            seeds.execute_seeds(config, tmp_path / "all", [0, 1], sink=NullSink())
    assert told == ["2026-03-05T08:00:00"] * 4
