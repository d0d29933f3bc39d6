"""Parse numbers in written text, in the styles and scripts of many languages."""

from __future__ import annotations

import unicodedata
from decimal import Decimal
from fractions import Fraction

import regex

_MINUS = "−﹣－➖˗⁻"  # never a hyphen
_ASCII = str.maketrans(
    {**dict.fromkeys(_MINUS + "–‒‐‑", "-"), **dict.fromkeys("＋﹢⁺", "+"), **dict.fromkeys("．٫﹒⎖", ".")}
    | {"٬": ",", "’": "'", "ʼ": "'", "＇": "'", "／": "/", "∕": "/"}
)
_WITHOUT_SHAPE = regex.compile(r"[\p{Cf}\ufe00-\ufe0f]")
_OTHER_DIGIT = regex.compile(r"(?![0-9])\p{Nd}")
_FRACTION = regex.compile(
    r"[¼-¾⅐-⅟↉] | [⁰¹²³⁴-⁹]+⁄[₀-₉]+ | \\(?:nice|[cdst])?frac\s*+(?:\{\s*+(?<top>-?[0-9]+)\s*+\}|(?<top>[0-9]))"
    r"\s*+(?:\{\s*+(?<below>-?[0-9]+)\s*+\}|(?<below>[0-9]))",
    regex.VERBOSE,
)
_WIDE = "，﹐､︐"
_COMMA = regex.compile(  # of East Asia: between wide digits, or where it groups three; elsewhere it is punctuation
    rf"(?<=\p{{Nd}})[،‚](?=\p{{Nd}}) | (?<=[０-９])[{_WIDE}](?=[０-９])"
    rf"| (?<=(?<!\p{{Nd}}|\p{{Nd}}[{_WIDE}])[1-9]\p{{Nd}}{{0,2}}(?:[{_WIDE}]\p{{Nd}}{{3}}){{0,4}})[{_WIDE}]"
    rf"(?=\p{{Nd}}{{3}}(?:[{_WIDE}]\p{{Nd}}{{3}}){{0,4}}(?!\p{{Nd}}|[{_WIDE}]\p{{Nd}}))",
    regex.VERBOSE,
)
#: Accents, primes and quotes for the apostrophe that groups digits; NFKC makes an accent a blank and a combining mark.
_APOSTROPHE = regex.compile(r"(?<=\p{Nd})(?:[[\p{Sk}‘‛′‵ʹʻʽˈˊˋ՚׳ꞌ＿]--[\^＾]]|\ ?\p{Mn}{1,3})(?=\p{Nd})", regex.V1)
_AFTER_WORD = regex.compile(rf"(?<=\p{{LC}}\p{{M}}{{0,2}}\p{{LC}}\p{{M}}{{0,2}})[{_MINUS}](?=[.\p{{Sc}}]?\p{{Nd}})")
_SPACED_SIGN = regex.compile(r"(?<=[=≈≤≥<>]\ ?)([-+])\ (?=\\?[.\p{Sc}]?[0-9])")
#: Before a number, what leaves open which it is: a dot that is a decimal point or a product, a dash or minus sign.
_OPEN = regex.compile(r"[0-9][·‧∙⋅・]\Z | (?:\A|[^\p{LC}0-9)\]}%）—―─━﹘\"'])[—―─━﹘]\Z", regex.VERBOSE)

# What may stand between the digits of one number, also as LaTeX writes it; the first group is what it amounts to.
_SEPARATOR = regex.compile(
    r"(?P<tex>\{,\}) | (?P<comma>,\\!|,) | (?P<blank>\{\\,\}|\\[,;:!\ ]|~|\p{Zs})"
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
    (?: (?P<exponent> [eE][-+]?[0-9]{{1,3}}(?![0-9]) )
      | \ ?[/⁄]\ ?(?P<below> [1-9][0-9]{{0,2}}(?:,[0-9]{{3}})+ | [0-9]{{1,1000}} )
        (?![0-9] | \.[0-9] | \ ?[/⁄]\ ?[0-9]) )?
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

_JOINED = regex.compile(r"[0-9][^\w\s]\Z")
_NONE = object()
_TAIL = 20_000  # characters: a long text is read from its end, as far as that holds a number

# The last digits and what stands before them.
_OVER = regex.compile(r"(?P<whole>.*)(?P<by>[ ,t'_])(?P<above>[0-9]{1,1000})")


def parse_number(text: str) -> Decimal | Fraction | None:
    r"""The last number in a text, exactly; None where there is none.

    Digits of every script, signs, exponents and a currency mark before the digits are understood. Thousands may be
    grouped by commas (``1,234``; Indian ``12,34,567``), a blank of any width, an apostrophe (or an accent or prime for
    it), an underscore, LaTeX's ``{,}`` and ``\,``, or, where that is the only reading, by points (``1.234,5``,
    ``1.234.567``). One comma that does not group three digits is a decimal comma (``3,5``); ``1.234`` has a decimal
    point and ``1,234`` a thousands comma.
    Fractions of whole numbers are one number (``1/2``, ``½``, ``\frac{1}{2}``), also with a whole number before them
    (``2 1/2``, ``2½``); ``2-1/2`` can be 2½ or 1½ and is none. Digits that are joined otherwise are separate numbers
    (``1,2,3``, ``1/2/2024``). Digits behind a Latin letter (``x2``, ``v1.2``) and chains of points (``12.05.2024``) are
    none. Where digits are joined so that it is open which number they are (``5:00``, ``3·5``), there is none. A hyphen
    behind a word is no sign, a minus sign (``is−5``) is. Nothing is computed: ``3-2`` is 2, ``50 %`` is 50.
    """
    tail = text[-_TAIL:]
    found = _last_number(_plain(tail), 0 if tail == text else _TAIL // 2)
    if found is _NONE and tail != text:
        found = _last_number(_plain(text), 0)
    return found if isinstance(found, Decimal | Fraction) else None


def _last_number(plain: str, first: int) -> object:
    """The last number that begins at ``first`` or later; None where that is open, ``_NONE`` where there is none."""
    matches = [match for match in _FOUND.finditer(plain) if match["digits"] is not None]
    for before, match in zip([*matches[-2::-1], None], reversed(matches), strict=False):
        if match.start() < first:
            return _NONE
        value = _number(plain, match, before)
        if value is not _NONE:
            return value
    return _NONE


def _number(plain: str, match: regex.Match[str], before: regex.Match[str] | None) -> object:
    start, joined = match.start(), _SEPARATOR.sub(_plain_separator, match["digits"])
    if _OPEN.search(plain[max(0, start - 2) : start]):
        return None
    if match["below"] is not None:
        below = int(match["below"].replace(",", ""))
        behind_slash = plain[start - 1 : start] in ("/", "⁄")
        fraction = None if behind_slash or not below else _fraction(joined, below, match["sign"] == "-")
        if fraction is None:
            return Decimal(below)
        behind_dash = before is not None and start == before.end() + 1 and plain[start - 1] == "-"
        return None if before is not None and behind_dash and _is_whole(before) else fraction
    piece = _last_piece(joined)
    if piece is None:
        return _NONE
    if (
        piece[:1] == "0"
        and piece[1:2].isdigit()
        and (piece != joined or _JOINED.search(plain[max(0, start - 2) : start]))
    ):
        return None  # part of another number, of a time or of a date
    return _decimal((match["sign"] if piece == joined else None) or "", piece, match["exponent"] or "")


def _is_whole(match: regex.Match[str]) -> bool:
    piece = None if match["below"] is not None else _last_piece(_SEPARATOR.sub(_plain_separator, match["digits"]))
    return piece is not None and _whole(piece) is not None


def _plain(text: str) -> str:
    """Digits, signs, points and apostrophes as ASCII has them, fractions as ``1⁄2``; nothing without a shape."""
    if not text.isascii():
        text = _AFTER_WORD.sub(" -", _COMMA.sub(",", _WITHOUT_SHAPE.sub("", text)))
        text = _APOSTROPHE.sub("'", text).translate(_ASCII)
        text = str(_OTHER_DIGIT.sub(lambda digit: str(unicodedata.decimal(digit[0], digit[0])), text))
    elif "`" in text:
        text = _APOSTROPHE.sub("'", text)
    text = _SPACED_SIGN.sub(r"\1", text)
    return text if text.isascii() and "frac" not in text else str(_FRACTION.sub(_written_fraction, text))


def _written_fraction(match: regex.Match[str]) -> str:
    """``1⁄2``, apart from a whole number or letter before it and from digits behind it."""
    before, behind = match.string[match.start() - 1 : match.start()], match.string[match.end() : match.end() + 1]
    if match["top"] is None:
        text = unicodedata.normalize("NFKC", match[0])
    else:
        negative = match["top"].startswith("-") != match["below"].startswith("-")
        text = f"{'-' * negative}{match['top'].lstrip('-')}⁄{match['below'].lstrip('-')}"
    return (" " if before.isalnum() else "") + text + (" " if behind.isdecimal() and text[-1] != "⁄" else "")


def _fraction(joined: str, below: int, negative: bool) -> Fraction | None:
    """Joined digits over a whole number: a whole number and a fraction, or a fraction of all or the last of them.

    None where they are a decimal number, such as ``1.5``, which is no part of a fraction.
    """
    sign, found = -1 if negative else 1, _OVER.fullmatch(joined)
    if found and found["by"] == " " and found["above"][0] != "0" and int(found["above"]) < below:
        piece = _last_piece(found["whole"])
        whole = None if piece is None else _whole(piece)
        if whole is not None:
            return (whole + Fraction(int(found["above"]), below)) * (sign if piece == found["whole"] else 1)
    if _ONE.fullmatch(joined):
        above = _whole(joined)
        return None if above is None else Fraction(sign * above, below)
    return None if found is None else Fraction(int(found["above"]), below)


def _whole(piece: str) -> int | None:
    """One number as an integer; None where it has decimals, or too many digits for a part of a fraction."""
    found = _ONE.fullmatch(piece)
    digits = "".join(c for c in found["whole"] if c.isdigit())
    return int(digits) if found["part"] is None and 0 < len(digits) <= 1000 else None


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
