"""Sampling error of differences over seeds: what other test questions would have changed.

A difference of seed ``s`` on its ``n_s`` test questions is ``d_s = Σ_i c_si`` plus a constant, with the contribution
``c_si = (x_si − mean_s x)/n_s`` of question ``i``, and questions are drawn independently. So ``Var(d_s)`` is
estimated by ``Σ_i c_si²`` (times ``n/(n−1)``) and ``Cov(d_s, d_t)`` by ``Σ_i c_si·c_ti`` over the questions that both
seeds have: the variance clustered by question (Liang and Zeger 1986; Miller 2024, arXiv 2411.00640). With
``data.seed`` unset every seed draws its own test questions and the covariance is what chance overlap makes of it; with
a fixed ``data.seed`` all seeds have the same ones. Questions are known by their ids; different ones with the same id
(made-up data of several seeds) add noise to the covariance and nothing on average.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ensemw2s.errors import DataError

_AGAIN = "Repeat the run's command to write correct.parquet again."

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Answers:
    """Correctness of the arms of one run on the test questions.

    Attributes:
        correct: arm → split → bool ``[n]``.
        ids: split → the questions' ids, in the same order.
    """

    correct: Mapping[str, Mapping[str, npt.ArrayLike]]
    ids: Mapping[str, Sequence[str]]


@dataclass(frozen=True)
class Sampling:
    """Sampling error of ``k`` differences of accuracies over seeds.

    Attributes:
        within: float64 ``[k, k]``, mean over seeds of the covariance of the seed's differences; on its diagonal the
            mean of the squared standard errors.
        shared: float64 ``[k, k]``, mean over pairs of seeds of the covariance between their differences.
    """

    within: Floats
    shared: Floats
    questions: int

    def of(self, place: int) -> Sampling:
        """That of one of the differences alone."""
        part = slice(place, place + 1)
        return Sampling(self.within[part, part], self.shared[part, part], self.questions)

    @classmethod
    def same_questions(cls, within: npt.ArrayLike, questions: int) -> Sampling:
        """The careful assumption: all seeds have the same questions and err on the same ones."""
        covariance = np.atleast_2d(np.asarray(within, dtype=np.float64))
        return cls(covariance, covariance, questions)


#: Accuracy of an arm of one run minus that of an arm of the same or another run.
Term = tuple[tuple[Answers, str], tuple[Answers, str]]


def sampling_error(split: str, *differences: Sequence[Term]) -> Sampling:
    """The sampling error of differences over seeds: for each difference one term a seed, all in the order of the seeds.

    Raises:
        DataError: an arm has no answers, or another number than its split has questions.
    """
    return _covariances(split, [[[term] for term in difference] for difference in differences])


def sampling_error_of_mean(split: str, differences: Sequence[Sequence[Term]]) -> Sampling:
    """That of the mean of several differences, seed by seed, as :func:`sampling_error`; questions may be shared."""
    return _covariances(split, [list(zip(*differences, strict=True))])


def _covariances(split: str, differences: Sequence[Sequence[Sequence[Term]]]) -> Sampling:
    """Differences × seeds × terms, of which the mean is taken."""
    index: dict[str, int] = {}
    rows: list[list[tuple[npt.NDArray[np.intp], Floats]]] = []
    for difference in differences:
        for terms in difference:
            share = 1.0 / len(terms)
            signed = [(side, sign) for term in terms for side, sign in zip(term, (share, -share), strict=True)]
            rows.append([_contributions(*side, split, sign, index) for side, sign in signed])
    shape = (len(differences), len(differences[0]), len(index))
    parts = np.zeros((shape[0] * shape[1], shape[2]))
    for row, sides in zip(parts, rows, strict=True):
        for places, values in sides:
            row[places] += values
    parts = parts.reshape(shape)
    covariance = np.einsum("ksq,ltq->klst", parts, parts)
    seeds = shape[1]
    own = np.einsum("klss->kl", covariance)
    others = covariance.sum(axis=(2, 3)) - own
    shared = others / (seeds * (seeds - 1)) if seeds > 1 else np.zeros_like(own)
    return Sampling(own / seeds, shared, len(index))


def _contributions(
    answers: Answers, arm: str, split: str, sign: float, index: dict[str, int]
) -> tuple[npt.NDArray[np.intp], Floats]:
    """Places of the questions among all, and what each adds to the accuracy beside its mean."""
    try:
        right, ids = np.asarray(answers.correct[arm][split], dtype=np.float64), answers.ids[split]
    except KeyError:
        raise DataError(f"There are no answers of {arm} on {split}.", hint=_AGAIN) from None
    if right.size != len(ids):
        raise DataError(f"{arm} on {split} has {right.size} answers, its split {len(ids)} questions.", hint=_AGAIN)
    places = np.array([index.setdefault(name, len(index)) for name in ids], dtype=np.intp)
    n = right.size
    return places, sign * (right - right.mean()) / (n * np.sqrt((n - 1) / n) if n > 1 else 1.0)
