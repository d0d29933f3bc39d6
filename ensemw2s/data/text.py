"""Normalised text, by which questions are compared."""

from __future__ import annotations

import re
import unicodedata

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
