"""Experts with different tokenizers choose options together."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensemw2s.config.data import TemplateConfig
from ensemw2s.config.method import CombineConfig, DecodingConfig
from ensemw2s.config.training import ComputeConfig
from ensemw2s.data.example import Example
from ensemw2s.ensemble import Ensemble
from ensemw2s.ensemble.combine.choices import option_logprobs
from ensemw2s.errors import DataError

QUESTIONS = [
    Example("a", "Is the dog happy?", None, ("yes", "no", "unhappier")),
    Example("b", "the café is", "naïve", ("naïve", "日本語", "on the mat")),
    Example("c", "2 3 1 sorted is", "1 2 3", ("1 2 3", "3 2 1")),
    Example("d", "the cat sat on the", "dog", ("mat", "dog", "café", "unhappy cat")),
    Example("e", "an unhappy", "cat", ("cat", "dog and cat")),
]
CPU = ComputeConfig(device="cpu")


def ensemble(folders: list[Path], alphas: list[float], **config: Any) -> Ensemble:
    return Ensemble(experts=folders, alphas=alphas, config=CombineConfig(**config), compute=CPU)


@cache
def own_scores(folder: Path, norm: str) -> list[tuple[list[float], list[float]]]:
    """Of every question the options' scores and mean token log-probabilities: float64, one sequence at a time."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    start = [tokenizer.bos_token_id] if tokenizer.bos_token_id is not None else []
    out = []
    for question in QUESTIONS:
        prompt = tokenizer(question.prompt, add_special_tokens=False)["input_ids"]
        scores, means = [], []
        for option in question.choices or ():
            whole = tokenizer(f"{question.prompt} {option}", add_special_tokens=False)["input_ids"]
            if whole[: len(prompt)] != prompt:
                whole = prompt + tokenizer(f" {option}", add_special_tokens=False)["input_ids"]
            with torch.no_grad():
                logits = model(torch.tensor([start + whole])).logits[0]
            first = len(start) + len(prompt)
            total = sum(
                float(logits[at - 1].log_softmax(-1)[token]) for at, token in enumerate(start + whole) if at >= first
            )
            count = len(whole) - len(prompt)
            scores.append(total / {"sum": 1, "mean": count, "byte": len(option.encode())}[norm])
            means.append(total / count)
        out.append((scores, means))
    return out


def softmax(scores: list[float]) -> list[float]:
    total = sum(math.exp(s) for s in scores)
    return [math.exp(s) / total for s in scores]


def by_hand(rule: str, norm: str, folders: list[Path], shares: list[float]) -> list[dict[str, Any]]:
    """The definition, one question and option after the other."""
    each = [own_scores(folder, norm) for folder in folders]
    out = []
    for i in range(len(QUESTIONS)):
        probabilities = [softmax(scores[i][0]) for scores in each]
        options = range(len(probabilities[0]))
        mixed = [sum(w * p[o] for w, p in zip(shares, probabilities, strict=True)) for o in options]
        if rule == "mixture":
            joint = mixed
        elif rule == "product":
            joint = softmax(
                [sum(w * math.log(p[o]) for w, p in zip(shares, probabilities, strict=True)) for o in options]
            )
        else:
            votes = [p.index(max(p)) for p in probabilities]
            joint = [sum(w for w, v in zip(shares, votes, strict=True) if v == o) + 1e-9 * mixed[o] for o in options]
        best = joint.index(max(joint))
        own = [p.index(max(p)) for p in probabilities]
        out.append(
            {
                "option": best,
                "joint": joint,
                "agreement": sum(w for w, v in zip(shares, own, strict=True) if v == best),
                "confidence": sum(w * math.exp(s[i][1][best]) for w, s in zip(shares, each, strict=True)),
            }
        )
    return out


@pytest.mark.parametrize("rule", ["mixture", "product", "vote"])
@pytest.mark.parametrize("norm", ["byte", "sum"])
def test_two_families_give_what_the_definition_gives(families: dict[str, Path], rule: str, norm: str) -> None:
    folders = [families["bytes"], families["pieces"]]
    found = ensemble(folders, [3.0, 1.5], rule=rule, length_norm=norm).score(QUESTIONS)
    for row, expected in zip(found, by_hand(rule, norm, folders, [2 / 3, 1 / 3]), strict=True):
        assert row["option"] == expected["option"]
        assert row["agreement"] == pytest.approx(expected["agreement"], abs=2e-6)
        assert row["confidence"] == pytest.approx(expected["confidence"], abs=2e-6)
        if rule != "vote":
            logs = sorted(np.log(expected["joint"]))
            assert row["scores"] == pytest.approx(np.log(expected["joint"]), abs=5e-5)
            assert row["margin"] == pytest.approx(logs[-1] - logs[-2], abs=5e-5)


@pytest.mark.parametrize("rule", ["mixture", "product", "vote"])
@pytest.mark.parametrize("alone", ["bytes", "pieces"])
def test_one_expert_alone_chooses_as_by_itself(families: dict[str, Path], rule: str, alone: str) -> None:
    by_itself = ensemble([families[alone]], [1.0], length_norm="byte").score(QUESTIONS)
    folders = [families["bytes"], families["pieces"]]
    found = ensemble(folders, [float(f == families[alone]) for f in folders], rule=rule, length_norm="byte")
    for row, expected in zip(found.score(QUESTIONS), by_itself, strict=True):
        assert {key: row[key] for key in row if key != "scores"} == {
            key: expected[key] for key in expected if key != "scores"
        }
    for scores, means in own_scores(families[alone], "byte"):
        expected = by_itself.pop(0)
        assert expected["scores"] == pytest.approx(scores, abs=2e-5)
        assert expected["confidence"] == pytest.approx(math.exp(means[expected["option"]]), abs=2e-6)


def test_the_norm_is_byte_unless_one_is_given(families: dict[str, Path], tmp_path: Path) -> None:
    mixed = Ensemble(experts=[families["bytes"], families["pieces"]], alphas=[1.0, 1.0], compute=CPU)
    same = Ensemble(experts=[families["bytes"], families["padded"]], alphas=[1.0, 1.0], compute=CPU)
    assert (mixed.effective_config.length_norm, same.effective_config.length_norm) == ("byte", "mean")
    for made in (mixed, same):
        made.save(tmp_path)
        assert Ensemble.load(tmp_path, CPU) == made
        assert Ensemble.load(tmp_path, CPU).effective_config == made.effective_config
    ensemble([families["bytes"], families["pieces"]], [1.0, 1.0], length_norm="mean").save(tmp_path)
    told = Ensemble.load(tmp_path, CPU)
    assert told.effective_config.length_norm == "mean"
    assert "byte is fair" in (told.compatibility().describe("choice", "mean") or "")
    assert mixed.score(QUESTIONS) == ensemble(list(mixed.experts), [1.0, 1.0], length_norm="byte").score(QUESTIONS)


@pytest.mark.parametrize("rule", ["mixture", "product"])
def test_padded_logits_are_cut_and_combined_token_by_token(families: dict[str, Path], rule: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folders = [families["bytes"], families["padded"]]
    tokenizer = AutoTokenizer.from_pretrained(folders[0])
    models = [AutoModelForCausalLM.from_pretrained(folder).double().eval() for folder in folders]
    assert models[0].config.vocab_size == len(tokenizer) < models[1].config.vocab_size
    found = ensemble(folders, [1.0, 3.0], rule=rule, length_norm="sum").score(QUESTIONS)
    for question, row in zip(QUESTIONS, found, strict=True):
        first = len(tokenizer(question.prompt)["input_ids"])
        for option, score in zip(question.choices or (), row["scores"], strict=True):
            ids = tokenizer(f"{question.prompt} {option}")["input_ids"]
            with torch.no_grad():
                parts = [m(torch.tensor([ids])).logits[0, :, : len(tokenizer)].log_softmax(-1) for m in models]
            stacked = torch.stack(parts) if rule == "product" else torch.stack(parts).exp()
            joint = 0.25 * stacked[0] + 0.75 * stacked[1]
            joint = joint.log_softmax(-1) if rule == "product" else joint.log()
            total = sum(float(joint[at - 1, ids[at]]) for at in range(first, len(ids)))
            assert score == pytest.approx(total, abs=1e-4)


def test_an_error_names_the_expert(families: dict[str, Path]) -> None:
    made = ensemble([families["bytes"], families["pieces"]], [1.0, 1.0])
    with pytest.raises(DataError, match=r"bytes: Example 'long' has \d+ tokens"):
        made.score([Example("long", "the cat " * 90, None, ("a", "b"))])
    with pytest.raises(DataError, match=r"bytes: The prompt of example '0' has"):
        made.generate(["the cat " * 90])


def test_probabilities_of_options() -> None:
    from ensemw2s.data.encode import EncodedSplit

    one = np.zeros(1, dtype=np.int32)
    enc = EncodedSplit(["a", "b"], [one, one], [[one] * 3, [one] * 2], [["x"] * 3, ["x"] * 2], one, 0, 1, "choice")
    found = option_logprobs(np.array([0.0, math.log(3.0), -np.inf, -np.inf, -np.inf]), enc)
    assert np.exp(found) == pytest.approx([0.25, 0.75, 0.0, 0.5, 0.5])


def test_chat_templates_count_only_in_a_chat(families: dict[str, Path], tmp_path: Path) -> None:
    import shutil

    from transformers import AutoTokenizer

    talking = []
    for name, template in (("x", "{{ messages[0].content }}:"), ("y", "{{ messages[0].content }}\n")):
        shutil.copytree(families["bytes"], tmp_path / name)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / name)
        tokenizer.chat_template = template
        tokenizer.save_pretrained(tmp_path / name)
        talking.append(tmp_path / name)
    plain = ensemble(talking, [1.0, 1.0])
    assert plain.compatibility().how("choice") == "tokens"
    chat = Ensemble(talking, [1.0, 1.0], template=TemplateConfig(chat=True, answer="{answer}"), compute=CPU)
    assert chat.compatibility().how("choice") == "options"
    assert chat.compatibility().how("generate") == "union"
    assert "different chat templates" in chat.compatibility().differences[0]
    assert len(chat.score(QUESTIONS)) == len(QUESTIONS)
    assert len(chat.generate(["the cat"], DecodingConfig(max_new_tokens=4))) == 1
