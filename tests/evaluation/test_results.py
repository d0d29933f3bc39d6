from __future__ import annotations

import json

import numpy as np
import pytest

from ensemw2s.arms import planned_pairs
from ensemw2s.errors import DataError
from ensemw2s.evaluation.build import build_comparisons, compare
from ensemw2s.evaluation.comparisons import mcnemar_exact
from ensemw2s.evaluation.correct import read_correct, write_correct
from ensemw2s.evaluation.pgr import pgr_fieller
from ensemw2s.evaluation.results import Results, RoundResult, RoundScore


def test_planned_pairs_are_the_spec():
    assert planned_pairs(
        ["plain", "bagging", "ensemble", "ensemble_equal", "student_plain", "student_ensemble", "ceiling", "single"]
    ) == [
        ("ensemble", "plain"),
        ("ensemble", "single"),
        ("ensemble", "bagging"),
        ("ensemble", "ensemble_equal"),
        ("student_ensemble", "student_plain"),
        ("student_plain", "plain"),
        ("student_ensemble", "plain"),
        ("ceiling", "student_plain"),
        ("ceiling", "student_ensemble"),
        ("ceiling", "plain"),
    ]
    assert planned_pairs(["plain"]) == []


def test_build_comparisons(correct):
    found = build_comparisons(correct)
    pairs = {(d.a, d.b, d.split): d for d in found.differences}
    assert len(pairs) == len(found.differences) == 2 * (3 + 3 + 3 + 3 + 1)
    for (a, b, split), d in pairs.items():
        right, other = correct[a][split], correct[b][split]
        assert d.estimate == pytest.approx(right.mean() - other.mean())
        assert d.b10 - d.b01 == round(d.estimate * d.n)
        assert d.mcnemar_p == mcnemar_exact(right, other).p
    assert set(found.pgr) == {"student_plain", "student_bagging", "student_ensemble"}
    for student, by_split in found.pgr.items():
        for split, pgr in by_split.items():
            # the weak side is the same plain fine-tune for every student
            assert pgr == pgr_fieller(correct["plain"][split], correct[student][split], correct["ceiling"][split])


def test_build_comparisons_takes_what_exists(correct):
    del correct["ceiling"]
    correct["student_bagging"] = {"hard_test": correct["student_bagging"]["hard_test"]}
    found = build_comparisons(correct)
    assert found.pgr == {}
    assert ("student_bagging", "plain") in {(d.a, d.b) for d in found.differences if d.split == "hard_test"}
    assert ("student_bagging", "plain") not in {(d.a, d.b) for d in found.differences if d.split == "test"}
    assert build_comparisons({}).differences == []


def test_compare_names_arms_that_do_not_match(correct):
    correct["plain"]["test"] = correct["plain"]["test"][:-1]
    with pytest.raises(ValueError, match="ensemble − plain on test: paired models need the same examples"):
        compare(correct, "ensemble", "plain", "test")


def test_round_trip(tmp_path, make_results):
    results = make_results(
        1,
        rounds={
            "boosting": [
                RoundResult(
                    round=1,
                    epsilon=0.3,
                    epsilon_prior=0.6,
                    alpha=1.25,
                    n_eff=900.0,
                    splits={"test": RoundScore(expert_accuracy=0.5, ensemble_accuracy=0.5)},
                )
            ]
        },
    )
    path = tmp_path / "results.json"
    results.write(path)
    assert Results.read(path) == results
    assert [p.name for p in tmp_path.iterdir()] == ["results.json"]
    content = json.loads(path.read_text())
    assert content["schema_version"] == 1
    assert content["arms"]["plain"]["test"].keys() == {"accuracy", "low", "high", "n", "correct", "token_accuracy"}
    assert content["pgr"]["student_ensemble"]["hard_test"]["kind"] == "interval"
    results.write(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == path.read_bytes()


def test_difference_look_up(make_results):
    results = make_results(0)
    assert results.difference("ensemble", "plain", "test").a == "ensemble"
    assert results.difference("plain", "ensemble", "test") is None


def test_writing_refuses_what_json_cannot_carry(tmp_path, make_results):
    with pytest.raises(ValueError, match="nan"):
        make_results(0, times={"experts": float("nan")}).write(tmp_path / "results.json")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c | {"schema_version": 99}, "schema version 99, expected 1"),
        (lambda c: {k: v for k, v in c.items() if k != "seed"}, "key seed"),
        (lambda c: c | {"surprise": 1}, "key surprise"),
        (lambda c: c | {"arms": {"plain": {"test": {"accuracy": "high"}}}}, "key arms.plain.test.accuracy"),
        (lambda c: [], "schema version None"),
    ],
)
def test_reading_names_the_key(tmp_path, make_results, change, message):
    path = tmp_path / "results.json"
    path.write_text(json.dumps(change(make_results(0).to_json())))
    with pytest.raises(DataError, match=message) as caught:
        Results.read(path)
    assert caught.value.exit_code == 2
    assert str(path) in caught.value.message


def test_w_of_an_earlier_version_is_its_first_expert(tmp_path, make_results):
    from ensemw2s.evaluation.over_seeds import AggregateResults, aggregate

    path, content = tmp_path / "results.json", make_results(0).to_json()
    for kind, written in (
        (Results, content),
        (AggregateResults, aggregate([make_results(0), make_results(1)]).to_json()),
    ):
        path.write_text(json.dumps(written))
        assert kind.read(path).weak == "plain"
        path.write_text(json.dumps({key: value for key, value in written.items() if key not in ("weak", "clipped")}))
        assert kind.read(path).weak == "single"


def test_reading_a_missing_or_torn_file(tmp_path):
    with pytest.raises(DataError, match=r"no results\.json"):
        Results.read(tmp_path / "results.json")
    (tmp_path / "results.json").write_text('{"name": "to')
    with pytest.raises(DataError, match="cannot be read"):
        Results.read(tmp_path / "results.json")


def test_correct_round_trip(tmp_path, correct):
    ids = {"test": [f"e{i}" for i in range(300)], "hard_test": [f"h{i}" for i in range(250)]}
    path = tmp_path / "correct.parquet"
    write_correct(path, correct, ids)
    back, names = read_correct(path)
    assert names == ids
    assert list(back) == list(correct)
    for arm, splits in correct.items():
        for split, values in splits.items():
            np.testing.assert_array_equal(back[arm][split], values)
    assert build_comparisons(back) == build_comparisons(correct)
    write_correct(tmp_path / "again.parquet", correct, ids)
    assert (tmp_path / "again.parquet").read_bytes() == path.read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["again.parquet", "correct.parquet"]


def test_correct_refuses(tmp_path, correct):
    with pytest.raises(ValueError, match="plain on test has 300 examples, its split has 1"):
        write_correct(tmp_path / "c.parquet", correct, {"test": ["a"], "hard_test": ["b"]})
    with pytest.raises(DataError, match="cannot be read"):
        read_correct(tmp_path / "none.parquet")
    (tmp_path / "bad.parquet").write_bytes(b"PAR1 not really")
    with pytest.raises(DataError, match="cannot be read"):
        read_correct(tmp_path / "bad.parquet")


def test_correct_refuses_a_text_that_is_named_many_times(tmp_path, monkeypatch):
    """A few kilobytes of dictionary indices are gigabytes of ids."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    monkeypatch.setattr("ensemw2s.evaluation.correct.parquet_memory", lambda size: 2**28)
    ids = pa.DictionaryArray.from_arrays(pa.array([0] * 4000, pa.int32()), pa.array(["x" * 2**20]))
    rows = {"arm": ["a"] * 4000, "split": ["test"] * 4000, "id": ids, "correct": [True] * 4000}
    pq.write_table(pa.table(rows), tmp_path / "c.parquet", compression="zstd")
    with pytest.raises(DataError, match="cannot be read"):
        read_correct(tmp_path / "c.parquet")


def test_correct_refuses_arms_with_other_examples(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = {"arm": ["a", "b"], "split": ["test", "test"], "id": ["1", "2"], "correct": [True, False]}
    pq.write_table(pa.table(rows), tmp_path / "c.parquet")
    with pytest.raises(DataError, match="b has other examples of test"):
        read_correct(tmp_path / "c.parquet")


def test_numpy_scalars_become_plain_json(make_results):
    content = make_results(0, times={"a": np.float64(1.5)}, selected_rounds={"boosting": np.int64(3)}).to_json()
    assert type(content["times"]["a"]) is float
    assert type(content["selected_rounds"]["boosting"]) is int
    with pytest.raises(TypeError, match="set, which has no JSON form"):
        make_results(0, notes=[{1}]).to_json()


@pytest.mark.parametrize(
    ("column", "values"),
    [
        ("correct", [True, None]),
        ("correct", [1, 0]),
        ("id", ["1", None]),
        ("arm", [None, "a"]),
        ("id", [b"1", b"\xe7"]),
    ],
)
def test_correct_refuses_what_is_missing_or_of_another_kind(tmp_path, column, values):
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = {"arm": ["a", "a"], "split": ["test", "test"], "id": ["1", "2"], "correct": [True, False]} | {column: values}
    table = pa.table(rows)
    if column == "id" and isinstance(values[0], bytes):
        broken = pa.Array.from_buffers(pa.string(), 2, table["id"].chunk(0).buffers())
        table = table.set_column(2, "id", broken)
    pq.write_table(table, tmp_path / "c.parquet")
    with pytest.raises(DataError, match="cannot be read"):
        read_correct(tmp_path / "c.parquet")
