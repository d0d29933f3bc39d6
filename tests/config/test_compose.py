"""Composing a configuration: precedence, provenance, readable errors, round trips."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ensemw2s.config import presets
from ensemw2s.config.composition import compose, load_config
from ensemw2s.config.dump import config_fingerprint, dump_yaml
from ensemw2s.config.keys import known_keys, nearest_key
from ensemw2s.config.schema import RunConfig
from ensemw2s.errors import EXIT_USAGE, ConfigError

PRESET = """# A preset for tests.
name: small
boosting: {rounds: 2, alpha: uniform}
data:
  split:
    hard_quantile: 0.7
"""


@pytest.fixture(autouse=True)
def small_preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(presets, "_texts", lambda: {"small": PRESET})


def _file(tmp_path: Path, text: str, name: str = "x.yaml") -> Path:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    return path


def _error(**arguments: Any) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        compose(**arguments)
    assert caught.value.exit_code == EXIT_USAGE
    return caught.value


def test_defaults_alone() -> None:
    composed = compose()
    assert composed.config == RunConfig()
    assert set(composed.provenance.values()) == {"default"}
    assert composed.provenance.keys() >= {"seed", "boosting.rounds", "training.expert.lora", "data.hard_source"}


def test_each_layer_wins_over_the_one_before(tmp_path: Path) -> None:
    layers: dict[str, Any] = {
        "preset": "small",
        "files": [_file(tmp_path, "boosting: {rounds: 3}"), _file(tmp_path, "boosting: {rounds: 4}", "y.yaml")],
        "environ": {"EW2S_SET__boosting__rounds": "5", "UNRELATED": "9"},
        "below_sets": {"sweep set boosting.rounds": ("boosting.rounds", 10)},
        "sets": ["boosting.rounds=6", "boosting.rounds=7"],
        "flags": {"--rounds": ("boosting.rounds", 8)},
    }
    expected = {1: (2, "preset small"), 2: (4, f"file {tmp_path / 'y.yaml'}")}
    expected |= {3: (5, "env EW2S_SET__boosting__rounds"), 4: (10, "sweep set boosting.rounds")}
    expected |= {5: (7, "--set"), 6: (8, "--rounds")}
    for count, (rounds, origin) in expected.items():
        composed = compose(**dict(list(layers.items())[:count]))
        assert composed.config.boosting.rounds == rounds
        assert composed.provenance["boosting.rounds"] == origin
        assert composed.config.boosting.alpha == "uniform"
        assert composed.provenance["boosting.alpha"] == "preset small"
        assert composed.provenance["boosting.cap"] == "default"
        assert composed.preset == "small"


@pytest.mark.parametrize(
    ("variable", "text", "key", "value"),
    [
        ("EW2S_SEED", "7", "seed", 7),
        ("EW2S_DEVICE", "cuda:1", "compute.device", "cuda:1"),
        ("EW2S_THREADS", "2", "compute.threads", 2),
        ("EW2S_SET__DATA__SPLIT__TRAIN", "0.25", "data.split.train", 0.25),
        ("EW2S_SEED", "", "seed", 0),
    ],
)
def test_environment(variable: str, text: str, key: str, value: object) -> None:
    composed = compose(environ={variable: text})
    found: Any = composed.config
    for part in key.split("."):
        found = getattr(found, part)
    assert found == value
    assert composed.provenance[key] == (f"env {variable}" if text else "default")


def test_partial_sections_keep_their_other_defaults() -> None:
    composed = compose(sets=["models.weak.dtype=bfloat16", "data.hard_source.kind=arc", "training.expert.lora={r: 4}"])
    assert composed.config.models.weak.path == "embedded:weak"
    assert composed.config.data.hard_source is not None
    assert composed.config.data.hard_source.kind == "arc"
    assert composed.config.training.expert.lora is not None
    assert composed.config.training.expert.lora.alpha == 32.0
    assert composed.provenance["training.expert.lora.r"] == "--set"
    assert composed.provenance["training.expert.lora.alpha"] == "default"
    assert "training.expert.lora" not in composed.provenance
    again = compose(sets=["training.expert.lora={r: 4}", "training.expert.lora=null"])
    assert again.config.training.expert.lora is None
    assert again.provenance["training.expert.lora"] == "--set"


@pytest.mark.parametrize("text", ["1e-4", "0.0001", "1.0e-4"])
def test_numbers_in_any_notation(text: str) -> None:
    assert compose(sets=[f"training.expert.learning_rate={text}"]).config.training.expert.learning_rate == 1e-4


def test_unknown_keys_name_the_place_the_nearest_and_the_sections_keys(tmp_path: Path) -> None:
    path = _file(tmp_path, "seed: 1\nboosting:\n  alpha: samme\n  roundz: 3\nrounds: 2\n")
    error = _error(files=[path], sets=["student.zzz=1"])
    lines = error.message.splitlines()
    assert lines[0] == f"Unknown key boosting.roundz (file {path}, line 4). Did you mean boosting.rounds?"
    assert lines[1] == "Unknown key student.zzz (--set)."
    assert lines[2] == f"Unknown key rounds (file {path}, line 5). Did you mean boosting.rounds?"
    assert error.hint is not None
    assert "Keys of boosting: rounds, start, init, draw" in error.hint
    assert "Keys of student: loss" in error.hint
    assert "env EW2S_SET__boosting__round" in _error(environ={"EW2S_SET__boosting__round": "1"}).message


def test_nearest_key_of_every_misspelling() -> None:
    for dotted in known_keys():
        section, _, name = dotted.rpartition(".")
        if len(name) > 4:
            assert nearest_key(section, name[:-1] + "q") is not None


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("boosting: {rounds: 0}", ["boosting.rounds is 0", "line 1", "a whole number, at least 1", "Largest number"]),
        ("boosting: {alpha: sammy}", ["boosting.alpha is 'sammy'", "one of prior, adaptive, samme, binary, uniform"]),
        ("boosting: {rounds: yes}", ["boosting.rounds is True", "line 1", "a whole number, at least 1"]),
        ("training: {expert: {steps: on}}", ["training.expert.steps is True", "line 1"]),
        ("data: {split: {train: no}}", ["data.split.train is False", "line 1"]),
        ("boosting: 3", ["boosting is 3", "a section with the keys rounds, start, init"]),
        ("compute:\n  threads: x", ["compute.threads is 'x'", "line 2", "a whole number, at least 1, or null"]),
        ("name: 2024", ["name is 2024", "expected text", "in quotes"]),
        ("data: {source: {path: [a, 3]}}", ["data.source.path is ['a', 3]", "text or a list of text or null"]),
        ("arms: {students: [nobody]}", ["arms.students", "a list of plain, single"]),
        ("boosting: {shrinkage: 2}", ["more than 0.0 and at most 1.0"]),
        ("training: {expert: {steps: null}}", ["training.expert.steps is null", "a whole number"]),
        ("data: {hard_source: {kind: hub}}", ["data.hard_source.kind is 'hub'", "one of synthetic, file"]),
    ],
)
def test_a_bad_value_is_explained(tmp_path: Path, text: str, parts: list[str]) -> None:
    path = _file(tmp_path, text)
    message = _error(files=[path]).message
    assert message.count("\n") == 0
    assert str(path) in message
    for part in parts:
        assert part in message
    assert "pydantic" not in message


def test_several_bad_values_are_one_error_with_a_line_each() -> None:
    message = _error(sets=["seed=-1", "task=talk"]).message
    assert [line.split()[0] for line in message.splitlines()] == ["seed", "task"]


def test_impossible_combinations_say_which_keys_and_from_where() -> None:
    error = _error(preset="small", sets=["data.split.hard_above=3"])
    assert error.message == (
        "data.split: give at most one of hard_quantile, hard_above and hard_values "
        "(set by: data.split.hard_quantile: preset small, line 6; data.split.hard_above: --set)."
    )
    assert error.hint == "A value of the preset is switched off with null: --set data.split.hard_quantile=null"
    assert compose("small", sets=["data.split.hard_above=3", "data.split.hard_quantile=null"])
    message = _error(sets=["boosting.errors=out_of_bag", "boosting.draw=none"]).message
    assert "boosting.errors: --set" in message
    assert "arms.bagging: --set" in _error(sets=["arms.bagging=false"]).message


@pytest.mark.parametrize("setting", ["x", "=3", "a..b=3", ".=1", "name={", "a: b"])
def test_malformed_settings(setting: str) -> None:
    assert "--set" in _error(sets=[setting]).message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a: [1", "line 1"),
        (b"seed: 1\n  x: 2\n", "line 2"),
        (b"- 1\n", "a list"),
        (b"just text", "'just text'"),
        (b"seed: 1\nboosting: {}\nseed: 2\n", "line 3: the key seed was given already in line 1"),
        (b"boosting: {rounds: 1,\n rounds: 2}", "boosting.rounds was given already in line 1"),
        (
            b"boosting:\n- {rounds: 1}\n- {rounds: 1,\n   rounds: 2}",
            "line 4: the key boosting.rounds was",
        ),
        (b"boosting: &b\n  x: *b\n", "contains itself"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"x: !!python/object/apply:os.getcwd []", "not YAML"),
    ],
)
def test_unreadable_files(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes(content)
    message = _error(files=[path]).message
    assert words in message
    assert str(path) in message


def test_missing_files_and_presets(tmp_path: Path) -> None:
    assert "none.yaml" in _error(files=[tmp_path / "none.yaml"]).message
    assert "cannot be read" in _error(files=[tmp_path]).message
    error = _error(preset="smal")
    assert "Did you mean small?" in error.message
    assert error.hint == "Presets: small."


@pytest.mark.parametrize("content", ["", "# nothing\n", "---\n", "null\n"])
def test_an_empty_file_changes_nothing(tmp_path: Path, content: str) -> None:
    assert compose(files=[_file(tmp_path, content)]).config == RunConfig()


def test_the_resolved_file_loads_to_the_same_and_says_where_values_came_from(tmp_path: Path) -> None:
    composed = compose("small", sets=["seed=4"], flags={"--device": ("compute.device", "cpu")})
    text = dump_yaml(composed.config, composed.provenance, preset="small")
    lines = text.splitlines()
    assert "preset small" in lines[0]
    assert config_fingerprint(composed.config) in lines[0]
    assert "seed: 4  # --set" in lines
    assert "  rounds: 2  # preset small" in lines
    assert "  device: cpu  # --device" in lines
    assert "  init: token" in lines
    assert load_config(_file(tmp_path, text)) == composed.config


text_values = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


@settings(deadline=None, max_examples=60)
@given(
    prompt=text_values,
    answer=text_values,
    values=st.lists(text_values, max_size=3),
    rate=st.floats(1e-30, 1e30),
    train=st.one_of(st.integers(1, 10**9), st.floats(0.01, 0.6)),
    seed=st.integers(0, 2**63),
)
def test_any_configuration_survives_the_round_trip(
    tmp_path_factory: pytest.TempPathFactory,
    prompt: str,
    answer: str,
    values: list[str],
    rate: float,
    train: float,
    seed: int,
) -> None:
    raw: Mapping[str, Any] = {
        "seed": seed,
        "data": {"template": {"prompt": prompt, "answer": answer}, "split": {"hard_values": values, "train": train}},
        "training": {"expert": {"learning_rate": rate, "lora": {"target_modules": [prompt]}}},
    }
    config = RunConfig.model_validate(raw)
    path = tmp_path_factory.mktemp("config") / "config.yaml"
    path.write_bytes(dump_yaml(config, {"seed": "--set"}).encode())
    again = load_config(path)
    assert again == config
    assert type(again.data.split.train) is type(config.data.split.train)
    assert config_fingerprint(again) == config_fingerprint(config)


def test_fingerprints_differ_with_any_value() -> None:
    prints = {config_fingerprint(compose(sets=s).config) for s in ([], ["seed=1"], ["boosting.rounds=9"], ["name=x"])}
    assert len(prints) == 4
    assert all(len(p) == 16 for p in prints)


def test_every_key_is_documented() -> None:
    assert [key for key, field in known_keys().items() if not field.description] == []


def test_the_first_expert_is_the_plain_fine_tune_unless_it_is_drawn():
    both, drawn = {"students": ["single", "ensemble", "plain"]}, {"errors": "out_of_bag"}
    assert RunConfig.model_validate({"arms": both}).teachers == ["plain", "ensemble"]
    assert RunConfig.model_validate({"arms": both}).arms.students == both["students"]
    assert RunConfig.model_validate({"arms": both, "boosting": drawn}).teachers == ["single", "ensemble", "plain"]
    off = {"plain": False, "students": ["plain"]}
    assert RunConfig.model_validate({"arms": off}).has_arm("plain")
    with pytest.raises(ValidationError, match=r"lists 'plain', but arms\.plain is off"):
        RunConfig.model_validate({"arms": off, "boosting": drawn})
    for draw in ("example", "token", "none"):
        boosting = RunConfig.model_validate({"boosting": {"draw": draw}}).boosting
        assert [boosting.draw_of_round(t) for t in (1, 2)] == ["none", draw]
    assert RunConfig.model_validate({"boosting": drawn}).boosting.draw_of_round(1) == "example"


@pytest.mark.parametrize(
    "pattern", ["(?a)(?u)(a)", "(?V0)(?V1)(a)", "(a", "a", r"(\p{nope})", "((a{900}){900})", "[(]"]
)
def test_an_answer_pattern_that_is_none_is_refused_with_its_place(tmp_path: Path, pattern: str) -> None:
    file = _file(tmp_path, f"task: generate\ndata:\n  template:\n    answer_pattern: '{pattern}'\n")
    with pytest.raises(ConfigError, match="answer_pattern") as caught:
        compose(files=[file])
    assert str(caught.value).startswith("data.template.answer_pattern: ")
    assert f"file {file}, line 4" in str(caught.value)
    with pytest.raises(ConfigError, match=r"answer_pattern: --set"):
        compose(sets=[f"data.template.answer_pattern='{pattern}'"])


@pytest.mark.parametrize("value", ["{rounds: 1, rounds: 2}", "[{a: 1, a: 2}]", "{a: {b: 1, 'b': 1}}"])
def test_a_set_value_with_a_key_twice_is_refused(value: str) -> None:
    with pytest.raises(ConfigError, match="was given already"):
        compose(sets=[f"boosting={value}"])
