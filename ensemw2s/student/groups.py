"""Groups of questions, within which labels are selected and by which coverage is told."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ensemw2s.data.example import Example
from ensemw2s.seeds import sub_seed

Ints = NDArray[np.int64]

_ROUNDS = 50


@dataclass(frozen=True)
class Groups:
    """A partition of questions.

    Attributes:
        of: int64 [n], the group of every question.
        names: of each group, by number; of a cluster the prompt that is nearest to its middle.
        kind: ``group`` for an annotation, ``prompts`` for clusters.
    """

    of: Ints
    names: list[str]
    kind: str

    def __len__(self) -> int:
        return len(self.names)


def annotated(examples: Sequence[Example]) -> Groups:
    """Questions by their annotation; those without one are a group of their own, with an empty name."""
    names, of = np.unique([example.group for example in examples], return_inverse=True)
    return Groups(of.astype(np.int64), names.tolist(), "group")


def clusters(examples: Sequence[Example], seed: int) -> Groups:
    """Questions by what their prompts look like. No answer is read.

    A prompt is a vector of character trigrams, regardless of letter case, white space and which digits its numbers
    have, weighted by ``(1 + log count)·log(n/df)`` and of length 1. Spherical k-means (Dhillon and Modha 2001), begun
    as k-means++ begins, sorts them into ``√(n/2)`` clusters at most. Sums run in one order, whatever the number of
    threads.
    """
    vectors = _vectors([example.prompt for example in examples])
    of, nearness = _k_means(vectors, max(1, round(math.sqrt(len(examples) / 2))), seed)
    used, of = np.unique(of, return_inverse=True)
    members = [np.flatnonzero(of == k) for k in range(used.size)]
    names = [examples[int(rows[np.argmax(nearness[rows])])].prompt for rows in members]
    return Groups(of.astype(np.int64), names, "prompts")


def _vectors(texts: Sequence[str]) -> Any:
    """TF-IDF vectors [n, trigrams] of length 1, sparse; 0 for a text that has only what all have."""
    from scipy import sparse

    known: dict[str, int] = {}
    columns: list[int] = []
    values: list[float] = []
    starts = [0]
    for text in texts:
        plain = f" {re.sub(r'[0-9]+', '0', ' '.join(text.casefold().split()))} "
        for trigram, count in Counter(map("".join, zip(plain, plain[1:], plain[2:], strict=False))).items():
            columns.append(known.setdefault(trigram, len(known)))
            values.append(1.0 + math.log(count))
        starts.append(len(columns))
    in_texts = np.bincount(columns, minlength=len(known))
    weighted = np.array(values) * np.log(len(texts) / in_texts[columns])
    text_of = np.repeat(np.arange(len(texts)), np.diff(starts))
    norms = np.sqrt(np.bincount(text_of, weighted**2, minlength=len(texts)))
    weighted /= np.where(norms > 0.0, norms, 1.0)[text_of]
    return sparse.csr_array((weighted, columns, starts), shape=(len(texts), max(len(known), 1)))


def _k_means(vectors: Any, count: int, seed: int) -> tuple[Ints, NDArray[np.float64]]:
    """Cluster of every vector, int64 [n], and its cosine to the cluster's middle, float64 [n]."""
    from scipy import sparse

    n = vectors.shape[0]
    random = np.random.default_rng(sub_seed(seed, "clusters"))
    first = [int(random.integers(n))]
    apart = 1.0 - _cosines(vectors, vectors[first])[:, 0]
    while len(first) < count and (below := np.cumsum(apart.clip(0.0)))[-1] > 1e-9:
        first.append(min(int(np.searchsorted(below, random.random() * below[-1], side="right")), n - 1))
        apart = np.minimum(apart, 1.0 - _cosines(vectors, vectors[first[-1:]])[:, 0])
    cosines = _cosines(vectors, vectors[first])
    of = cosines.argmax(axis=1)
    for _ in range(_ROUNDS):
        members = sparse.csr_array((np.ones(n), (of, np.arange(n))), shape=(len(first), n))
        cosines = _cosines(vectors, members @ vectors)
        before, of = of, cosines.argmax(axis=1)
        if np.array_equal(before, of):
            break
    return of.astype(np.int64), cosines[np.arange(n), of]


def _cosines(vectors: Any, middles: Any) -> NDArray[np.float64]:
    """Cosine of every vector of length 1 [n] to every middle [k], float64 [n, k]; 0 to one of length 0."""
    dense = middles.toarray()
    norms = np.sqrt((dense**2).sum(axis=1, keepdims=True))
    return np.asarray(vectors @ (dense / np.where(norms > 0.0, norms, 1.0)).T)
