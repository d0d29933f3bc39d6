from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest
import torch

from ensemw2s import _native, kernels
from ensemw2s.kernels.bench import baselines, timing
from ensemw2s.kernels.bench.cases import READ, Case, Result, benchmark, combine_cases, sampler_cases, suite
from ensemw2s.kernels.bench.timing import Run, Timing, timed

MIB = 2**20


def case(size: str = "s", memory: int = 0, ways: Mapping[str, Run] | None = None, **rest: object) -> Case:
    nothing: dict[str, Run] = {"ours": lambda: None, "theirs": lambda: None}
    return Case("g", "n", size, lambda: ways or nothing, memory=memory, **rest)  # type: ignore[arg-type]


def test_ratios_are_medians_over_rounds() -> None:
    a = Timing("a", 1, 1, 1, (1.0, 1.0, 4.0))
    b = Timing("b", 1, 1, 1, (2.0, 30.0, 12.0))
    assert a.times_faster(b) == 3.0
    assert b.times_faster(a) == pytest.approx(1 / 3)


def test_ways_run_in_turn_after_a_first_run_of_each(monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    clock = iter(float(x) for x in range(1000))
    monkeypatch.setattr(timing.time, "perf_counter", lambda: next(clock))
    found = timed({"a": lambda: ran.append("a"), "b": lambda: ran.append("b")}, rounds=4, seconds=1e9)
    assert ran == ["a", "b"] * 5
    assert [(t.name, t.p50, len(t.rounds)) for t in found] == [("a", 1.0, 4), ("b", 1.0, 4)]
    ran.clear()
    timed({"a": lambda: ran.append("a")}, rounds=9, seconds=0.0)
    assert len(ran) == 1 + 3
    ran.clear()
    timed({"a": lambda: ran.append("a")}, rounds=9, seconds=0.0, least=1)
    assert len(ran) == 1 + 1


def test_a_stopwatch_of_ones_own() -> None:
    times = iter([3.0, 1.0, 2.0])
    (found,) = timed({"a": lambda: None}, rounds=3, stopwatch=lambda run: next(times))
    assert found.rounds == (3.0, 1.0, 2.0)


def test_percentiles() -> None:
    (found,) = timed({"a": lambda: None}, rounds=5, seconds=60)
    assert found.p20 <= found.p50 <= found.p80
    assert min(found.rounds) <= found.p20


def test_a_case_shrinks_to_the_memory_or_is_left_out() -> None:
    sizes = [case("large", 100 * MIB), case("small", 10 * MIB)]
    begun = []

    def run(free: int) -> Result:
        (found,) = benchmark([sizes], available=lambda _: free, rounds=3, before=begun.append)
        return found

    full, small, none = run(200 * MIB), run(100 * MIB), run(10 * MIB)
    assert (full.case.size, full.note) == ("large", None)
    assert (small.case.size, small.note) == ("small", "large would need 100 MiB, and 100 MiB are free")
    assert (none.timings, none.note) == ((), "needs 10 MiB, and 10 MiB are free")
    assert [c.size for c in begun] == ["large", "small"]


def test_one_round_is_enough_when_time_is_up() -> None:
    counts = [
        len(found.ours.rounds)
        for found in benchmark([[case(seconds=0)]] * 2, available=lambda _: 1, rounds=7, budget=0.0)
    ]
    assert counts == [1, 1]
    (found,) = benchmark([[case(seconds=0)]], available=lambda _: 1, rounds=7)
    assert len(found.ours.rounds) == 3


def test_ours_and_others_and_the_bandwidth() -> None:
    timings = tuple(Timing(name, t, t, t, (t,)) for name, t in (("ours", 2.0), ("theirs", 6.0), (READ, 1.0)))
    found = Result(case(bytes_moved=8), timings)
    assert found.ours.name == "ours"
    assert [t.name for t in found.others] == ["theirs"]
    assert (found.bandwidth, found.read_share) == (4.0, 0.5)
    plain = Result(case(), timings[:2])
    assert (plain.bandwidth, plain.read_share) == (None, None)


@pytest.mark.parametrize("rule", ["mixture", "product", "vote"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_baselines_do_the_same_work(rule: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    logits = [(torch.randn(9, 301, generator=generator) * 3).to(dtype) for _ in range(3)]
    alphas = torch.tensor([0.5, 0.3, 0.2])
    targets = torch.randint(301, (9,), generator=generator)
    argmax, logprob, target, expert_argmax, logsumexp, expert_target = baselines.EAGER[rule](logits, alphas, targets)
    found = kernels.combine(logits, alphas.tolist(), rule=rule, targets=targets, backend="reference")
    assert torch.equal(argmax, found.argmax)
    assert torch.equal(expert_argmax, found.expert_argmax)
    for ours, theirs in (
        (found.logprob, logprob),
        (found.target_logprob, target),
        (found.logsumexp, logsumexp),
        (found.expert_target_logprob, expert_target),
    ):
        torch.testing.assert_close(theirs, ours, atol=2e-5, rtol=1e-5)


def test_the_baselines_of_draws_and_updates() -> None:
    rng = np.random.default_rng(0)
    weights = np.array([0.0, 1.0, 3.0])
    drawn = baselines.sorted_draws(weights, 40_000, rng)
    assert (np.diff(drawn) >= 0).all()
    assert np.bincount(drawn, minlength=3)[1] / 40_000 == pytest.approx(0.25, abs=0.02)  # six standard deviations
    some = baselines.keyed_draws(rng.random(100) + 0.1, 30, rng)
    assert len(set(some.tolist())) == 30
    wrong, offsets = rng.random(1000) < 0.3, np.array([0, 400, 1000])
    ours, theirs = (np.full(1000, 1e-3) for _ in range(2))
    _native.boost_update(ours, wrong, 0.4)
    sums = baselines.update(theirs, wrong, 0.4, offsets, np.empty(1000))
    np.testing.assert_allclose(theirs, ours, rtol=1e-12)
    np.testing.assert_allclose(sums, _native.segment_sum(ours, offsets), rtol=1e-12)
    logits = [torch.full((5, 3), -torch.inf) for _ in range(2)]
    logits[0][:, 1] = logits[1][:, 1] = 0.0
    assert baselines.multinomial(logits, torch.tensor([0.5, 0.5])).tolist() == [1] * 5


def test_all_ways_of_small_cases_run() -> None:
    cpu = torch.device("cpu")
    for maker in (combine_cases(cpu, "native", quick=True), sampler_cases(quick=True)):
        for sizes in maker:
            ways = sizes[-1].make()
            assert len(ways) >= 2
            assert next(iter(ways)) == "native"
            for run in ways.values():
                run()


def test_the_suite_falls_in_size_and_names_each_case_once() -> None:
    for quick in (True, False):
        cases = suite("cpu", quick=quick)
        names = [(sizes[0].name, sizes[0].size) for sizes in cases]
        assert len(set(names)) == len(names)
        assert {sizes[0].group for sizes in cases} == {"combine", "sample", "samplers", "updates"}
        for sizes in cases:
            memory = [c.memory for c in sizes]
            assert memory == sorted(memory, reverse=True)
    assert {sizes[0].group for sizes in suite("meta")} == {"samplers", "updates"}
