"""How often each voter is right, and which option is, from unlabelled votes alone (Dawid and Skene 1979)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

#: Fewer voters that err independently do not identify how often each of them is right.
LEAST_VOTERS = 3


@dataclass(frozen=True)
class Votes:
    """What each voter thinks of each option of every question.

    Attributes:
        prob: float64 ``[T, S]``, a distribution over the options of each question; a hard vote is 0 and 1.
        offsets: int64 ``[n + 1]``, the options of each question.
        classes: int64 ``[S]``, the class of every option, each once in a question; None where options are a question's
            own.
    """

    prob: Floats
    offsets: Ints
    classes: Ints | None = None

    @cached_property
    def counts(self) -> Ints:
        """Options of the question of each option, int64 ``[S]``."""
        sizes = np.diff(self.offsets)
        return np.repeat(sizes, sizes)

    @cached_property
    def questions(self) -> int:
        """Questions with a choice: at least two options."""
        return int(np.count_nonzero(np.diff(self.offsets) > 1))

    @cached_property
    def chance(self) -> float:
        """How often guessing is right, over the questions with a choice."""
        sizes = np.diff(self.offsets)
        return float((1.0 / sizes[sizes > 1]).mean()) if self.questions else 0.5

    def totals(self, joint: Floats) -> Floats:
        """``log Σ_o exp(joint(o))`` of each question, float64 ``[n]``."""
        peak = np.maximum.reduceat(joint, self.offsets[:-1])
        lowered = np.exp(joint - np.repeat(peak, np.diff(self.offsets)))
        return np.asarray(peak + np.log(np.add.reduceat(lowered, self.offsets[:-1])))

    def by_class(self, values: Floats) -> Floats:
        """``[…, S]`` as ``[…, n, K]``, in the order of the classes."""
        n = len(self.offsets) - 1
        return np.asarray(values[..., self._order].reshape(*values.shape[:-1], n, -1))

    def by_option(self, values: Floats) -> Floats:
        """``[n, K]`` in the order of the classes as ``[S]``."""
        out = np.empty(values.size)
        out[self._order] = values.ravel()
        return out

    @cached_property
    def _order(self) -> Ints:
        if self.classes is None:
            raise ValueError("options are a question's own")
        question = np.repeat(np.arange(len(self.offsets) - 1), np.diff(self.offsets))
        return np.lexsort((self.classes, question))


@dataclass(frozen=True)
class Accuracies:
    """One number a voter, for options that are a question's own: right with ``a_t``, else any other option alike.

    Attributes:
        right: ``a_t``, float64 ``[T]``.
    """

    right: Floats

    @classmethod
    def most_likely(cls, votes: Votes, posterior: Floats) -> Accuracies:
        """``a_t = (Σ_i Σ_o q_i(o)·p_ti(o) + c)/(n + 1)``, of the questions with a choice; ``c`` is chance."""
        right = np.einsum("ts,s->t", votes.prob, np.where(votes.counts > 1, posterior, 0.0))
        return cls((right + votes.chance) / (votes.questions + 1.0))

    def joint(self, votes: Votes) -> Floats:
        """``log P(y = o, votes)``, float64 ``[S]``; 0 where there is no choice.

        With ``K_i`` options ``Σ_t p_ti(o)·log a_t + (1 − p_ti(o))·log((1 − a_t)/(K_i − 1)) − log K_i``.
        """
        right, wrong = np.log(self.right), np.log1p(-self.right)
        others = np.log(np.maximum(votes.counts - 1, 1))
        missed = len(self.right) - votes.prob.sum(axis=0)
        found = np.einsum("t,ts->s", right - wrong, votes.prob) + wrong.sum() - others * missed
        return np.where(votes.counts > 1, found - np.log(votes.counts), 0.0)

    def log_prior(self, votes: Votes) -> float:
        """Of the pseudo-observations, up to a constant."""
        return float((votes.chance * np.log(self.right) + (1.0 - votes.chance) * np.log1p(-self.right)).sum())

    @staticmethod
    def silent(votes: Votes) -> tuple[float, int]:
        """Log-likelihood of votes that say nothing about the truth, ``−T·Σ_i log K_i``, which takes T numbers less."""
        voters = len(votes.prob)
        return -voters * float(np.log(np.diff(votes.offsets)).sum()), voters

    def switched(self, votes: Votes, posterior: Floats) -> bool:
        """Whether the voters are together no better than guessing."""
        return bool(self.right.mean() <= votes.chance * (1.0 + 1e-9))


@dataclass(frozen=True)
class Confusions:
    """A confusion matrix a voter, for a fixed set of classes.

    Attributes:
        prior: of the classes, float64 ``[K]``.
        confusion: ``π_t(y, o)``, the share of ``o`` in the votes of voter t where ``y`` is true, float64 ``[T, K, K]``.
    """

    prior: Floats
    confusion: Floats

    @property
    def right(self) -> Floats:
        """Each voter's accuracy, float64 ``[T]``."""
        return np.asarray(np.einsum("y,tyy->t", self.prior, self.confusion))

    @classmethod
    def most_likely(cls, votes: Votes, posterior: Floats) -> Confusions:
        """``π_t(y, o) = (Σ_i q_i(y)·p_ti(o) + 1/K)/(Σ_i q_i(y) + 1)``, the prior likewise."""
        true = votes.by_class(posterior)
        n, k = true.shape
        mass = true.sum(axis=0)
        found = np.einsum("ny,tno->tyo", true, votes.by_class(votes.prob))
        return cls((mass + 1.0 / k) / (n + 1.0), (found + 1.0 / k) / (mass[:, None] + 1.0))

    def joint(self, votes: Votes) -> Floats:
        """``log P(y = o, votes) = log ρ(y) + Σ_t Σ_o p_ti(o)·log π_t(y, o)``, float64 ``[S]``."""
        found = np.einsum("tno,tyo->ny", votes.by_class(votes.prob), np.log(self.confusion))
        return votes.by_option(np.log(self.prior) + found)

    def log_prior(self, votes: Votes) -> float:
        """Of the pseudo-observations, up to a constant."""
        return float(np.log(self.prior).sum() + np.log(self.confusion).sum()) / len(self.prior)

    @staticmethod
    def silent(votes: Votes) -> tuple[float, int]:
        """Log-likelihood of votes that say nothing about the truth, and how many numbers less it takes.

        ``n·Σ_t Σ_o m_t(o)·log m_t(o)``, ``m_t`` being the mean vote; ``(K − 1)·(T·(K − 1) + 1)``.
        """
        mean = votes.by_class(votes.prob).mean(axis=1)
        voters, k = mean.shape
        entropy = -np.sum(mean * np.log(np.where(mean > 0.0, mean, 1.0)))
        return -(len(votes.offsets) - 1) * float(entropy), (k - 1) * (voters * (k - 1) + 1)

    def switched(self, votes: Votes, posterior: Floats) -> bool:
        """Whether the voters mean other classes: another assignment of classes agrees more with their votes."""
        from scipy.optimize import linear_sum_assignment

        agree = np.einsum("ny,tno->yo", votes.by_class(posterior), votes.by_class(votes.prob))
        own, best = np.trace(agree), agree[linear_sum_assignment(-agree)].sum()
        return bool(own < best * (1.0 - 1e-9))


@dataclass(frozen=True)
class NoiseFit:
    """A noise model and the steps to it.

    Attributes:
        model: the estimate.
        posterior: ``q_i(o)`` of the questions that it was estimated from, float64 ``[S]``.
        objective: log-likelihood plus log prior after each step; it never falls.
        why_not: why it says nothing; empty where it does.
    """

    model: Accuracies | Confusions
    posterior: Floats
    objective: tuple[float, ...]
    why_not: str = ""


def fit_noise(votes: Votes, tolerance: float = 1e-9, most: int = 10_000) -> NoiseFit:
    """Maximum a posteriori by expectation-maximisation; no answer is read.

    Voters err independently of each other given the truth. A distribution counts as a vote of which each option gets
    its share: ``P(votes_i | y) = Π_t Π_o P_t(o | y)^{p_ti(o)}``. Every estimated distribution has one
    pseudo-observation, a guess, so that none is 0. The start is the mean vote: the likelihood is the same
    whatever the classes are called, and from there the options keep their names.

    Flat distributions draw each other to the model in which no voter knows anything. That is told by the likelihood:
    it must be above that of such votes by ``½·d·log n`` for d numbers more (Schwarz 1978).

    Args:
        votes: of at least one voter.
        tolerance: it ends when a step gains less, in nats a question.
        most: steps.
    """
    kind = Accuracies if votes.classes is None else Confusions
    posterior = votes.prob.mean(axis=0)
    model: Accuracies | Confusions = kind.most_likely(votes, posterior)
    objective: list[float] = []
    while True:
        joint = model.joint(votes)
        totals = votes.totals(joint)
        objective.append(float(totals.sum()) + model.log_prior(votes))
        posterior = np.exp(joint - np.repeat(totals, np.diff(votes.offsets)))
        gained = len(objective) == 1 or objective[-1] - objective[-2] > tolerance * max(votes.questions, 1)
        if not gained or len(objective) > most:
            break
        model = kind.most_likely(votes, posterior)
    return NoiseFit(model, posterior, tuple(objective), _why_not(votes, model, posterior, float(totals.sum())))


def _why_not(votes: Votes, model: Accuracies | Confusions, posterior: Floats, likelihood: float) -> str:
    """Why a noise model says nothing; empty where it does."""
    if len(votes.prob) < LEAST_VOTERS:
        return f"fewer than {LEAST_VOTERS} voters do not tell how often each of them is right"
    silent, numbers = model.silent(votes)
    needed = 0.5 * numbers * np.log(max(votes.questions, 2))
    if likelihood - silent <= needed or model.switched(votes, posterior):
        return "the voters agree too little to tell the options apart"
    return ""


def option_classes(*splits: Sequence[Sequence[str]]) -> list[Ints] | None:
    """The class of every option of each split, int64 ``[S]``, where all questions have the same options in any order.

    None where they have not. Splits are the options' texts, question by question.
    """
    asked = [options for split in splits for options in split]
    texts = sorted(asked[0]) if asked else []
    if len(set(texts)) < max(len(texts), 2) or any(sorted(options) != texts for options in asked):
        return None
    number = {text: k for k, text in enumerate(texts)}
    return [np.array([number[text] for options in split for text in options], dtype=np.int64) for split in splits]
