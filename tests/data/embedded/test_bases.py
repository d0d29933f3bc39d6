"""The shipped tokenizer and bases, their pre-training text and their rebuild."""

from __future__ import annotations

import hashlib
import json
import re
import string
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, PreTrainedTokenizerFast

from ensemw2s.data import embedded
from ensemw2s.data.embedded import BASE_NAMES, base_path
from ensemw2s.data.embedded.build import RECIPES, build_base
from ensemw2s.data.embedded.facts import IGNORED, LINE, encode_lines, make_line
from ensemw2s.data.embedded.tokenizer import ALPHABET, make_tokenizer
from ensemw2s.data.synthetic import SKILLS, is_question_list, make_synthetic
from ensemw2s.errors import ModelError

LIMITS = {"weak": (45_000, 90_000), "strong": (200_000, 300_000)}


@pytest.fixture(scope="module")
def lines() -> list[str]:
    rng = np.random.Generator(np.random.PCG64(7))
    return [make_line(rng) for _ in range(4000)]


def files(folder: Path) -> dict[str, str]:
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file()
    }


def test_shipped_size_is_at_most_3_mb() -> None:
    total = sum(p.stat().st_size for n in BASE_NAMES for p in base_path(n).rglob("*") if p.is_file())
    assert total <= 3_000_000


@pytest.mark.parametrize("name", BASE_NAMES)
def test_base_loads_and_is_small(name: str) -> None:
    model = AutoModelForCausalLM.from_pretrained(base_path(name), dtype=torch.float32)
    assert isinstance(model, LlamaForCausalLM)
    low, high = LIMITS[name]
    assert low <= sum(p.numel() for p in model.parameters()) <= high
    assert model.get_input_embeddings().weight is model.get_output_embeddings().weight
    assert all(p.dtype == torch.float32 and torch.isfinite(p).all() for p in model.parameters())
    tokenizer = AutoTokenizer.from_pretrained(base_path(name))
    assert len(tokenizer) == model.config.vocab_size
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id) == (model.config.pad_token_id, model.config.eos_token_id)


@pytest.mark.parametrize("name", BASE_NAMES)
def test_base_knows_the_notation(name: str, lines: list[str]) -> None:
    model = AutoModelForCausalLM.from_pretrained(base_path(name), dtype=torch.float32).eval()
    ids, labels = (torch.from_numpy(x[:200]).long() for x in encode_lines(lines[:200]))
    with torch.inference_mode():
        right = model(input_ids=ids).logits[:, :-1].argmax(-1) == labels[:, 1:]
    accuracy = right[labels[:, 1:] != IGNORED].float().mean().item()
    recorded = json.loads((base_path(name) / "build.json").read_text())["token_accuracy"]
    # About 3000 tokens: the standard error is below 0.01.
    assert accuracy == pytest.approx(recorded, abs=0.03)
    assert accuracy > 0.8


def test_strong_base_knows_more_than_the_weak() -> None:
    weak, strong = (json.loads((base_path(n) / "build.json").read_text()) for n in ("weak", "strong"))
    assert strong["token_accuracy"] > weak["token_accuracy"]


def test_recorded_recipes_are_the_current_ones() -> None:
    for name in BASE_NAMES:
        record = json.loads((base_path(name) / "build.json").read_text())
        assert record["seed"] == 1234
        assert record["recipe"] == {k: getattr(RECIPES[name], k) for k in RECIPES[name].__slots__}


def test_unknown_base_and_missing_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="embedded:weak or embedded:strong"):
        base_path("medium")
    monkeypatch.setattr(embedded, "__file__", str(tmp_path / "__init__.py"))
    with pytest.raises(ModelError, match="no weights"):
        base_path("weak")


@pytest.mark.parametrize("name", ["fresh", *BASE_NAMES])
def test_tokenizer_round_trip(name: str) -> None:
    tokenizer = make_tokenizer() if name == "fresh" else AutoTokenizer.from_pretrained(base_path(name))
    assert isinstance(tokenizer, PreTrainedTokenizerFast)
    assert set(ALPHABET) == set(string.printable) - set("\t\r\x0b\x0c")
    for text in [*ALPHABET, ALPHABET, ALPHABET[::-1], "a  b\n\n c", " .,'s n't ?"]:
        ids = tokenizer(text)["input_ids"]
        assert len(ids) == len(text)
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids) == text
    assert tokenizer("é€")["input_ids"] == [tokenizer.unk_token_id] * 2
    assert tokenizer("a" + tokenizer.eos_token)["input_ids"][-1] == tokenizer.eos_token_id
    joint, prompt = (tokenizer(t)["input_ids"] for t in ("sort 312 123", "sort 312 "))
    assert joint[: len(prompt)] == prompt


def test_questions_and_pretraining_text_are_disjoint(lines: list[str]) -> None:
    text = "\n".join(lines)
    stems = {w.replace("{}", "").strip() for s in SKILLS for w in s.wordings}
    assert " " not in text
    pattern = re.compile(r"(?:([a-z]+)\((\d+)\)|(\d+)\.([a-z]+))=(\d+);")
    facts = [m for line in lines for m in pattern.finditer(line)]
    assert sum(len(m.group()) for m in facts) == sum(map(len, lines))
    # No question prompt can occur: every prompt has a space. And no list of a question occurs either, so that neither
    # the easy nor the hard answers can have been memorised.
    seen = {m.group(2) or m.group(3) for m in facts}
    asked = {re.findall(r"\d+", e.prompt)[0] for e in make_synthetic(5000, 100)}
    assert not seen & asked
    assert not any(is_question_list(digits) for digits in seen)
    assert all(f"{stem} " not in text for stem in stems)


def test_pretraining_facts_are_true(lines: list[str]) -> None:
    solve = {code: s.solve for s in SKILLS for code in s.codes}
    assert len(solve) == sum(len(s.codes) for s in SKILLS)
    for line in lines[:500]:
        assert len(line) <= LINE
        for fact in line.rstrip(";").split(";"):
            call, result = fact.split("=")
            code, digits = re.findall("[a-z]+", call)[0], re.findall(r"\d+", call)[0]
            assert solve[code](digits) == result


def test_labels_are_the_results() -> None:
    ids, labels = encode_lines(["rev(12)=21;31.max=3;"])
    tokenizer = make_tokenizer()
    assert tokenizer.decode(ids[0][: len("rev(12)=21;31.max=3;")]) == "rev(12)=21;31.max=3;"
    assert tokenizer.decode(labels[0][labels[0] != IGNORED]) == "21;3;"
    assert ids.shape == labels.shape == (1, LINE)


def test_rebuild_gives_the_same_bytes(tmp_path: Path) -> None:
    recipe = replace(RECIPES["weak"], steps=3, lines=64, batch_size=8)
    built = []
    for part, seed in (("a", 5), ("b", 5), ("c", 6)):
        (tmp_path / part).mkdir()
        build_base("weak", seed, tmp_path / part, recipe)
        assert [p.name for p in (tmp_path / part).iterdir()] == ["weak"]
        built.append(files(tmp_path / part))
    assert built[0] == built[1]
    assert built[0].keys() == built[2].keys()
    assert built[0]["weak/model.safetensors"] != built[2]["weak/model.safetensors"]
    assert built[0].keys() == {f"weak/{name}" for name in files(base_path("weak"))}
