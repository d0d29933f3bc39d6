"""The incremental reader: rows that grow, change at their end, wait or leave."""

from __future__ import annotations

import copy
import functools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_models import SMALL, build_model, build_tokenizer

from ensemw2s.models.inference.incremental import IncrementalReader
from ensemw2s.models.inference.reading import reading_of
from ensemw2s.models.loading.load import LoadedModel

DYNAMIC = {
    "max_position_embeddings": 12, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}
}  # fmt: skip
KINDS = ["llama", "bloom", "gemma2", "mamba", "dynamic"]


@functools.cache
def opened(kind: str) -> tuple[LoadedModel, Any]:
    """A model, and a copy that reads whole sequences alone."""
    model = build_model(0, "llama", **DYNAMIC) if kind == "dynamic" else build_model(0, kind)
    return LoadedModel(model, build_tokenizer(), kind, None, 0, "float32", "sdpa"), copy.deepcopy(model)


def tokens(rng: np.random.Generator, least: int, most: int) -> list[int]:
    return rng.integers(2, SMALL["vocab_size"], rng.integers(least, most + 1)).tolist()


def changed(rng: np.random.Generator, row: list[int]) -> list[int] | None:
    """Nothing, or the row with other tokens at its end."""
    if rng.random() < 0.2:
        return None
    return [*row[: rng.integers(max(1, len(row) - 3), len(row) + 1)], *tokens(rng, 0, 4)]


@pytest.mark.parametrize("kind", KINDS)
@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=5, deadline=None, derandomize=True)
@torch.inference_mode()
def test_every_row_is_read_as_if_by_itself(kind: str, seed: int) -> None:
    loaded, plain = opened(kind)
    rng = np.random.default_rng(seed)
    rows = [tokens(rng, 1, 9) for _ in range(3 if reading_of(loaded.model).crops else 1)]
    reader = IncrementalReader(loaded, len(rows))
    given_rows: list[list[int] | None] = [*rows]
    for _ in range(6):
        logits = reader.read_rows(given_rows)
        assert len(logits) == len(rows)
        for own, found in zip(given_rows, logits, strict=True):
            if own is not None:  # a copy: dynamic NTK remembers longer texts
                alone = copy.deepcopy(plain)(input_ids=torch.tensor([own]), use_cache=False).logits[0, -1]
                np.testing.assert_allclose(found, alone, atol=2e-5)
        rows = [row if new is None else new for row, new in zip(rows, given_rows, strict=True)]
        if len(rows) > 1 and rng.random() < 0.2:
            going = np.delete(np.arange(len(rows)), rng.integers(len(rows)))
            reader.keep(going)
            rows = [rows[i] for i in going]
        given_rows = [changed(rng, row) for row in rows]


@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_a_token_more_is_the_same_by_either_way(kind: str) -> None:
    loaded, _ = opened(kind)
    rng = np.random.default_rng(0)
    length = 10  # the dynamic rotation changes at each token from 12 on
    rows = [rng.integers(2, SMALL["vocab_size"], length).tolist() for _ in range(2)]
    if not reading_of(loaded.model).crops:
        rows = rows[:1]
    one, other = IncrementalReader(loaded, len(rows)), IncrementalReader(loaded, len(rows))
    assert torch.equal(one.read_rows(rows), other.read_rows(rows))
    for _ in range(5):
        new = rng.integers(2, SMALL["vocab_size"], len(rows))
        rows = [[*row, int(token)] for row, token in zip(rows, new, strict=True)]
        assert torch.equal(one.read_next(torch.from_numpy(new)), other.read_rows(rows))
    assert one.seen == (length + 5 if one.cached else 0)
