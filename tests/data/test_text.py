from __future__ import annotations

import subprocess
import sys
import unicodedata

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ensemw2s.data.fields import option_label
from ensemw2s.data.levels import level_number, parse_difficulty
from ensemw2s.data.problems import RowError
from ensemw2s.data.text import normalise_text
from ensemw2s.errors import did_you_mean, nearest


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("What  is\tIT?", "what is it?"),
        ("  a\n b ", "A B"),
        ("ﬁne", "fine"),
        ("２０ cm", "20 CM"),
        ("a\u00a0b", "a b"),
        ("Straße", "STRASSE"),
        ("cafe\u0301", "CAFÉ"),
        ("10²³ mⁿ", "10^23 M^N"),
        ("H₂O", "H2O"),
        ("soft\u00adhyphen zero\u200bwidth", "softhyphen zerowidth"),
    ],
)
def test_texts_that_are_the_same(one: str, other: str) -> None:
    assert normalise_text(one) == normalise_text(other)


def test_texts_that_differ() -> None:
    assert len({normalise_text(t) for t in ("ab", "a b", "a-b", "a.b", "", "10²", "102", "x²", "x2", "2x")}) == 10


@given(st.text())
@example("ͅ\u0345a")
@example("İstanbul ǅ ﬃ Å")
@settings(deadline=None)
def test_normalising_twice_changes_nothing(text: str) -> None:
    once = normalise_text(text)
    assert normalise_text(once) == once


@given(st.text())
@settings(deadline=None)
def test_normalising_forgets_white_space_case_and_form(text: str) -> None:
    spaced = "\n\t" + text.replace(" ", " \u3000 ") + "  "
    assert normalise_text(spaced) == normalise_text(text)
    assert normalise_text(unicodedata.normalize("NFD", text)) == normalise_text(text)
    assert normalise_text(text.casefold()) == normalise_text(text)


def test_nearest_name() -> None:
    assert nearest("qustion", ["answer", "question"]) == "question"
    assert nearest("PROMPT", ["prompt"]) == "prompt"
    assert nearest("zzz", ["prompt"]) is None
    assert did_you_mean("zzz", ["prompt", "answer"], "columns") == " (columns: 'prompt', 'answer')"
    assert did_you_mean("zzz", [], "columns") == ""


def test_levels() -> None:
    assert [level_number(n) for n in ("Low", "medium", "HIGH", "Hard", "II", "Grade 07", "Biology")] == [
        0.0, 1.0, 2.0, 2.0, 1.0, 7.0, None,
    ]  # fmt: skip
    assert parse_difficulty("High", "d") == (2.0, "High")
    assert parse_difficulty(" 3.5 ", "d") == (3.5, "")
    assert parse_difficulty(4, "d") == (4.0, "")
    assert parse_difficulty("Biology", "d") == (None, "Biology")
    assert parse_difficulty(None, "d") == parse_difficulty("", "d") == parse_difficulty(float("nan"), "d") == (None, "")


@pytest.mark.parametrize("value", [True, [1], float("inf"), "inf", "nan", 10**400])
def test_difficulty_must_be_a_finite_number_or_a_name(value: object) -> None:
    with pytest.raises(RowError, match="difficulty must be"):
        parse_difficulty(value, "d")


def test_option_labels() -> None:
    assert [option_label(i) for i in (0, 25, 26, 27, 51, 52, 701, 702)] == [
        "A", "Z", "AA", "AB", "AZ", "BA", "ZZ", "AAA",
    ]  # fmt: skip


def test_importing_the_package_and_its_readers_loads_nothing_heavy() -> None:
    code = (
        "import sys, ensemw2s.data\n"
        "assert 'numpy' not in sys.modules, 'the package itself'\n"
        "import ensemw2s.data.split, ensemw2s.data.check, ensemw2s.data.store, ensemw2s.data.encode\n"
        "heavy = {'torch', 'transformers', 'datasets', 'pyarrow', 'pandas', 'scipy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
