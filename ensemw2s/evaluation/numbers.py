"""Numbers in written text, as people and models of many languages write them."""

from __future__ import annotations

import unicodedata
from decimal import Decimal

import regex

_ASCII = str.maketrans(
    {"−": "-", "–": "-", "‐": "-", "‑": "-", "﹣": "-", "－": "-", "＋": "+", "﹢": "+"}
    | {"．": ".", "٫": ".", "٬": ",", "’": "'", "ʼ": "'", "＇": "'"}
)
_WITHOUT_SHAPE = regex.compile(r"\p{Cf}")
_OTHER_DIGIT = regex.compile(r"(?![0-9])\p{Nd}")
_WIDE_COMMA = regex.compile(r"(?<=[０-９])，(?=[０-９])")  # elsewhere it is punctuation

# What may stand between the digits of one number, also as LaTeX writes it; the first group is what it amounts to.
_SEPARATOR = regex.compile(
    r"(?P<tex>\{,\}) | (?P<comma>,\\!|,) | (?P<blank>\{\\,\}|\\[,;:!\ ]|~|[\ \u00a0\u2000-\u200a\u202f\u205f\u3000])"
    r"| (?P<mark>['_]) | (?P<point>\.)",
    regex.VERBOSE,
)
_PLAIN_SEPARATOR = {"tex": "t", "comma": ",", "blank": " ", "mark": "", "point": "."}

_FOUND = regex.compile(
    rf"""
    \\(?!d?t?frac)[A-Za-z]++                                 # a LaTeX command ends before digits (3\times5),
  | \p{{Latin}}\p{{M}}*+(?:_\{{?)?[0-9]++(?:\.[0-9]++)*+     # digits of a name are none (x2, x_{{12}}, v1.2.3),
  | (?: (?<![0-9\p{{LC}})\]}}%）] | [0-9]\p{{Sc}}) (?P<sign>[-+]) )?  # and a sign after a word or number is a dash
    (?:\\?\p{{Sc}})?
    (?P<digits> (?:(?<![0-9.\p{{LC}}])\.)?+ [0-9]++ (?:(?:{_SEPARATOR.pattern}) [0-9]++)*+ )
    (?P<exponent> [eE][-+]?[0-9]{{1,3}}(?![0-9]) )?
    """,
    regex.VERBOSE,
)
# One number, its separators made plain: `t` is LaTeX's {,}, which groups three digits or is a decimal comma.
_ONE = regex.compile(
    r"""
    (?P<whole> [0-9]*+ ) \.(?P<part> [0-9]++ )
  | (?P<whole> [0-9]++ )
  | (?P<whole> [1-9][0-9]{0,2} (?:,[0-9]{3})++ | [1-9][0-9]? (?:,[0-9]{2}(?=,))++ ,[0-9]{3} ) (?:\.(?P<part> [0-9]++ ))?
  | (?P<whole> [1-9][0-9]{0,2} (?P<by>['_t\ ])[0-9]{3} (?:(?P=by)[0-9]{3})*+ ) (?:[.,](?P<part> [0-9]++ ))?
  | (?P<whole> [1-9][0-9]{0,2} (?:\.[0-9]{3})++ ) ,(?P<part> [0-9]++ )
  | (?P<whole> [1-9][0-9]{0,2} (?:\.[0-9]{3}){2,}+ )
  | (?P<whole> [0-9]++ ) [,t](?P<part> [0-9]++ )
    """,
    regex.VERBOSE,
)


def parse_number(text: str) -> Decimal | None:
    r"""The last number in a text, exactly; None where there is none.

    Digits of every script, signs, exponents and a currency mark before the digits are understood. Thousands may be
    grouped by commas (``1,234``; Indian ``12,34,567``), a blank of any width, an apostrophe, an underscore, LaTeX's
    ``{,}`` and ``\,``, or, where that is the only reading, by points (``1.234,5``, ``1.234.567``). One comma that does
    not group three digits is a decimal comma (``3,5``); ``1.234`` has a decimal point and ``1,234`` a thousands comma.
    Digits that are joined otherwise are separate numbers (``1,2,3``). Digits behind a Latin letter (``x2``, ``v1.2``)
    and chains of points (``12.05.2024``) are none. Nothing is computed: ``1/2`` is 2, ``50 %`` is 50.
    """
    last = None
    for match in _FOUND.finditer(_plain(text)):
        if match["digits"] is None:
            continue
        joined = _SEPARATOR.sub(_plain_separator, match["digits"])
        piece = _last_piece(joined)
        if piece is not None:
            sign = match["sign"] if piece == joined else None
            last = _decimal(sign or "", piece, match["exponent"] or "")
    return last


def _plain(text: str) -> str:
    """Digits, signs, points and apostrophes as ASCII has them; characters without a shape are left out."""
    if text.isascii():
        return text
    text = _WIDE_COMMA.sub(",", _WITHOUT_SHAPE.sub("", text)).translate(_ASCII)
    return str(_OTHER_DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0], digit[0])), text))


def _plain_separator(match: regex.Match[str]) -> str:
    return _PLAIN_SEPARATOR[match.lastgroup or ""] or match[0]


def _last_piece(joined: str) -> str | None:
    """Joined digits if they are one number, else the last number among them."""
    if _ONE.fullmatch(joined):
        return joined
    for separator in (" ", ",", "t", "'", "_"):
        if separator in joined:
            pieces = (_last_piece(piece) for piece in reversed(joined.split(separator)))
            return next((piece for piece in pieces if piece is not None), None)
    return None


def _decimal(sign: str, piece: str, exponent: str) -> Decimal:
    found = _ONE.fullmatch(piece)
    whole = "".join(c for c in found["whole"] if c.isdigit())
    return Decimal(f"{sign}{whole}.{found['part'] or ''}{exponent}")
