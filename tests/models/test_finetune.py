from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fine_tuning import CPU, LIMIT, assert_equal, make_data, training, weights_of

from ensemw2s.config.training import LoraConfig, ModelConfig, TrainingConfig
from ensemw2s.errors import ConfigError, RunFailedError
from ensemw2s.models.loading.load import load_model
from ensemw2s.models.training.finetune import draw_order, finetune
from ensemw2s.models.training.losses import LossConfig
from ensemw2s.models.training.training_set import TrainingSet


def plain_loop(base: ModelConfig, data: TrainingSet, cfg: TrainingConfig, seed: int, constant: float):
    """An independent loop over single sequences: Σ w·nll / (batch_size·constant), AdamW, clipping, cosine schedule."""
    model = load_model(base).model.train()
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=cfg.learning_rate, betas=(0.9, cfg.adam_beta2), weight_decay=0.0
    )
    order = draw_order(data, cfg, seed)
    warmup = round(cfg.warmup * cfg.steps)
    losses, norms = [], []
    for step in range(cfg.steps):
        if step < warmup:
            factor = step / max(warmup, 1)
        else:
            factor = 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, cfg.steps - warmup)))
        optimiser.param_groups[0]["lr"] = cfg.learning_rate * factor
        total = torch.zeros(())
        for s in order[step * cfg.batch_size : (step + 1) * cfg.batch_size]:
            prompt = data.prompt_ids[data.prompt_offsets[s] : data.prompt_offsets[s + 1]]
            part = slice(data.target_offsets[s], data.target_offsets[s + 1])
            target, weight = data.target_ids[part], data.loss_weights[part]
            whole = torch.from_numpy(np.concatenate([prompt, target]).astype(np.int64))[None]
            logp = model(input_ids=whole[:, :-1]).logits[0].log_softmax(-1)
            for j in range(len(target)):
                total = total - float(weight[j]) * logp[len(prompt) - 1 + j, int(target[j])]
        loss = total / (cfg.batch_size * constant)
        loss.backward()
        norms.append(float(torch.nn.utils.clip_grad_norm_(model.parameters(), cfg.max_grad_norm)))
        optimiser.step()
        optimiser.zero_grad()
        losses.append(loss.item())
    return model.state_dict(), losses, norms


def test_same_as_a_plain_loop_over_single_sequences(base: ModelConfig, tmp_path: Path, recorder) -> None:
    data, cfg = make_data(), training(warmup=0.34, log_steps=1, max_grad_norm=LIMIT)
    result = finetune(base, data, cfg, tmp_path, seed=5, loss_constant=1.7, compute=CPU, sink=recorder, tag="t")
    expected, losses, norms = plain_loop(base, data, cfg, 5, 1.7)
    got = [m["loss"] for m in recorder.metrics]
    np.testing.assert_allclose(got, losses, rtol=2e-5)
    np.testing.assert_allclose([m["grad_norm"] for m in recorder.metrics], norms, rtol=1e-4)
    clipped = np.array(norms) > LIMIT
    assert 0 < clipped.sum() < cfg.steps
    assert [m["clipped"] for m in recorder.metrics] == clipped.tolist()
    assert result.clipped == clipped.mean()
    assert result.final_loss == got[-1]
    for name, tensor in weights_of(tmp_path).items():
        torch.testing.assert_close(tensor, expected[name], rtol=1e-3, atol=2e-5)


def test_reports_metrics_and_progress(base: ModelConfig, tmp_path: Path, recorder, capfd) -> None:
    data, cfg = make_data(), training(steps=5)
    result = finetune(base, data, cfg, tmp_path, seed=0, compute=CPU, sink=recorder, tag="experts/round-01")
    assert [m["step"] for m in recorder.metrics] == [2, 4, 5]
    for metric in recorder.metrics:
        assert (metric["kind"], metric["tag"], metric["steps"]) == ("train", "experts/round-01", 5)
        assert metric["tokens_per_second"] > 0
        json.dumps(metric)
    assert recorder.steps[-1] == ("experts/round-01", 5, 5)
    assert result.steps == 5
    assert result.tokens == data.lengths[draw_order(data, cfg, 0)].sum()
    assert result.seconds > 0
    captured = capfd.readouterr()
    assert captured.out + captured.err == ""


def test_folder_is_a_plain_model_folder_without_pickles(base: ModelConfig, tmp_path: Path) -> None:
    finetune(base, make_data(), training(checkpoint_steps=2), tmp_path, seed=0, compute=CPU)
    names = {p.name for p in tmp_path.rglob("*")}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= names
    assert not [n for n in names if n.endswith((".bin", ".pt", ".pth", ".pkl"))]
    assert "trainer" not in names
    tuned = load_model(ModelConfig(path=str(tmp_path)))
    assert tuned.model.config.use_cache == load_model(base).model.config.use_cache


def test_same_seed_same_weights_other_seed_others(base: ModelConfig, tmp_path: Path) -> None:
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        torch.manual_seed(ord(name))  # the state of the global generator has no part in it
        finetune(base, make_data(), training(), tmp_path / name, seed=seed, compute=CPU)
    assert_equal(weights_of(tmp_path / "a"), weights_of(tmp_path / "b"))
    assert not torch.equal(weights_of(tmp_path / "a")["lm_head.weight"], weights_of(tmp_path / "c")["lm_head.weight"])


def test_gradient_accumulation_is_the_same_step(base: ModelConfig, tmp_path: Path, recorder) -> None:
    data = make_data()
    finetune(base, data, training(steps=3, log_steps=1), tmp_path / "whole", seed=1, compute=CPU, sink=recorder)
    split = training(steps=3, log_steps=1, gradient_accumulation=4)
    finetune(base, data, split, tmp_path / "split", seed=1, compute=CPU, sink=recorder)
    losses = [m["loss"] for m in recorder.metrics]
    np.testing.assert_allclose(losses[:3], losses[3:], rtol=1e-5)
    a, b = weights_of(tmp_path / "whole"), weights_of(tmp_path / "split")
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=2e-5)


def test_gradient_checkpointing_changes_nothing(base: ModelConfig, tmp_path: Path) -> None:
    finetune(base, make_data(), training(steps=2), tmp_path / "a", seed=1, compute=CPU)
    finetune(base, make_data(), training(steps=2, gradient_checkpointing=True), tmp_path / "b", seed=1, compute=CPU)
    a, b = weights_of(tmp_path / "a"), weights_of(tmp_path / "b")
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-4, atol=1e-6)


def test_lora_folder_holds_an_adapter_that_loads_over_its_base(base: ModelConfig, tmp_path: Path) -> None:
    cfg = training(steps=10, learning_rate=3e-2, lora=LoraConfig(r=2))
    finetune(base, make_data(), cfg, tmp_path, seed=0, compute=CPU)
    assert {p.name for p in tmp_path.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "tokenizer.json", "tokenizer_config.json"
    }  # fmt: skip
    assert json.loads((tmp_path / "adapter_config.json").read_text())["base_model_name_or_path"] == base.path
    ids = torch.tensor([[3, 4, 5]])
    tuned, plain = load_model(ModelConfig(path=str(tmp_path))), load_model(base)
    assert (tuned.model(input_ids=ids).logits - plain.model(input_ids=ids).logits).abs().max() > 0.01
    # an adapter folder can be a base itself
    finetune(ModelConfig(path=str(tmp_path)), make_data(), training(steps=1, learning_rate=1e-9, warmup=0.0),
             tmp_path / "again", seed=0, compute=CPU)  # fmt: skip
    again = load_model(ModelConfig(path=str(tmp_path / "again")))
    torch.testing.assert_close(
        again.model(input_ids=ids).logits, tuned.model(input_ids=ids).logits, rtol=1e-4, atol=1e-4
    )


def test_lora_modules_that_do_not_exist(base: ModelConfig, tmp_path: Path) -> None:
    cfg = training(lora=LoraConfig(target_modules=["no_such_module"]))
    with pytest.raises(ConfigError, match="target_modules"):
        finetune(base, make_data(), cfg, tmp_path, seed=0, compute=CPU)


@pytest.mark.parametrize(
    "loss",
    [
        LossConfig("soft"),
        LossConfig("rce", 0.5, 3),
        LossConfig("logconf", 0.5, 3),
        LossConfig("logconf", 0.5, 0, binary_tokens=(4, 5)),
    ],
)
def test_other_losses_train(base: ModelConfig, tmp_path: Path, recorder, loss: LossConfig) -> None:
    data = make_data(soft=loss.kind == "soft", weights=False)
    cfg = training(steps=40, learning_rate=1e-2, log_steps=5)
    finetune(base, data, cfg, tmp_path, seed=0, loss=loss, compute=CPU, sink=recorder)
    assert recorder.metrics[-1]["loss"] < 0.8 * recorder.metrics[0]["loss"]
    if loss.kind == "soft":
        ids = torch.from_numpy(data.prompt_ids[data.prompt_offsets[0] : data.prompt_offsets[1]].astype(np.int64))[None]
        p = load_model(ModelConfig(path=str(tmp_path))).model(input_ids=ids).logits[0, -1].softmax(-1)
        assert p[4] > p[5] > 0.1  # 0.6 and 0.3 in every row


def test_bfloat16_is_trained_in_float32_and_saved_in_its_type(base: ModelConfig, tmp_path: Path) -> None:
    low = base.model_copy(update={"dtype": "bfloat16"})
    finetune(low, make_data(), training(steps=2), tmp_path, seed=0, compute=CPU)
    assert {t.dtype for t in weights_of(tmp_path).values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"
    with pytest.raises(ConfigError, match="float16 needs a CUDA device"):
        finetune(base.model_copy(update={"dtype": "float16"}), make_data(), training(), tmp_path, seed=0, compute=CPU)


def test_non_finite_loss_says_where_and_what_to_try(base: ModelConfig, tmp_path: Path) -> None:
    cfg = training(steps=50, learning_rate=1e30, warmup=0.0)
    with pytest.raises(RunFailedError, match=r"student/ensemble.*(at|after) step \d+.*learning_rate"):
        finetune(base, make_data(), cfg, tmp_path, seed=0, compute=CPU, tag="student/ensemble")
    assert not (tmp_path / "model.safetensors").exists()


def test_bad_arguments(base: ModelConfig, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be split into 3 passes"):
        finetune(base, make_data(), training(gradient_accumulation=3), tmp_path, seed=0, compute=CPU)
    with pytest.raises(ValueError, match="loss_constant"):
        finetune(base, make_data(), training(), tmp_path, seed=0, loss_constant=0.0, compute=CPU)
    with pytest.raises(ValueError, match="distributions"):
        finetune(base, make_data(), training(), tmp_path, seed=0, loss=LossConfig("soft"), compute=CPU)


def test_unknown_or_missing_tracker(base: ModelConfig, tmp_path: Path) -> None:
    for name in ("no_such_tracker", "azure_ml"):
        with pytest.raises(ConfigError, match=f"report_to: {name}"):
            finetune(base, make_data(), training(report_to=[name]), tmp_path, seed=0, compute=CPU)


def test_order_is_a_permutation_of_the_draws_every_epoch() -> None:
    data = make_data(n=10)
    order = draw_order(data, training(steps=5, batch_size=5), seed=9)
    assert sorted(order[:10]) == sorted(order[10:20]) == sorted(data.index)
    assert order[:10].tolist() != order[10:20].tolist()
    assert draw_order(data, training(steps=3, batch_size=4), seed=9).tolist() == order[:12].tolist()


def test_length_window_sorts_within_the_window_and_draws_the_same_sequences() -> None:
    data, cfg = make_data(n=60), training(steps=14, batch_size=4)
    plain = draw_order(data, cfg, seed=9)
    windowed = draw_order(data, training(steps=14, batch_size=4, length_window=6), seed=9)
    assert draw_order(data, training(steps=14, batch_size=4, length_window=6), seed=9).tolist() == windowed.tolist()
    padding = []
    for order in (plain, windowed):
        lengths = data.lengths[order].reshape(14, 4)
        padding.append(int((lengths.max(axis=1, keepdims=True) - lengths).sum()))
    assert padding[1] < padding[0] / 3
    for first in range(0, 14 * 4, 6 * 4):
        stretch = slice(first, first + 6 * 4)
        assert sorted(plain[stretch]) == sorted(windowed[stretch])
        spans = np.sort(data.lengths[windowed[stretch]].reshape(-1, 4), axis=1)
        by_shortest = spans[np.lexsort((spans[:, -1], spans[:, 0]))]
        assert (by_shortest[:-1, -1] <= by_shortest[1:, 0]).all()  # batches do not overlap in length
        assert spans[:, 0].tolist() != by_shortest[:, 0].tolist()  # and do not come from short to long


@pytest.mark.slow
def test_two_processes_give_the_same_weights(base: ModelConfig, tmp_path: Path) -> None:
    """``batch_size`` is shared between processes; only the order of floating-point sums differs."""
    script = tmp_path / "script.py"
    script.write_text(
        "import sys, numpy as np\n"
        "from pathlib import Path\n"
        "from ensemw2s.config.training import ComputeConfig, ModelConfig, TrainingConfig\n"
        "from ensemw2s.models.training.finetune import finetune\n"
        "from ensemw2s.models.training.training_set import TrainingSet\n"
        "rng = np.random.default_rng(0)\n"
        "tokens = [rng.integers(2, 30, size=rng.integers(1, 9)) for _ in range(40)]\n"
        "data = TrainingSet.from_sequences(tokens[:20], tokens[20:], eos_id=1)\n"
        "cfg = TrainingConfig(steps=4, batch_size=8, gradient_accumulation=2)\n"
        "finetune(ModelConfig(path=sys.argv[1]), data, cfg, Path(sys.argv[2]), seed=1, "
        "compute=ComputeConfig(device='cpu', threads=1))\n"
    )
    launch = {"one": [], "two": ["-m", "torch.distributed.run", "--nproc_per_node", "2"]}
    for name, how in launch.items():
        command = [sys.executable, *how, str(script), base.path, str(tmp_path / name)]
        subprocess.run(command, check=True, timeout=240, capture_output=True)
    a, b = weights_of(tmp_path / "one"), weights_of(tmp_path / "two")
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-5)


def test_importing_the_room_does_not_import_transformers() -> None:
    modules = ["training.finetune", "training.losses", "training.training_set", "loading.load", "inference.scoring"]
    modules += ["inference.joint_scoring", "inference.decode", "inference.score_table"]
    code = "import sys; " + "; ".join(f"import ensemw2s.models.{m}" for m in modules)
    code += "; assert not {'transformers', 'peft', 'accelerate', 'datasets'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize("kind", ["mamba", "falcon_h1"])
def test_all_linear_leaves_out_what_peft_forbids(kind: str, make_model, tokenizer, tmp_path: Path, recorder) -> None:
    model = make_model(3, kind)
    model.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    base, out = ModelConfig(path=str(tmp_path / "base")), tmp_path / "adapter"
    finetune(base, make_data(), training(learning_rate=3e-2, lora=LoraConfig(r=2)), out, seed=0, compute=CPU,
             sink=recorder)  # fmt: skip
    assert any("leaves out out_proj" in event.get("text", "") for event in recorder.events)
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name in weights_of(out, "adapter_model.safetensors")}
    assert "in_proj" in layers
    assert "out_proj" not in layers
    ids = torch.tensor([[3, 4, 5]])
    tuned, plain = load_model(ModelConfig(path=str(out))), load_model(base)
    assert (tuned.model(input_ids=ids).logits - plain.model(input_ids=ids).logits).abs().max() > 0.01


def test_plain_models_get_adapters_on_all_linear_layers(base: ModelConfig, tmp_path: Path, recorder) -> None:
    finetune(base, make_data(), training(lora=LoraConfig(r=2)), tmp_path, seed=0, compute=CPU, sink=recorder)
    layers = {name.split(".lora_")[0].rpartition(".")[2] for name in weights_of(tmp_path, "adapter_model.safetensors")}
    assert layers == {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}
    assert not [event for event in recorder.events if "leaves out" in event.get("text", "")]
