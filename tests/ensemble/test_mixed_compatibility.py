"""What experts have in common, what is refused, and ensembles put together on the command line."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.config.composition import compose
from ensemw2s.config.method import DecodingConfig
from ensemw2s.config.training import ComputeConfig, ModelConfig
from ensemw2s.data.example import Example
from ensemw2s.ensemble import Ensemble
from ensemw2s.ensemble.assemble import assemble
from ensemw2s.ensemble.mixed.compatibility import Compatibility, check_compatibility
from ensemw2s.errors import InputError, ModelError

CPU = ComputeConfig(device="cpu")
SHORTLY = "labelling.decoding.max_new_tokens=3"
SHORT = DecodingConfig(max_new_tokens=4)


def check(*folders: Path) -> Compatibility:
    return check_compatibility([ModelConfig(path=str(folder)) for folder in folders])


def test_equal_files_need_no_tokenizer(families: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    import ensemw2s.models.loading.load

    monkeypatch.setattr(ensemw2s.models.loading.load, "load_tokenizer", None)
    found = check(families["bytes"], families["padded"], families["bytes"])
    size = found.sizes[0]
    assert found.sizes == (size, size + 10, size)
    assert (found.how("choice"), found.how("generate"), found.common_size) == ("tokens", "tokens", size)
    assert f"have {size} and {size + 10} logits" in (found.describe("choice") or "")
    same = check(families["bytes"], families["bytes"])
    assert (same.common_size, same.describe("generate"), same.differences) == (None, None, ())
    assert check(families["pieces"]).same_tokens


def test_different_tokenizers(families: dict[str, Path]) -> None:
    found = check(families["bytes"], families["pieces"])
    assert (found.how("choice"), found.how("generate"), found.common_size) == ("options", "union", None)
    assert 0.0 < found.shared < 1.0
    words = " ".join(found.differences)
    for word in (
        "have the same text",
        "normalise text differently",
        "split text differently",
        "begins a text with <s>",
    ):
        assert word in words
    assert "ends an answer with <|end|>" in words
    assert f"{100 * found.shared:.0f} %" in (found.describe("choice") or "")
    assert "union of their vocabularies" in (found.describe("generate") or "")


def test_another_end_matters_for_writing_only(families: dict[str, Path]) -> None:
    found = check(families["bytes"], families["other_end"])
    assert (found.how("choice"), found.how("generate")) == ("tokens", "union")
    assert "end their answers with different tokens" in (found.describe("generate") or "")
    made = Ensemble([families["bytes"], families["other_end"]], [1.0, 1.0], compute=CPU)
    assert len(made.score([Example("a", "the cat", None, ("sat", "on"))])) == 1
    assert len(made.generate(["the cat"], SHORT)) == 1


def test_special_tokens_that_only_some_know_do_not_matter(families: dict[str, Path], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from ensemw2s.models.loading.quiet import quiet_transformers

    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(families["bytes"])
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
        model = AutoModelForCausalLM.from_pretrained(families["bytes"])
        model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
        model.save_pretrained(tmp_path)
        tokenizer.save_pretrained(tmp_path)
    found = check(families["bytes"], tmp_path)
    assert (found.how("generate"), found.common_size) == ("tokens", len(tokenizer) - 1)
    made = Ensemble([families["bytes"], tmp_path], [1.0, 1.0], "generate", compute=CPU)
    alone = replace(made, experts=[families["bytes"]], alphas=[1.0])
    for row, expected in zip(made.generate(["the cat"], SHORT), alone.generate(["the cat"], SHORT), strict=True):
        assert (row["text"], row["ended"]) == (expected["text"], expected["ended"])


@pytest.mark.parametrize(
    "use",
    [
        lambda made, folder: made.save_pretrained(folder),
        lambda made, folder: made.push_to_hub("me/it"),
        lambda made, folder: made.causal_lm(),
        lambda made, folder: made.encode([]),
    ],
)
def test_one_model_it_is_not(families: dict[str, Path], tmp_path: Path, use: Callable[..., Any]) -> None:
    made = Ensemble([families["bytes"], families["pieces"]], [1.0, 1.0], compute=CPU)
    with pytest.raises(ModelError, match="Experts with different tokenizers do not") as caught:
        use(made, tmp_path / "x")
    assert "ew2s combine" in str(caught.value.hint)
    assert not (tmp_path / "x").exists()


def test_the_file_names_paths_and_names(families: dict[str, Path], tmp_path: Path) -> None:
    made = Ensemble(
        [families["bytes"], "embedded:weak", "owner/name"],
        [1.0, 2.0, 3.0],
        loading={"dtype": "float32"},
        expert_loading=[{}, {"keep_layers": 1}, {"revision": "v2", "dtype": "bfloat16"}],
        compute=CPU,
    )
    content = json.loads(made.save(tmp_path).read_text())
    assert [sorted(expert) for expert in content["experts"]] == [
        ["alpha", "path"],
        ["alpha", "loading", "name"],
        ["alpha", "loading", "name"],
    ]
    loaded = Ensemble.load(tmp_path, CPU)
    assert loaded == made
    configs = [loaded.model_config(k) for k in range(3)]
    assert configs[0] == ModelConfig(path=str(families["bytes"].resolve()))
    assert configs[1] == ModelConfig(path="embedded:weak", keep_layers=1)
    assert configs[2] == ModelConfig(path="owner/name", revision="v2", dtype="bfloat16")
    untrusting = [{"trust_remote_code": True}, {}, {}]
    replace(made, expert_loading=untrusting, loading={"trust_remote_code": True}).save(tmp_path)
    assert not any(Ensemble.from_pretrained(tmp_path).model_config(k).trust_remote_code for k in range(3))
    for entry in (
        {"alpha": 1.0},
        {"alpha": 1.0, "path": "a", "name": "b"},
        {"alpha": 1, "name": "b", "loading": {"x": 1}},
    ):
        (tmp_path / "ensemble.json").write_text(json.dumps({**content, "experts": [entry]}))
        with pytest.raises(ModelError, match="not a valid ensemble"):
            Ensemble.load(tmp_path)
    with pytest.raises(ValueError, match="settings for their loading"):
        replace(made, expert_loading=[{}])


def test_ensembles_share_their_weight_and_bring_their_settings(families: dict[str, Path], tmp_path: Path) -> None:
    from ensemw2s.config.data import TemplateConfig
    from ensemw2s.config.method import CombineConfig

    pair = Ensemble(
        [families["bytes"], families["padded"]],
        [3.0, 1.0],
        "generate",
        CombineConfig(rule="vote", length_norm="mean"),
        TemplateConfig(prompt="Q: {prompt}"),
        loading={"dtype": "bfloat16"},
    )
    pair.save(tmp_path / "pair")
    made = assemble([str(families["pieces"]), str(tmp_path / "pair")], [1.0, 2.0], compose())
    assert made.alphas == [1.0, 1.5, 0.5]
    assert (made.task, made.config.rule, made.config.length_norm) == ("generate", "vote", "byte")
    assert made.template.prompt == "Q: {prompt}"
    assert [made.model_config(k).dtype for k in range(3)] == ["float32", "bfloat16", "bfloat16"]
    given = compose(sets=["task=choice", "ensemble.length_norm=sum", "data.template.answer='{answer}'"])
    made = assemble([str(tmp_path / "pair"), str(families["pieces"])], [], given)
    assert (made.task, made.config.length_norm) == ("choice", "sum")
    assert (made.template.prompt, made.template.answer) == ("Q: {prompt}", "{answer}")
    replace(pair, template=TemplateConfig()).save(tmp_path / "other")
    both = [str(tmp_path / "pair"), str(tmp_path / "other")]
    with pytest.raises(InputError, match=r"differ in data\.template"):
        assemble(both, [], compose())
    assert assemble(both, [], compose(sets=["data.template.prompt='{prompt}'"])).expert_loading == []


@pytest.fixture
def ew2s(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Any]:
    from ensemw2s.cli import main as cli_main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli_main.signal, "signal", lambda *_: None)
    monkeypatch.setenv("EW2S_DEVICE", "cpu")

    def call(*words: object) -> tuple[int, str, str]:
        capsys.readouterr()
        code = cli_main.main([str(word) for word in words])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_from_two_models_to_answers_on_the_command_line(families: dict[str, Path], ew2s: Callable[..., Any]) -> None:
    pair = (families["bytes"], families["pieces"])
    code, out, err = ew2s("combine", *pair, "--out", "both", "--alpha", 2, "--alpha", 1, "--dry-run")
    assert code == 0, err
    assert not Path("both").exists()
    assert "would write both/ensemble.json: task choice, rule mixture" in out
    assert "66.7 %" in out
    assert "option probabilities are combined (length norm byte)" in out
    assert "wrote both" in ew2s("combine", *pair, "--out", "both", "--alpha", 2, "--alpha", 1)[1]
    assert "replaced both" in ew2s("combine", *pair, "--out", "both", "--alpha", 2, "--alpha", 1)[1]
    one = ("-s", "labelling.decoding.method=sample", "-s", "labelling.decoding.experts=one")
    code, _, err = ew2s("combine", *pair, "--out", "other", "--task", "generate", *one)
    assert (code, "needs experts that share a tokenizer" in err, Path("other").exists()) == (2, True, False)
    rows = [{"prompt": "Is the dog happy?", "choices": ["yes", "no"], "answer": "yes"}]
    Path("q.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    said = "The experts have different tokenizers"
    code, out, err = ew2s("score", "both", "q.jsonl")
    assert (code, said in err) == (0, True)
    assert set(json.loads(out)) >= {"label", "scores", "confidence", "margin", "agreement", "correct"}
    for words in (["evaluate", "both", "q.jsonl"], ["label", "-e", "both", "-i", "q.jsonl", "--output", "l.jsonl"]):
        code, _, err = ew2s(*words)
        assert (code, said in err) == (0, True), err
    code, out, err = ew2s("generate", "both", "the cat", "--json", "--max-new-tokens", 4)
    assert (code, "union of their vocabularies" in err) == (0, True)
    assert set(json.loads(out)) == {"prompt", "text", "token_ids", "confidence", "margin", "ended"}
    code, _, err = ew2s("export", "ensemble", "both", "folder")
    assert (code, "do not make one model folder" in err) == (2, True)
    found = json.loads(ew2s("combine", *pair, "-o", "both", "--task", "generate", "--json", "-s", SHORTLY)[1])
    assert (found["task"], found["choice"], found["generate"]) == ("generate", "options", "union")
    assert ew2s("label", "-e", "both", "-i", "q.jsonl", "--output", "l.jsonl")[0] == 0
    assert "label" in json.loads(Path("l.jsonl").read_text())


def test_what_cannot_be_combined_is_said_at_once(families: dict[str, Path], ew2s: Callable[..., Any]) -> None:
    good = families["bytes"]
    Path("full").mkdir()
    Path("full/x").touch()
    shutil.copyfile(good / "config.json", "file")
    for words, said in (
        ([good, "./none", "-o", "x"], "There is no model folder ./none"),
        ([good, "-o", "x", "-a", 1, "-a", 2], "1 members, but 2 weights"),
        ([good, good, "-o", "x", "-a", 1, "-a", -2], "between 0 and"),
        ([f"{good}@v1", "-o", "x"], "only a model on the hub has a revision"),
        ([good, "-o", "full"], "is not empty"),
        ([good, "-o", "file"], "is a file"),
        ([good, "-o", "x", "--task", "rank"], "task is 'rank' (--task)"),
    ):
        code, _, err = ew2s("combine", *words)
        assert (code, said in err) == (2, True), err
    code, out, _ = ew2s("combine", good, good, "-o", "x")
    assert (code, "combined token by token" in out) == (0, True)
