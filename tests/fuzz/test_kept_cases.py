"""Every parser on its seeds, on mutations of them, and on every input that fuzzing found so far."""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from targets import TARGETS

CASES = Path(__file__).parent / "cases"
PIECES = (
    b"\0",
    b"\xff\xfe",
    b"9" * 5000,
    b"[" * 3000,
    b"NaN",
    b"1e999",
    b'"',
    b"\r",
    "\u2028".encode(),
    b"{}",
    b"-",
    b"\n",
)


def mutated(data: bytes, dice: random.Random) -> bytes:
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(len(data) + 1)
        cut = dice.choice((0, 0, 1, dice.randint(0, 40)))
        data = data[:at] + dice.choice((b"", *PIECES)) + data[at + cut :]
    return data


@pytest.mark.parametrize("name", TARGETS)
def test_a_value_or_an_error_in_words(name, tmp_path):
    target = TARGETS[name]
    for seed in target.seeds():
        target(seed, tmp_path)
    dice = random.Random(name)
    for _ in range(12):
        target(mutated(dice.choice(target.seeds()), dice), tmp_path)


@pytest.mark.parametrize("name", TARGETS)
def test_the_first_seed_is_read(name, tmp_path):
    target = TARGETS[name]
    place = tmp_path / target.file
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_bytes(target.seeds()[0])
    target.read(tmp_path)


@pytest.mark.parametrize("case", sorted(CASES.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name[:16]}")
def test_a_found_case_stays_mended(case, tmp_path):
    TARGETS[case.parent.name](case.read_bytes(), tmp_path)
