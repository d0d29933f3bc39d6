"""Label noise: a share of the training answers is replaced by false ones, to study what learns from mistakes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from ensemw2s.data.example import Example
from ensemw2s.errors import DataError
from ensemw2s.seeds import sub_seed


def with_label_noise(examples: Sequence[Example], share: float, seed: int) -> list[Example]:
    """The examples with ``round(share·n)`` answers replaced, in the same order.

    An example with options gets one of the others, each as likely; one without gets the answer of another example,
    each as likely that is not the same text. Which ones are replaced, and by what, is fixed by ``seed``; those of a
    smaller share are among those of a larger one, with the same false answers.

    Args:
        examples: with true answers.
        share: of the answers, in [0, 1].
        seed: of the data.

    Raises:
        DataError: an answer has nothing to be replaced by.
    """
    rng = np.random.default_rng(sub_seed(seed, "data", "label_noise"))
    order, places = rng.permutation(len(examples)), rng.random(len(examples))
    answers = sorted(str(example.answer) for example in examples)
    out = list(examples)
    for at in order[: round(share * len(examples))]:
        out[at] = replace(examples[at], answer=_false_answer(examples[at], answers, float(places[at])))
    return out


def _false_answer(example: Example, answers: Sequence[str], place: float) -> str:
    """Another answer than the true one: at ``place`` in [0, 1) of the options, or of all ``answers``, sorted."""
    true = str(example.answer)
    candidates = answers if example.choices is None else sorted(example.choices)
    begin, end = bisect_left(candidates, true), bisect_right(candidates, true)
    count = len(candidates) - (end - begin)
    if count == 0:
        raise DataError(
            f"data.label_noise: nothing but the true answer is there to replace that of example {example.id!r}.",
            hint="Set data.label_noise: 0, or use training questions with different answers.",
        )
    index = int(place * count)
    return candidates[index if index < begin else index + end - begin]
