"""The weighted sampler for data loaders: frequencies, shards, resuming, workers."""

from __future__ import annotations

import itertools
import json
import pickle

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch.utils.data import DataLoader, Dataset

import ensemw2s
from ensemw2s import WeightedTokenSampler
from ensemw2s._native import WeightedSampler

FALSE_ALARM = 1e-6  # of every chi-square test


def chi_square(counts: np.ndarray, weights: np.ndarray) -> float:
    expected = weights / weights.sum() * counts.sum()
    possible = expected > 0
    assert not counts[~possible].any()
    return float(stats.chisquare(counts[possible], expected[possible]).pvalue)


def shards(world_size: int, weights: np.ndarray, n: int, **options) -> list[list[int]]:
    return [list(WeightedTokenSampler(weights, n, rank=r, world_size=world_size, **options)) for r in range(world_size)]


def merged(parts: list[list[int]]) -> list[int]:
    return [i for step in itertools.zip_longest(*parts) for i in step if i is not None]


@pytest.mark.parametrize("ordered", [False, True])
@pytest.mark.parametrize("dtype", [np.float64, np.float32])
def test_frequencies(dtype, ordered) -> None:
    weights = np.random.default_rng(0).lognormal(0.0, 1.0, 500).astype(dtype)
    weights[::7] = 0
    sampler = WeightedTokenSampler(weights, 200_001, seed=3, sorted=ordered)
    drawn = list(sampler)
    assert len(drawn) == len(sampler) == 200_001
    assert type(drawn[0]) is int
    assert chi_square(np.bincount(drawn, minlength=500), weights.astype(float)) > FALSE_ALARM
    again = list(sampler)  # the next epoch
    assert again != drawn
    assert chi_square(np.bincount(again, minlength=500), weights.astype(float)) > FALSE_ALARM
    assert not ordered or drawn == sorted(drawn)


def test_draws_are_those_of_the_native_sampler() -> None:
    weights = np.random.default_rng(1).random(1000)
    native = WeightedSampler(weights)
    for options in ({}, {"sorted": True}, {"replacement": False}, {"replacement": False, "sorted": True}):
        sampler = WeightedTokenSampler(weights, 300, seed=5, **options)
        for epoch in (0, 1, 2**40):
            sampler.set_epoch(epoch)
            assert list(sampler) == native.sample(300, 5, epoch, **options).tolist()


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    n=st.one_of(st.integers(1, 40), st.sampled_from([65_535, 65_536, 70_001, 140_000])),
    world_size=st.integers(1, 7),
    seed=st.integers(0, 2**64 - 1),
    options=st.sampled_from([{}, {"sorted": True}, {"replacement": False}]),
)
def test_ranks_share_the_draws_of_one(n, world_size, seed, options) -> None:
    weights = np.random.default_rng(2).random(150_000)
    parts = shards(world_size, weights, n, seed=seed, **options)
    assert merged(parts) == shards(1, weights, n, seed=seed, **options)[0]
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    for rank, part in enumerate(parts):
        assert len(part) == len(WeightedTokenSampler(weights, n, rank=rank, world_size=world_size, **options))


def test_without_replacement_ranks_are_disjoint() -> None:
    weights = np.arange(100.0)
    parts = shards(3, weights, 99, replacement=False)
    assert sorted(merged(parts)) == list(range(1, 100))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    n=st.sampled_from([10, 1000, 70_000]),
    before=st.integers(1, 4),
    after=st.integers(1, 4),
    stop=st.floats(0.0, 1.0),
    options=st.sampled_from([{}, {"sorted": True}, {"replacement": False}]),
)
def test_resuming_goes_on_where_it_was_with_any_number_of_ranks(n, before, after, stop, options) -> None:
    weights = np.random.default_rng(3).random(80_000)
    whole = WeightedTokenSampler(weights, n, seed=8, **options)
    whole.set_epoch(4)
    expected = list(whole)
    steps = int(stop * (n // before))
    states, begun = [], []
    for rank in range(before):
        sampler = WeightedTokenSampler(weights, n, seed=8, rank=rank, world_size=before, **options)
        sampler.set_epoch(4)
        begun.append(list(itertools.islice(sampler, steps)))
        states.append(json.loads(json.dumps(sampler.state_dict())))
    assert all(state == states[0] for state in states)
    rest = []
    for rank in range(after):
        sampler = WeightedTokenSampler(weights, n, seed=0, rank=rank, world_size=after, **options)
        sampler.load_state_dict(states[0])
        assert sampler.state_dict() == states[0]
        sampler.set_epoch(states[0]["epoch"])  # as a training loop does
        length = len(sampler)
        rest.append(list(sampler))
        assert length == len(rest[-1])
        assert len(sampler) == len(range(rank, n, after))
    if steps * before == n:  # that epoch was over: its successor comes
        assert states[0]["epoch"] == 5
        return
    assert merged(begun) + merged(rest) == expected


def test_state_counts_what_training_has_used() -> None:
    sampler = WeightedTokenSampler(np.ones(50), 40, seed=1)
    drawn = list(sampler)  # all fetched ahead
    other = WeightedTokenSampler(np.ones(50), 40, seed=1)
    other.load_state_dict(sampler.state_dict(given=12))
    assert list(other) == drawn[12:]
    assert sampler.state_dict(given=40) == sampler.state_dict() == {**other.state_dict(), "epoch": 1, "used": 0}
    other.load_state_dict(sampler.state_dict(given=12))
    iterator = iter(other)
    assert [next(iterator) for _ in range(5)] == drawn[12:17]
    assert other.state_dict()["used"] == 17


def test_breaking_off_begins_the_epoch_again() -> None:
    sampler = WeightedTokenSampler(np.ones(1000), 30)
    first = list(itertools.islice(sampler, 10))
    assert list(sampler)[:10] == first
    assert sampler.epoch == 1


def test_a_state_of_something_else_is_refused() -> None:
    state = WeightedTokenSampler(np.ones(50), 40).state_dict()
    for sampler in (
        WeightedTokenSampler(np.ones(50), 41),
        WeightedTokenSampler(np.ones(51), 40),
        WeightedTokenSampler(np.full(50, 2.0), 40),
        WeightedTokenSampler(np.ones(50), 40, sorted=True),
        WeightedTokenSampler(np.ones(50), 40, replacement=False),
    ):
        with pytest.raises(ValueError, match="the state has"):
            sampler.load_state_dict(state)


class Squares(Dataset[int]):
    def __len__(self) -> int:
        return 5000

    def __getitem__(self, index: int) -> int:
        return index * index


@pytest.mark.parametrize("workers", [0, 2])
def test_data_loader(workers) -> None:
    weights = np.random.default_rng(4).random(5000)
    sampler = WeightedTokenSampler(weights, 1000, seed=2)
    loader = DataLoader(
        Squares(),
        batch_size=32,
        sampler=sampler,
        num_workers=workers,
        multiprocessing_context="fork" if workers else None,
    )
    assert len(loader) == 32
    for epoch in range(2):
        seen = torch.cat(list(loader)).tolist()
        assert seen == [i * i for i in WeightedSampler(weights).sample(1000, 2, epoch).tolist()]


def test_more_weights_than_torch_allows(tmp_path) -> None:
    n = 2**24 + 64
    path = tmp_path / "weights.npy"
    weights = np.lib.format.open_memmap(path, mode="w+", dtype=np.float32, shape=(n,))
    weights[:] = 1.0
    weights[-64:] = 2.0**18  # as much as all others together
    weights.flush()
    with pytest.raises(RuntimeError, match="2\\^24"):
        torch.multinomial(torch.from_numpy(np.asarray(weights)), 1)
    parts = []
    for source in (path, str(path), np.load(path, mmap_mode="r"), torch.from_numpy(weights)):
        sampler = WeightedTokenSampler(source, 100_000, seed=6, rank=1, world_size=2)
        parts.append(list(sampler))
    assert all(part == parts[0] for part in parts)
    drawn = np.array(parts[0])
    coarse = np.where(drawn < 2**24, drawn // 2**18, 64 + drawn - 2**24)
    assert chi_square(np.bincount(coarse, minlength=128), np.full(128, 2.0**18)) > FALSE_ALARM


def test_pickled_samplers_go_on() -> None:
    sampler = WeightedTokenSampler(np.random.default_rng(5).random(100), 50, seed=9)
    iterator = iter(sampler)
    for _ in range(20):
        next(iterator)
    copy = pickle.loads(pickle.dumps(sampler))
    assert copy.state_dict() == sampler.state_dict()
    assert list(copy) == list(sampler)


def test_rank_comes_from_torch_distributed(tmp_path) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/rendezvous", rank=0, world_size=1)
    try:
        sampler = WeightedTokenSampler(np.ones(9), 5)
        assert (sampler.rank, sampler.world_size) == (0, 1)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"weights": np.array([1.0, -1.0])}, r"weights\[1\] is -1"),
        ({"weights": np.zeros(3)}, "all weights are 0"),
        ({"weights": np.ones(4, np.int64)}, "int64"),
        ({"num_samples": 0}, "num_samples is 0"),
        ({"weights": np.array([1.0, 0.0, 2.0]), "replacement": False, "num_samples": 3}, "only 2 weights are positive"),
        ({"seed": -1}, "seed is -1"),
        ({"rank": 0}, "come together"),
        ({"rank": 2, "world_size": 2}, "rank is 2; expected an integer from 0 to 1"),
    ],
)
def test_bad_arguments(arguments, words) -> None:
    arguments = {"weights": np.ones(4), "num_samples": 3} | arguments
    with pytest.raises(ValueError, match=words):
        WeightedTokenSampler(**arguments)
    with pytest.raises(ValueError, match="epoch is -1"):
        WeightedTokenSampler(np.ones(3), 3).set_epoch(-1)


def test_is_public() -> None:
    assert "WeightedTokenSampler" in ensemw2s.__all__


@pytest.mark.parametrize("value", [1.5, 2.0, "7", None, True, np.bool_(True), [3]])
@pytest.mark.parametrize("name", ["num_samples", "seed", "rank", "world_size"])
def test_integers_are_integers(name, value) -> None:
    given = {"num_samples": 5, "seed": 1, "rank": 0, "world_size": 2, name: value}
    if value is None and name in ("rank", "world_size"):
        return  # None asks torch.distributed
    with pytest.raises(TypeError, match=rf"{name} is .*expected an integer"):
        WeightedTokenSampler(np.ones(4), **given)
    with pytest.raises(TypeError, match=r"epoch is .*expected an integer"):
        WeightedTokenSampler(np.ones(4), 5).set_epoch(value)


@pytest.mark.parametrize(
    ("changes", "error", "words"),
    [
        ({"num_samples": 0}, ValueError, "num_samples is 0; expected an integer from 1"),
        ({"num_samples": 2**60 + 1}, ValueError, "num_samples is"),
        ({"seed": 2**64}, ValueError, "seed is"),
        ({"world_size": 0, "rank": 0}, ValueError, "world_size is 0"),
        ({"replacement": "no"}, TypeError, "replacement is 'no'"),
        ({"sorted": 1}, TypeError, "sorted is 1"),
        ({"weights": torch.ones(3, dtype=torch.bfloat16)}, TypeError, "bfloat16; expected float64 or float32"),
        ({"weights": torch.ones(3, device="meta")}, ValueError, "device meta"),
        ({"weights": torch.ones(3).to_sparse()}, TypeError, "sparse"),
        ({"weights": [1.0, 2.0]}, TypeError, "weights is .*expected a numpy array"),
    ],
)
def test_other_arguments_are_one_clear_error(changes, error, words) -> None:
    given = {"weights": np.ones(4), "num_samples": 5} | changes
    with pytest.raises(error, match=words):
        WeightedTokenSampler(given.pop("weights"), given.pop("num_samples"), **given)


def test_odd_tensors_are_read_by_their_values() -> None:
    weights = torch.tensor([1.0, 0.0, 3.0])
    expected = list(WeightedTokenSampler(weights, 50, seed=2))
    negated = torch.complex(torch.zeros(3), -weights).conj().imag
    for odd in (negated, weights.clone().requires_grad_(), torch.stack([weights, weights], 1)[:, 0]):
        assert list(WeightedTokenSampler(odd, 50, seed=2)) == expected


@pytest.mark.parametrize(
    ("changes", "error"),
    [({"used": -1}, ValueError), ({"used": 5}, ValueError), ({"epoch": 1.5}, TypeError), ({"seed": None}, TypeError)],
)
def test_a_damaged_state_changes_nothing(changes, error) -> None:
    sampler = WeightedTokenSampler(np.ones(4), 5, seed=3)
    before = sampler.state_dict()
    with pytest.raises(error, match="the state's"):
        sampler.load_state_dict(before | changes)
    assert sampler.state_dict() == before


@pytest.mark.parametrize("options", [{"replacement": False}, {"replacement": False, "sorted": True}])
def test_small_weights_stay_possible_beside_huge_ones(options) -> None:
    assert sorted(WeightedTokenSampler(np.array([1e-300, 0.0, 1e300, 5e-324]), 3, **options)) == [0, 2, 3]
