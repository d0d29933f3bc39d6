"""``score``, ``generate``, ``evaluate``, ``label`` on files, ``data check``, ``config``, ``presets`` and ``doctor``."""

from __future__ import annotations

import io
import json
import os
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from ensemw2s.cli.commands import doctor as doctor_module
from ensemw2s.cli.commands import use
from ensemw2s.config.composition import load_config
from ensemw2s.config.method import DecodingConfig
from ensemw2s.data.example import Example, Splits
from ensemw2s.data.store import write_splits
from ensemw2s.errors import DataError

Command = Callable[..., Any]
QUESTION = {"prompt": "1 or 2?", "choices": ["1", "2"], "answer": "2", "id": "a"}


class FakeEnsemble:
    decoding = DecodingConfig(max_new_tokens=9)

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.trusted: list[bool] = []

    def score(self, examples: list[Any], sink: Any = None) -> list[dict[str, Any]]:
        self.seen.append(examples)
        return [{"id": e.id, "label": "2", **({"correct": e.answer == "2"} if e.answer else {})} for e in examples]

    def kept_in_memory(self) -> AbstractContextManager[None]:
        return nullcontext()

    def generate(self, prompts: list[str], decoding: DecodingConfig, **rest: Any) -> list[dict[str, Any]]:
        self.seen.append((prompts, decoding, rest["seed"]))
        return [{"prompt": prompt, "text": prompt.upper()} for prompt in prompts]


@pytest.fixture
def ensemble(monkeypatch: pytest.MonkeyPatch) -> FakeEnsemble:
    import ensemw2s.tasks.use_ensemble

    fake = FakeEnsemble()

    def load_ensemble(path: Path, compute: Any, *, trust_remote_code: bool) -> FakeEnsemble:
        fake.trusted.append(trust_remote_code)
        return fake

    monkeypatch.setattr(ensemw2s.tasks.use_ensemble, "load_ensemble", load_ensemble)
    return fake


def _write(name: str, *rows: Any) -> str:
    Path(name).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return name


def _stdin(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


def test_score_reads_a_file_and_prints_json_lines(ew2s: Command, ensemble: FakeEnsemble) -> None:
    rows = [QUESTION, {"prompt": "p", "choices": ["2", "3"]}]
    done = ew2s("score", "runs/x", _write("q.jsonl", *rows))
    assert done.code == 0
    first, second = map(json.loads, done.out.splitlines())
    assert first == {"id": "a", "label": "2", "correct": True, "choices": ["1", "2"]}
    assert second["id"] == "2"
    assert "2 questions; 1 of 1 with an answer right." in done.err


def test_score_works_in_pieces(ew2s: Command, ensemble: FakeEnsemble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(use, "_CHUNK", 2)
    _stdin(monkeypatch, (json.dumps(QUESTION) + "\n\n") * 5)
    done = ew2s("score", "runs/x", "-", "-q")
    assert len(done.out.splitlines()) == 5
    assert [len(part) for part in ensemble.seen] == [2, 2, 1]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "q.jsonl:2: no valid JSON"),
        ("[1]", "q.jsonl:2: expected a JSON object"),
        ('{"prompt": NaN, "choices": ["a", "b"]}', "q.jsonl:2: the prompt is empty"),
        ('{"prompt": "p", "choices": ["a"]}', "q.jsonl:2: a choice needs at least two different options"),
        ('{"prompt": "p", "choices": ["a", null]}', "q.jsonl:2: option 2 is empty"),
        ('{"prompt": "p"}', "q.jsonl:2: no column 'choices'"),
        ('{"prompt": "p", "choices": ["a", "b"], "answer": "c"}', "q.jsonl:2: the answer 'c' is not among"),
    ],
)
def test_a_bad_question_is_named_by_file_and_line(tmp_path: Path, line: str, words: str) -> None:
    Path("q.jsonl").write_text(json.dumps(QUESTION) + "\n" + line + "\n")
    with pytest.raises(DataError) as caught:
        use.read_questions("q.jsonl")
    assert words in caught.value.message
    assert caught.value.hint is not None


def test_answers_of_questions_are_read_once_for_all() -> None:
    rows = [{"prompt": f"p{n}", "choices": ["1", "2", "3"], "answer": n} for n in (0, 1, 2)]
    assert [q.answer for q in use.read_questions(_write("q.jsonl", *rows))] == ["1", "2", "3"]
    with pytest.raises(
        DataError, match=r"q\.jsonl:1: the answers are of two kinds: .* '3' at .* Write the answers as the texts"
    ):
        use.read_questions(_write("q.jsonl", *rows[:2], {**rows[2], "answer": "3"}, {**rows[2], "answer": "2"}))
    letters = [{"prompt": "p", "choices": ["x", "y"], "answer": a, "id": "same"} for a in ("B", "a", None)]
    questions = use.read_questions(_write("q.jsonl", *letters))
    assert [(q.id, q.answer) for q in questions] == [("same", "y"), ("same", "x"), ("same", None)]


@pytest.mark.parametrize("way", ["generate", "score"])
def test_prompts_and_questions_beyond_what_is_read(ew2s: Command, ensemble: FakeEnsemble, way: str) -> None:
    options = ["--input"] if way == "generate" else []
    for raw, words in (("9" * 5000, "too many digits"), ("[" * 5000 + "]" * 5000, "nested too deeply")):
        Path("q.jsonl").write_text(json.dumps(QUESTION) + "\n\n" + '{"prompt": "p", "x": ' + raw + "}\n")
        done = ew2s(way, "runs/x", *options, "q.jsonl")
        assert done.code == 2
        assert "q.jsonl:3: " in done.err
        assert words in " ".join(done.err.split())
    Path("q.jsonl").write_bytes(json.dumps(QUESTION).encode("utf-16"))
    done = ew2s(way, "runs/x", *options, "q.jsonl")
    assert done.code == 2
    assert "q.jsonl:1: the text is UTF-16, not UTF-8" in " ".join(done.err.split())
    assert ensemble.seen == []


@pytest.mark.parametrize("content", [b"", b"\n\n", b"\xff\xfe"])
def test_files_without_questions(content: bytes) -> None:
    Path("q.jsonl").write_bytes(content)
    with pytest.raises(DataError):
        use.read_questions("q.jsonl")
    with pytest.raises(DataError):
        use.read_prompts("q.jsonl")
    with pytest.raises(DataError, match="cannot be read"):
        use.read_questions("none.jsonl")


@pytest.mark.timeout(20)
def test_questions_and_prompts_from_a_pipe() -> None:
    """What the shell makes of ``<(command)``."""
    for read, found in ((use.read_questions, ["1 or 2?"]), (use.read_prompts, ["1 or 2?"])):
        os.mkfifo(read.__name__)
        writer = threading.Thread(target=Path(read.__name__).write_text, args=(json.dumps(QUESTION) + "\n",))
        writer.start()
        assert [getattr(one, "prompt", one) for one in read(read.__name__)] == found
        writer.join()
    with pytest.raises(DataError, match="not a regular file"):
        use.read_questions("/dev/zero")


def test_generate_takes_prompts_from_words_files_and_stdin(
    ew2s: Command, ensemble: FakeEnsemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = ew2s("generate", "runs/x", "one", "two words")
    assert done.out == "ONE\nTWO WORDS\n"
    Path("p.txt").write_text("three\n\nfour\n")
    assert ew2s("generate", "runs/x", "-i", "p.txt").out == "THREE\nFOUR\n"
    assert ew2s("generate", "runs/x", "-i", _write("p.jsonl", {"prompt": "five"})).out == "FIVE\n"
    _stdin(monkeypatch, "six\n")
    done = ew2s("generate", "runs/x", "--json")
    assert json.loads(done.out) == {"prompt": "six", "text": "SIX"}
    refused = ew2s("generate", "runs/x", "p.jsonl")
    assert refused.code == 2
    assert "--input p.jsonl" in refused.err
    assert "p.jsonl:1: no column 'prompt'" in ew2s("generate", "runs/x", "-i", _write("p.jsonl", {"x": 1})).err


def test_generate_changes_the_ensembles_own_decoding(ew2s: Command, ensemble: FakeEnsemble) -> None:
    ew2s("generate", "runs/x", "p", "--sample", "--temperature", 0.5, "--top-p", 0.9, "--seed", 3)
    assert ensemble.seen[-1] == (
        ["p"],
        DecodingConfig(method="sample", temperature=0.5, top_p=0.9, max_new_tokens=9),
        3,
    )
    done = ew2s("generate", "runs/x", "p", "--sample", "--top-p", 2)
    assert done.code == 2
    assert "labelling.decoding.top_p is 2.0 (--top-p)" in done.err
    assert "need --sample" in ew2s("generate", "runs/x", "p", "--top-k", 2).err
    ew2s("generate", "runs/x", "p", "--sample", "--experts", "one")
    assert ensemble.seen[-1][1] == DecodingConfig(method="sample", experts="one", max_new_tokens=9)
    assert "needs temperature" in ew2s(
        "generate", "runs/x", "p", "--sample", "--experts", "one", "--temperature", 2
    ).err.replace("\n", " ")


def test_code_of_models_is_run_where_the_user_says_so_alone(
    ew2s: Command, ensemble: FakeEnsemble, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ensemw2s.tasks.use_ensemble

    def told(*given: Any, trust_remote_code: bool, **rest: Any) -> dict[str, Any]:
        ensemble.trusted.append(trust_remote_code)
        return {"n": 1, "correct": 1, "accuracy": 1.0, "low": 0.2, "high": 1.0, "left_out": 0, "output": "l.jsonl"} | {
            "mean_confidence": 0.5,
            "mean_agreement": 1.0,
        }

    for name in ("evaluate_file", "label_file"):
        monkeypatch.setattr(ensemw2s.tasks.use_ensemble, name, told)
    file = _write("q.jsonl", QUESTION)
    commands = (
        ("score", "runs/x", file),
        ("generate", "runs/x", "p"),
        ("evaluate", "runs/x", file),
        ("label", "-e", "runs/x", "-i", file, "--output", "l.jsonl"),
    )
    for command in commands:
        assert ew2s(*command).code == 0
        assert ew2s(*command, "--trust-remote-code").code == 0
    assert ensemble.trusted == [False, True] * len(commands)


def test_evaluate_and_label_hand_over_the_source(ew2s: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    import ensemw2s.tasks.use_ensemble

    seen: list[Any] = []

    def evaluate_file(run: Path, source: Any, **rest: Any) -> dict[str, Any]:
        seen.append((run, source, rest["compute"].device))
        return {"n": 4, "correct": 3, "accuracy": 0.75, "low": 0.3, "high": 0.95, "left_out": 2}

    def label_file(run: Path, source: Any, out: Path, **rest: Any) -> dict[str, Any]:
        seen.append((run, source, out))
        return {"n": 1, "mean_confidence": 0.5, "mean_agreement": 1.0, "output": str(out)}

    monkeypatch.setattr(ensemw2s.tasks.use_ensemble, "evaluate_file", evaluate_file)
    monkeypatch.setattr(ensemw2s.tasks.use_ensemble, "label_file", label_file)
    name = _write("q.jsonl", {"question": "p", "choices": ["1", "2"], "answer": "1", "id": "x"})
    done = ew2s("evaluate", "runs/x", name, "--column", "prompt=question", "--device", "cpu")
    assert done.out == "3 of 4 right: 75.0 % [30.0, 95.0]; 2 questions left out\n"
    run, source, device = seen[0]
    assert (run, device, source.kind, source.path) == (Path("runs/x"), "cpu", "file", ["q.jsonl"])
    assert (source.columns.prompt, source.columns.choices, source.columns.id) == ("question", "choices", "id")
    assert source.columns.difficulty is None
    done = ew2s("label", "-e", "runs/x", "-i", name, "--output", "l.jsonl", "--column", "distractors=b,c")
    assert done.out.startswith("1 labels in l.jsonl")
    assert seen[1][1].columns.choices is None
    assert seen[1][1].columns.distractors == ["b", "c"]
    question = Example(id="a", prompt="1 or 2?", answer="2", choices=("1", "2"))
    write_splits(Splits([], [], [question], [], []), Path("runs/x/data"))
    assert json.loads(ew2s("evaluate", "runs/x", "--split", "test", "--json").out)["n"] == 4
    assert seen[2][1].path == ["runs/x/data/test.jsonl"]
    _write("runs/x/data/test.jsonl", {**QUESTION, "answer": "1"})  # a run of an older version, without checksums
    done = ew2s("evaluate", "runs/x", "--split", "test")
    assert done.code == 2
    assert "changed after it was written" in done.err
    assert len(seen) == 3


def test_data_check_reports_and_exits_with_2_on_problems(ew2s: Command) -> None:
    good = _write("good.jsonl", QUESTION, {**QUESTION, "prompt": "3 or 4?", "id": "b"})
    done = ew2s("data", "check", good)
    assert done.code == 0
    assert "rows            2 (2 good examples, task: choice)" in done.out
    bad = _write("bad.jsonl", QUESTION, {**QUESTION, "answer": "9"}, {"prompt": "p"})
    done = ew2s("data", "check", bad)
    assert done.code == 2
    assert "error: bad.jsonl:2: " in done.out
    assert "error: bad.jsonl:3: " in done.out
    found = json.loads(ew2s("data", "check", bad, "--json").out)
    assert found["ok"] is False
    assert {problem["line"] for problem in found["problems"]} >= {2, 3}
    assert ew2s("data", "check", "none.jsonl").code == 2
    plain = _write("plain.jsonl", {"prompt": "p", "answer": "a"})
    assert "task: generate" in ew2s("data", "check", plain).out


def test_data_check_of_a_configuration(ew2s: Command) -> None:
    done = ew2s("data", "check", "--preset", "tiny", "--set", "data.source.size=50")
    assert done.code == 0
    assert "rows            50" in done.out


def test_long_lists_of_problems_are_cut(ew2s: Command) -> None:
    bad = _write("bad.jsonl", *[{**QUESTION, "id": str(i), "prompt": str(i), "answer": "9"} for i in range(30)])
    assert "and 10 more (--all prints them)" in ew2s("data", "check", bad).out
    assert ew2s("data", "check", bad, "--all").out.count("error: ") == 30


def test_config_show_resolves_and_loads_again(ew2s: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EW2S_SET__BOOSTING__CAP", "7")
    monkeypatch.setenv("EW2S_SEED", "3")
    done = ew2s("config", "show", "--preset", "tiny", "--set", "boosting.rounds=2", "--seed", 5)
    assert "  cap: 7.0  # env EW2S_SET__BOOSTING__CAP\n" in done.out
    assert "seed: 5  # --seed\n" in done.out
    Path("c.yaml").write_text(done.out)
    config = load_config(Path("c.yaml"))
    assert (config.seed, config.boosting.rounds, config.boosting.cap) == (5, 2, 7.0)
    changed = ew2s("config", "show", "--changed", "--seed", 5).out
    assert changed == "seed: 5  # --seed\nboosting.cap: 7.0  # env EW2S_SET__BOOSTING__CAP\n"
    found = json.loads(ew2s("config", "show", "--json").out)
    assert found["config"]["seed"] == 3
    assert found["provenance"]["seed"] == "env EW2S_SEED"


def test_config_validate(ew2s: Command) -> None:
    Path("good.yaml").write_text("seed: 1\n")
    Path("bad.yaml").write_text("sead: 1\n")
    assert ew2s("config", "validate", "good.yaml").out == "good.yaml: valid\n"
    done = ew2s("config", "validate", "good.yaml", "bad.yaml", "--preset", "tiny")
    assert done.code == 2
    assert "Did you mean seed?" in done.err
    found = json.loads(ew2s("config", "validate", "good.yaml", "bad.yaml", "--json").out)
    assert [entry["ok"] for entry in found] == [True, False]
    assert ew2s("config", "validate", "good.yaml", "bad.yaml", "--together").code == 2


def test_presets(ew2s: Command) -> None:
    for words in (["presets"], ["presets", "list"]):
        done = ew2s(*words)
        assert done.code == 0
        assert done.out.startswith("tiny ") or "\ntiny " in done.out
        assert "Next: ew2s run --preset tiny" in done.err
    assert "tiny" in [preset["name"] for preset in json.loads(ew2s("presets", "--json").out)]
    Path("mine.yaml").write_text(ew2s("presets", "show", "tiny").out)
    assert load_config(Path("mine.yaml")).name == "tiny"


def test_doctor(ew2s: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    done = ew2s("doctor")
    assert done.code == 0, done.out
    assert "No problems found." in done.out
    assert max(map(len, done.out.splitlines())) <= 200
    found = json.loads(ew2s("doctor", "--json").out)
    assert found["problems"] == []
    assert found["torch"]["devices"][0]["name"] == "cpu"
    assert found["kernels"]["cpu"]

    def broken() -> dict[str, Any]:
        raise ImportError("no _native")

    monkeypatch.setattr(doctor_module, "_native", broken)
    done = ew2s("doctor")
    assert done.code == 1
    assert "PROBLEM       native: ImportError: no _native" in done.out
