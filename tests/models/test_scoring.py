from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from ensemw2s.config.training import ComputeConfig, ModelConfig
from ensemw2s.data.encode import EncodedSplit
from ensemw2s.errors import DataError, RunFailedError
from ensemw2s.models.inference import batches
from ensemw2s.models.inference import row_forward as rows
from ensemw2s.models.inference.batches import Sizes, plan_batches, run_batches
from ensemw2s.models.inference.row_forward import RowForward
from ensemw2s.models.inference.score_table import ScoreTable
from ensemw2s.models.inference.scoring import score_split
from ensemw2s.models.loading.load import LoadedModel, load_model

CPU = ComputeConfig(device="cpu")
VOCABULARY = 30


def make_split(seed: int = 0, n: int = 9, *, options: tuple[int, int] = (1, 5), hidden: bool = False) -> EncodedSplit:
    rng = np.random.default_rng(seed)
    prompts = [rng.integers(2, VOCABULARY, size=rng.integers(1, 15)).astype(np.int32) for _ in range(n)]
    choices = [
        [rng.integers(2, VOCABULARY, size=rng.integers(1, 7)).astype(np.int32) for _ in range(rng.integers(*options))]
        for _ in range(n)
    ]
    answers = np.array([-1 if hidden else rng.integers(len(c)) for c in choices], dtype=np.int64)
    return EncodedSplit(
        ids=[f"e{i}" for i in range(n)],
        prompts=prompts,
        options=choices,
        option_texts=[["?"] * len(c) for c in choices],
        answer_index=answers,
        eos_id=1,
        vocab_size=VOCABULARY,
        task="choice",
    )


def naive(model, split: EncodedSplit) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One sequence at a time, float64 after the logits: target logprob, arg-max, all log-probabilities."""
    targets, argmax, everything = [], [], []
    for example, option in zip(split.seq_example, split.seq_option, strict=True):
        prompt, tokens = split.prompts[example], split.options[example][option]
        ids = torch.from_numpy(np.concatenate([prompt, tokens]).astype(np.int64))[None]
        with torch.no_grad():
            logp = model(input_ids=ids).logits[0, len(prompt) - 1 :].double().log_softmax(-1).numpy()
        everything.append(logp)
        targets.append(logp[np.arange(len(tokens) + 1), [*tokens, split.eos_id]])
        argmax.append(logp.argmax(axis=1))
    return np.concatenate(targets), np.concatenate(argmax), np.concatenate(everything)


def as_loaded(model, tokenizer, name: str = "test") -> LoadedModel:
    return LoadedModel(model.eval(), tokenizer, name, None, 0, "float32", "sdpa")


@pytest.fixture(scope="module")
def loaded(model_folders: list[Path]) -> LoadedModel:
    return load_model(ModelConfig(path=str(model_folders[0])))


@pytest.mark.parametrize("share_prompts", [True, False])
@pytest.mark.parametrize("batch_tokens", [64, 200, 16384])
def test_same_as_one_sequence_at_a_time(loaded: LoadedModel, recorder, share_prompts: bool, batch_tokens: int) -> None:
    split = make_split()
    compute = ComputeConfig(device="cpu", batch_tokens=batch_tokens)
    table = score_split(loaded, split, compute=compute, top_k=5, sink=recorder, tag="s", share_prompts=share_prompts)
    targets, argmax, everything = naive(loaded.model, split)
    np.testing.assert_allclose(table.target_logprob, targets, atol=5e-5)
    np.testing.assert_array_equal(table.argmax, argmax)
    answers, _ = split.answer_rows(include_eos=True)
    order = np.argsort(-everything[answers], axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(table.topk_ids, order)
    np.testing.assert_allclose(table.topk_logprob, np.take_along_axis(everything[answers], order, axis=1), atol=5e-5)
    assert recorder.steps[-1] == ("s", len(split.seq_example), len(split.seq_example))
    assert (table.target_logprob.dtype, table.argmax.dtype) == (np.float32, np.int32)


def test_prompts_run_once_for_all_their_options(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    split = make_split(n=4, options=(4, 5))
    score_split(loaded, split, compute=CPU)  # a model is tried once, with an input of its own
    seen = []
    handle = loaded.model.model.register_forward_pre_hook(
        lambda _m, _a, kw: seen.append(tuple(kw["input_ids"].shape)), with_kwargs=True
    )
    try:
        score_split(loaded, split, compute=CPU)
        monkeypatch.setattr(rows, "longest_tree", lambda _: 0)
        score_split(loaded, split, compute=CPU)
    finally:
        handle.remove()
    trees = [len(p) + sum(map(len, o)) for p, o in zip(split.prompts, split.options, strict=True)]
    longest = max(len(o) for options in split.options for o in options)
    assert seen == [(4, max(trees)), (4, max(map(len, split.prompts))), (16, longest)]


def test_logits_are_computed_at_answer_positions_only(loaded: LoadedModel) -> None:
    split = make_split()
    counted = 0

    def count(_module, args, _output) -> None:
        nonlocal counted
        counted += args[0].shape[:-1].numel()

    handle = loaded.model.lm_head.register_forward_hook(count)
    try:
        score_split(loaded, split, compute=CPU)
    finally:
        handle.remove()
    assert counted <= split.n_rows


@pytest.mark.parametrize("kind", ["gpt2", "gemma2", "opt", "bloom", "mamba"])
def test_other_architectures(kind: str, make_model, tokenizer) -> None:
    model = make_model(3, kind)
    split = make_split(5, n=5, options=(2, 4))
    table = score_split(as_loaded(model, tokenizer), split, compute=CPU, top_k=2)
    targets, argmax, _ = naive(model, split)
    np.testing.assert_allclose(table.target_logprob, targets, atol=5e-5)
    np.testing.assert_array_equal(table.argmax, argmax)


def test_ties_go_to_the_lowest_id(make_model, tokenizer) -> None:
    model = make_model(0)
    with torch.no_grad():
        model.lm_head.weight.zero_()
    table = score_split(as_loaded(model, tokenizer), make_split(), compute=CPU, top_k=3)
    assert (table.argmax == 0).all()
    assert (table.topk_ids == [0, 1, 2]).all()
    np.testing.assert_allclose(table.target_logprob, -np.log(VOCABULARY), rtol=1e-6)


def test_hidden_answers_give_no_candidates_and_top_k_is_at_most_the_vocabulary(loaded: LoadedModel) -> None:
    table = score_split(loaded, make_split(hidden=True), compute=CPU, top_k=4)
    assert table.topk_ids.shape == (0, 4)
    assert np.isfinite(table.target_logprob).all()
    assert score_split(loaded, make_split(), compute=CPU, top_k=999).topk_ids.shape[1] == VOCABULARY


def test_a_split_without_sequences(loaded: LoadedModel) -> None:
    split = make_split(n=2)
    empty = EncodedSplit(
        split.ids,
        split.prompts,
        [[], []],
        [[], []],
        np.array([-1, -1]),
        eos_id=1,
        vocab_size=VOCABULARY,
        task="generate",
    )
    assert score_split(loaded, empty, compute=CPU).target_logprob.shape == (0,)


def test_a_folder_is_loaded_and_equal_to_a_loaded_model(loaded: LoadedModel, model_folders: list[Path]) -> None:
    split = make_split()
    a = score_split(model_folders[0], split, compute=CPU)
    b = score_split(loaded, split, compute=CPU)
    assert all(np.array_equal(getattr(a, name), getattr(b, name)) for name in ScoreTable.__slots__)


def test_out_of_memory_halves_the_batch_and_goes_on(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    split = make_split(n=12, options=(3, 4))
    expected = score_split(loaded, split, compute=CPU)
    sizes = []
    real = RowForward.logits

    def limited(self, model, plan, batch, *rest):
        sizes.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return real(self, model, plan, batch, *rest)

    monkeypatch.setattr(RowForward, "logits", limited)
    table = score_split(loaded, split, compute=CPU)
    np.testing.assert_allclose(table.target_logprob, expected.target_logprob, atol=1e-5)
    assert sizes[0] == 12
    assert sum(size for size in sizes if size <= 3) == 12
    monkeypatch.setattr(RowForward, "logits", lambda *_: (_ for _ in ()).throw(torch.OutOfMemoryError("out of memory")))
    with pytest.raises(RunFailedError, match="one sequence does not fit"):
        score_split(loaded, split, compute=CPU)


def test_other_runtime_errors_are_not_swallowed() -> None:
    def work(batch: np.ndarray) -> None:
        raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        run_batches(lambda items, _s: [items], np.arange(3), work, device=torch.device("cpu"), name="x")


def test_batches_are_bounded_and_complete() -> None:
    rng = np.random.default_rng(0)
    n = 200
    sizes = Sizes(rng.integers(1, 40, n), rng.integers(0, 9, n), rng.integers(1, 5, n), rng.integers(1, 30, n))
    planned = plan_batches(sizes, np.arange(n), max_tokens=300, max_rows=50)
    assert sorted(np.concatenate(planned)) == list(range(n))
    for batch in planned:
        tokens = sizes.sequences[batch].sum() * (sizes.prefix[batch].max() + sizes.suffix[batch].max())
        assert len(batch) == 1 or (tokens <= 300 and sizes.rows[batch].sum() <= 50)
    assert len(planned) < n / 2
    assert plan_batches(sizes, np.arange(0), 300, 50) == []


def test_logits_of_a_batch_are_bounded(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rows, "MAX_LOGITS", 20 * VOCABULARY)
    assert batches.MAX_LOGITS > 20 * VOCABULARY
    split, largest = make_split(n=10, options=(1, 2)), []
    real = RowForward.logits

    def watched(self, model, plan, batch, *rest):
        found, logits = real(self, model, plan, batch, *rest)
        largest.append(len(logits))
        return found, logits

    monkeypatch.setattr(RowForward, "logits", watched)
    score_split(loaded, split, compute=CPU)
    assert 1 < max(largest) <= 20


def test_damaged_weights_are_noticed(make_model, tokenizer) -> None:
    model = make_model(0)
    with torch.no_grad():
        model.lm_head.weight[4] = torch.nan
    with pytest.raises(RunFailedError, match="no finite logits"):
        score_split(as_loaded(model, tokenizer), make_split(), compute=CPU)


def test_split_that_does_not_fit_the_model(make_model, tokenizer) -> None:
    short = as_loaded(make_model(0, max_position_embeddings=8), tokenizer, "short-model")
    with pytest.raises(DataError, match=r"Example e\d+ has \d+ tokens .* short-model reads 8"):
        score_split(short, make_split(), compute=CPU)
    few = as_loaded(make_model(0, vocab_size=10), tokenizer)
    with pytest.raises(DataError, match="knows 10 tokens"):
        score_split(few, make_split(), compute=CPU)


def test_table_is_saved_and_memory_mapped(loaded: LoadedModel, tmp_path: Path) -> None:
    table = score_split(loaded, make_split(), compute=CPU, top_k=3)
    table.save(tmp_path / "scores")
    again = ScoreTable.load(tmp_path / "scores")
    for name in ScoreTable.__slots__:
        assert isinstance(getattr(again, name), np.memmap)
        np.testing.assert_array_equal(getattr(again, name), getattr(table, name))
    assert {p.suffix for p in (tmp_path / "scores").iterdir()} == {".npy"}


WRONG = {
    "nothing": b"",
    "text": b"not an array",
    "half": None,
    "one complex number": np.array([1j]),
    "another length": np.zeros(3, np.float32),
    "another type": np.zeros(4, np.float64),
    "other bytes": np.zeros(4, ">f4"),
    "two dimensions": np.zeros((4, 1), np.float32),
    "a number": np.float32(1.0),
    "NaN": np.array([0, np.nan, 0, 0], np.float32),
    "objects": np.array([None] * 4),
}


@pytest.mark.parametrize("kind", WRONG)
def test_arrays_that_are_no_scores_are_one_error_that_names_the_file(tmp_path: Path, kind: str) -> None:
    table = ScoreTable(
        np.zeros(4, np.float32), np.zeros(4, np.int32), np.zeros((2, 3), np.int32), np.zeros((2, 3), np.float32)
    )
    table.save(tmp_path)
    ScoreTable.load(tmp_path, rows=4, answers=2)
    for wanted in ({"rows": 5}, {"answers": 1}):
        with pytest.raises(DataError, match=r"of shape"):
            ScoreTable.load(tmp_path, **wanted)
    file, wrong = tmp_path / "target_logprob.npy", WRONG[kind]
    if isinstance(wrong, np.ndarray | np.floating):
        np.save(file, wrong)
    else:
        file.write_bytes(file.read_bytes()[:-5] if wrong is None else wrong)
    with pytest.raises(DataError, match=r"target_logprob\.npy"):
        ScoreTable.load(tmp_path, rows=4)
    np.save(file, np.zeros(4, np.float32))
    np.save(tmp_path / "topk_logprob.npy", np.zeros((2, 2), np.float32))
    with pytest.raises(DataError, match=r"topk_logprob\.npy"):
        ScoreTable.load(tmp_path)
