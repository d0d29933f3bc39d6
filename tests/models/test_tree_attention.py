from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemw2s.config.training import ComputeConfig
from ensemw2s.data.encode import EncodedSplit
from ensemw2s.models.inference import row_forward as rows
from ensemw2s.models.inference import tree_attention as trees
from ensemw2s.models.inference.batches import Sizes, plan_batches
from ensemw2s.models.inference.row_forward import RowForward
from ensemw2s.models.inference.scoring import score_split
from ensemw2s.models.inference.token_grid import Grid, Layout, ranges
from ensemw2s.models.inference.tree_attention import longest_tree, tree_mask
from ensemw2s.models.loading.load import LoadedModel

CPU = ComputeConfig(device="cpu")
VOCABULARY = 30


def as_loaded(model: Any, tokenizer: Any) -> LoadedModel:
    return LoadedModel(model.eval(), tokenizer, "test", None, 0, "float32", "sdpa")


def split_of(prompts: list[int], options: list[list[int]], answer: int = 0) -> EncodedSplit:
    """A split with random tokens, by lengths."""
    rng = np.random.default_rng(len(prompts))

    def tokens(length: int) -> np.ndarray:
        return rng.integers(2, VOCABULARY, size=length).astype(np.int32)

    return EncodedSplit(
        ids=[f"e{i}" for i in range(len(prompts))],
        prompts=[tokens(length) for length in prompts],
        options=[[tokens(length) for length in lengths] for lengths in options],
        option_texts=[["?"] * len(lengths) for lengths in options],
        answer_index=np.full(len(prompts), answer, dtype=np.int64),
        eos_id=1,
        vocab_size=VOCABULARY,
        task="choice",
    )


def test_a_position_sees_the_prompt_and_its_own_option_up_to_itself() -> None:
    segments = torch.tensor([[0, 0, 1, 2, 2, -1]])
    seen = (tree_mask(segments, torch.float32)[0, 0] == 0).int().tolist()
    assert seen == [
        [1, 0, 0, 0, 0, 0],
        [1, 1, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0],
        [1, 1, 0, 1, 0, 0],
        [1, 1, 0, 1, 1, 0],
        [1, 1, 0, 0, 0, 1],
    ]
    half = tree_mask(segments, torch.bfloat16)
    assert half.dtype == torch.bfloat16
    assert torch.isfinite(half).all()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_trees_are_used_and_score_as_whole_sequences(
    make_model, tokenizer, monkeypatch: pytest.MonkeyPatch, attention: str, dtype: torch.dtype
) -> None:
    loaded = as_loaded(make_model(1, attn_implementation=attention).to(dtype), tokenizer)
    assert longest_tree(loaded) == 128
    split = split_of([3, 1, 9, 9, 20], [[1, 5, 2], [1], [4, 4], [7, 1, 1, 1], [2, 3]])
    used = []
    real = RowForward._tree
    monkeypatch.setattr(RowForward, "_tree", lambda *a: used.append(len(a[2])) or real(*a))
    table = score_split(loaded, split, compute=CPU, top_k=3)
    assert sum(used) == 4
    whole = score_split(loaded, split, compute=CPU, top_k=3, share_prompts=False)
    assert sum(used) == 4
    tolerance = 5e-5 if dtype == torch.float32 else 0.2
    np.testing.assert_allclose(table.target_logprob, whole.target_logprob, atol=tolerance)
    if dtype == torch.float32:
        np.testing.assert_array_equal(table.argmax, whole.argmax)
        np.testing.assert_array_equal(table.topk_ids, whole.topk_ids)


@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_any_lengths_and_any_wanted_rows(make_model, tokenizer, data: st.DataObject) -> None:
    loaded = as_loaded(make_model(2), tokenizer)
    count = data.draw(st.integers(1, 5))
    prompts = data.draw(st.lists(st.integers(1, 12), min_size=count, max_size=count))
    options = data.draw(st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=5), min_size=count, max_size=count))
    split = split_of(prompts, options)
    total = int(split.row_offsets[-1])
    wanted = np.array(data.draw(st.lists(st.booleans(), min_size=total, max_size=total)))
    found: dict[str, np.ndarray] = {}
    for name, share in (("tree", True), ("whole", False)):
        values = np.full((total, VOCABULARY), np.nan)

        def use(batch: np.ndarray, logits: list[torch.Tensor], values: np.ndarray = values) -> None:
            assert np.isnan(values[batch]).all()
            values[batch] = logits[0].numpy()

        sink = SimpleNamespace(progress=lambda *_: None)
        RowForward(split, wanted, share_prompts=share).run([loaded], use, compute=CPU, sink=sink, tag="t")
        found[name] = values
        np.testing.assert_array_equal(~np.isnan(values[:, 0]), wanted)
    np.testing.assert_allclose(found["tree"], found["whole"], atol=5e-5)


@pytest.mark.parametrize(("kind", "expected"), [("gpt2", 64), ("gemma2", 0), ("opt", 64), ("bloom", 0), ("mamba", 0)])
def test_which_models_read_trees(make_model, tokenizer, kind: str, expected: int) -> None:
    assert longest_tree(as_loaded(make_model(3, kind), tokenizer)) == expected


def test_a_model_that_ignores_the_mask_or_refuses_it_is_found_out(make_model, tokenizer, monkeypatch) -> None:
    def without(name: str, value: Any) -> Any:
        model = make_model(0)

        def change(_module: Any, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> Any:
            if keywords["attention_mask"].dim() == 4:
                return arguments, {**keywords, name: value}
            return None

        model.register_forward_pre_hook(change, with_kwargs=True)
        return as_loaded(model, tokenizer)

    assert longest_tree(without("use_cache", False)) == 128
    assert longest_tree(without("attention_mask", None)) == 0
    assert longest_tree(without("position_ids", None)) == 0
    assert longest_tree(without("attention_mask", torch.ones(1, 2, 3))) == 0
    loaded = as_loaded(make_model(0), tokenizer)
    loaded.model.config.layer_types = ["linear_attention", "full_attention"]
    assert longest_tree(loaded) == 0


def test_rows_stay_within_an_attention_window(tokenizer) -> None:
    from transformers import MistralConfig, MistralForCausalLM

    small = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.3}
    torch.manual_seed(0)
    loaded = as_loaded(MistralForCausalLM(MistralConfig(sliding_window=14, **small, **heads)), tokenizer)
    assert longest_tree(loaded) == 14
    split = split_of([3, 8, 13], [[2, 3, 4], [3, 4], [4, 3]])  # the first is shorter than the window, the last longer
    shared, whole = (score_split(loaded, split, compute=CPU, top_k=1, share_prompts=share) for share in (True, False))
    np.testing.assert_allclose(shared.target_logprob, whole.target_logprob, atol=5e-5)


def test_the_trial_runs_once_for_each_model(make_model, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(trees, "_agrees", lambda loaded: calls.append(loaded) or True)
    one, two = (as_loaded(make_model(seed), tokenizer) for seed in (0, 1))
    assert [longest_tree(loaded) for loaded in (one, one, two)] == [128] * 3
    assert len(calls) == 2


def test_long_rows_and_rows_of_strangers_use_the_cache(make_model, tokenizer, monkeypatch) -> None:
    loaded = as_loaded(make_model(0), tokenizer)
    split = split_of([10, 90, 2], [[3, 4], [20, 20], [30, 30, 30]])
    kinds = {}
    real = RowForward.logits

    def watched(self: RowForward, model: Any, plan: Any, batch: np.ndarray, *rest: Any) -> Any:
        kinds.update(dict.fromkeys(plan.ids[batch].tolist(), plan.kind))
        return real(self, model, plan, batch, *rest)

    monkeypatch.setattr(RowForward, "logits", watched)
    monkeypatch.setattr(rows, "_SHORT", 40)
    table = score_split(loaded, split, compute=CPU, top_k=1)
    assert kinds == {
        0: "tree",
        1: "cache",
        2: "cache",
    }  # 130 tokens are too many; 90² pairs, of which 2880 see each other
    whole = score_split(loaded, split, compute=CPU, top_k=1, share_prompts=False)
    np.testing.assert_allclose(table.target_logprob, whole.target_logprob, atol=5e-5)


def test_the_masks_of_a_batch_are_bounded(make_model, tokenizer, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded = as_loaded(make_model(0), tokenizer)
    split = split_of([10] * 12, [[3, 4]] * 12)
    longest_tree(loaded)
    shapes = []
    monkeypatch.setattr(rows, "_MAX_PAIRS", 5 * 17**2)
    real = trees.tree_mask
    monkeypatch.setattr(trees, "tree_mask", lambda *a: shapes.append(tuple(a[0].shape)) or real(*a))
    score_split(loaded, split, compute=CPU, top_k=1)
    assert shapes == [(5, 17), (5, 17), (2, 17)]


def test_batches_end_where_padding_would_cost_more_than_another() -> None:
    lengths = np.array([50, 49, 48, 10, 9, 9, 2])
    one = np.ones(7, dtype=np.int64)
    sizes = Sizes(lengths, 0 * one, one, one)
    planned = plan_batches(sizes, np.arange(7), 10**6, 10**6, max_padding=20)
    assert [batch.tolist() for batch in planned] == [[0, 1, 2], [3, 4, 5, 6]]
    assert len(plan_batches(sizes, np.arange(7), 10**6, 10**6)) == 1
    assert len(plan_batches(sizes, np.arange(7), 10**6, 10**6, max_pairs=1)) == 7


def test_ranges_and_grid() -> None:
    assert ranges(np.array([5, 0, 9]), np.array([2, 0, 3])).tolist() == [5, 6, 9, 10, 11]
    assert ranges(1, np.array([2, 1])).tolist() == [1, 2, 1]
    assert ranges(0, np.array([], dtype=np.int64)).tolist() == []
    grid = Grid(2, 4, pad_id=7)
    tokens, lengths = np.array([11, 12, 13]), np.array([2, 1])
    grid.put(tokens, lengths, line=np.array([0, 1]), start=np.array([1, 0]), position=np.array([0, 5]), segment=3)
    assert grid.ids.tolist() == [[7, 11, 12, 7], [13, 7, 7, 7]]
    assert grid.positions.tolist() == [[0, 0, 1, 0], [5, 0, 0, 0]]
    assert grid.mask.tolist() == [[0, 1, 1, 0], [1, 0, 0, 0]]


def test_layout_finds_tokens_and_rows() -> None:
    split = split_of([2, 1], [[1, 2], [3]])
    layout = Layout(split)
    assert layout.prompt_tokens(np.array([1, 0])).tolist() == [*split.prompts[1], *split.prompts[0]]
    assert layout.option_tokens(np.array([2, 0])).tolist() == [*split.options[1][0], *split.options[0][0]]
    wanted = np.ones(split.n_rows, dtype=bool)
    wanted[3] = False
    found, where = layout.wanted_rows(np.array([1, 2]), wanted, np.array([100, -1]), np.array([200, 300]))
    assert found.tolist() == [2, 4, 6, 7, 8]
    assert where.tolist() == [100, 201, 300, 301, 302]
