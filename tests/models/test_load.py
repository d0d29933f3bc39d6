from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from ensemw2s.config.training import ComputeConfig, ModelConfig
from ensemw2s.errors import ConfigError, ModelError
from ensemw2s.models.loading.adapters import opened_models
from ensemw2s.models.loading.device import resolve_device
from ensemw2s.models.loading.fingerprint import model_fingerprint
from ensemw2s.models.loading.load import load_model, load_tokenizer, padding_id
from ensemw2s.models.loading.quiet import quiet_transformers


@pytest.fixture
def folder(model_folders: list[Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(model_folders[0], tmp_path / "model"))


def config(path: object, **keywords) -> ModelConfig:
    return ModelConfig(path=str(path), **keywords)


def edit(file: Path, **changes) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_local_folder(folder: Path) -> None:
    loaded = load_model(config(folder))
    saved = load_file(folder / "model.safetensors")
    assert loaded.parameters == sum(t.numel() for t in saved.values())
    assert not loaded.model.training
    assert (loaded.eos_id, loaded.pad_id, loaded.revision, loaded.dtype) == (1, 1, None, "float32")
    assert loaded.attn_implementation == "sdpa"
    assert loaded.device == torch.device("cpu")
    assert loaded.source == str(folder)


def test_dtype_and_attention_are_taken_from_the_configuration(folder: Path) -> None:
    loaded = load_model(config(folder, dtype="bfloat16", attn_implementation="eager"))
    assert loaded.model.lm_head.weight.dtype == torch.bfloat16
    assert loaded.attn_implementation == "eager"


def test_padding_is_end_of_sequence_where_there_is_no_padding_token(tokenizer) -> None:
    assert tokenizer.pad_token_id is None
    assert padding_id(tokenizer) == tokenizer.eos_token_id == 1


def test_nothing_is_printed(folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    load_model(config(folder))
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err == ""


def test_missing_folder_and_folder_without_model(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model folder"):
        load_model(config(tmp_path / "nowhere"))
    with pytest.raises(ModelError, match=r"no config\.json"):
        load_model(config(tmp_path))
    (tmp_path / "weights.bin").touch()
    with pytest.raises(ModelError, match="is a file"):
        load_model(config(tmp_path / "weights.bin"))


@pytest.mark.parametrize("file", ["config.json", "adapter_config.json"])
def test_the_folder_of_a_stage_points_to_the_model_in_it(file: str, tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    with pytest.raises(ModelError) as info:
        load_model(ModelConfig(path=str(tmp_path)))
    assert info.value.hint == "Point to a folder written by save_pretrained."
    (tmp_path / "model" / file).write_text("{}")
    with pytest.raises(ModelError) as info:
        load_model(ModelConfig(path=str(tmp_path)))
    assert info.value.hint == f"Point to the folder in it: {tmp_path / 'model'}"


def test_unknown_embedded_base() -> None:
    with pytest.raises(ModelError, match="embedded:weak or embedded:strong"):
        load_model(config("embedded:medium"))


def test_tokenizer_problems(folder: Path) -> None:
    edit(folder / "tokenizer_config.json", eos_token=None)
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        load_tokenizer(config(folder))
    for file in folder.glob("tokenizer*"):
        file.unlink()
    with pytest.raises(ModelError, match="holds no tokenizer"):
        load_tokenizer(config(folder))


def test_tokenizer_larger_than_the_model(folder: Path) -> None:
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"]["vocab"]["z"] = 400
    (folder / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ModelError, match="token 400, but the model has"):
        load_model(config(folder))


@pytest.mark.parametrize(
    "changes",
    [{"architectures": ["LlamaModel"]}, {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"]}],
)
def test_not_a_causal_language_model(folder: Path, changes: dict[str, object]) -> None:
    edit(folder / "config.json", **changes)
    with pytest.raises(ModelError, match="not a causal language model"):
        load_model(config(folder))


def test_damaged_files(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=r"incomplete: 1 are missing, for example model\.norm\.weight"):
        load_model(config(folder))
    (folder / "model.safetensors").write_bytes(b"not safetensors")
    with pytest.raises(ModelError, match=r"weights of .* cannot be loaded"):
        load_model(config(folder))
    (folder / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="safetensors files only"):
        load_model(config(folder))
    (folder / "config.json").write_text("{")
    with pytest.raises(ModelError, match=r"config.json cannot be loaded|tokenizer of .* cannot be loaded"):
        load_model(config(folder))


def test_remote_code_is_not_run(folder: Path) -> None:
    edit(
        folder / "config.json", model_type="own", auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.M"}
    )
    (folder / "own.py").write_text("raise SystemExit('remote code ran')")
    with pytest.raises(ModelError, match="its own Python code"):
        load_model(config(folder))


def test_hub_id_without_network_says_how_to_fetch(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    for call in (load_model, model_fingerprint):
        with pytest.raises(ModelError, match="hub cannot be reached") as caught:
            call(config("someone/some-model"))
        assert "hf download someone/some-model" in str(caught.value)


def test_fingerprint_follows_content_dtype_and_nothing_else(folder: Path, model_folders: list[Path]) -> None:
    first = model_fingerprint(config(folder))
    assert first == model_fingerprint(config(model_folders[0]))  # the same content elsewhere
    assert first != model_fingerprint(config(model_folders[1]))
    assert first != model_fingerprint(config(folder, dtype="bfloat16"))
    (folder / "notes.md").write_text("not part of the model")
    assert first == model_fingerprint(config(folder))
    edit(folder / "config.json", rms_norm_eps=1e-5)
    assert first != model_fingerprint(config(folder))


def test_adapter_folder_is_its_base_and_the_adapter(folder: Path, tmp_path: Path) -> None:
    import peft

    base = load_model(config(folder))
    with quiet_transformers():
        tuned = peft.get_peft_model(
            base.model, peft.LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
        )
        torch.manual_seed(0)
        for name, parameter in tuned.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter)
        tuned.peft_config["default"].base_model_name_or_path = str(folder)
        tuned.eval().save_pretrained(tmp_path / "adapter")
    ids = torch.tensor([[3, 4, 5]])
    expected = tuned(input_ids=ids).logits
    loaded = load_model(config(tmp_path / "adapter"))
    torch.testing.assert_close(loaded.model(input_ids=ids).logits, expected)
    assert loaded.parameters > base.parameters - 1
    assert loaded.eos_id == 1  # the base's tokenizer
    before = model_fingerprint(config(tmp_path / "adapter"))
    edit(folder / "config.json", rms_norm_eps=1e-5)
    assert model_fingerprint(config(tmp_path / "adapter")) != before
    edit(tmp_path / "adapter" / "adapter_config.json", base_model_name_or_path=None)
    with pytest.raises(ModelError, match="names no base model"):
        load_model(config(tmp_path / "adapter"))


def test_several_models_are_held_only_inside_the_block(model_folders: list[Path]) -> None:
    with opened_models([config(f) for f in model_folders], ComputeConfig(device="cpu")) as models:
        assert [m.source for m in models] == [str(f) for f in model_folders]
    assert models == []


def test_devices() -> None:
    assert resolve_device(ComputeConfig(device="cpu")) == torch.device("cpu")
    assert resolve_device(ComputeConfig()).type in ("cpu", "cuda", "mps")
    with pytest.raises(ConfigError, match="not a device"):
        resolve_device(ComputeConfig(device="gpu7"))
    with pytest.raises(ConfigError, match="not supported"):
        resolve_device(ComputeConfig(device="meta"))
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA device"):
            resolve_device(ComputeConfig(device="cuda"))


def test_threads_are_set() -> None:
    before = torch.get_num_threads()
    try:
        resolve_device(ComputeConfig(device="cpu", threads=2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("method", ["evil", None, 7, "GPTQ2", ["awq"]])
def test_an_unknown_quantization_method_is_refused(folder: Path, method: object) -> None:
    edit(folder / "config.json", quantization_config={"quant_method": method})
    with pytest.raises(ModelError, match=r"quantization_config\.quant_method") as caught:
        load_model(config(folder))
    assert repr(method) in caught.value.message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("hidden_size", 10**9),
        ("hidden_size", "x"),
        ("vocab_size", -1),
        ("num_attention_heads", 1.5),
        ("head_dim", True),
    ],
)
def test_an_impossible_size_is_named(folder: Path, key: str, value: object) -> None:
    edit(folder / "config.json", **{key: value})
    with pytest.raises(ModelError, match=rf"config\.json: {key} is .*; expected a whole number"):
        load_model(config(folder))


def test_a_size_of_a_part_is_named_by_its_place(folder: Path) -> None:
    edit(folder / "config.json", text_config={"hidden_size": 10**9})
    with pytest.raises(ModelError, match=r"config\.json: text_config\.hidden_size is 1000000000"):
        load_model(config(folder))


def test_errors_of_a_configuration_end_with_their_reason(folder: Path) -> None:
    edit(folder / "config.json", rms_norm_eps="x")
    with pytest.raises(ModelError, match=r"tokenizer of .* cannot be loaded: .*rms_norm_eps.*[^:]$"):
        load_model(config(folder))
    edit(folder / "config.json", rms_norm_eps=1e-6, intermediate_size=24)
    with pytest.raises(ModelError, match=r"do not have the shapes that config\.json says"):
        load_model(config(folder))
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace("{", '{"vocab_size": 5, ', 1))
    with pytest.raises(ModelError, match="'vocab_size' is there twice"):
        load_model(config(folder))


@pytest.mark.parametrize(
    "name", ["../../../etc/passwd", "/etc/x.safetensors", "a/../../b.safetensors", "x.bin", "..\\x.safetensors"]
)
def test_an_index_of_weights_names_files_of_the_folder(folder: Path, name: str) -> None:
    (folder / "model.safetensors").rename(folder / "model-1.safetensors")
    index = {
        "metadata": {},
        "weight_map": dict.fromkeys(load_file(folder / "model-1.safetensors"), "model-1.safetensors"),
    }
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    load_model(config(folder))
    index["weight_map"]["model.norm.weight"] = name
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelError, match=r"index\.json: weight_map\.model\.norm\.weight names .* in the same folder"):
        load_model(config(folder))


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without CUDA")
@pytest.mark.parametrize("place", ["cuda:99", "cuda", {"": "cuda:99"}, {"": 99}, "nowhere", {"": "nowhere"}])
def test_a_device_map_names_devices(folder: Path, place: object) -> None:
    with pytest.raises(ConfigError, match=r"^device_map: "):
        load_model(config(folder, device_map=place))
