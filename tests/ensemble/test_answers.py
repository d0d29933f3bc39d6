"""How sure an ensemble is of an answer that it wrote."""

from __future__ import annotations

import numpy as np
import pytest

from ensemw2s.ensemble.combine.answers import confidence_of, margin_of, normalised
from ensemw2s.models.inference.decode import Generation


def generation(logprobs, rivals=None, ended=True):
    m = len(logprobs) - ended
    return Generation(
        token_ids=np.arange(m, dtype=np.int32),
        logprobs=np.array(logprobs, dtype=np.float32),
        ended=ended,
        rivals=None if rivals is None else np.array(rivals, dtype=np.float32),
    )


def test_end_of_sequence_counts_for_neither():
    answer = generation([-0.1, -0.5, -4.0], [-2.1, -1.5, -9.0])
    assert confidence_of(answer) == pytest.approx(np.exp(-0.3))
    assert margin_of(answer) == pytest.approx((2.0 + 1.0) / 2)
    cut = generation([-0.1, -0.5], [-2.1, -1.5], ended=False)
    assert (confidence_of(cut), margin_of(cut)) == (confidence_of(answer), margin_of(answer))


def test_an_empty_answer_and_a_certain_token():
    assert confidence_of(generation([-0.2], [-3.0])) == 0.0
    assert margin_of(generation([-0.2], [-3.0])) == 0.0
    certain = generation([0.0, -1.0, -0.1], [-np.inf, -2.0, -1.0])
    assert margin_of(certain) == pytest.approx(1.0)
    assert margin_of(generation([0.0, -0.1], [-np.inf, -1.0])) == 0.0


def test_a_drawn_token_can_be_behind():
    assert margin_of(generation([-3.0, -0.1], [-0.5, -1.0])) == pytest.approx(-2.5)


def test_a_margin_needs_candidates():
    with pytest.raises(ValueError, match="keep_top_k"):
        margin_of(generation([-1.0, -0.1]))


def test_answers_are_compared_without_their_white_space():
    assert normalised([" a  b\n", "a b"]).tolist() == ["a b", "a b"]
