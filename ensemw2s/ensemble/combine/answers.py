"""Written answers: as text, and how sure of them an ensemble is."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ensemw2s.evaluation.matching import normalise_text

if TYPE_CHECKING:
    from ensemw2s.models.inference.decode import Generation


def clean_text(tokenizer: Any, token_ids: Any) -> str:
    """An answer as text, without special tokens and surrounding white space; its own line breaks stay."""
    return str(tokenizer.decode([int(t) for t in token_ids], skip_special_tokens=True)).strip()


def normalised(texts: Iterable[str]) -> NDArray[np.str_]:
    """Texts as answers are compared by: white space normalised."""
    return np.array([normalise_text(text) for text in texts])


def confidence_of(answer: Generation) -> float:
    """Geometric mean probability of the answer's tokens, end-of-sequence left out; 0 for an empty answer."""
    logprobs = np.asarray(answer.logprobs, dtype=np.float64)[: len(answer.token_ids)]
    return float(np.exp(logprobs.mean())) if logprobs.size else 0.0


def margin_of(answer: Generation) -> float:
    """Mean log-probability of the answer's tokens less that of the best other token; 0 for an empty answer.

    Raises:
        ValueError: the answer was decoded without candidates.
    """
    if answer.rivals is None and len(answer.logprobs):
        raise ValueError("the margin needs an answer that was decoded with keep_top_k")
    m = len(answer.token_ids)
    if m == 0 or answer.rivals is None:
        return 0.0
    difference = np.asarray(answer.logprobs[:m], dtype=np.float64) - answer.rivals[:m]
    finite = difference[np.isfinite(difference)]  # a token that is certain has no rival
    return float(finite.mean()) if finite.size else 0.0
