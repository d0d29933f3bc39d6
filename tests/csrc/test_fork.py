"""Forked children: they have none of the threads that their parent worked with."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

WORK = """
import os, sys
import numpy as np
import torch
from ensemw2s import WeightedTokenSampler, _native, kernels

weights = np.random.default_rng(0).random(300_000)
wrong = weights < 0.5
logits = torch.randn(2, 8, 30_000, generator=torch.Generator().manual_seed(0))

def work(threads=2):
    grown = weights.copy()
    _native.boost_update(grown, wrong, 1.0, 2.0, threads=threads)
    sampler = _native.WeightedSampler(weights, threads=threads)
    drawn = [sampler.sample(100_000, 1), sampler.sample(100_000, 1, sorted=True)]
    drawn.append(sampler.sample(100_000, 1, replacement=False))
    sums = _native.segment_sum(weights, np.arange(0, 300_001, 3), threads=threads)
    results = {"argmax": np.zeros(8, np.int64), "logprob": np.zeros(8, np.float32)}
    results |= {"expert_argmax": np.zeros((2, 8), np.int64), "logsumexp": np.zeros((2, 8), np.float32)}
    arrays = [x.numpy() for x in logits]
    common = {"rule": "mixture", "temperature": 1.0, "threads": threads}
    _native.combine_into(arrays, [0.5, 0.5], targets=None, results=results, **common)
    return b"".join(x.tobytes() for x in (grown, *drawn, sums, *results.values()))
"""
FORK = """
expected = work(1)
BEFORE
for generation in range(2):  # a child of a child too
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert work() == expected  # the parent goes on as before
        os._exit(0)
    assert work() == expected
"""
LOADER = """
class Draws(torch.utils.data.Dataset):
    def __len__(self):
        return 6
    def __getitem__(self, i):
        return int.from_bytes(work(2)[:6], "big")

expected = int.from_bytes(work(2)[:6], "big")
sampler = WeightedTokenSampler(weights[:6], 12)
if __name__ == "__main__":
    loader = torch.utils.data.DataLoader(Draws(), sampler=sampler, num_workers=2, multiprocessing_context="fork")
    assert [int(x) for batch in loader for x in batch] == [expected] * 12
"""
POOL = """
import multiprocessing
if __name__ == "__main__":
    expected = work(2)
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(work, [1, 2, 3, 2]) == [expected] * 4
"""

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")


@pytest.mark.parametrize(
    "program",
    [
        FORK.replace("BEFORE", "work(2)"),
        FORK.replace("BEFORE", "torch.set_num_threads(2); torch.randn(2_000_000).exp().sum()"),
        LOADER + POOL,
    ],
    ids=["after native threads", "after threads of torch", "data loader and pool"],
)
def test_a_child_works_as_its_parent_did(program) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    command = [sys.executable, "-P", "-c", WORK + program]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
