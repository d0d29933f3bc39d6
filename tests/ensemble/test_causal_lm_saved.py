"""Ensembles saved, loaded, pushed to a hub and fetched again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, pipeline

from ensemw2s.config.data import TemplateConfig
from ensemw2s.config.method import CombineConfig, DecodingConfig
from ensemw2s.config.training import ComputeConfig
from ensemw2s.data.example import Example
from ensemw2s.ensemble import Ensemble, EnsembleForCausalLM
from ensemw2s.ensemble.folder import size_text
from ensemw2s.ensemble.hub import hub_errors
from ensemw2s.errors import InputError, ModelError
from ensemw2s.evaluation.metrics import summarise
from ensemw2s.evaluation.results import Results

CPU = ComputeConfig(device="cpu", threads=1)
PROMPTS = ["abc", "0123", "x+y", "hello, you"]
IDS = torch.randint(2, 30, (2, 7), generator=torch.Generator().manual_seed(1))


def ensemble_of(folders: list[Path], **changes: Any) -> Ensemble:
    settings: dict[str, Any] = {
        "task": "choice",
        "config": CombineConfig(length_norm="sum"),
        "decoding": DecodingConfig(max_new_tokens=6),
        "compute": CPU,
    }
    return Ensemble(experts=folders, alphas=[1.0, 2.0, 0.5], **{**settings, **changes})


def equal_weights(a: Any, b: Any) -> bool:
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_a_model_comes_back_bit_for_bit(make_model: Callable[..., Any], tmp_path: Path, kind: str) -> None:
    model = EnsembleForCausalLM.from_experts([make_model(k, kind) for k in range(2)], [1.0, 0.25], rule="product")
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert isinstance(again, EnsembleForCausalLM)
    assert equal_weights(model, again)
    assert torch.equal(model(IDS).logits, again(IDS).logits)
    assert (again.config.alphas, again.config.rule) == ([1.0, 0.25], "product")
    again.save_pretrained(tmp_path / "twice")
    for file in sorted((tmp_path / "saved").rglob("*.safetensors")):
        assert file.read_bytes() == (tmp_path / "twice" / file.relative_to(tmp_path / "saved")).read_bytes(), file
    expert = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", subfolder="experts/expert-02")
    assert equal_weights(expert, model.members[1])
    half = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert half(IDS).logits.dtype == torch.float32
    _, info = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not info["missing_keys"]
    fresh = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(tmp_path / "saved"))
    assert fresh.num_parameters() == model.num_parameters()


def test_an_ensemble_becomes_one_folder(model_folders: list[Path], tmp_path: Path) -> None:
    ensemble = ensemble_of(model_folders)
    saved = ensemble.save_pretrained(tmp_path / "saved")
    assert (saved.experts, saved.base_bytes) == (3, 0)
    assert saved.total_bytes == sum(f.stat().st_size for f in saved.path.rglob("*") if f.is_file())
    for k, folder in enumerate(model_folders, start=1):
        copied = saved.path / f"experts/expert-0{k}/model.safetensors"
        assert copied.read_bytes() == (folder / "model.safetensors").read_bytes()
        assert not (copied.parent / "tokenizer.json").exists()  # one for all, beside config.json
    again = Ensemble.from_pretrained(saved.path, CPU)
    assert again.settings() == ensemble.settings()
    questions = [Example(id=p, prompt=p, answer="a", choices=("a", "bc", "?")) for p in PROMPTS]
    assert again.score(questions) == ensemble.score(questions)
    assert again.generate(PROMPTS) == ensemble.generate(PROMPTS)
    model = AutoModelForCausalLM.from_pretrained(saved.path)
    assert torch.equal(model(IDS).logits, ensemble.causal_lm()(IDS).logits)
    model.save_pretrained(tmp_path / "model")
    AutoTokenizer.from_pretrained(saved.path).save_pretrained(tmp_path / "model")
    assert Ensemble.from_pretrained(tmp_path / "model", CPU).score(questions) == ensemble.score(questions)


def test_pipelines_take_the_folder(model_folders: list[Path], tmp_path: Path) -> None:
    ensemble = ensemble_of(model_folders, task="generate")
    folder = ensemble.save_pretrained(tmp_path / "saved").path
    generate = pipeline("text-generation", model=str(folder))
    texts = [ensemble.template.prompt.format(prompt=prompt) for prompt in PROMPTS]
    found = generate(texts, batch_size=4, return_full_text=False)
    expected = [row["text"] for row in ensemble.generate(PROMPTS)]
    assert [row[0]["generated_text"].strip() for row in found] == expected


def test_adapters_share_one_base(adapter_folders: Any, tmp_path: Path) -> None:
    adapters, merged = ensemble_of(adapter_folders.adapters), ensemble_of(adapter_folders.merged)
    assert len({id(loaded.model.shared) for loaded in adapters.load_experts()}) == 1
    assert adapters.generate(PROMPTS) == [
        {**row, "confidence": pytest.approx(row["confidence"], abs=2e-6)} for row in merged.generate(PROMPTS)
    ]
    model, whole = adapters.causal_lm(), merged.causal_lm()
    base = sum(p.numel() for p in whole.members[0].parameters())
    assert whole.num_parameters() == 3 * base
    assert base < model.num_parameters() < 2 * base
    torch.testing.assert_close(model(IDS).logits, whole(IDS).logits, rtol=0, atol=5e-6)
    for options in ({}, {"num_beams": 3}):
        inputs = {"attention_mask": torch.ones_like(IDS), "max_new_tokens": 9, "pad_token_id": 0, **options}
        assert torch.equal(model.generate(IDS, **inputs), whole.generate(IDS, **inputs))
    saved = adapters.save_pretrained(tmp_path / "saved")
    assert saved.base_bytes > 0
    assert saved.total_bytes < merged.save_pretrained(tmp_path / "merged").total_bytes
    again = Ensemble.from_pretrained(saved.path, CPU)
    assert len({id(loaded.model.shared) for loaded in again.load_experts()}) == 1
    assert again.generate(PROMPTS) == adapters.generate(PROMPTS)
    loaded = AutoModelForCausalLM.from_pretrained(saved.path)
    assert torch.equal(loaded(IDS).logits, model(IDS).logits)
    loaded.save_pretrained(tmp_path / "twice")
    twice = AutoModelForCausalLM.from_pretrained(tmp_path / "twice")
    assert equal_weights(loaded, twice)
    assert torch.equal(twice(IDS).logits, model(IDS).logits)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "twice", subfolder="base")
    assert equal_weights(plain, AutoModelForCausalLM.from_pretrained(adapter_folders.base))
    assert AutoModelForCausalLM.from_config(loaded.config).num_parameters() == loaded.num_parameters()


def test_whole_models_and_adapters_do_not_mix(adapter_folders: Any, tmp_path: Path) -> None:
    mixed = ensemble_of([adapter_folders.adapters[0], *adapter_folders.merged[1:]])
    with pytest.raises(ModelError, match="different bases"):
        mixed.save_pretrained(tmp_path / "saved")
    with pytest.raises(ValueError, match="all whole models, or all adapters"):
        mixed.causal_lm()
    assert not list(tmp_path.iterdir())


def test_the_card_has_the_runs_numbers(model_folders: list[Path], tmp_path: Path) -> None:
    arms = {
        arm: {"test": summarise([True] * right + [False] * (20 - right))}
        for arm, right in (("ensemble", 15), ("single", 12))
    }
    results = Results(
        name="mine", seed=3, task="choice", config_fingerprint="f" * 64, arms=arms, split_sizes={"test": 20}
    )
    folder = ensemble_of(model_folders).save_pretrained(tmp_path / "saved", results=results, title="My ensemble").path
    card = (folder / "README.md").read_text(encoding="utf-8")
    header = card.split("---\n")[1]
    assert "library_name: transformers" in header
    assert "# My ensemble" in card
    assert "| this ensemble | 75.0 [53.1, 88.8] |" in card
    assert "| single expert | 60.0 " in card
    assert "20 questions in distribution. Run `mine`, seed 3" in card
    assert "| 2 | 2.0000 | 0.571 |" in card
    assert 'model="saved"' in card
    assert Results.read(folder / "results.json") == results
    again = Ensemble.from_pretrained(folder).save_pretrained(tmp_path / "copy").path
    assert "| this ensemble | 75.0" in (again / "README.md").read_text(encoding="utf-8")


def test_only_saved_ensembles_are_written_over(model_folders: list[Path], tmp_path: Path) -> None:
    ensemble = ensemble_of(model_folders)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="not empty, and not a saved ensemble"):
        ensemble.save_pretrained(tmp_path / "notes")
    with pytest.raises(InputError, match="is a file"):
        ensemble.save_pretrained(tmp_path / "notes" / "mine.txt")
    ensemble.save_pretrained(tmp_path / "saved")
    (tmp_path / "saved" / "experts" / "old").mkdir()
    ensemble.save_pretrained(tmp_path / "saved")
    assert sorted(p.name for p in (tmp_path / "saved" / "experts").iterdir()) == [f"expert-0{k}" for k in (1, 2, 3)]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes", "saved"]
    assert size_text(999) == "999 B"
    assert size_text(1_449_000) == "1.4 MB"
    assert size_text(23_000_000_000) == "23 GB"


_ON_THE_HUB = """
import json, sys
import torch
from ensemw2s import Ensemble
from ensemw2s.config.training import ComputeConfig
from ensemw2s.errors import ModelError
from transformers import AutoModelForCausalLM, AutoTokenizer, pipeline

compute = ComputeConfig(device="cpu", threads=1)
out = {}
for form, folder in (("whole", sys.argv[1]), ("adapters", sys.argv[2])):
    local = Ensemble.from_pretrained(folder, compute)
    commit = local.push_to_hub("me/" + form, private=True)
    fetched = Ensemble.from_pretrained("me/" + form, compute)
    model = AutoModelForCausalLM.from_pretrained("me/" + form)
    ids = torch.arange(2, 12)[None]
    model.push_to_hub("me/again-" + form, tokenizer=AutoTokenizer.from_pretrained("me/" + form))
    answer = pipeline("text-generation", model="me/again-" + form)("abc", return_full_text=False)[0]["generated_text"]
    out[form] = {
        "commit": commit,
        "logits": torch.allclose(model(ids).logits, local.causal_lm()(ids).logits, rtol=0, atol=1e-5),
        "answers": fetched.generate(["abc"]) == local.generate(["abc"]),
        "pipeline": answer.strip() == local.generate(["abc"])[0]["text"],
    }
try:
    Ensemble.from_pretrained("me/none", compute)
except ModelError as error:
    out["none"] = str(error)
print(json.dumps(out))
"""


def hub_process(hub: Any, home: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    mine = {"HF_ENDPOINT": hub.address, "HF_HOME": str(home), "HF_TOKEN": "hf_test", "HF_HUB_DISABLE_XET": "1"}
    path = os.pathsep.join(p for p in sys.path if p)
    environ = {**os.environ, "PYTHONPATH": path, "HF_HUB_DISABLE_TELEMETRY": "1", **mine, **environment}
    return subprocess.run([sys.executable, *arguments], env=environ, capture_output=True, text=True, timeout=280)


def test_a_hub_gives_back_what_was_pushed(
    hub: Any, model_folders: list[Path], adapter_folders: Any, tmp_path: Path
) -> None:
    same_prompt = {"task": "generate", "template": TemplateConfig(prompt="{prompt}", answer="{answer}")}
    whole = ensemble_of(model_folders, **same_prompt).save_pretrained(tmp_path / "whole").path
    adapters = ensemble_of(adapter_folders.adapters, **same_prompt).save_pretrained(tmp_path / "adapters").path
    done = hub_process(hub, tmp_path / "home", "-c", _ON_THE_HUB, str(whole), str(adapters))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for form in ("whole", "adapters"):
        assert found[form].pop("commit").startswith(hub.address)
        assert found[form] == {"logits": True, "answers": True, "pipeline": True}
        assert hub.private[f"models/me/{form}"]
        assert not hub.private[f"models/me/again-{form}"]
        assert f'model="me/{form}"' in hub.repos[f"models/me/{form}"]["README.md"].decode()
    assert "me/none cannot be fetched from the hub" in found["none"]
    for form, weights in (("whole", "experts/expert-03/model.safetensors"), ("adapters", "base/model.safetensors")):
        assert hub.repos[f"models/me/again-{form}"][weights] == (tmp_path / form / weights).read_bytes()


def test_a_hub_that_says_no(hub: Any, model_folders: list[Path], tmp_path: Path) -> None:
    saved = ensemble_of(model_folders).save_pretrained(tmp_path / "saved").path
    command = ("-m", "ensemw2s", "export", "ensemble", str(saved), str(tmp_path / "copy"), "--push", "me/mine")
    done = hub_process(hub, tmp_path / "home", *command, HF_TOKEN="hf_wrong")
    assert done.returncode == 2
    assert "me/mine cannot be uploaded to the hub" in done.stderr
    assert "hf auth login" in done.stderr


def test_errors_of_the_hub_say_what_to_do() -> None:
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    with pytest.raises(ModelError, match="HF_ENDPOINT names another hub"), hub_errors("me/x", "fetched from"):
        raise LocalEntryNotFoundError("offline")
    with pytest.raises(ModelError, match="of the form owner/name"), hub_errors("a b", "fetched from"):
        raise HFValidationError("bad")
    with pytest.raises(ModelError, match=r"holds no ensemble\.json"):
        Ensemble.from_pretrained("./nowhere")


def test_a_folder_cannot_allow_its_own_code(model_folders: list[Path], tmp_path: Path) -> None:
    loading = {"dtype": "float32", "trust_remote_code": True}
    folder = ensemble_of(model_folders, loading=loading).save_pretrained(tmp_path / "s").path
    content = json.loads((folder / "ensemble.json").read_text())
    assert "trust_remote_code" not in content["loading"]
    content["loading"]["trust_remote_code"] = True
    (folder / "ensemble.json").write_text(json.dumps(content))
    assert not Ensemble.load(folder).model_config(0).trust_remote_code
    assert not Ensemble.from_pretrained(folder).model_config(0).trust_remote_code
    assert Ensemble.from_pretrained(folder, trust_remote_code=True).model_config(0).trust_remote_code
