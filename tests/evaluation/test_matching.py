from __future__ import annotations

import time
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemw2s.config.answer_pattern import AnswerPattern
from ensemw2s.errors import ConfigError
from ensemw2s.evaluation.matching import (
    answers_match,
    compile_pattern,
    extract_answer,
    normalise_text,
    text_correct,
)
from ensemw2s.evaluation.numbers import parse_number

REFUSED = [
    *("(?a)(?u)(a)", "(?L)(?u)(a)", "(?V0)(?V1)(a)", r"(\N{nope})", r"(\p{nope})", "(a){2,1}", r"(a)\2", "(?-V1:a)(b)"),
    *("(a){i<=99999999999999999999}", "(?&x)(a)", "([b-a])", "(", "a", ""),
]

GSM8K = r"####\s*(.+)"


def test_normalise_text():
    assert normalise_text("  a \t b\n\nc  ") == "a b c"
    assert normalise_text("") == ""


@given(st.text())
def test_normalise_text_is_idempotent(text):
    assert normalise_text(normalise_text(text)) == normalise_text(text)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("42", "42"),
        ("The answer is 42.", "42"),
        ("1,234", "1234"),
        ("12,345,678.50", "12345678.5"),
        ("-3", "-3"),
        ("+3", "3"),
        ("−3", "-3"),
        ("x = -3", "-3"),
        ("$1,000", "1000"),
        ("-$5", "-5"),
        ("it costs € 2.50 each", "2.5"),
        (".5", "0.5"),
        ("3.0", "3"),
        ("5-3", "3"),
        ("10 - 3", "3"),
        ("3–5", "5"),
        ("(-7)", "-7"),
        ("9*(-4)", "-4"),
        ("1, 2, 3", "3"),
        ("1,2,3", "3"),
        ("50%", "50"),
        ("1e3", "1000"),
        ("18 apples and 4 pears", "4"),
    ],
)
def test_parse_number(text, number):
    assert parse_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["", "none", "x2", "v1.2.3", "-", ",", "²"])
def test_parse_number_finds_none(text):
    assert parse_number(text) is None


@given(st.integers(-(10**12), 10**12), st.sampled_from(["{}", "#### {}", "so {}.", "= {} dollars"]))
def test_parse_number_reads_what_python_writes(number, frame):
    assert parse_number(frame.format(f"{number:,}")) == number
    assert parse_number(frame.format(number)) == number


@given(st.decimals(-1000, 1000, places=3))
def test_parse_number_is_exact(number):
    assert parse_number(f"{number:.3f}") == number


def test_exact_match():
    assert answers_match(" the  sun\n", "the sun", "exact")
    assert not answers_match("The sun", "the sun", "exact")
    assert not answers_match("0.50", "0.5", "exact")


def test_pattern_takes_the_last_match_and_fails_where_there_is_none():
    pattern = compile_pattern(GSM8K)
    assert extract_answer("#### 3\n#### 4", pattern) == "4"
    assert extract_answer("no marker 4", pattern) is None
    assert extract_answer("no pattern", None) == "no pattern"


@pytest.mark.parametrize(
    ("given_text", "true", "right"),
    [
        ("2 + 2 = 4\n#### 4", "She has 2 and 2. #### 4", True),
        ("#### 4.0", "#### 4", True),
        ("#### $1,200", "#### 1200", True),
        ("#### 4", "4", True),
        ("the answer is 4", "#### 4", False),
        ("#### four", "#### 4", False),
        ("#### -4", "#### 4", False),
    ],
)
def test_number_match_with_pattern(given_text, true, right):
    assert answers_match(given_text, true, "number", compile_pattern(GSM8K)) is right


def test_text_correct():
    found = text_correct(["1,0", "#### 7", "7"], ["#### 0", "#### 7", "#### 7"], "number", GSM8K)
    assert found.tolist() == [False, True, False]
    assert text_correct(["a"], ["a"]).tolist() == [True]


def test_refusals():
    with pytest.raises(ValueError, match="one true answer"):
        text_correct(["a"], [])
    with pytest.raises(ValueError, match="needs a number"):
        answers_match("3", "three", "number")
    with pytest.raises(ValueError, match="exact or number"):
        answers_match("3", "3", "fuzzy")
    with pytest.raises(ConfigError, match=r"no group.*parentheses"):
        compile_pattern(r"####")
    with pytest.raises(ConfigError, match="not a regular expression"):
        compile_pattern("(")


def test_an_unmatched_optional_group_is_no_answer():
    assert extract_answer("####", compile_pattern(r"####(x)?")) is None


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"((a|aa)+)$", "a" * 60 + "b"),
        (r"(.*?,){25}(P)", ",".join(map(str, range(40)))),
        (r"((?:(?=(a+))a)+)b", "a" * 20_000),
        (r"(a|(?R)b)", "c" * 10),
    ],
)
def test_a_pattern_that_would_run_for_minutes_is_stopped(pattern, text):
    start = time.monotonic()
    with pytest.raises(ConfigError, match="takes too long") as caught:
        extract_answer(text, AnswerPattern(pattern))
    assert time.monotonic() - start < 20
    assert "Repeats inside repeats" in (caught.value.hint or "")


def test_many_texts_that_are_each_a_little_slow_are_stopped_together(monkeypatch):
    monkeypatch.setattr("ensemw2s.config.answer_pattern._START", 0.2)
    monkeypatch.setattr("ensemw2s.config.answer_pattern._EACH", 0.0)
    pattern = AnswerPattern(r"(.*?,){6}(P)")
    text = ",".join(map(str, range(20)))
    with pytest.raises(ConfigError, match="takes too long"):
        _ = [pattern.find(text) for _ in range(2_000)]


@pytest.mark.parametrize("pattern", [r"((?:(?:a{1000}){1000}){1000})", r"(a{0,999999999})", r"((ab|c{300}){400})"])
def test_a_pattern_that_is_huge_once_it_is_written_out_is_refused(pattern):
    with pytest.raises(ConfigError, match="repeats too much"):
        AnswerPattern(pattern)


@pytest.mark.parametrize("pattern", ["(" * 5000 + "a" + ")" * 5000, r"(\L<names>)", "(?P<a>x)(?P<a", "[(]", *REFUSED])
def test_what_is_no_pattern(pattern):
    with pytest.raises(ConfigError, match="answer_pattern"):
        AnswerPattern(pattern)
