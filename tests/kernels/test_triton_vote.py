"""The vote rule from arg-maxes alone, against the reference that holds whole rows."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemw2s import kernels
from ensemw2s.kernels.gpu import vote as triton_vote
from ensemw2s.kernels.reference import row_uniforms


def problem(seed: int, experts: int, vocabulary: int):
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(experts, 6, vocabulary, generator=generator).round(decimals=1)
    weights = torch.randint(1, 5, (experts,), generator=generator).double()
    return logits, weights / weights.sum()


def votes_of(logits, weights, temperature):
    ids = logits.argmax(dim=2)
    mixture = torch.logsumexp(logits.double().log_softmax(2) + weights.log()[:, None, None], dim=0).float()
    return triton_vote.count_votes(ids, mixture.gather(1, ids.T).T, weights, temperature), mixture


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 10_000),
    experts=st.integers(1, 6),
    vocabulary=st.integers(1, 9),
    temperature=st.sampled_from([1.0, 0.5, 1e-300, 1e300, 7.0]),
    count=st.integers(1, 9),
)
def test_agrees_with_the_reference(seed, experts, vocabulary, temperature, count) -> None:
    logits, weights = problem(seed, experts, vocabulary)
    targets = torch.randint(0, vocabulary, (6,), generator=torch.Generator().manual_seed(seed))
    options = {"rule": "vote", "temperature": temperature, "backend": "reference"}
    expected = kernels.combine(logits, weights, targets=targets, return_probs=True, top_k=count, **options)
    votes, mixture = votes_of(logits, weights, temperature)
    close = {"rtol": 1e-6, "atol": 1e-7}
    assert torch.equal(votes.ids[0], expected.argmax)
    torch.testing.assert_close(votes.log_probs[0].float(), expected.logprob, **close)
    torch.testing.assert_close(triton_vote.target_log_prob(votes, targets).float(), expected.target_logprob, **close)
    torch.testing.assert_close(triton_vote.whole_row(votes, vocabulary), expected.log_probs, **close)
    count = min(count, vocabulary)
    ranked = torch.sort(mixture, dim=1, descending=True, stable=True).indices
    if experts == 1:
        ranked = torch.sort(logits[0], dim=1, descending=True, stable=True).indices
    ids, log_probs = triton_vote.most_probable(votes, ranked[:, :count], count)
    assert torch.equal(ids, expected.topk_ids)
    torch.testing.assert_close(log_probs, expected.topk_logprob, **close)


@pytest.mark.parametrize("options", [{}, {"top_k": 1}, {"top_k": 2}, {"top_p": 0.5}, {"top_k": 3, "top_p": 0.6}])
@pytest.mark.parametrize("temperature", [1.0, 0.4])
def test_draws_the_tokens_of_the_reference(options, temperature) -> None:
    logits, weights = problem(3, 5, 4)
    logits = logits.repeat(1, 50, 1)
    votes, _ = votes_of(logits, weights, temperature)
    uniforms = torch.from_numpy(row_uniforms(9, torch.arange(300).numpy()))
    drawn = triton_vote.draw(votes, uniforms, options.get("top_k"), options.get("top_p"))
    reference = {"rule": "vote", "temperature": temperature, "seed": 9, "backend": "reference"}
    assert torch.equal(drawn, kernels.sample(logits, weights, **reference, **options))


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_a_share_too_small_to_count_is_ordered_by_the_mixture(temperature) -> None:
    logits = torch.tensor([[[0.0, 3.0, 1.0, 2.0]], [[4.0, 0.0, 1.0, 2.0]]])
    weights = torch.tensor([1.0, 1e-9], dtype=torch.float64)
    weights = weights / weights.sum()
    options = {"rule": "vote", "temperature": temperature, "top_k": 4, "backend": "reference"}
    expected = kernels.combine(logits, weights, **options)
    votes, mixture = votes_of(logits, weights, temperature)
    assert votes.counted[:, 0].tolist() == [True, False]
    ranked = torch.sort(mixture, dim=1, descending=True, stable=True).indices
    ids, log_probs = triton_vote.most_probable(votes, ranked, 4)
    assert torch.equal(ids, expected.topk_ids)
    torch.testing.assert_close(log_probs, expected.topk_logprob, rtol=1e-6, atol=1e-6)
