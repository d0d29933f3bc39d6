"""Numbers as they are written in many styles and scripts."""

from __future__ import annotations

import time
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ensemw2s.evaluation.matching import answers_match
from ensemw2s.evaluation.numbers import parse_number


@pytest.mark.parametrize(
    ("text", "number"),
    [
        # beside letters of scripts that put no blank there
        ("答案是72", "72"),
        ("答えは72です", "72"),
        ("一共有72个苹果", "72"),
        ("답은27입니다", "27"),
        ("คือ27บาท", "27"),
        ("उत्तर है27", "27"),
        ("الجواب27", "27"),
        ("равно27", "27"),
        ("答案是-5", "-5"),
        ("答案是.5", "0.5"),
        # digits of other scripts
        ("１０００", "1000"),
        ("１，０００．５", "1000.5"),
        ("٢٧", "27"),
        ("١٬٠٠٠٫٥", "1000.5"),
        ("२७ रुपये", "27"),
        # thousands
        ("1 000", "1000"),
        ("12 345 678", "12345678"),
        ("1\u00a0000", "1000"),
        ("1\u202f000,50", "1000.5"),
        ("1\u2009000.5", "1000.5"),
        ("1'000", "1000"),
        ("1’000.50", "1000.5"),
        ("1_000_000", "1000000"),
        ("12,34,567", "1234567"),
        ("1.000,5", "1000.5"),
        *((f"5{mark}000", "5000") for mark in "´`′‘‛ʹˊˋ¸˙＿"),
        *((f"so 12{mark}345{mark}678.5", "12345678.5") for mark in "´`′،‚"),
        ("5 \u0301000", "5000"),
        ("5\u0301000", "5000"),
        ("1،000", "1000"),
        ("٣،٥", "3.5"),
        ("١،٠٠٠", "1000"),
        ("1，000", "1000"),
        ("共1，234，567个", "1234567"),
        ("3，5", "5"),
        ("1，2，300", "300"),
        ("2^100", "100"),
        ("1.234.567", "1234567"),
        # LaTeX
        (r"\boxed{9{,}500}", "9500"),
        (r"$9\,500$", "9500"),
        (r"9,\!500", "9500"),
        ("3{,}14", "3.14"),
        (r"3\times5", "5"),
        (r"\$5", "5"),
        # decimals
        ("3,5", "3.5"),
        ("0,500", "0.5"),
        ("1,234", "1234"),
        ("1.234", "1.234"),
        ("x=.5", "0.5"),
        ("it is 5.", "5"),
        ("so...72", "72"),
        ("Rs.72", "72"),
        ("1.5e-3", "0.0015"),
        ("1.5e−3", "0.0015"),
        # marks
        ("_72_", "72"),
        ("**72**", "72"),
        ("-€5", "-5"),
        ("₹1,00,000", "100000"),
        ("−1 000", "-1000"),
        ("\u200e-5", "-5"),
        ("5%-10%", "10"),
        *((f"is{minus}5", "-5") for minus in "−﹣－➖˗⁻"),
        ("равно−5,5", "-5.5"),
        ("e\u0301e\u0301−.5", "-0.5"),
        ("is−€5", "-5"),
        ("为-5", "-5"),
        (": −5", "-5"),
        ("= ‒5", "-5"),
        ("x = - 5", "-5"),
        ("x=− 1,000", "-1000"),
        ("3−2", "2"),
        ("x−5", "5"),
        ("GPT-4", "4"),
        ("well—5", "5"),
        ("那——5", "5"),
        # several numbers that are joined are not one
        ("1,2,3", "3"),
        ("1,20,300", "120300"),
        ("1,2,300", "300"),
        ("100 200 30", "30"),
        ("2024 100", "100"),
        ("3.5,4.5", "4.5"),
        ("-1,2,3", "3"),
        # names and chains are none, and what stands before them counts
        ("5 of x2", "5"),
        ("5 as x_{12}", "5"),
        ("4 since v1.2.3", "4"),
        ("7 on 12.05.2024", "7"),
        ("27kg", "27"),
        ("the 5th", "5"),
    ],
)
def test_what_people_write(text: str, number: str) -> None:
    assert parse_number(text) == Decimal(number)


@pytest.mark.parametrize("text", ["x2", "ＩＤ２", "é2", "x_2", "v1.2.3", "10.0.0.1", "①", "二十", "٪", "{,}", "-,"])
def test_what_is_no_number(text: str) -> None:
    assert parse_number(text) is None


@pytest.mark.parametrize(
    "text", ["5:00", "5´00", "1、000", "5|000", "5;050.5", "1'05", "2024-05-03", "100 000 00", "3·5", "1⋅000", "= —5"]
)
def test_digits_that_can_be_several_numbers_are_none(text: str) -> None:
    assert parse_number(text) is None
    assert parse_number(f"4 or {text}") is None


@pytest.mark.parametrize(
    ("text", "above", "below"),
    [
        ("½", 1, 2), ("1½", 3, 2), ("1 ½", 3, 2), ("x = -1½", -3, 2), ("−⅔ m", -2, 3), ("٢½", 5, 2), ("是½", 1, 2),
        ("⅟8", 1, 8), ("↉", 0, 1), ("¹⁄₂", 1, 2), ("1¹⁄₂", 3, 2), ("1 000½", 2001, 2), ("½-¾", 3, 4),
        ("1/2", 1, 2), ("3 / 2", 3, 2), ("2 1/2 cups", 5, 2), ("-2 1/2", -5, 2), ("2\u20091⁄2", 5, 2), ("$2 1/2", 5, 2),
        ("1,000 1/2", 2001, 2), ("100 200 30 1/2", 61, 2), ("2 3/2", 3, 2), ("1 500/2", 750, 1), ("1,000/3", 1000, 3),
        ("1/1,000", 1, 1000), ("1,2,3/4", 3, 4), ("1,5/2", 2, 1), ("３／４", 3, 4), ("٣/٤", 3, 4), ("1/2,3", 3, 1),
        (r"\frac{1}{2}", 1, 2), (r"\frac12", 1, 2), (r"\boxed{1\frac{1}{2}}", 3, 2), (r"-\dfrac{10}{3}", -10, 3),
        (r"\tfrac{-1}{2}", -1, 2), (r"\frac{1}{-2}", -1, 2), (r"\frac{-1}{-2}", 1, 2),
        (r"\nicefrac{1}{2}", 1, 2), (r"2\,1/2", 5, 2), ("9" * 500 + "/3", int("3" * 500), 1),
        # of several numbers the last, where they are no fraction
        ("12/05/2024", 2024, 1), ("-1/2/3", 3, 1), ("1.5/2", 2, 1), ("1/0", 0, 1), ("½ of 20", 20, 1),
        ("5 - 1/2", 1, 2), ("1 005/3000", 1005, 3000), ("x½", 1, 2),
    ],
)  # fmt: skip
def test_fractions_are_read_whole(text: str, above: int, below: int) -> None:
    found = parse_number(text)
    assert found == Fraction(above, below)
    assert hash(found) == hash(Fraction(above, below))


def test_fractions_are_compared_with_decimals() -> None:
    assert answers_match("It is 1½.", "1.5", "number")
    assert answers_match("0.5", "1/2", "number")
    assert not answers_match("1", "1½", "number")
    assert not answers_match("3/2", "1/2", "number")
    assert not answers_match("0.333", "⅓", "number")


@pytest.mark.parametrize("text", ["2-1/2", "2–½", "10-3/4 inches"])
def test_a_dash_before_a_fraction_has_two_readings(text: str) -> None:
    assert parse_number(text) is None


def _grouped(digits: str, by: str) -> str:
    head = len(digits) % 3 or 3
    return by.join([digits[:head], *(digits[at : at + 3] for at in range(head, len(digits), 3))])


_STYLES = [
    (",", "."), (" ", "."), (" ", ","), ("\u00a0", ","), ("\u202f", ","), ("\u2009", "."), ("'", "."), ("’", ","),
    ("_", "."), ("{,}", "."), ("{,}", ","), (r"\,", "."), (r"\,", ","), (r"\ ", "."), (r",\!", "."),
    ("", "."), ("", ","), (".", ","),
]  # fmt: skip
_FRAMES = [
    "{}",
    "答案是{}。",
    "so {}.",
    "= {} dollars",
    "({})",
    r"\boxed{{{}}}",
    "**{}**",
    "_{}_",
    "है{}",
    "€{}",
    "共{}个",
    "{}%",
]
_SCRIPTS = ["0123456789", "０１２３４５６７８９", "٠١٢٣٤٥٦٧٨٩", "०१२३४५६७८९", "๐๑๒๓๔๕๖๗๘๙"]


@given(
    st.integers(0, 10**13),
    st.text("0123456789", max_size=6),
    st.sampled_from(["", "-", "−", "+"]),
    st.sampled_from(_STYLES),
    st.sampled_from(_FRAMES),
    st.sampled_from(_SCRIPTS),
)
def test_every_style_reads_back(
    whole: int, part: str, sign: str, style: tuple[str, str], frame: str, script: str
) -> None:
    thousands, point = style
    if point == "," and len(part) == 3 and 1 <= whole < 1000:
        part += "0"  # 1,234 has a thousands comma
    if thousands == "." and not part:
        part = "0"  # 1.234 has a decimal point
    written = sign + _grouped(str(whole), thousands) + (point + part if part else "")
    true = Decimal(f"{whole}.{part}") * (-1 if sign in ("-", "−") else 1)
    written = written.translate(str.maketrans(_SCRIPTS[0], script))
    assert parse_number(frame.format(written)) == true
    assert answers_match(frame.format(written), f"{true:f}", "number")


@given(
    st.integers(0, 10**6),
    st.integers(1, 999),
    st.integers(1, 999),
    st.sampled_from(["", "-"]),
    st.sampled_from(_FRAMES),
)
def test_mixed_fractions_read_back(whole: int, above: int, more: int, sign: str, frame: str) -> None:
    below = above + more
    value = (-1 if sign else 1) * (whole + Fraction(above, below))
    for written in (f"{whole} {above}/{below}", rf"{whole}\frac{{{above}}}{{{below}}}"):
        assert parse_number(frame.format(sign + written)) == value


@given(st.text(st.sampled_from("0123456789.,' -+eExX{}\\_()%$€−٣３，答 \u00a0/⁄½⅟¹₂"), max_size=60))
def test_any_text_is_read_or_not(text: str) -> None:
    found = parse_number(text)
    assert found is None or isinstance(found, Fraction) or found.is_finite()


@pytest.mark.parametrize("piece", ["1/", "-1/2/3 ", "1 x ", "½", "is−5 ", "1，000，", "5´000´", "5 \u0301", "= - 1 "])
def test_long_texts_are_read_from_their_end(piece: str) -> None:
    begun = time.process_time()
    found = parse_number(piece * 200_000)
    assert time.process_time() - begun < 1.5
    assert found == parse_number(piece * 200) or piece[-1] in "，´\u0301"


@pytest.mark.parametrize("between", ["x" * 30_000, "x_1 " * 10_000, "," * 19_999, " " * 20_001])
def test_a_number_far_from_the_end_counts(between: str) -> None:
    assert parse_number(f"so -1,234.5 {between}") == Decimal("-1234.5")
    assert parse_number("9" * 30_000) == Decimal("9" * 30_000)


def test_long_texts_take_no_time() -> None:
    for piece in (
        "1,",
        "100 ",
        "1.",
        "123.",
        "x_",
        "12,34,",
        "1{,}",
        "-",
        "$",
        "\\a",
        "٣",
        "1/",
        "½",
        "1 1/2 ",
        "\\frac",
    ):
        parse_number(piece * 50_000)
