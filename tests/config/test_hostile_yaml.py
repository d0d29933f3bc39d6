"""Configuration files and ``--set`` beyond what a configuration can be: one error that names the place, at once."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from ensemw2s.config.composition import compose, load_config
from ensemw2s.errors import ConfigError

LAUGHS = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{name}: &{name} [{', '.join(['*' + before] * 10)}]\n" for before, name in zip("abcdefgh", "bcdefghi", strict=True)
)
MAPS = "a: &a {x: 1, y: 2}\n" + "".join(
    f"{name}: &{name} {{p: *{before}, q: *{before}}}\n"
    for before, name in zip("abcdefghijklmnopqrs", "bcdefghijklmnopqrst", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{name}: &{name} {{<<: [{', '.join(['*' + before] * 10)}]}}\n"
    for before, name in zip("abcdefg", "bcdefgh", strict=True)
)
CHAIN = "a: &a0 [x]\n" + "".join(f"k{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 80))
HUGE = "9" * 5000


def _fails(**arguments: object) -> ConfigError:
    started = time.perf_counter()
    with pytest.raises(ConfigError) as caught:
        compose(**arguments)  # type: ignore[arg-type]
    assert time.perf_counter() - started < 30  # what is let through takes hours, or all memory
    assert len(str(caught.value)) < 2000
    assert caught.value.exit_code == 2
    return caught.value


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("x: " + "[" * 5000 + "]" * 5000, "nested too deeply"),
        ("x: " + "{a: " * 100 + "1" + "}" * 100, "line 1: nested too deeply"),
        ("\n".join("  " * n + "a:" for n in range(200)), "nested too deeply"),
        ("seed: 1\n" + LAUGHS, "line 6: more than 100000 values"),
        (MAPS, "more than 100000 values"),
        (MERGES, "more than 100000 values"),
        (CHAIN, "nested too deeply"),
        ("name: x\ndata: &d\n  source: [1, *d]\n", "line 2: this value contains itself"),
        ("data: &d {<<: *d}\n", "contains itself"),
        (f"name: x\nseed: {HUGE}\n", "line 2: 999"),
        (f"seed: 0x{HUGE}\n", "line 1: the number 0x9"),
        (f"seed: 0b{'1' * 70_000}\n", "has too many digits"),
        (f"seed: 1{'0' * 400}\n", "has too many digits"),
        (f"data: {{split: {{hard_values: [{HUGE}]}}}}\n", "line 1: 999"),
        (f"? [{HUGE}]\n: 1\n", "line 1: 999"),
        ("name: 2024-13-45\n", "line 1: 2024-13-45 cannot be read as timestamp. If it is meant as text"),
        ("name: !!int x\n", "line 1: x cannot be read as int"),
        ("name: !!bool x\n", "line 1: x cannot be read as bool"),
        ("name: !!timestamp x\n", "line 1: x cannot be read as timestamp"),
        ("data: {split: {hard_above: .nan}}\n", "data.split.hard_above is nan (file"),
        ("data: {split: {hard_above: -.inf}}\n", "data.split.hard_above is -inf (file"),
        ("training: {expert: {learning_rate: 1e999}}\n", "training.expert.learning_rate is "),
        (f"name: {'a' * 300}\n", "expected text, at most 100 characters"),
        (f"{'k' * 300}: 1\n", "Unknown key kkkk"),
    ],
)
def test_files(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    assert words in str(_fails(files=[path]))


def test_aliases_within_bounds_are_read(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text("boosting: &b {rounds: 2}\n")
    assert compose(files=[path]).config.boosting.rounds == 2
    path.write_text("training:\n  expert: &e {steps: 5, batch_size: 2}\n  student: {<<: *e, steps: 7}\n")
    training = compose(files=[path]).config.training
    assert (training.expert.steps, training.student.steps, training.student.batch_size) == (5, 7, 2)


@pytest.mark.parametrize(
    ("setting", "words"),
    [
        (f"seed={HUGE}", "--set seed, line 1: 999"),
        (f"seed=0x{HUGE}", "--set seed, line 1: the number 0x9"),
        ("seed=" + "[" * 20_000, "--set seed: it is nested too deeply"),
        ("seed=" + "[" * 60 + "]" * 60, "--set seed, line 1: nested too deeply"),
        ("data.split.hard_values=[&a [1], *a, *b]", "is not YAML"),
        ("name=2024-02-31", "2024-02-31 cannot be read as timestamp"),
        ("a" + ".a" * 5000 + "=1", "--set: there is no key a.a.a"),
        (f"{'k' * 300}=1", "Unknown key kkk"),
        ("seed=" + "x: " * 3000, "is not YAML"),
        (f"name={'n' * 101}", "at most 100 characters"),
        ("x" * 3000, "is not of the form key=value"),
    ],
)
def test_settings_and_environment(setting: str, words: str) -> None:
    assert words in str(_fails(sets=[setting]))
    key, equals, value = setting.partition("=")
    if equals and "k" * 300 not in key:
        _fails(environ={"EW2S_SET__" + key.replace(".", "__"): value})


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-le"])
def test_other_encodings_are_named(tmp_path: Path, encoding: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_bytes("name: läuft\nseed: 3\n".encode(encoding))
    error = str(_fails(files=[path]))
    assert f"the text is {encoding[:6].upper()}" in error
    assert "iconv -f UTF-" in error
    path.write_bytes("name: run\nseed: 3\n".encode("utf-8-sig"))
    assert compose(files=[path]).config.seed == 3


def test_only_regular_files_of_a_sensible_size(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "c.yaml")
    with pytest.raises(ConfigError, match="not a regular file"):
        load_config(tmp_path / "c.yaml")
    assert "not a regular file" in str(_fails(files=[Path("/dev/zero")]))
    assert "not a regular file" in str(_fails(files=[tmp_path]))
    assert "too long" in str(_fails(files=[tmp_path / ("x" * 300)]))
    (tmp_path / "large.yaml").write_bytes(b"#" * (4 * 2**20 + 1))
    assert "more than 4 MiB" in str(_fails(files=[tmp_path / "large.yaml"]))


@pytest.mark.timeout(20)
def test_pipes_that_the_user_names(tmp_path: Path) -> None:
    """``<(command)`` is a pipe: read to its end, and once for all that compose from it (a sweep's cells)."""
    pipe = tmp_path / "c.yaml"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("seed: 3\n",))
    writer.start()
    assert [compose(files=[pipe]).config.seed for _ in range(3)] == [3, 3, 3]
    writer.join()
