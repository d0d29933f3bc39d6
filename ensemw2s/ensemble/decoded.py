"""Answers decoded from experts that share their tokens: as text, and how sure of them an ensemble is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemw2s.ensemble.combine.option_scores import Floats, agreement
from ensemw2s.evaluation.matching import normalise_text
from ensemw2s.models.inference.decode import Generation, generate
from ensemw2s.models.loading.load import LoadedModel


@dataclass(frozen=True, slots=True)
class Answers:
    """Answers to n questions."""

    texts: list[str]
    """Without special tokens and surrounding white space; their own line breaks stay."""
    generations: list[Generation]
    """What was decoded, token by token."""

    @property
    def confidence(self) -> Floats:
        """:attr:`Generation.confidence` of each answer, float64 [n]."""
        return np.array([answer.confidence for answer in self.generations], dtype=np.float64)

    @property
    def margin(self) -> Floats:
        """:attr:`Generation.margin` of each answer, float64 [n]."""
        return np.array([answer.margin for answer in self.generations], dtype=np.float64)

    def agreement(self, own: Sequence[Iterable[str]], alphas: Sequence[float]) -> Floats:
        """The share of ᾱ whose own answers are the same but for white space, float64 [n].

        Args:
            own: each expert's answers.
            alphas: ``α_t``, not normalised.
        """
        texts = [np.array([normalise_text(text) for text in each]) for each in (*own, self.texts)]
        return agreement(texts[:-1], alphas, texts[-1])


def decode_answers(
    models: Sequence[LoadedModel], alphas: Sequence[float], prompts: Sequence[NDArray[np.integer]], **options: Any
) -> Answers:
    """Decode an answer to every prompt.

    Args:
        models: the experts, all in memory.
        alphas: ``α_t``, not normalised.
        prompts: their tokens.
        options: of :func:`ensemw2s.models.inference.decode.generate`; margins need ``keep_top_k``.
    """
    decode = models[0].tokenizer.decode
    found = generate(models, alphas, prompts, **options)
    return Answers([str(decode(own.token_ids.tolist(), skip_special_tokens=True)).strip() for own in found], found)
