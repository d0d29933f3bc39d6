"""Files of kept hidden states, and what must not reach the states themselves."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from deep_models import deep_model
from fine_tuning import CPU, assert_equal, make_data, training, weights_of

from ensemw2s.checksums import checksum, sealed
from ensemw2s.config.training import LoraConfig, ModelConfig
from ensemw2s.files import dump_json
from ensemw2s.models.loading.layers import decoder_layers
from ensemw2s.models.loading.load import load_model
from ensemw2s.models.loading.quiet import quiet_transformers
from ensemw2s.models.training.finetune import finetune
from ensemw2s.models.trunk import store as module
from ensemw2s.models.trunk.injection import Trunk
from ensemw2s.models.trunk.kept import kept_trunk
from ensemw2s.models.trunk.store import StateFolder, TrunkStore, tensor_of

pytestmark = pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to False")

PLENTY = 10**9


def states_of(number: int) -> torch.Tensor:
    return torch.full((number % 3 + 2, 4), float(number))


def key_of(number: int) -> bytes:
    return number.to_bytes(32, "big")


def kept(folder: StateFolder, number: int) -> bool:
    """In a file of its own."""
    return folder.put(key_of(number), states_of(number)) and folder.flush()


def filled(root: Path, files: int, sink: Any = None) -> StateFolder:
    folder = TrunkStore(root, PLENTY, sink).folder("trunk")
    for number in range(files):
        assert kept(folder, number)
    return folder


def read(folder: StateFolder, number: int) -> torch.Tensor | None:
    found = folder.get(key_of(number), len(states_of(number)))
    return None if found is None else tensor_of(found.copy(), torch.float32)


def test_many_files_hold_few_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_OPEN_FILES", 3)
    before = psutil.Process().num_fds()
    written = filled(tmp_path, 30)
    again = TrunkStore(tmp_path, PLENTY).folder("trunk")
    again.refresh()
    for folder in (written, again):
        for number in (*range(30), *range(29, -1, -1)):
            assert torch.equal(read(folder, number), states_of(number))
    assert psutil.Process().num_fds() <= before + 2 * 3


def test_texts_wait_in_memory_for_those_that_share_their_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "FILE_BYTES", 3000)
    folder = TrunkStore(tmp_path, PLENTY).folder("trunk")
    for number in range(20):
        assert folder.put(key_of(number), states_of(number))
        assert all(torch.equal(read(folder, n), states_of(n)) for n in range(number + 1))
    assert len(list(folder.path.glob("*.npy"))) == 1
    assert folder.flush()
    assert len(list(folder.path.glob("*.npy"))) == 2
    assert folder.flush()
    again = TrunkStore(tmp_path, PLENTY).folder("trunk")
    again.refresh()
    assert all(torch.equal(read(again, n), states_of(n)) for n in range(20))
    assert len(list(folder.path.glob("*.npy"))) == 2


@pytest.mark.parametrize("limit", [1500, 2000, 5000])
def test_the_limit_holds_with_everything_that_is_written(limit: int, tmp_path: Path) -> None:
    folder = TrunkStore(tmp_path, limit).folder("trunk")
    found = [folder.put(key_of(number), states_of(number)) for number in range(60)]
    folder.flush()
    size = sum(file.stat().st_size for file in tmp_path.rglob("*") if file.is_file())
    assert limit / 2 < size <= limit
    assert found == sorted(found, reverse=True)


def test_the_limit_holds_for_processes_together(tmp_path: Path) -> None:
    folders = [TrunkStore(tmp_path, 3000).folder(name) for name in ("one", "other", "one")]
    for number in range(8):
        assert all(folder.put(key_of(number), states_of(number)) for folder in folders)
    assert [folder.flush() for folder in folders] == [True, False, False]
    assert sum(file.stat().st_size for file in tmp_path.rglob("*.*")) <= 3000
    assert read(folders[1], 0) is None
    folders[2].refresh()
    assert all(torch.equal(read(folders[2], number), states_of(number)) for number in range(8))


def test_weights_that_are_not_in_memory(tmp_path: Path, tokenizer: Any, recorder: Any) -> None:
    """Those of later layers, too: states would follow them to where nothing is."""
    base = saved(tmp_path / "base", tokenizer)
    tuned(base, tmp_path / "model", None, LoraConfig(r=2, last_layers=2))
    store = TrunkStore(tmp_path / "trunk", PLENTY, recorder)
    loaded = load_model(ModelConfig(path=str(tmp_path / "model")))
    assert kept_trunk(loaded, store) is not None
    decoder_layers(loaded.model)[1][2].to("meta")
    assert kept_trunk(loaded, store) is None
    assert "the whole model runs" in recorder.of("message")[-1]["text"]


def test_what_another_process_removed_is_no_longer_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_OPEN_FILES", 1)
    folder = filled(tmp_path, 2)
    for file in folder.path.iterdir():
        file.unlink()
    folder.path.rmdir()
    assert read(folder, 0) is None
    assert key_of(0) not in folder
    assert kept(folder, 0)
    assert torch.equal(read(folder, 0), states_of(0))


def test_a_file_that_another_process_damages_at_once(
    tmp_path: Path, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between a file and its index another process may have renamed its own to that name."""
    folder = TrunkStore(tmp_path, PLENTY, recorder).folder("trunk")
    real = module.write_text

    def late(index: Path, text: str) -> None:
        real(index, text)
        index.with_suffix(".npy").write_bytes(b"other")

    monkeypatch.setattr(module, "write_text", late)
    assert kept(folder, 0)
    assert read(folder, 0) is None
    assert not list(folder.path.iterdir())
    assert "computed again" in recorder.of("message")[0]["text"]


def test_a_folder_that_cannot_be_written_ends_the_keeping_not_the_run(
    tmp_path: Path, recorder: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = TrunkStore(tmp_path, PLENTY, recorder).folder("trunk")

    def refused(*_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", "somewhere")

    monkeypatch.setattr(module, "write_text", refused)
    assert not kept(folder, 0)
    assert not list(folder.path.iterdir())
    (message,) = recorder.of("message")
    assert message["text"].startswith("Kept hidden states cannot be written (Permission denied); those of other texts")


@pytest.mark.parametrize(
    "record",
    [
        {"texts": [["00" * 32, 3], ["00" * 31 + "01", -1]]},
        {"texts": [["00" * 32, 2**70]]},
        {"texts": [["no", 2]]},
        {"texts": [7]},
        {"dtype": "load"},
        {"dtype": "complex128"},
        {"file": None},
    ],
)
def test_an_index_that_fits_no_file(tmp_path: Path, recorder: Any, record: dict[str, Any]) -> None:
    (index,) = filled(tmp_path, 1).path.glob("*.json")
    whole = {"dtype": "float32", "texts": [["00" * 32, 2]], "file": checksum(index.with_suffix(".npy"))}
    index.write_text(dump_json(sealed(whole | record)))
    folder = TrunkStore(tmp_path, PLENTY, recorder).folder("trunk")
    folder.refresh()
    assert read(folder, 0) is read(folder, 1) is None
    assert kept(folder, 0)
    assert torch.equal(read(folder, 0), states_of(0))


def test_without_room_nothing_is_said_to_be_kept(tmp_path: Path, tokenizer: Any, recorder: Any) -> None:
    base = saved(tmp_path / "base", tokenizer)
    tuned(base, tmp_path / "model", TrunkStore(tmp_path / "trunk", 0, recorder), LoraConfig(r=2, last_layers=2))
    (message,) = recorder.of("message")
    assert message["text"].endswith("the hidden states that enter layer 3 are computed for every batch.")
    assert not (tmp_path / "trunk").exists()


def test_a_full_store_reads_what_is_there(tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    base = saved(tmp_path / "base", tokenizer)
    tuned(base, tmp_path / "1", TrunkStore(tmp_path / "trunk", PLENTY), LoraConfig(r=2, last_layers=2))
    computed = counted(monkeypatch)
    tuned(base, tmp_path / "2", TrunkStore(tmp_path / "trunk", 0), LoraConfig(r=2, last_layers=2))
    assert not computed


def saved(folder: Path, tokenizer: Any, **changes: Any) -> ModelConfig:
    with quiet_transformers():
        deep_model("gpt2", **changes).save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    return ModelConfig(path=str(folder))


def tuned(base: ModelConfig, out: Path, store: TrunkStore | None, lora: LoraConfig) -> dict[str, torch.Tensor]:
    finetune(base, make_data(), training(steps=2, lora=lora), out, seed=0, compute=CPU, trunk=store)
    return weights_of(out, "adapter_model.safetensors")


def counted(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """For every text that a trunk reads by itself, whether its layers run in mixed precision."""
    mixed: list[bool] = []
    real = Trunk.states

    def states(self: Trunk, inputs: dict[str, Any]) -> torch.Tensor:
        handle = self._lower[0].register_forward_pre_hook(lambda *_: mixed.append(torch.is_autocast_enabled("cpu")))
        try:
            return real(self, inputs)
        finally:
            handle.remove()

    monkeypatch.setattr(Trunk, "states", states)
    monkeypatch.setattr(Trunk, "works", lambda self: self.forms.extend([None] * self.depth) or True)
    return mixed


@pytest.mark.parametrize("limit", [0, PLENTY])
def test_states_are_read_without_the_trainers_mixed_precision(
    limit: int, tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether they are kept before the training or computed in the midst of it."""
    base = saved(tmp_path / "base", tokenizer).model_copy(update={"dtype": "bfloat16"})
    mixed = counted(monkeypatch)
    tuned(base, tmp_path / "out", TrunkStore(tmp_path / "trunk", limit), LoraConfig(r=2, last_layers=2))
    assert mixed
    assert not any(mixed)


def test_adapters_that_happen_to_be_high_up_draw_dropout_below_as_ever(tmp_path: Path, tokenizer: Any) -> None:
    """Only ``last_layers`` says that what is below is fixed."""
    base = saved(tmp_path / "base", tokenizer, resid_pdrop=0.3)
    lora = LoraConfig(r=2, target_modules=["h.3.attn.c_attn"])
    whole = tuned(base, tmp_path / "whole", None, lora)
    assert_equal(tuned(base, tmp_path / "kept", TrunkStore(tmp_path / "trunk", PLENTY), lora), whole)
    assert not (tmp_path / "trunk").exists()
