"""Ensembles from somebody else: they work, or there is one error that names file and key; no code of theirs is run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ensemble_files import changed, content_for, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensemw2s.config.training import ComputeConfig, ModelConfig
from ensemw2s.data.example import Example
from ensemw2s.ensemble import Ensemble, EnsembleForCausalLM
from ensemw2s.errors import InputError, ModelError
from ensemw2s.models.loading.load import load_model, load_tokenizer

COMPUTE = ComputeConfig(threads=1, device="cpu")
QUESTION = Example(id="q", prompt="1+1=", answer=None, choices=("2", "3"))


@pytest.fixture
def content(model_folders: list[Path]) -> dict[str, Any]:
    return content_for(model_folders[:2])


def error_of(call: Callable[[], Any]) -> InputError | None:
    """The error that the user is told, if there is one; anything else fails the test."""
    try:
        call()
    except InputError as error:
        return error
    return None


def one_error(folder: Path, *words: str) -> None:
    with pytest.raises(ModelError) as caught:
        Ensemble.load(folder, COMPUTE)
    message = caught.value.message
    assert caught.value.exit_code == 2
    assert "\n" not in message
    assert len(message) < 1000
    assert str(folder / "ensemble.json") in message
    assert all(word in message for word in words), message


@pytest.mark.parametrize(
    ("key", "value", "word"),
    [
        ("experts.0.alpha", float("nan"), "experts[0].alpha"),
        ("experts.1.alpha", float("inf"), "experts[1].alpha"),
        ("experts.1.alpha", -1.0, "experts[1].alpha"),
        ("experts.1.alpha", 1e31, "experts[1].alpha"),
        ("experts.1.alpha", 10**400, "experts[1].alpha"),
        ("experts.0.alpha", "1", "experts[0].alpha"),
        ("experts.0.alpha", True, "experts[0].alpha"),
        ("experts.0.alpha", [1.0], "experts[0].alpha"),
        ("experts.0.alpha", None, "experts[0].alpha"),
        ("experts", [], "experts"),
        ("experts", {"path": "x"}, "experts"),
        ("experts.0.path", 5, "experts[0].path"),
        ("experts.0.path", "", "experts[0].path"),
        ("experts.0.path", "x" * 300, "experts[0].path"),
        ("experts.0.path", "é" * 300, "experts[0].path"),
        ("experts.0.path", "a\0b", "experts[0].path"),
        ("experts.0.path", "\ud800", "experts[0].path"),
        ("experts.0.path", "/etc/passwd", "experts[0].path"),
        ("experts.0.path", "../../../../../../../../no/such/place", "experts[0].path"),
        ("experts.0.name", "two/places", "experts[0]"),
        ("experts.0.loading.path", "/elsewhere", "experts[0].loading.path"),
        ("experts.0.loading.revision", 7, "experts[0].loading.revision"),
        ("experts.0.more\x1b[31m", 1, "experts[0].more"),
        ("loading.attn_implementation", "someone/kernel", "loading.attn_implementation"),
        ("loading.attn_implementation", "kernels-community/flash-attn2", "loading.attn_implementation"),
        ("loading.attn_implementation", "flash_attention_2|evil/repo:fn", "loading.attn_implementation"),
        ("experts.1.loading.attn_implementation", "someone/kernel@main", "experts[1].loading.attn_implementation"),
        ("loading.attn_implementation", {"": "sdpa"}, "loading.attn_implementation"),
        ("loading.device_map", [1], "loading.device_map"),
        ("loading.quantization", "2bit", "loading.quantization"),
        ("loading.dtype", "float64", "loading.dtype"),
        ("loading.keep_layers", 0, "loading.keep_layers"),
        ("loading.cache_dir", "/tmp", "loading.cache_dir"),
        ("loading", [], "loading"),
        ("decoding.max_new_tokens", 10**30, "decoding.max_new_tokens"),
        ("decoding.top_k", 2**40, "decoding.top_k"),
        ("decoding.temperature", float("nan"), "decoding.temperature"),
        ("template.prompt", 5, "template.prompt"),
        ("template.prompt", "no place", "template.prompt"),
        ("template.prompt", "{prompt} {prompt.__class__}", "template.prompt"),
        ("template.prompt", "x" * 5000, "template.prompt"),
        ("template.answer", "", "template.answer"),
        ("template.answer", "{answer} {0}", "template.answer"),
        ("loading.keep_layers", True, "loading.keep_layers"),
        ("experts.1.loading.keep_layers", True, "experts[1].loading.keep_layers"),
        ("decoding.max_new_tokens", True, "decoding.max_new_tokens"),
        ("decoding.temperature", True, "decoding.temperature"),
        ("ensemble.rule", ["mixture"], "ensemble.rule"),
        ("schema_version", 2, "schema_version"),
        ("task", "écrire", "task"),
        ("extra", 1, "extra: there is no such key"),
        ("ensemble.two\nlines", None, "ensemble.two␊lines: there is no such key"),
        ("ensemble.\u2028", 1, "ensemble.�: there is no such key"),
    ],
)
def test_a_bad_value_is_named_by_file_and_key(
    tmp_path: Path, content: dict[str, Any], key: str, value: Any, word: str
) -> None:
    one_error(write(tmp_path / "e", changed(content, key, value)), word)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no valid JSON"),
        ("[]", "the whole"),
        ("{", "no valid JSON"),
        ("[" * 100_000, "nested"),
        ('{"task": ' + "9" * 6000 + "}", "digits"),
        ('{"experts": [{"alpha": 1e400}]}', ""),
        ("\udcff", "no valid JSON"),
    ],
)
def test_text_that_is_no_ensemble(tmp_path: Path, text: str, word: str) -> None:
    folder = tmp_path / "e"
    folder.mkdir()
    (folder / "ensemble.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    one_error(folder, *([word] if "\udcff" not in text else ["UTF-8"]))


def test_a_file_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "pipe").mkdir()
    os.mkfifo(tmp_path / "pipe" / "ensemble.json")
    one_error(tmp_path / "pipe", "not a regular file")
    (tmp_path / "zero").mkdir()
    (tmp_path / "zero" / "ensemble.json").symlink_to("/dev/zero")
    one_error(tmp_path / "zero", "not a regular file")


_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-3, 3),
    st.sampled_from([10**400, -(10**25), 2**63, 1e300, float("nan"), float("inf"), -0.0, 1e-320]),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["", "~", "/", "..", "../..", "x" * 300, "a\0b", "\x1b[2J", "sample", "vote", "one", "{", "{prompt"]
    ),
)
_VALUES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, each in inner for place in _places(each, (*path, key))]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_ensembles_work_or_are_refused(tmp_path: Path, model_folders: list[Path], data: st.DataObject) -> None:
    content = content_for(model_folders[:2])
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from(_places(content)))
        target: Any = content
        for key in place[:-1]:
            target = target[key]
        how = data.draw(st.sampled_from(["replace", "replace", "remove", "add"]))
        if how == "replace":
            target[place[-1]] = data.draw(_VALUES)
        elif how == "remove":
            del target[place[-1]]
        elif isinstance(target, dict):
            target[data.draw(st.text(max_size=6))] = data.draw(_VALUES)
    folder = write(tmp_path / "e", content)
    ensembles: list[Ensemble] = []
    error = error_of(lambda: ensembles.append(Ensemble.load(folder, COMPUTE)))
    if error is not None:
        assert str(folder / "ensemble.json") in error.message
        assert "\n" not in error.message
        return
    if ensembles[0].task == "choice":
        error = error_of(lambda: ensembles[0].score([QUESTION])[0]["scores"])
    elif ensembles[0].decoding.max_new_tokens <= 8:
        error = error_of(lambda: ensembles[0].answer([QUESTION])[0]["text"])
    assert error is None or error.exit_code == 2


class Evil:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


def test_pickles_are_not_read(
    tmp_path: Path, model_folders: list[Path], adapter_folders: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    mark = tmp_path / "ran"
    evil = pickle.dumps(Evil(mark))

    def refused(folder: Path, word: str, load: Callable[[Path], Any] | None = None) -> None:
        with pytest.raises(ModelError) as caught:
            (load or (lambda place: load_model(ModelConfig(path=str(place)))))(folder)
        assert word in str(caught.value), caught.value
        assert not mark.exists()

    for name in ("pytorch_model.bin", "model.pt", "tf_model.h5"):
        folder = Path(shutil.copytree(model_folders[0], tmp_path / name))
        (folder / "model.safetensors").unlink()
        (folder / name).write_bytes(evil)
        refused(folder, "safetensors")
    adapter = Path(shutil.copytree(adapter_folders.adapters[0], tmp_path / "adapter"))
    (adapter / "adapter_model.safetensors").unlink()
    (adapter / "adapter_model.bin").write_bytes(evil)
    refused(adapter, "adapter_model.safetensors")
    both = Ensemble([adapter_folders.adapters[1], adapter], [1.0, 1.0], compute=COMPUTE)
    refused(adapter, "adapter_model.safetensors", lambda _: both.load_experts())
    named = Path(shutil.copytree(model_folders[0], tmp_path / "named"))
    config = json.loads((named / "config.json").read_text())
    (named / "config.json").write_text(json.dumps(config | {"transformers_weights": "adapter_model.bin"}))
    (named / "adapter_model.bin").write_bytes(evil)
    refused(named, "names 'adapter_model.bin' as its weights")
    saved = tmp_path / "saved"
    Ensemble(adapter_folders.adapters[:2], [1.0, 1.0], compute=COMPUTE).save_pretrained(saved)
    second = saved / "experts" / "expert-02"
    (second / "adapter_model.safetensors").unlink()
    (second / "adapter_model.bin").write_bytes(evil)
    refused(saved, "pickle", EnsembleForCausalLM.from_pretrained)
    refused(saved, "adapter_model.safetensors", lambda place: Ensemble.load(place, COMPUTE).load_experts())


def test_code_that_a_configuration_names_is_not_fetched(tmp_path: Path, model_folders: list[Path]) -> None:
    folder = Path(shutil.copytree(model_folders[0], tmp_path / "m"))
    config = json.loads((folder / "config.json").read_text())
    for key in ("attn_implementation", "experts_implementation"):
        (folder / "config.json").write_text(json.dumps(config | {key: "kernels-community/something"}))
        with pytest.raises(ModelError, match="fetched and run"):
            load_model(ModelConfig(path=str(folder)))
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "auto.py").write_text("raise SystemExit('ran')")
    auto = {"auto_map": {"AutoConfig": "auto.C", "AutoModelForCausalLM": "auto.M", "AutoTokenizer": ["auto.T", None]}}
    (folder / "config.json").write_text(json.dumps(config | auto | {"model_type": "unheard-of"}))
    with pytest.raises(ModelError, match=r"trust_remote_code|code"):
        load_model(ModelConfig(path=str(folder)))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("base_model_name_or_path", 5),
        ("base_model_name_or_path", ""),
        ("base_model_name_or_path", "x" * 300),
        ("base_model_name_or_path", "a\0b"),
        ("revision", 5),
        ("revision", {}),
        ("r", "many"),
        ("r", -1),
        ("r", 10**30),
        ("lora_alpha", "x"),
        ("target_modules", 5),
        ("peft_type", "NOTHING"),
        ("peft_type", 5),
        ("megatron_config", {"a": 1}),
        ("unheard_of", 1),
    ],
)
def test_a_damaged_adapter_configuration(tmp_path: Path, adapter_folders: Any, key: str, value: Any) -> None:
    folder = Path(shutil.copytree(adapter_folders.adapters[0], tmp_path / "a"))
    file = folder / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {key: value}))
    error = error_of(lambda: load_model(ModelConfig(path=str(folder))))
    if error is None:
        assert key in ("unheard_of", "lora_alpha")
    else:
        assert str(folder) in error.message or "x" * 80 in error.message
        assert "\n" not in error.message
    file.write_text("[" * 100_000)
    with pytest.raises(ModelError, match="nested"):
        load_model(ModelConfig(path=str(folder)))
    (folder / "base_model.json").write_text('{"keep_layers": "1e400"}')
    shutil.copy(adapter_folders.adapters[0] / "adapter_config.json", file)
    with pytest.raises(ModelError, match="keep_layers"):
        load_model(ModelConfig(path=str(folder)))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("config.json", "{"),
        ("config.json", "[]"),
        ("config.json", "[" * 100_000),
        ("config.json", '{"model_type": "llama", "num_hidden_layers": 1000000000}'),
        ("config.json", '{"model_type": "llama", "num_hidden_layers": "two"}'),
        ("config.json", '{"model_type": "llama", "hidden_size": -1}'),
        ("config.json", '{"model_type": "llama", "vocab_size": 1e400}'),
        ("config.json", '{"model_type": 5}'),
        ("config.json", '{"model_type": "llama", "rope_parameters": "x"}'),
        ("tokenizer.json", "{"),
        ("tokenizer.json", "{}"),
        ("tokenizer.json", "[" * 100_000),
        ("tokenizer.json", '{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}'),
        ("tokenizer_config.json", "[1]"),
        ("tokenizer_config.json", '{"tokenizer_class": 5}'),
        ("tokenizer_config.json", '{"eos_token": 5}'),
        ("model.safetensors", "x"),
        ("model.safetensors", "\xff" * 100),
    ],
)
def test_damaged_files_of_a_model(tmp_path: Path, model_folders: list[Path], file: str, text: str) -> None:
    folder = Path(shutil.copytree(model_folders[0], tmp_path / "m"))
    (folder / file).write_text(text, encoding="latin-1")
    cfg = ModelConfig(path=str(folder))
    error = error_of(lambda: (load_tokenizer(cfg), load_model(cfg)))
    assert error is not None
    assert str(folder) in error.message
    assert "\n" not in error.message


def test_what_was_fetched_names_nothing_outside(
    tmp_path: Path, content: dict[str, Any], adapter_folders: Any, model_folders: list[Path]
) -> None:
    def refused(given: dict[str, Any], word: str) -> None:
        folder = write(tmp_path / "e", given)
        Ensemble.load(folder, COMPUTE)  # the user's own may
        with pytest.raises(ModelError) as caught:
            Ensemble.load(folder, COMPUTE, self_contained=True)
        assert word in caught.value.message

    refused(content, "experts[0]")
    outside = Path(os.path.relpath(model_folders[0], tmp_path / "e"))
    refused(changed(content, "experts.0.path", str(outside)), "experts[0]")
    named = {"name": "embedded:weak", "alpha": 1.0}
    refused(changed(content, "experts", [named]), "experts[0]")
    saved = tmp_path / "saved"
    Ensemble(adapter_folders.adapters[:2], [1.0, 1.0], compute=COMPUTE).save_pretrained(saved)
    assert len(Ensemble.load(saved, COMPUTE, self_contained=True).experts) == 2
    file = saved / "experts" / "expert-02" / "adapter_config.json"
    inside = json.loads(file.read_text())
    for base in (str(adapter_folders.base), "someone/model", "embedded:weak"):
        file.write_text(json.dumps(inside | {"base_model_name_or_path": base}))
        with pytest.raises(ModelError, match=r"experts\[1\]"):
            Ensemble.load(saved, COMPUTE, self_contained=True)


def test_the_largest_weights_count_as_they_should(content: dict[str, Any], tmp_path: Path) -> None:
    plain = changed(changed(content, "experts.0.alpha", 1.0), "experts.1.alpha", 3.0)
    for task in ("choice", "generate"):
        found: list[Any] = []
        for scale in (1.0, 1e-30, 3e29):
            for k, alpha in enumerate((1.0, 3.0)):
                plain = changed(plain, f"experts.{k}.alpha", alpha * scale)
            ensemble = Ensemble.load(write(tmp_path / "e", plain | {"task": task}), COMPUTE)
            row = (ensemble.score if task == "choice" else ensemble.answer)([QUESTION])[0]
            found.append([*row.get("scores", []), row["confidence"]])
        assert found[1] == pytest.approx(found[0], abs=2e-6)
        assert found[2] == pytest.approx(found[0], abs=2e-6)


@pytest.mark.parametrize("key", ["task", "experts", "ensemble", "alpha"])
def test_a_key_may_stand_once(content: dict[str, Any], tmp_path: Path, key: str) -> None:
    file = write(tmp_path / "e", content) / "ensemble.json"
    file.write_text(file.read_text().replace(f'"{key}"', f'"{key}": [], "{key}"', 1))
    one_error(file.parent, f"the key '{key}' is there twice")


@pytest.mark.parametrize("path", ["../../../../../../../..", "..", "."])
def test_an_expert_is_no_folder_that_holds_the_ensemble(content: dict[str, Any], tmp_path: Path, path: str) -> None:
    content["experts"][0] = {"path": path, "alpha": 1.0}
    one_error(write(tmp_path / "e", content), "experts[0].path:", "holds this file")
