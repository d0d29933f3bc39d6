"""What ends an answer, and models that are read by themselves or again, in saved, exported and mixed ensembles."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as t

from ensemw2s.config.data import TemplateConfig
from ensemw2s.config.method import DecodingConfig
from ensemw2s.config.training import ComputeConfig, ModelConfig
from ensemw2s.data.encode import encode_split
from ensemw2s.data.example import Example
from ensemw2s.ensemble import Ensemble, EnsembleForCausalLM
from ensemw2s.ensemble.mixed.reader import Reader
from ensemw2s.ensemble.mixed.token_texts import token_texts
from ensemw2s.models.forward import padded
from ensemw2s.models.loading.load import LoadedModel, load_model

CPU = ComputeConfig(device="cpu", threads=1)
PROMPTS = ["abc", "0123456789", "x", "a+b=c?", "hij"]
LIMIT = 12


def declare(folder: Path, target: Path, *, config: Any = 1, generation: Any = None) -> Path:
    """A copy of a model folder that declares other ends."""
    shutil.copytree(folder, target)
    for name, ends in (("config.json", config), ("generation_config.json", generation)):
        file = target / name
        content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
        file.write_text(json.dumps(content | {"eos_token_id": ends}), encoding="utf-8")
    return target


def cut(tokens: list[int], ends: set[int]) -> list[int]:
    return tokens[: next((at for at, token in enumerate(tokens) if token in ends), len(tokens))]


@pytest.mark.parametrize(
    ("config", "generation", "ends"),
    [
        (1, [1, 5], [1, 5]),
        ([7, 1], 5, [1, 7, 5]),
        (None, None, [1]),
        (1, [5, 99999, -1], [1, 5]),  # the last two are no tokens of the model
    ],
)
def test_all_declared_ends_are_known(
    model_folders: list[Path], tmp_path: Path, config: Any, generation: Any, ends: list[int]
) -> None:
    folder = declare(model_folders[0], tmp_path / "model", config=config, generation=generation)
    loaded = load_model(ModelConfig(path=str(folder)))
    assert loaded.end_ids == ends
    assert loaded.eos_id == 1
    example = Example("q", "abc", "hi", ("hi", "no"))
    assert encode_split([example], loaded.tokenizer, TemplateConfig(), "generate", None).eos_id == 1


@pytest.mark.parametrize("experts", ["all", "one"])
@pytest.mark.parametrize("count", [1, 2])
def test_any_declared_end_ends_an_answer(model_folders: list[Path], tmp_path: Path, experts: str, count: int) -> None:
    """The tokens are those that were written without that end, up to it; the saved ensemble stops there too."""
    decoding = DecodingConfig(max_new_tokens=12, method="sample" if experts == "one" else "greedy", experts=experts)
    folders = model_folders[:count]
    plain = Ensemble(folders, [1.0, 0.5][:count], "generate", compute=CPU)
    before = [row["token_ids"] for row in plain.generate(PROMPTS, decoding, seed=3)]
    often = np.bincount(np.concatenate([tokens[1:] for tokens in before if len(tokens) > 2]))
    end = int(often.argmax())
    changed = [*folders[:-1], declare(folders[-1], tmp_path / "changed", generation=[1, end])]
    ensemble = Ensemble(changed, [1.0, 0.5][:count], "generate", compute=CPU)
    rows = ensemble.generate(PROMPTS, decoding, seed=3)
    assert [row["token_ids"] for row in rows] == [cut(tokens, {end}) for tokens in before]
    assert any(len(row["token_ids"]) < len(tokens) for row, tokens in zip(rows, before, strict=True))
    assert [row["ended"] for row in rows] == [end in tokens or len(tokens) < 12 for tokens in before]
    if experts == "one":
        return
    ensemble.save_pretrained(tmp_path / "saved")
    for model in (t.AutoModelForCausalLM.from_pretrained(tmp_path / "saved"), ensemble.causal_lm()):
        assert set(model.generation_config.eos_token_id) == {1, end}
        for prompt, row in zip(PROMPTS, rows, strict=True):
            text = ensemble.template.prompt.format(prompt=prompt)
            ids = ensemble.load_experts()[0].tokenizer(text, return_tensors="pt")["input_ids"]
            out = model.generate(
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, pad_token_id=0
            )[0, ids.shape[1] :].tolist()
            assert cut(out, {1, end}) == row["token_ids"]
            assert len(out) == len(row["token_ids"]) + row["ended"]


def test_any_declared_end_ends_an_answer_of_a_mixed_ensemble(families: dict[str, Path], tmp_path: Path) -> None:
    folders = [families["bytes"], families["pieces"]]
    decoding = DecodingConfig(max_new_tokens=8)
    before = Ensemble(folders, [2.0, 1.0], "generate", compute=CPU).generate(["hello", "the sun"], decoding)
    first = load_model(ModelConfig(path=str(folders[0])))
    written = [row["token_ids"] for row in before]
    end = next(tokens[1] for tokens in written if len(tokens) > 1 and tokens[1] != tokens[0])
    eos = first.eos_id
    changed = [declare(folders[0], tmp_path / "changed", config=eos, generation=[eos, end]), folders[1]]
    after = Ensemble(changed, [2.0, 1.0], "generate", compute=CPU).generate(["hello", "the sun"], decoding)
    for old, new in zip(written, after, strict=True):
        assert end not in new["token_ids"]
        assert len(new["token_ids"]) <= len(old)
    assert any(row["ended"] for row in after)
    texts = Reader(load_model(ModelConfig(path=str(changed[0]))), token_texts(first.tokenizer)).texts
    assert texts.end_ids == {eos, end}
    assert texts.texts[end] is None


SMALL: dict[str, Any] = {
    "vocab_size": 30, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2,
    "num_key_value_heads": 1, "eos_token_id": 1, "bos_token_id": None, "pad_token_id": None,
}  # fmt: skip
LONG = {
    "rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": LIMIT,
    "short_factor": [1.0] * 4, "long_factor": [4.0, 5.0, 6.0, 7.0],
}  # fmt: skip


def lfm2() -> Any:
    return t.Lfm2ForCausalLM(t.Lfm2Config(**SMALL, full_attn_idxs=[1]))


def minimax() -> Any:
    layers = ["linear_attention", "full_attention", "linear_attention"]
    return t.MiniMaxForCausalLM(
        t.MiniMaxConfig(**SMALL, layer_types=layers, num_local_experts=2, num_experts_per_tok=1, block_size=8)
    )


def roberta() -> Any:
    return t.RobertaForCausalLM(
        t.RobertaConfig(**{**SMALL, "pad_token_id": 0}, max_position_embeddings=64, is_decoder=True)
    )


def longrope() -> Any:
    return t.LlamaForCausalLM(t.LlamaConfig(**SMALL, max_position_embeddings=96, rope_parameters=LONG))


def dynamic() -> Any:
    rotation = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
    return t.LlamaForCausalLM(t.LlamaConfig(**SMALL, max_position_embeddings=LIMIT, rope_parameters=rotation))


def made(build: Callable[[], Any], seed: int) -> Any:
    model, random = build().eval(), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim >= 2:
                weight.copy_(torch.randn(weight.shape, generator=random) * 1.4 / weight.shape[-1] ** 0.5)
    return model


def alone(model: Any, ids: list[int]) -> torch.Tensor:
    """Log-probabilities of what comes next, by a copy that has read nothing else."""
    with torch.no_grad():
        logits = copy.deepcopy(model)(input_ids=torch.tensor([ids]), use_cache=False).logits
    return logits[0, -1].double().log_softmax(-1)


def texts_of(*lengths: int) -> list[list[int]]:
    random = np.random.default_rng(5)
    return [random.integers(2, 30, length).tolist() for length in lengths]


@pytest.mark.parametrize("build", [lfm2, minimax, roberta, longrope, dynamic], ids=lambda build: build.__name__)
def test_an_exported_ensemble_generates_what_each_prompt_gives_alone(build: Callable[[], Any]) -> None:
    experts = [made(build, seed) for seed in range(2)]
    plain = copy.deepcopy(experts)
    model = EnsembleForCausalLM.from_experts(experts, [1.0, 2.0])
    prompts = texts_of(10, 4, 9, 15)
    ids, mask = (torch.from_numpy(array) for array in padded([np.array(p) for p in prompts], 0, left=True))
    options: dict[str, Any] = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
    for more in ({}, {"num_beams": 2}):
        out = model.generate(ids, attention_mask=mask, max_new_tokens=5, **options, **more)[:, ids.shape[1] :]
        for prompt, row in zip(prompts, out.tolist(), strict=True):
            if more:  # the same beams as without company
                own = torch.tensor([prompt])
                single = model.generate(
                    own, attention_mask=torch.ones_like(own), max_new_tokens=5, use_cache=False, **options, **more
                )
                assert row == single[0, len(prompt) :].tolist()
                continue
            text = list(prompt)
            for token in row:
                p = [alone(expert, text).exp() for expert in plain]
                both = (p[0] + 2 * p[1]) / 3
                assert both[token] >= both.max() - 1e-5
                text.append(token)


@pytest.mark.parametrize("build", [lfm2, minimax, roberta, longrope, dynamic], ids=lambda build: build.__name__)
def test_an_expert_of_a_mixed_ensemble_reads_texts_that_change(build: Callable[[], Any], tokenizer: Any) -> None:
    """Their ends are taken back and written anew from step to step, past a length that matters."""
    model = made(build, 0)
    plain = copy.deepcopy(model)
    reader = Reader(LoadedModel(model, tokenizer, "expert", None, 0, "float32", "sdpa"), token_texts(tokenizer))
    texts = texts_of(LIMIT - 2, 4, LIMIT + 3)
    reader.begin([("", np.array(ids)) for ids in texts])
    random = np.random.default_rng(2)
    for step in range(5):
        found = reader.logits([None if step == 2 and row == 1 else ids for row, ids in enumerate(texts)])
        for row, ids in enumerate(texts):
            if step != 2 or row != 1:
                logp = found[row].double().log_softmax(-1)
                torch.testing.assert_close(logp, alone(plain, ids), rtol=0, atol=1e-4)
        texts = [ids[: len(ids) - step % 3] + random.integers(2, 30, 1 + step % 2).tolist() for ids in texts]
