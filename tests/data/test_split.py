from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ensemw2s.config.data import ColumnMap, DataConfig, SourceConfig, SplitConfig
from ensemw2s.data import split as split_module
from ensemw2s.data.duplicates import find_duplicates, split_overlaps
from ensemw2s.data.example import SPLITS, Example, Splits
from ensemw2s.data.split import left_out, make_splits
from ensemw2s.data.store import splits_fingerprint
from ensemw2s.data.text import normalise_text
from ensemw2s.errors import DataError

Write = Callable[..., Path]
COLUMNS = ColumnMap(id="id", choices="choices", difficulty="difficulty")


def _rows(n: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {"id": f"e{i}", "prompt": f"What is {i}?", "answer": "x", "choices": ["x", "y"], "difficulty": i % 10} | more
        for i in range(n)
    ]


def _config(path: Path, near: Any = "drop", **rule: Any) -> DataConfig:
    source = SourceConfig(kind="file", path=str(path), columns=COLUMNS)
    return DataConfig(source=source, split=SplitConfig(**rule), near_duplicates=near)


def _sizes(splits: Splits) -> list[int]:
    return [len(splits[name]) for name in SPLITS]


def _ids(splits: Splits) -> list[str]:
    return [example.id for name in SPLITS for example in splits[name]]


def test_threshold_divides_easy_from_hard(jsonl: Write) -> None:
    splits = make_splits(_config(jsonl(_rows(100)), hard_above=6), 0, "choice")
    assert _sizes(splits) == [42, 14, 14, 21, 9]
    assert sorted(_ids(splits)) == sorted(f"e{i}" for i in range(100))
    for name in SPLITS:
        hard = name.startswith("hard")
        assert all(
            (example.difficulty or 0) > 6 if hard else (example.difficulty or 0) <= 6 for example in splits[name]
        )
    assert splits.notes["threshold"] == 6
    assert splits.notes["sizes"] == dict(zip(SPLITS, _sizes(splits), strict=True))


@pytest.mark.parametrize("quantile", [0.1, 0.45, 0.5, 0.7, 0.85])
def test_quantile_is_a_value_and_no_larger_share_is_hard(jsonl: Write, quantile: float) -> None:
    rows = _rows(120)
    splits = make_splits(_config(jsonl(rows), hard_quantile=quantile), 0, "choice")
    values = sorted(row["difficulty"] for row in rows)
    # The smallest value with at least that share at or below it, by counting.
    expected = next(v for v in values if sum(w <= v for w in values) >= quantile * len(values) - 1e-9)
    assert splits.notes["threshold"] == expected
    assert splits.notes["hard"] == sum(v > expected for v in values) <= (1 - quantile) * len(values) + 1e-9


def test_without_a_rule_the_median_divides(jsonl: Write) -> None:
    notes = make_splits(_config(jsonl(_rows(100))), 0, "choice").notes
    assert (notes["rule"], notes["threshold"], notes["easy"], notes["hard"]) == ("hard_quantile 0.5", 4.0, 50, 50)


def test_level_names(jsonl: Write) -> None:
    levels = ["Low", "Medium", "High", None]
    rows = [row | {"difficulty": levels[i % 4]} for i, row in enumerate(_rows(80))]
    splits = make_splits(_config(jsonl(rows), hard_values=["high", "MEDIUM"]), 0, "choice")
    assert {e.level for name in ("hard_pool", "hard_test") for e in splits[name]} == {"High", "Medium"}  # type: ignore[literal-required]
    assert {e.level for e in splits.train} == {"Low"}
    assert splits.notes["dropped_without_difficulty"] == 20
    assert splits.notes["levels"] == {"High": 20, "Low": 20, "Medium": 20}
    with pytest.raises(DataError, match=r"no example has the level 'Hihg' \(did you mean 'High'\?\)"):
        make_splits(_config(jsonl(rows), hard_values=["Hihg"]), 0, "choice")


def test_numbers_and_shares(jsonl: Write) -> None:
    path = jsonl(_rows(100))
    rule: dict[str, Any] = {"hard_above": 4}
    sizes = _sizes(
        make_splits(_config(path, train=7, validation=0.5, test=0, hard_pool=1.0, hard_test=0, **rule), 0, "choice")
    )
    assert sizes == [7, 25, 0, 50, 0]
    thirds = _sizes(make_splits(_config(path, train=1 / 3, validation=1 / 3, test=1 / 3, **rule), 0, "choice"))
    assert sum(thirds[:3]) == 50
    assert max(thirds[:3]) - min(thirds[:3]) <= 1


def test_random_ignores_difficulty(jsonl: Write) -> None:
    rows = [row | {"difficulty": None} for row in _rows(100)]
    path = jsonl(rows)
    assert _sizes(make_splits(_config(path, by="random"), 0, "choice")) == [30, 10, 10, 35, 15]
    assert _sizes(make_splits(_config(path, by="random", hard_quantile=0.8), 0, "choice")) == [48, 16, 16, 14, 6]
    counts = {"train": 60, "validation": 10, "test": 10, "hard_pool": 15, "hard_test": 5}
    assert _sizes(make_splits(_config(path, by="random", **counts), 0, "choice")) == list(counts.values())
    counts.update(hard_pool=0.5, hard_test=0.5)
    assert _sizes(make_splits(_config(path, by="random", **counts), 0, "choice")) == [60, 10, 10, 10, 10]


def test_second_source_is_the_hard_one(jsonl: Write) -> None:
    easy, hard = jsonl(_rows(50), "easy.jsonl"), _rows(40)
    hard = [row | {"prompt": f"Why {row['prompt']}"} for row in hard] + [{**hard[0], "id": "twin"}]
    source = SourceConfig(kind="file", path=str(jsonl(hard, "hard.jsonl")), columns=COLUMNS)
    config = _config(easy).model_copy(update={"hard_source": source})
    splits = make_splits(config, 0, "choice")
    assert _sizes(splits) == [30, 10, 10, 28, 12]
    assert all(e.prompt.startswith("Why") and e.id.startswith("hard/e") for e in [*splits.hard_pool, *splits.hard_test])
    assert splits.notes["read"] == {"source": 50, "hard_source": 41}
    assert splits.notes["dropped_duplicates"]["exact"] == 1, "the twin repeats an easy example"
    assert len(set(_ids(splits))) == 90
    with pytest.raises(ValidationError, match="hard_source says what is hard"):
        DataConfig(hard_source=source, split=SplitConfig(hard_above=1))


TWINS = [
    {"id": "a", "prompt": "Is it so?", "answer": "x", "choices": ["x", "y"], "difficulty": 1},
    {"id": "b", "prompt": "is  IT\nso?", "answer": "X", "choices": ["Y ", "X"], "difficulty": 9},
    {"id": "c", "prompt": "Is it so?", "answer": "y", "choices": ["x", "y"], "difficulty": 1},
    {"id": "d", "prompt": "Is it so?", "answer": "x", "choices": ["x", "y"], "difficulty": 1},
]


def test_near_duplicates_are_dropped_counted_and_told_apart(jsonl: Write) -> None:
    path = jsonl(_rows(100) + TWINS)
    splits = make_splits(_config(path, hard_above=6), 0, "choice")
    assert {"a", "b", "c", "d"} & set(_ids(splits)) == {"a"}
    assert splits.notes["dropped_duplicates"] == {
        "exact": 1, "near": 1, "contradictions": 1, "contradicting_ids": [["a", "c"]],
    }  # fmt: skip
    assert split_overlaps(splits) == {}


def test_near_duplicates_can_be_an_error_or_be_kept(jsonl: Write) -> None:
    path = jsonl(_rows(100) + TWINS)
    with pytest.raises(DataError, match=r"3 examples repeat an earlier question .* 'a' and 'b', 'a' and 'c', "):
        make_splits(_config(path, "error", hard_above=6), 0, "choice")
    kept = make_splits(_config(path, "keep", hard_above=6), 0, "choice")
    assert len(_ids(kept)) == 104
    assert kept.notes["overlaps"] == split_overlaps(kept)
    assert sum(kept.notes["overlaps"].values()) >= 1, "a (easy) and b (hard) are in different splits"
    make_splits(_config(jsonl(_rows(100), "clean.jsonl"), "error", hard_above=6), 0, "choice")


def test_questions_that_share_a_stem_are_told_apart_by_their_options(jsonl: Write) -> None:
    stem = {"prompt": "Which statement is true?"}
    rows = [row | stem | {"choices": ["x", f"y {i}"]} for i, row in enumerate(_rows(100))]
    again = [
        {**rows[0], "id": "turned", "choices": ["y 0", "x"]},
        {**rows[1], "id": "case", "prompt": "which STATEMENT  is true?", "choices": ["Ｙ 1", "x"]},
        {**rows[2], "id": "other answer", "answer": "y 2"},
    ]
    path = jsonl(rows + again)
    splits = make_splits(_config(path, hard_above=6), 0, "choice")
    assert len(_ids(splits)) == 100
    assert splits.notes["dropped_duplicates"] == {
        "exact": 0, "near": 2, "contradictions": 1, "contradicting_ids": [["e2", "other answer"]],
    }  # fmt: skip
    assert left_out(splits.notes) == [
        "2 ask an earlier question again",
        "1 contradict an earlier answer to the same question",
    ]
    kept = make_splits(_config(path, "keep", hard_above=6), 0, "choice")
    assert sum(kept.notes["overlaps"].values()) <= 3, "a stem in two splits is no overlap"
    mixed = jsonl([*rows, *(row | {"id": f"own {row['id']}"} for row in _rows(50))], "mixed.jsonl")
    written = make_splits(_config(mixed, by="random"), 0, "generate")
    assert written.notes["dropped_duplicates"]["exact"] == 99, "without options the stem is the whole question"


def test_everything_that_is_left_out_is_said(jsonl: Write) -> None:
    rows = [
        *_rows(100),
        {**_rows(1)[0], "id": "again"},
        *(r | {"difficulty": None, "id": r["id"] + "-"} for r in _rows(3)),
    ]
    notes = make_splits(_config(jsonl(rows), hard_above=6, train=10, hard_pool=0.5), 0, "choice").notes
    assert left_out(notes)[0] == "1 ask an earlier question again"
    assert left_out(notes)[1] == "3 have no difficulty"
    used = sum(notes["sizes"].values())
    assert left_out(notes)[2] == f"{100 - used} are beyond the sizes in data.split"


def test_an_example_without_difficulty_does_not_take_its_twin_away(jsonl: Write) -> None:
    path = jsonl([TWINS[0] | {"difficulty": None, "id": "blank"}, TWINS[0], *_rows(20)])
    assert "a" in _ids(make_splits(_config(path, hard_above=6), 0, "choice"))


def test_task_choice_needs_options_and_generate_drops_them(jsonl: Write) -> None:
    path = jsonl(_rows(20))
    assert all(e.choices is None for e in make_splits(_config(path, hard_above=6), 0, "generate").train)
    config = _config(path, hard_above=6)
    source = config.source.model_copy(update={"columns": ColumnMap(id="id", difficulty="difficulty")})
    with pytest.raises(DataError, match=r"20 of 20 examples have none \(the first is 'e0'\)"):
        make_splits(config.model_copy(update={"source": source}), 0, "choice")


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"hard_above": 4, "train": 60}, r"There are 50 easy examples, but the splits ask for 80: train 60 = 60"),
        ({"hard_above": 4, "hard_pool": 50, "hard_test": 1}, r"50 hard examples, .* ask for 51.*\(100 read\)"),
        ({"hard_above": 4, "validation": 0.001}, r"The split 'validation' is empty: there are 50 easy examples"),
        ({"hard_above": 4, "train": 0, "test": 3}, r"The split 'train' is empty"),
        ({"hard_above": 9}, r"No example is hard: difficulty runs from 0 to 9, and hard is above 9"),
        ({"hard_above": -1}, r"No example is easy"),
        ({"hard_values": ["High"]}, r"needs a difficulty level, but none of the 100 examples has one"),
        ({"by": "random", "train": 200}, r"There are \d+ easy examples, but the splits ask for"),
    ],
)  # fmt: skip
def test_what_cannot_be_split(jsonl: Write, rule: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        make_splits(_config(jsonl(_rows(100)), **rule), 0, "choice")
    assert caught.value.hint


def test_difficulty_missing_everywhere_or_somewhere(jsonl: Write) -> None:
    none = [row | {"difficulty": None} for row in _rows(10)]
    with pytest.raises(DataError, match=r"needs a difficulty, but none of the 10 examples has one.*by: random"):
        make_splits(_config(jsonl(none), hard_above=6), 0, "choice")
    some = _rows(20) + [row | {"id": f"n{i}", "prompt": f"n{i}"} for i, row in enumerate(none)]
    splits = make_splits(_config(jsonl(some), hard_above=6), 0, "choice")
    assert splits.notes["dropped_without_difficulty"] == 10
    assert len(_ids(splits)) == 20


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"hard_above": 1, "hard_quantile": 0.5}, "at most one of"),
        ({"by": "random", "hard_above": 1}, "by: random ignores difficulty"),
        ({"train": 0.9}, "add up to 1.3, more than 1"),
        ({"hard_pool": -1}, "must not be negative"),
        ({"test": 200.0}, "a share above 1"),
        ({"test": float("nan")}, "finite number"),
    ],
)
def test_impossible_split_configurations(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SplitConfig(**rule)


def test_seeds(jsonl: Write) -> None:
    config = _config(jsonl(_rows(100)), hard_above=6)
    prints = [splits_fingerprint(make_splits(config, seed, "choice")) for seed in (0, 0, 1)]
    assert prints[0] == prints[1] != prints[2]
    own = config.model_copy(update={"seed": 1})
    assert splits_fingerprint(make_splits(own, 0, "choice")) == prints[2]


def test_a_limit_does_not_depend_on_the_hash_seed(jsonl: Write) -> None:
    path = jsonl(_rows(100) + TWINS)
    code = (
        "from ensemw2s.config.data import *\nfrom ensemw2s.data.split import make_splits\n"
        "from ensemw2s.data.store import splits_fingerprint\n"
        f"source = SourceConfig(kind='file', path={str(path)!r}, limit=60,\n"
        "    columns=ColumnMap(id='id', choices='choices', difficulty='difficulty'))\n"
        "print(splits_fingerprint(make_splits(DataConfig(source=source), 0, 'choice')))\n"
    )
    outs = {
        subprocess.run(
            [sys.executable, "-P", "-c", code],
            capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(outs) == 1


SPELLINGS = st.sampled_from([str.upper, str.lower, str.title, lambda t: f" {t}\n", lambda t: t.replace(" ", "  ")])
PROMPTS = st.builds(
    lambda words, spell: spell(words), st.sampled_from([f"word {i} of it" for i in range(40)]), SPELLINGS
)
EXAMPLES = st.lists(
    st.tuples(PROMPTS, st.sampled_from(["x", "y"]), st.sampled_from([1.0, 2.0, 3.0, None])), min_size=30, max_size=80
)


@given(EXAMPLES, st.sampled_from(["difficulty", "random"]), st.integers(0, 5), st.booleans())
@settings(max_examples=60, deadline=None)
def test_splits_never_overlap_and_are_deterministic(
    rows: list[tuple[str, str, float | None]], by: Any, seed: int, two: bool
) -> None:
    examples = [Example(f"e{i}", p, a, ("x", "y"), d) for i, (p, a, d) in enumerate(rows)]
    config = DataConfig(
        hard_source=SourceConfig(size=2) if two else None,
        split=SplitConfig(by=by, train=0.5, validation=0, test=0.2, hard_pool=0.5, hard_test=0),
    )
    with pytest.MonkeyPatch.context() as patch:
        half = examples[len(examples) // 2 :]
        patch.setattr(split_module, "load_source", lambda cfg, seed: half if cfg.size == 2 else examples)
        try:
            splits = make_splits(config, seed, "choice")
        except DataError as error:
            assert "is empty" in error.message or "No example is" in error.message  # noqa: PT017
            return
        again = make_splits(config, seed, "choice")
    assert again == splits
    prompts = [normalise_text(e.prompt) for name in SPLITS for e in splits[name]]
    assert len(prompts) == len(set(prompts))
    assert len(_ids(splits)) == len(set(_ids(splits)))
    assert split_overlaps(splits) == {}
    json.dumps(splits.notes, allow_nan=False)
    unused = splits.notes["unused_easy"] + splits.notes["unused_hard"]
    dropped = sum(splits.notes["dropped_duplicates"][k] for k in ("exact", "near", "contradictions"))
    dropped += splits.notes.get("dropped_without_difficulty", 0)
    assert sum(_sizes(splits)) + unused + dropped == sum(splits.notes["read"].values())


def test_duplicates_keep_the_first() -> None:
    examples = [Example(row["id"], row["prompt"], row["answer"], tuple(row["choices"])) for row in TWINS]  # type: ignore[arg-type]
    unique, found = find_duplicates(examples)
    assert [e.id for e in unique] == ["a"]
    assert [(first.id, later.id) for first, later in found.of] == [("a", "b"), ("a", "c"), ("a", "d")]
    assert found.kinds == ["near", "contradiction", "exact"]


def test_every_example_is_as_likely_in_every_place(jsonl: Write) -> None:
    """Over 300 seeds each of 20 easy examples is in train (12 of 20) about 180 times: ±8.5, six deviations."""
    examples = [Example(f"e{i}", f"p{i}", "x", ("x", "y"), 0.0) for i in range(20)]
    examples += [Example(f"h{i}", f"q{i}", "x", ("x", "y"), 1.0) for i in range(5)]
    counts = dict.fromkeys([e.id for e in examples], 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split_module, "load_source", lambda cfg, seed: examples)
        for seed in range(300):
            for example in make_splits(DataConfig(split=SplitConfig(hard_above=0.5)), seed, "choice").train:
                counts[example.id] += 1
    easy = np.asarray([counts[f"e{i}"] for i in range(20)])
    assert np.all(np.abs(easy - 180) < 51)
    assert sum(counts.values()) == 300 * 12


def test_real_arc_by_level(shared_data: Path) -> None:
    folder = shared_data / "arc_easy"
    source = SourceConfig(kind="arc", path=str(folder), annotations=str(folder / "annotations.json"))
    splits = make_splits(DataConfig(source=source, split=SplitConfig(hard_values=["High"])), 0, "choice")
    assert split_overlaps(splits) == {}
    assert all(e.level == "High" for e in [*splits.hard_pool, *splits.hard_test])
    assert splits.notes["dropped_without_difficulty"] == 5197 - 3361
    dropped = splits.notes["dropped_duplicates"]
    assert sum(_sizes(splits)) == 3361 - sum(dropped[k] for k in ("exact", "near", "contradictions"))
    assert splits.notes["hard"] >= 400


def test_questions_with_options_that_are_the_same_to_a_model_are_left_out(jsonl: Write) -> None:
    config = _config(jsonl(_rows(100)), hard_above=6, train=10)
    splits = make_splits(config, 0, "choice", lambda examples: {e.id for e in examples if e.id in ("e3", "e8", "e9")})
    assert not {"e3", "e8", "e9"} & set(_ids(splits))
    assert splits.notes["dropped_indistinct"] == {"count": 3, "ids": ["e3", "e8", "e9"]}
    assert len(splits.train) == 10, "a split that asks for a number gets it"
    assert left_out(splits.notes)[0] == "3 have options with the same tokens"
    with pytest.raises(DataError, match="100 read, 100 have options with the same tokens"):
        make_splits(_config(jsonl(_rows(100)), by="random"), 0, "choice", lambda examples: {e.id for e in examples})
