"""Models whose cache is a state, whose positions begin elsewhere, or whose positions are scaled by a text's length.

Whatever else is read beside it, a sequence gives what one forward pass of ``transformers`` over it alone gives.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import transformers as t

from ensemw2s.config.method import DecodingConfig
from ensemw2s.config.training import ComputeConfig
from ensemw2s.data.encode import EncodedSplit
from ensemw2s.models.inference.decode import generate
from ensemw2s.models.inference.joint_scoring import score_joint, sequence_rows
from ensemw2s.models.inference.reading import reading_of
from ensemw2s.models.inference.scoring import score_split
from ensemw2s.models.loading.load import LoadedModel
from ensemw2s.models.loading.quiet import quiet_transformers
from ensemw2s.models.loading.scaling import LengthScaling, length_scaling
from ensemw2s.models.training.trainer import WeightedTrainer

CPU = ComputeConfig(device="cpu")
VOCABULARY = 30
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3,
    "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 96,
    "eos_token_id": 1, "bos_token_id": None, "pad_token_id": None,
}  # fmt: skip
MIXED = ["linear_attention", "full_attention", "linear_attention"]
LIMIT = 16
LONG = {"rope_type": "longrope", "rope_theta": 1e4, "original_max_position_embeddings": LIMIT}
FACTORS = {"short_factor": [1.0] * 4, "long_factor": [4.0, 5.0, 6.0, 7.0]}
DYNAMIC = {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 4.0}


def lfm2() -> Any:  # convolutions, not announced by the class
    return t.Lfm2ForCausalLM(t.Lfm2Config(**SMALL, full_attn_idxs=[1]))


def lfm2_moe() -> Any:
    layers = ["conv", "full_attention", "conv"]
    return t.Lfm2MoeForCausalLM(
        t.Lfm2MoeConfig(**SMALL, layer_types=layers, num_experts=2, num_experts_per_tok=1, num_dense_layers=1,
                        moe_intermediate_size=16)
    )  # fmt: skip


def minimax() -> Any:  # a cache class of its own
    return t.MiniMaxForCausalLM(
        t.MiniMaxConfig(**SMALL, layer_types=MIXED, num_local_experts=2, num_experts_per_tok=1, block_size=8)
    )


def qwen3_next() -> Any:
    return t.Qwen3NextForCausalLM(
        t.Qwen3NextConfig(
            **SMALL, layer_types=MIXED, linear_num_key_heads=1, linear_num_value_heads=2, linear_key_head_dim=8,
            linear_value_head_dim=8, num_experts=2, num_experts_per_tok=1, moe_intermediate_size=16, head_dim=8,
            shared_expert_intermediate_size=16,
        )
    )  # fmt: skip


def falcon_h1() -> Any:  # attention and a recurrence side by side in one layer
    return t.FalconH1ForCausalLM(
        t.FalconH1Config(**SMALL, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_d_state=4, mamba_chunk_size=4)
    )


def recurrent_gemma() -> Any:  # its state is in the modules
    return t.RecurrentGemmaForCausalLM(
        t.RecurrentGemmaConfig(**{**SMALL, "pad_token_id": 0}, lru_width=16, attention_window_size=8)
    )


def roberta() -> Any:  # positions begin after the padding token's id
    return t.RobertaForCausalLM(
        t.RobertaConfig(**{**SMALL, "pad_token_id": 0}, is_decoder=True, hidden_dropout_prob=0.0)
    )


def phi3() -> Any:
    return t.Phi3ForCausalLM(
        t.Phi3Config(**{**SMALL, "pad_token_id": 0}, original_max_position_embeddings=LIMIT,
                     rope_parameters={**LONG, **FACTORS})
    )  # fmt: skip


def phimoe() -> Any:  # a rotary module of its own
    scales = {"short_mscale": 1.0, "long_mscale": 1.6}
    return t.PhimoeForCausalLM(
        t.PhimoeConfig(
            **SMALL, num_local_experts=2, num_experts_per_tok=1, rope_parameters={**LONG, **FACTORS, **scales}
        )
    )


def longrope() -> Any:  # generate() of transformers knows of the switch for Phi-3 only
    return t.LlamaForCausalLM(t.LlamaConfig(**SMALL, rope_parameters={**LONG, **FACTORS}))


def dynamic() -> Any:
    short = {**SMALL, "max_position_embeddings": LIMIT}
    return t.LlamaForCausalLM(t.LlamaConfig(**short, rope_parameters=DYNAMIC))


STATES = [lfm2, lfm2_moe, minimax, qwen3_next, falcon_h1, recurrent_gemma, roberta]
SCALED = [phi3, phimoe, longrope, dynamic]


def make(build: Callable[[], Any], tokenizer: Any, seed: int = 0) -> LoadedModel:
    torch.manual_seed(seed)
    model = build().eval()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim >= 2:
                weight.copy_(torch.randn(weight.shape, generator=random) * 1.4 / weight.shape[-1] ** 0.5)
    return LoadedModel(model, tokenizer, build.__name__, None, 0, "float32", "sdpa")


class Alone:
    """Log-probabilities ``[L, V]`` of a sequence, by a model that has never read anything else."""

    def __init__(self, loaded: LoadedModel) -> None:
        self.model = copy.deepcopy(loaded.model)

    @torch.no_grad()
    def __call__(self, ids: Any) -> torch.Tensor:
        with quiet_transformers():
            model = copy.deepcopy(self.model)  # dynamic NTK remembers
            logits = model(input_ids=torch.tensor([[int(i) for i in ids]]), use_cache=False).logits
        return logits[0].double().log_softmax(-1)


def split_of(*lengths: tuple[int, tuple[int, ...]]) -> EncodedSplit:
    """Questions with prompts and options of given lengths in tokens."""
    rng = np.random.default_rng(0)

    def tokens(count: int) -> np.ndarray:
        return rng.integers(2, VOCABULARY, count).astype(np.int32)

    n = len(lengths)
    options = [[tokens(m) for m in own] for _, own in lengths]
    ids, texts = [str(i) for i in range(n)], [["?"] * len(own) for own in options]
    prompts, truth = [tokens(length) for length, _ in lengths], np.zeros(n, dtype=np.int64)
    return EncodedSplit(ids, prompts, options, texts, truth, 1, VOCABULARY, "choice")


#: Around :data:`LIMIT`: below it, past it, options on both sides of it, one just at it.
QUESTIONS = split_of((4, (2, 3, 1)), (9, (1, 2)), (20, (3, 1)), (14, (2, 5, 3)), (14, (1,)), (15, (1, 2)), (3, (1, 1)))


def expected(alone: Alone, split: EncodedSplit) -> np.ndarray:
    out = []
    for example, option in zip(split.seq_example, split.seq_option, strict=True):
        prompt, tokens = split.prompts[example], split.options[example][option]
        logp = alone([*prompt, *tokens])[len(prompt) - 1 :]
        out += [logp[at, token].item() for at, token in enumerate([*tokens, 1])]
    return np.array(out)


@pytest.mark.parametrize("build", [*STATES, *SCALED], ids=lambda build: build.__name__)
def test_scores_are_those_of_each_sequence_alone(build: Callable[[], Any], tokenizer: Any) -> None:
    loaded = make(build, tokenizer)
    right = expected(Alone(loaded), QUESTIONS)
    for share in (True, False):
        table = score_split(loaded, QUESTIONS, compute=CPU, share_prompts=share)
        np.testing.assert_allclose(table.target_logprob, right, atol=1e-4)
    some = np.array([0, 5, 9, 11])
    rows = sequence_rows(QUESTIONS, some)
    joint = score_joint([loaded, loaded], [1.0, 2.0], QUESTIONS, rows, compute=CPU)
    np.testing.assert_allclose(joint.target_logprob, right[rows], atol=1e-4)


@pytest.mark.parametrize("build", [*STATES, *SCALED], ids=lambda build: build.__name__)
def test_answers_are_those_of_each_prompt_alone(build: Callable[[], Any], tokenizer: Any) -> None:
    loaded = make(build, tokenizer)
    alone = Alone(loaded)
    prompts = [*QUESTIONS.prompts[:4], QUESTIONS.prompts[6]]
    answers = generate([loaded], [1.0], prompts, decoding=DecodingConfig(max_new_tokens=6), compute=CPU)
    for found, prompt in zip(answers, prompts, strict=True):
        text = prompt.tolist()
        for token, logprob in zip([*found.token_ids, 1][: len(found.logprobs)], found.logprobs, strict=True):
            logp = alone(text)[-1]
            assert logprob == pytest.approx(logp[token].item(), abs=1e-4)
            assert logp[token] >= logp.max() - 1e-4
            text.append(int(token))


@pytest.mark.parametrize("build", [lfm2, roberta, phi3, dynamic], ids=lambda build: build.__name__)
def test_one_expert_for_each_token_says_what_all_would(build: Callable[[], Any], tokenizer: Any) -> None:
    experts = [make(build, tokenizer, seed) for seed in range(2)]
    each = [Alone(loaded) for loaded in experts]
    decoding = DecodingConfig(method="sample", experts="one", max_new_tokens=7)
    prompts = [*QUESTIONS.prompts[:4], QUESTIONS.prompts[6]]
    answers = generate(experts, [1.0, 2.0], prompts, decoding=decoding, compute=CPU, seed=4)
    for found, prompt in zip(answers, prompts, strict=True):
        text = prompt.tolist()
        for token, logprob in zip([*found.token_ids, 1][: len(found.logprobs)], found.logprobs, strict=True):
            p = [alone(text)[-1].exp() for alone in each]
            assert logprob == pytest.approx(((p[0] + 2 * p[1]) / 3)[token].log().item(), abs=1e-4)
            text.append(int(token))


def test_phi3_goes_on_past_the_limit_as_transformers_does(tokenizer: Any) -> None:
    loaded = make(phi3, tokenizer)
    prompt = QUESTIONS.prompts[3]
    ids = torch.from_numpy(prompt.astype(np.int64))[None]
    plain = copy.deepcopy(loaded.model)
    with quiet_transformers():
        whole = plain.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=12, do_sample=False, eos_token_id=None
        )
    got = generate([loaded], [1.0], [prompt], decoding=DecodingConfig(max_new_tokens=12), compute=CPU, end_ids=[])
    assert got[0].token_ids.tolist() == whole[0, len(prompt) :].tolist()


def test_keys_are_read_again_where_the_length_asks_for_it_and_nowhere_else(tokenizer: Any) -> None:
    loaded = make(longrope, tokenizer)
    widths: list[int] = []
    length_scaling(loaded.model)
    handle = loaded.model.model.embed_tokens.register_forward_pre_hook(
        lambda _module, args: widths.append(int(args[0].shape[1]))
    )
    reading_of(loaded.model)
    widths.clear()
    generate(
        [loaded], [1.0], [QUESTIONS.prompts[3]], decoding=DecodingConfig(max_new_tokens=6), compute=CPU, end_ids=[]
    )
    handle.remove()
    assert widths == [14, 1, 1, LIMIT + 1, 1, 1]


def test_regimes() -> None:
    both = LengthScaling((10, 20), 15)
    assert len(set(both.regimes([1, 10]).tolist())) == 1
    assert len(set(both.regimes([10, 11, 16, 17, 20, 21]).tolist())) == 6
    assert both.differs([9, 10, 14, 15], [10, 11, 15, 16]).tolist() == [False, True, False, True]


def test_plain_models_are_not_slowed_down(make_model: Any) -> None:
    kinds = ("gpt2", "gemma2", "opt", "bloom")
    granite = t.GraniteMoeForCausalLM(t.GraniteMoeConfig(**SMALL, num_local_experts=2, num_experts_per_tok=1)).eval()
    for model in (make_model(0), granite, *(make_model(3, kind).eval() for kind in kinds)):
        reading = reading_of(model)
        assert (reading.together, reading.cached, reading.note) == (True, True, None)
        assert length_scaling(model) is None


def test_what_differs_in_a_batch_is_read_by_itself_and_said(make_model: Any, tokenizer: Any, recorder: Any) -> None:
    """A model of an unknown kind: it mixes the rows of a batch, or goes on wrongly from its cache."""

    class Mixing(t.LlamaForCausalLM):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            output = super().forward(*args, **kwargs)
            output.logits = output.logits + output.logits.mean(dim=0, keepdim=True).roll(1, dims=-1)
            return output

    class Counting(t.LlamaForCausalLM):  # type: ignore[misc]
        def forward(
            self, input_ids: Any = None, past_key_values: Any = None, use_cache: Any = None, **kwargs: Any
        ) -> Any:
            before = 0 if past_key_values is None else past_key_values.get_seq_length()
            kwargs.pop("position_ids", None)
            output = super().forward(input_ids, past_key_values=past_key_values, use_cache=use_cache, **kwargs)
            output.logits = output.logits * (1.0 + before)
            return output

    for kind, part in ((Mixing, "read by itself"), (Counting, "computed afresh")):
        model = make_model(0)
        model.__class__ = kind
        loaded = LoadedModel(model, tokenizer, kind.__name__, None, 0, "float32", "sdpa")
        right = expected(Alone(loaded), QUESTIONS)
        for _ in range(2):
            table = score_split(loaded, QUESTIONS, compute=CPU, sink=recorder)
            np.testing.assert_allclose(table.target_logprob, right, atol=1e-4)
        told = [event["text"] for event in recorder.events if event["kind"] == "message"]
        assert [kind.__name__ in text and part in text for text in told].count(True) == 1


def test_training_scales_every_sequence_by_its_own_length(tokenizer: Any) -> None:
    loaded = make(phi3, tokenizer)
    trainer = object.__new__(WeightedTrainer)
    trainer.by_own_length = length_scaling(loaded.model) is not None
    mask = torch.zeros(2, 20, dtype=torch.int64)
    mask[0, :6], mask[1] = 1, 1
    ids = torch.from_numpy(np.random.default_rng(1).integers(2, VOCABULARY, (2, 20)))
    given = trainer._given({"input_ids": ids, "attention_mask": mask, "positions": mask})
    both = loaded.model(**given, use_cache=False).logits
    alone = loaded.model(input_ids=ids[:1, :6], use_cache=False).logits
    torch.testing.assert_close(both[:1, :6], alone, atol=1e-4, rtol=1e-4)
