"""How sure an ensemble is of an answer that it wrote."""

from __future__ import annotations

import numpy as np
import pytest

from ensemw2s.ensemble.decoded import Answers
from ensemw2s.models.inference.generation import Generation


def generation(logprobs, runner_up=None, ended=True):
    m = len(logprobs) - ended
    return Generation(
        token_ids=np.arange(m, dtype=np.int32),
        logprobs=np.array(logprobs, dtype=np.float32),
        ended=ended,
        runner_up=None if runner_up is None else np.array(runner_up, dtype=np.float32),
    )


def test_end_of_sequence_counts_for_neither():
    answer = generation([-0.1, -0.5, -4.0], [-2.1, -1.5, -9.0])
    assert answer.confidence == pytest.approx(np.exp(-0.3))
    assert answer.margin == pytest.approx((2.0 + 1.0) / 2)
    cut = generation([-0.1, -0.5], [-2.1, -1.5], ended=False)
    assert (cut.confidence, cut.margin) == (answer.confidence, answer.margin)


def test_an_empty_answer_and_a_certain_token():
    assert generation([-0.2], [-3.0]).confidence == 0.0
    assert generation([-0.2], [-3.0]).margin == 0.0
    certain = generation([0.0, -1.0, -0.1], [-np.inf, -2.0, -1.0])
    assert certain.margin == pytest.approx(1.0)
    assert generation([0.0, -0.1], [-np.inf, -1.0]).margin == 0.0


def test_a_drawn_token_can_be_behind():
    assert generation([-3.0, -0.1], [-0.5, -1.0]).margin == pytest.approx(-2.5)


def test_a_margin_needs_candidates():
    with pytest.raises(ValueError, match="keep_top_k"):
        _ = generation([-1.0, -0.1]).margin


def test_answers_are_compared_without_their_white_space():
    answers = Answers([" a  b\n", "c"], [generation([-0.1])] * 2)
    assert answers.agreement([["a b", "d"], ["a", "c "]], [3.0, 1.0]).tolist() == [0.75, 0.25]
