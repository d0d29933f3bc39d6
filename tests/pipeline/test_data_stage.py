"""The data stage of a run: what it leaves out, and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.config.data import TemplateConfig
from ensemw2s.config.schema import RunConfig
from ensemw2s.data.example import SPLITS
from ensemw2s.data.store import read_splits
from ensemw2s.errors import DataError
from ensemw2s.pipeline.context import Context
from ensemw2s.pipeline.data import prepare_data
from ensemw2s.pipeline.run import execute
from ensemw2s.runs.directory import RunDirectory
from ensemw2s.sink import NullSink


def _model(folder: Path, known: str) -> Path:
    """A small random model with a token for each known character; all others are one token."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({c: at for at, c in enumerate(["<unk>", "<eos>", *known])}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<eos>")
    tokenizer.save_pretrained(folder)
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 64, "eos_token_id": 1, "bos_token_id": None}
    LlamaForCausalLM(LlamaConfig(**small, **sizes)).save_pretrained(folder)
    return folder


def test_questions_whose_options_are_the_same_to_either_base_are_left_out(tmp_path: Path, recorder: Any) -> None:
    """Chance would decide whether an arm has them right; and all arms answer the same questions."""
    weak, strong = _model(tmp_path / "weak", "q 0123456789日中"), _model(tmp_path / "strong", "q 0123456789éè")

    def row(kind: str, n: int, *choices: str) -> dict[str, Any]:
        return {"id": f"{kind} {n}", "prompt": f"q {kind[0]}{n}", "choices": choices, "answer": choices[0]}

    rows = [row("fine", n, f"{n} q", f"{n + 1} q") for n in range(40)]
    rows += [row("weak", n, "é", "è") for n in range(4)] + [row("strong", n, "1 q", "日", "中") for n in range(3)]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    raw: dict[str, Any] = {
        "data": {
            "source": {"kind": "file", "path": str(file), "columns": {"choices": "choices", "id": "id"}},
            "split": {"by": "random"},
        },
        "models": {"weak": {"path": str(weak)}, "strong": {"path": str(strong)}},
        "compute": {"threads": 1, "device": "cpu"},
    }
    run = tmp_path / "run"
    execute(RunConfig.model_validate(raw), run, sink=recorder, until="data")
    (ready,) = recorder.of("data_ready")
    assert ready["notes"]["dropped_indistinct"]["count"] == 7
    assert sum(ready["counts"].values()) == 40
    kept = read_splits(run / "data")
    assert {e.id.split()[0] for name in SPLITS for e in kept[name]} == {"fine"}
    recorder.events.clear()
    execute(RunConfig.model_validate(raw), run, sink=recorder, until="data")
    assert all(stage["cached"] for stage in recorder.of("stage_finished"))
    raw["models"]["weak"]["path"] = str(strong)
    execute(RunConfig.model_validate(raw), run, sink=recorder, until="data")
    assert recorder.of("data_ready")[-1]["notes"]["dropped_indistinct"]["count"] == 3
    file.write_text("".join(json.dumps(row) + "\n" for row in rows[40:44]), encoding="utf-8")
    raw["models"]["weak"]["path"] = str(weak)
    with pytest.raises(DataError, match="4 have options with the same tokens"):
        execute(RunConfig.model_validate(raw), tmp_path / "none", sink=recorder, until="data")


def test_label_noise_is_in_what_the_run_trains_on_and_in_its_notes(
    tmp_path: Path, mini_config: Any, recorder: Any
) -> None:
    """The true answers of the replaced ones are nowhere below the run; the other splits are those of a clean run."""
    clean, noisy = tmp_path / "clean", tmp_path / "noisy"
    execute(mini_config(), clean, sink=recorder, until="data")
    recorder.events.clear()
    execute(mini_config(**{"data.label_noise": 0.25}), noisy, sink=recorder, until="data")
    (ready,) = recorder.of("data_ready")
    assert ready["notes"]["label_noise"] == 30
    true, read = read_splits(clean / "data"), read_splits(noisy / "data")
    assert sum(a != b for a, b in zip(true.train, read.train, strict=True)) == 30
    for name in SPLITS[1:]:
        assert (noisy / f"data/{name}.jsonl").read_bytes() == (clean / f"data/{name}.jsonl").read_bytes()
    inputs = [json.loads((run / "data/stage.json").read_text())["inputs"]["data"] for run in (clean, noisy)]
    assert inputs[1] == inputs[0] | {"label_noise": 0.25}, "a run without noise keeps the fingerprint of its data"
    with RunDirectory.create(noisy).writing():
        ctx = Context(mini_config(**{"data.label_noise": 0.25}), RunDirectory.open(noisy), NullSink(), TemplateConfig())
        prepare_data(ctx)
    assert ctx.notes == [
        "Label noise: 30 of 120 training answers are false on purpose; all other splits have true ones."
    ]
