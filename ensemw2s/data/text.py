"""When two texts count as the same, and which known name was meant by an unknown one."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections.abc import Iterable

from ensemw2s.errors import shortened

#: Characters of a name that are compared; comparing takes time that grows with the square of them.
_COMPARED = 200
_RAISED = re.compile("[⁰¹²³⁴-⁹⁺⁻ⁿⁱ]+")


def normalise_text(text: str) -> str:
    """``text`` without what does not change its content: case, white space, Unicode compatibility forms (NFKC).

    Raised digits are powers: ``10²`` is ``10^2``, not ``102``. Characters without a shape (category Cf: zero-width
    spaces, soft hyphens) are left out. Folding the case can undo NFKC, so both are applied twice, as Unicode's
    compatibility caseless matching (D146) does.
    """
    if text.isascii():
        return " ".join(text.lower().split())
    folded = unicodedata.normalize("NFKC", _RAISED.sub(r"^\g<0>", text))
    folded = "".join(c for c in folded if unicodedata.category(c) != "Cf")
    folded = unicodedata.normalize("NFKC", folded.casefold()).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like ``name``, whatever the case; None where none is alike. Long ones are cut."""
    by_fold: dict[str, str] = {}
    for candidate in known:
        by_fold.setdefault(candidate[:_COMPARED].casefold(), candidate)
    found = difflib.get_close_matches(name[:_COMPARED].casefold(), list(by_fold), n=1, cutoff=0.5)
    return by_fold[found[0]] if found else None


def did_you_mean(name: str, known: Iterable[str], what: str) -> str:
    """`` (did you mean 'x'?)``, or the list of known names where nothing is alike; starts with a space."""
    names = [str(k) for k in known]
    match = nearest(name, names)
    if match is not None:
        return f" (did you mean {shortened(match)!r}?)"
    if not names:
        return ""
    shown = ", ".join(repr(shortened(n, 40)) for n in names[:12]) + (", …" if len(names) > 12 else "")
    return f" ({what}: {shown})"
