from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

LOAD = """
import json, sys
from ensemw2s.config.data import SourceConfig
from ensemw2s.data.sources import load_source, source_identity
from ensemw2s.errors import Ew2sError
found = []
for asked in json.loads(sys.argv[1]):
    cfg = SourceConfig.model_validate(asked)
    try:
        found.append([source_identity(cfg), [e.to_json() for e in load_source(cfg, 1)]])
    except Ew2sError as error:
        found.append([error.exit_code, error.message, error.hint])
print(json.dumps(found))
"""

ARC = {
    "id": ["q1", "q2"],
    "question": ["Which is red?", "Which is green?"],
    "choices": [{"text": ["apple", "leaf"], "label": ["A", "B"]}] * 2,
    "answerKey": ["A", "B"],
}


def parquet(columns: dict[str, list[Any]]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table(columns), out)
    return out.getvalue()


def card(*subsets: tuple[str, dict[str, str]]) -> bytes:
    """A data set card with the files of every subset's splits."""
    lines = ["---", "configs:"]
    for name, files in subsets:
        lines += [f"- config_name: {name}", "  data_files:"]
        lines += [line for split, file in files.items() for line in (f"  - split: {split}", f"    path: {file}")]
    return "\n".join([*lines, "---", ""]).encode()


def ask(python: Any, *asked: dict[str, Any], offline: bool = False) -> Any:
    """Load the sources in one process that knows the mirror as the hub."""
    done = python(LOAD, args=(json.dumps(asked),), offline=offline)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return json.loads(done.stdout)


@pytest.fixture
def arc(mirror: Any) -> str:
    splits = {split: f"ARC-Easy/{split}-00000-of-00001.parquet" for split in ("train", "validation", "test")}
    files = {"README.md": card(("ARC-Easy", splits))}
    for split, file in splits.items():
        files[file] = parquet({**ARC, "id": [f"{split}-{name}" for name in ARC["id"]]})
    return str(mirror.add("datasets", "allenai/ai2_arc", files))


def test_known_data_sets_by_name(mirror: Any, python: Any, arc: str) -> None:
    everything, test, sciq, challenge, misspelt, wrong = ask(
        python,
        {"kind": "arc_easy"},
        {"kind": "arc_easy", "hub_splits": ["test"]},
        {"kind": "sciq"},
        {"kind": "arc_challenge"},
        {"kind": "arc_easy", "hub_splits": ["trian"]},
        {"kind": "arc_easy", "revision": "v2"},
    )
    identity, examples = everything
    assert identity == [[f"allenai/ai2_arc@{arc}", "ARC-Easy", "train", "validation", "test"]]
    assert [e["id"] for e in examples] == [f"{s}-{q}" for s in ("train", "validation", "test") for q in ("q1", "q2")]
    shown = {"id": "train-q2", "prompt": "Which is green?", "answer": "leaf", "choices": ["apple", "leaf"]}
    assert examples[1] == shown
    assert [e["id"] for e in test[1]] == ["test-q1", "test-q2"]
    assert (sciq[0], "allenai/sciq cannot be read on the hub" in sciq[1], "hf auth login" in sciq[2]) == (2, True, True)
    assert (challenge[0], "ARC-Challenge" in challenge[1], "subset" in challenge[2]) == (2, True, True)
    assert (misspelt[0], "trian" in misspelt[1]) == (2, True)
    assert (wrong[0], "v2" in wrong[1]) == (2, True)
    mirror.server.shutdown()
    assert ask(python, {"kind": "arc_easy"}, offline=True) == [everything]


def test_any_data_set_with_mapped_columns(mirror: Any, python: Any) -> None:
    rows = {
        "text": ["Which is red?", "Which is a tree?"],
        "options": [["apple", "leaf"], ["oak", "rose"]],
        "gold": [0, 0],
        "level": ["Hard", "Easy"],
    }
    first = mirror.add("datasets", "someone/quiz", {"data/train-00000-of-00001.parquet": parquet(rows)})
    rows["gold"] = [1, 0]
    second = mirror.add("datasets", "someone/quiz", {"data/train-00000-of-00001.parquet": parquet(rows)})
    columns = {"prompt": "text", "choices": "options", "answer": "gold", "difficulty": "level"}
    asked = {"kind": "file", "hub": "someone/quiz", "hub_splits": ["train"], "columns": columns}
    newest, pinned, wrong = ask(
        python, asked, {**asked, "revision": first}, {**asked, "columns": {**columns, "prompt": "txt"}}
    )
    assert newest[0] == [[f"someone/quiz@{second}", "None", "train"]]
    assert pinned[0] == [[f"someone/quiz@{first}", "None", "train"]]
    (new, _), (old, _) = newest[1], pinned[1]
    assert (old["answer"], old["level"], old["id"]) == ("apple", "Hard", "train-1")
    assert new["answer"] == "leaf"
    assert wrong[0] == 2
    assert wrong[1].startswith("someone/quiz/train, row 1: no column 'txt'")


def test_offline_names_what_is_missing_and_how_to_fetch_it(mirror: Any, python: Any) -> None:
    ((code, message, hint),) = ask(python, {"kind": "arc_easy"}, offline=True)
    assert code == 2
    assert message == (
        "The data set allenai/ai2_arc (ARC-Easy, train, validation, test) is not on this machine, and the hub cannot "
        "be reached to fetch it."
    )
    assert "hf download allenai/ai2_arc --repo-type dataset --local-dir FOLDER" in hint
    assert "data.source.path: FOLDER" in hint


def test_a_data_set_that_is_a_script(mirror: Any, python: Any) -> None:
    mirror.add("datasets", "allenai/quartz", {"quartz.py": b"raise SystemExit", "README.md": b"---\n---\n"})
    ((code, message, hint),) = ask(python, {"kind": "quartz"})
    assert (code, message) == (2, "The data set allenai/quartz is a Python script, which is not run.")
    assert hint == "Set revision: refs/convert/parquet, the hub's own conversion."
