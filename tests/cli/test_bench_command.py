"""``bench``: what is measured, what is printed, and what is refused."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from ensemw2s.cli.commands import bench as module
from ensemw2s.cli.terminal import terminal
from ensemw2s.kernels.bench import cases as kernels
from ensemw2s.kernels.bench.cases import Case
from ensemw2s.models.bench import scoring_case
from ensemw2s.models.loading import device

Command = Callable[..., Any]
MIB = 2**20


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> list[list[Case]]:
    """Cases that take no time."""

    def case(group: str, name: str, size: str, memory: int, **rest: Any) -> Case:
        ways = {"native": lambda: None, "torch, eager": lambda: sum(range(3000)), "read": lambda: None}
        return Case(group, name, size, lambda: ways, memory=memory, seconds=0.0001, **rest)

    cases = [
        [case("combine", "combine, mixture, float32", "K=3 N=64 V=151936", 90 * MIB, bytes_moved=10**6)],
        [
            case("samplers", "draws with replacement", "4 M of 4 M weights", 80 * MIB, skipped={"that": "cannot"}),
            case("samplers", "draws with replacement", "1 M of 1 M weights", 20 * MIB),
        ],
    ]
    monkeypatch.setattr(module, "_cases", lambda place, quick: cases)
    monkeypatch.setattr(module, "available_memory", lambda case, place: 1000 * MIB)
    return cases


def test_a_table_and_progress(ew2s: Command, few: list[list[Case]]) -> None:
    done = ew2s("bench", "--device", "cpu")
    assert done.code == 0
    assert max(map(len, done.out.splitlines())) <= 80
    lines = [line.split() for line in done.out.splitlines()]
    (ours,) = (words for words in lines if words[:3] == ["combine,", "mixture,", "float32"])
    assert ours[3] == "native"
    assert any(re.search(r"×[\d.e+]+ faster", line) for line in done.out.splitlines() if "torch, eager" in line)
    assert "cannot" in done.out
    assert "\x1b" not in done.out + done.err
    first, second = (line for line in done.err.splitlines() if line.startswith("["))
    assert re.fullmatch(r"\[1/2\] combine, .* K=3 .*: ×.* against torch, eager \(about .* left\)", first)
    assert re.fullmatch(r"\[2/2\] draws .* against torch, eager", second)
    assert done.err.endswith("Next: ew2s run --preset tiny\n")


def test_json_and_a_file(ew2s: Command, few: list[list[Case]], tmp_path: Path) -> None:
    done = ew2s("bench", "--json", "--quiet", "--out", "b.json", "--only", "combine", "--device", "cpu")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert found == json.loads((tmp_path / "b.json").read_text())
    assert found["device"]["name"] == "cpu"
    assert found["device"]["backends"][0] == "native"
    (case,) = found["cases"]
    assert (case["group"], case["ours"], case["note"]) == ("combine", "native", None)
    assert set(case["ways"]) == {"native", "torch, eager", "read"}
    assert case["ways"]["native"]["ours_is_faster"] is None
    assert case["ways"]["torch, eager"]["ours_is_faster"] > 0
    assert case["bytes_per_second"] > 0


def test_what_does_not_fit_is_smaller_or_left_out_and_named(
    ew2s: Command, few: list[list[Case]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "available_memory", lambda case, place: 100 * MIB)
    done = ew2s("bench", "--quiet", "--device", "cpu")
    assert done.code == 0
    assert "1 M of 1 M weights" in done.out
    assert done.err.splitlines() == [
        "Warning: combine, mixture, float32, K=3 N=64 V=151936: not run, since it needs 90 MiB, and 100 MiB are free.",
        "Warning: draws with replacement, 1 M of 1 M weights: smaller, since 4 M of 4 M weights would need 80 MiB, and "
        "100 MiB are free.",
    ]
    left_out, smaller = json.loads(ew2s("bench", "--json", "--quiet", "--device", "cpu").out)["cases"]
    assert (left_out["ways"], left_out["ours"]) == ({}, None)
    assert smaller["note"] == "4 M of 4 M weights would need 80 MiB, and 100 MiB are free"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--only", "gpu"), "--only is 'gpu'; there is no such group."),
        (("--device", "abacus"), "'abacus' is not a device"),
        (("--threads", "0"), "compute.threads"),
        (("--threads", "many"), "should be a valid integer"),
        (("--out", "missing/b.json"), "there is no folder missing"),
        (("--out", "."), ". is a folder"),
        (("--frobnicate",), "No such option"),
        (("stray",), "unexpected extra argument"),
    ],
)
def test_bad_input_is_found_before_the_work(ew2s: Command, few: Any, words: tuple[str, ...], message: str) -> None:
    done = ew2s("bench", *words)
    assert done.code == 2
    assert message in done.err
    assert done.out == ""


def test_nothing_to_compare(ew2s: Command, monkeypatch: pytest.MonkeyPatch, few: list[list[Case]]) -> None:
    done = ew2s("bench", "--only", "updates", "--device", "cpu")
    assert done.code == 2
    assert "There is no kernel for cpu" in done.err


def test_free_memory_is_that_of_the_place_where_a_case_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "available_memory", lambda: 500)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (77, 99))
    cpu, gpu = torch.device("cpu"), torch.device("cuda", 0)
    draws, combining = (Case(group, "n", "s", dict) for group in ("samplers", "combine"))
    assert [module.available_memory(case, cpu) for case in (draws, combining)] == [500, 500]
    assert [module.available_memory(case, gpu) for case in (draws, combining)] == [500, 77]


def test_a_bar_on_a_terminal(few: list[list[Case]], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(type(terminal), "animated", property(lambda _: True))
    console = Console(force_terminal=True, width=80, record=True)
    monkeypatch.setattr(terminal, "console", lambda *_: console)
    with module._Progress(few) as talk:
        for result in kernels.benchmark(few, available=lambda _: 10**9, before=talk.begin):
            talk.end(result)
        assert talk.bars.tasks[0].completed == 2
        assert talk.bars.tasks[0].description == "draws with replacement, 4 M of 4 M weights"
        assert talk.left == 0


def test_option_scoring_agrees_with_one_at_a_time() -> None:
    import numpy as np

    from ensemw2s.config.data import TemplateConfig
    from ensemw2s.config.training import ComputeConfig, ModelConfig
    from ensemw2s.data.encode import encode_split
    from ensemw2s.data.synthetic import make_synthetic
    from ensemw2s.models.bench import one_at_a_time
    from ensemw2s.models.inference.scoring import score_split
    from ensemw2s.models.loading.load import load_model

    loaded = load_model(ModelConfig(path="embedded:weak"))
    template = TemplateConfig(prompt="{prompt} ", answer="{answer}")
    encoded = encode_split(make_synthetic(5, seed=0), loaded.tokenizer, template, "choice", None)
    table = score_split(loaded, encoded, compute=ComputeConfig(device="cpu", threads=1))
    ours = np.add.reduceat(np.where(encoded.is_eos, 0.0, table.target_logprob), encoded.row_offsets[:-1])
    np.testing.assert_allclose(ours, one_at_a_time(loaded, encoded), atol=1e-4)
    ways = scoring_case(quick=True).make()
    assert list(ways) == ["shared prompts", "one at a time"]


def test_the_real_thing(ew2s: Command) -> None:
    done = ew2s("bench", "--quick", "--only", "combine", "--only", "scoring", "--json", "--device", "cpu")
    assert done.code == 0
    names = [case["case"] for case in json.loads(done.out)["cases"]]
    assert names == ["combine, mixture, float32", "combine, mixture, bfloat16", "option scoring, embedded base"]
