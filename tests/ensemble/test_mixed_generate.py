"""Experts with different tokenizers write from the union of their vocabularies."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensemw2s.config.method import CombineConfig, DecodingConfig
from ensemw2s.config.training import ComputeConfig
from ensemw2s.ensemble import Ensemble
from ensemw2s.ensemble.mixed.decoder import UnionDecoder
from ensemw2s.ensemble.mixed.reader import Reader
from ensemw2s.ensemble.mixed.token_texts import TokenTexts, token_texts
from ensemw2s.ensemble.mixed.union import END, Union, combine_texts, most_probable
from ensemw2s.errors import ModelError, RunFailedError

CPU = ComputeConfig(device="cpu")
PROMPTS = ["the cat sat on", "Is the dog happy?", "café", "2 3 1 sorted is", "日本", "un"]


class Reference:
    """One expert of the definition: everything in float64, nothing kept from step to step."""

    def __init__(self, folder: Path) -> None:
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from transformers.convert_slow_tokenizer import bytes_to_unicode

        self.model = AutoModelForCausalLM.from_pretrained(folder).double().eval()
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        back = {character: byte for byte, character in bytes_to_unicode().items()}
        self.start = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        self.keys: dict[int, bytes] = {}
        for token, i in self.tokenizer.get_vocab().items():
            if i == self.tokenizer.eos_token_id:
                self.keys[i] = b"<END>"
            elif token in self.tokenizer.all_special_tokens:
                continue
            elif self.start and token.startswith("<0x"):
                self.keys[i] = bytes.fromhex(token[3:5])
            elif self.start:
                self.keys[i] = token.replace("▁", " ").encode()
            else:
                self.keys[i] = bytes(back[character] for character in token)
        named = {i: token for token, i in self.tokenizer.get_vocab().items()}
        order = sorted(self.keys, key=lambda i: (self.start != [] and named[i].startswith("<0x"), i), reverse=True)
        self.of = {self.keys[i]: i for i in order}  # the last one stays: a plain token before a byte's, a low id

    def ids(self, prompt: str, pieces: list[bytes]) -> list[int]:
        data = b"".join(pieces)
        text, tail = whole_part(data)
        closed = len(text.encode()) if tail else len(text.rstrip().encode())
        starts = [b"".join(pieces[:first]) for first in range(len(pieces) + 1)]
        first = max(i for i, start in enumerate(starts) if len(start) <= closed and not whole_part(start)[1])
        if all(piece in self.of for piece in pieces[first:]):
            return self.tokens(prompt, starts[first].decode()) + [self.of[piece] for piece in pieces[first:]]
        return self.tokens(prompt, text) + [self.of[bytes([byte])] for byte in tail]

    def tokens(self, prompt: str, text: str) -> list[int]:
        before = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        whole = self.tokenizer(prompt + text, add_special_tokens=False)["input_ids"]
        if whole[: len(before)] != before:  # a token reaches over the border: as after a line break
            line = self.tokenizer("\n", add_special_tokens=False)["input_ids"]
            whole = before + self.tokenizer("\n" + text, add_special_tokens=False)["input_ids"][len(line) :]
        assert b"".join(self.keys[i] for i in whole[len(before) :]) == text.encode()
        return self.start + whole

    def probabilities(self, prompt: str, pieces: list[bytes]) -> dict[bytes, float]:
        tail = whole_part(b"".join(pieces))[1]
        with torch.no_grad():
            logits = self.model(torch.tensor([self.ids(prompt, pieces)])).logits[0, -1]
        raw: dict[bytes, float] = {}
        for i, key in self.keys.items():
            allowed = not tail if key == b"<END>" else follows(tail + key)
            if allowed:
                raw[key] = raw.get(key, 0.0) + math.exp(float(logits[i]))
        total = sum(raw.values())
        return {key: value / total for key, value in raw.items()}


reference = cache(Reference)


def follows(data: bytes) -> bool:
    """Whether some text begins with these bytes."""
    for end in (b"", b"\x80", b"\x80\x80", b"\x80\x80\x80", b"\xbf", b"\xbf\xbf", b"\xbf\xbf\xbf"):
        try:
            (data + end).decode()
        except UnicodeDecodeError:
            continue
        return True
    return False


def whole_part(data: bytes) -> tuple[str, bytes]:
    for cut in range(4):
        try:
            return data[: len(data) - cut].decode(), data[len(data) - cut :]
        except UnicodeDecodeError:
            continue
    raise AssertionError(data)


def reference_answer(
    experts: list[Reference], shares: list[float], prompt: str, rule: str, steps: int
) -> tuple[bytes, list[float], list[float], bool]:
    """Answer, log-probabilities, those of the best other text, and whether it ended."""
    answer: list[bytes] = []
    logs, rivals = [], []
    for _ in range(steps):
        each = [expert.probabilities(prompt, answer) for expert in experts]
        keys = set().union(*each)
        mixture = {k: sum(w * p.get(k, 0.0) for w, p in zip(shares, each, strict=True)) for k in keys}
        joint = mixture
        if rule == "product":
            common = set(each[0]).intersection(*each[1:])
            raw = {k: math.exp(sum(w * math.log(p[k]) for w, p in zip(shares, each, strict=True))) for k in common}
            joint = mixture = {k: v / sum(raw.values()) for k, v in raw.items()}
        elif rule == "vote":
            best = [max(p, key=p.__getitem__) for p in each]
            votes = {k: sum(w for w, b in zip(shares, best, strict=True) if b == k) for k in keys}
            joint = {k: votes[k] + 1e-9 * mixture[k] for k in keys}
        ranked = sorted(joint, key=joint.__getitem__, reverse=True)
        logs.append(math.log(mixture[ranked[0]]))
        rivals.append(math.log(max(value for k, value in mixture.items() if k != ranked[0])))
        if ranked[0] == b"<END>":
            return b"".join(answer), logs, rivals, True
        answer.append(ranked[0])
    return b"".join(answer), logs, rivals, False


@pytest.mark.parametrize("rule", ["mixture", "product", "vote"])
def test_union_decoding_is_what_the_definition_says(families: dict[str, Path], rule: str) -> None:
    folders = [families["bytes"], families["pieces"]]
    experts = [reference(folder) for folder in folders]
    made = Ensemble(folders, [2.0, 1.0], "generate", CombineConfig(rule=rule), compute=CPU)
    found = made.generate(PROMPTS, DecodingConfig(max_new_tokens=8), agreement_of_experts=True)
    ended = []
    for prompt, row in zip(PROMPTS, found, strict=True):
        answer, logs, rivals, end = reference_answer(experts, [2 / 3, 1 / 3], prompt, rule, 8)
        assert row["text"] == answer.decode(errors="replace").strip()
        assert row["ended"] == end
        m = len(logs) - end
        assert row["confidence"] == pytest.approx(math.exp(sum(logs[:m]) / m) if m else 0.0, abs=2e-5)
        margins = [a - b for a, b in zip(logs[:m], rivals[:m], strict=True)]
        assert row["margin"] == pytest.approx(sum(margins) / m if m else 0.0, abs=2e-4)
        ended.append(end)
        assert experts[0].tokenizer.decode(row["token_ids"]).strip() in row["text"]
    if rule == "mixture":
        assert any(ended)
        assert not all(ended)


def test_agreement_is_with_what_each_writes_alone(families: dict[str, Path]) -> None:
    folders, decoding = [families["bytes"], families["pieces"]], DecodingConfig(max_new_tokens=8)
    alone = [
        [r["text"] for r in Ensemble([f], [1.0], "generate", compute=CPU).generate(PROMPTS, decoding)] for f in folders
    ]
    made = Ensemble(folders, [1.0, 1e-9], "generate", compute=CPU)
    for row, first, second in zip(made.generate(PROMPTS, decoding, agreement_of_experts=True), *alone, strict=True):
        same = [float(row["text"].split() == text.split()) for text in (first, second)]
        assert row["agreement"] == pytest.approx(same[0] + 1e-9 * same[1], abs=1e-5)


def character_experts() -> list[Any]:
    """Two models of one tokenizer whose tokens are single characters, so that a text has one tokenisation."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from ensemw2s.models.loading.load import LoadedModel

    vocabulary = {token: i for i, token in enumerate(["a", "b", "<eos>", *"cdefghij 0123456789"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<eos>"))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex("."), "isolated")
    backend.decoder = decoders.Fuse()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<eos>")
    out = []
    for seed in (3, 4):
        torch.manual_seed(seed)
        config = LlamaConfig(
            hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
            max_position_embeddings=64, initializer_range=0.3, vocab_size=len(vocabulary), eos_token_id=2,
        )  # fmt: skip
        model = LlamaForCausalLM(config).eval()
        with torch.no_grad():
            model.lm_head.weight[2] *= 2.0
        out.append(LoadedModel(model, tokenizer, f"model {seed}", None, 0, "float32", "sdpa"))
    return out


@pytest.mark.parametrize(
    ("method", "rule"), [("greedy", "mixture"), ("greedy", "product"), ("greedy", "vote"), ("sample", "mixture")]
)
def test_with_one_tokenizer_the_union_writes_what_tokens_do(method: str, rule: str) -> None:
    from ensemw2s.models.inference.decode import generate

    experts = character_experts()
    tokenizer = experts[0].tokenizer
    decoding = DecodingConfig(method=method, max_new_tokens=12)
    prompts = ["abc", "j", "12 3", "ba ba"]
    ids = [np.array(tokenizer(prompt)["input_ids"]) for prompt in prompts]
    expected = generate(experts, [1.0, 2.0], ids, decoding=decoding, rule=rule, seed=5, compute=CPU, keep_top_k=2)
    texts = token_texts(tokenizer)
    decoder = UnionDecoder([Reader(e, texts) for e in experts], [1.0, 2.0], decoding, rule, 5)
    assert decoder.union.keys == [END if i == 2 else text for i, text in enumerate(texts.texts)]
    endings = set()
    for number, (prompt, own, answer) in enumerate(zip(prompts, ids, expected, strict=True)):
        (found,) = decoder.decode([number], [[(prompt, own)]] * 2)
        assert found.text == tokenizer.decode(answer.token_ids)
        assert found.token_ids == answer.token_ids.tolist()
        assert found.generation.ended == answer.ended
        np.testing.assert_allclose(found.generation.logprobs, answer.logprobs, atol=2e-5)
        assert found.generation.confidence == pytest.approx(answer.confidence, abs=1e-5)
        assert found.generation.margin == pytest.approx(answer.margin, abs=1e-4)
        endings.add(answer.ended)
    assert True in endings or method == "sample"


class Scripted:
    """An expert that says what it is told, by the answer so far."""

    def __init__(self, texts: list[bytes | None], eos_id: int, says: dict[bytes, dict[int, float]]) -> None:
        ids = {text: i for i, text in enumerate(texts) if text is not None}
        self.texts, self.says = TokenTexts(tuple(texts), frozenset({eos_id}), ids), says
        self.asked: list[bytes] = []
        self.limit: int | None = None

    def begin(self, prompts: Any) -> None:
        self.asked = []

    def keep(self, going: Any) -> None:
        pass

    def ids(self, row: int, pieces: list[bytes]) -> list[int] | None:
        data = b"".join(pieces)
        return None if self.texts.bytes_as_tokens(whole_part(data)[1]) is None else list(data)

    answer_ids = ids

    def logits(self, sequences: list[list[int] | None]) -> Any:
        out = []
        for ids in sequences:
            told = {} if ids is None else self.says[bytes(ids)]
            self.asked += [] if ids is None else [bytes(ids)]
            out.append([math.log(told.get(i, 1e-30)) for i in range(len(self.texts.texts))])
        return torch.tensor(out)


def union_of(*experts: Scripted, alphas: list[float], rule: str = "mixture") -> Any:
    decoder = UnionDecoder(list(experts), alphas, DecodingConfig(max_new_tokens=9), rule, 0)  # type: ignore[arg-type]
    return decoder.decode([0], [[("", np.zeros(0, dtype=np.int64))]] * len(experts))[0]


def test_a_character_can_come_in_several_tokens() -> None:
    sun = "日".encode()
    fine = Scripted(
        [None, sun[:1], sun[1:2], sun[2:], b"a", b"\x41\x80"],
        0,
        {
            b"": {1: 0.9, 4: 0.1},
            sun[:1]: {2: 0.3, 4: 0.7},
            sun[:2]: {3: 0.9, 1: 0.1},
            sun: {4: 0.6, 5: 0.4},
            sun + b"a": {0: 1.0},
        },
    )
    coarse = Scripted(
        [sun, None, b"a"], 1, {b"": {0: 0.2, 2: 0.8}, sun: {2: 0.5, 1: 0.5}, sun + b"a": {1: 0.9, 2: 0.1}}
    )
    found = union_of(fine, coarse, alphas=[3.0, 1.0])
    assert found.text == "日a"
    assert found.pieces == [sun[:1], sun[1:2], sun[2:], b"a"]
    assert found.generation.ended
    # The second has no tokens for parts of the character, and says nothing until it is whole; what cannot follow (an
    # "a" within a character, the invalid token 5) has no probability.
    assert coarse.asked == [b"", sun, sun + b"a"]
    expected = [0.75 * 0.9, 1.0, 1.0, 0.75 * 1.0 + 0.25 * 0.5, 0.75 * 1.0 + 0.25 * 0.9]
    np.testing.assert_allclose(np.exp(found.generation.logprobs), expected, atol=1e-6)


def test_an_answer_stops_where_nobody_can_go_on() -> None:
    sun = "日".encode()
    only = Scripted([None, sun[:2], sun[2:]], 0, {b"": {1: 1.0}})
    found = union_of(only, alphas=[1.0])
    assert (found.text, found.pieces, found.generation.ended) == ("\ufffd", [sun[:2]], False)


def test_an_answer_stops_where_a_context_is_full() -> None:
    endless = [Scripted([None, b"a"], 0, {b"": {1: 1.0}, b"a": {1: 1.0}}) for _ in range(2)]
    endless[1].limit = 1
    found = union_of(*endless, alphas=[1.0, 1.0])
    assert found.pieces == [b"a", b"a"]
    assert not found.generation.ended
    endless[1].limit = 0
    found = union_of(*endless, alphas=[1.0, 1.0])
    assert (found.text, found.generation.ended) == ("a", False)


def test_all_ends_are_one_and_equal_texts_are_added() -> None:
    first = Scripted([b"x", b"x", None, b"y"], 2, {b"": {0: 0.2, 1: 0.2, 2: 0.25, 3: 0.35}})
    second = Scripted([None, b"y", b"z"], 0, {b"": {0: 0.4, 1: 0.2, 2: 0.4}})
    union = Union([first.texts, second.texts])
    assert union.keys == [b"x", END, b"y", b"z"]
    allowed = union.allowed(b"")[None]
    spread = [union.spread(k, e.logits([[]]), allowed) for k, e in enumerate((first, second))]
    assert all(bool(knows.all()) for _, knows in spread)
    parts, even = torch.stack([part for part, _ in spread]), torch.ones(2, 1, dtype=torch.float64)
    np.testing.assert_allclose(parts[0, 0].exp(), [0.4, 0.25, 0.35, 0.0], atol=1e-6)
    np.testing.assert_allclose(parts[1, 0].exp(), [0.0, 0.4, 0.2, 0.4], atol=1e-6)
    mixture, _ = combine_texts(parts, even, "mixture")
    np.testing.assert_allclose(mixture[0].exp(), [0.2, 0.325, 0.275, 0.2], atol=1e-6)
    product, same = combine_texts(parts, even, "product")
    whole = math.sqrt(0.25 * 0.4) + math.sqrt(0.35 * 0.2)
    np.testing.assert_allclose(product[0].exp(), [0, math.sqrt(0.1) / whole, math.sqrt(0.07) / whole, 0], atol=1e-6)
    votes, sure = combine_texts(parts, even, "vote")
    assert same is product
    assert most_probable(votes, sure).tolist() == [1]  # of x and the end the mixture prefers the end
    assert union_of(first, second, alphas=[1.0, 1.0]).generation.ended


def test_batches_change_nothing(families: dict[str, Path]) -> None:
    folders, decoding = [families["bytes"], families["pieces"]], DecodingConfig(method="sample", max_new_tokens=6)
    made = Ensemble(folders, [2.0, 1.0], "generate", compute=CPU)
    together = made.generate(PROMPTS, decoding, seed=3)
    made.compute = CPU.model_copy(update={"batch_tokens": 64})
    for row, alone in zip(together, made.generate(PROMPTS, decoding, seed=3), strict=True):
        assert {k: row[k] for k in ("text", "token_ids", "ended")} == {
            k: alone[k] for k in ("text", "token_ids", "ended")
        }
        assert (row["confidence"], row["margin"]) == pytest.approx((alone["confidence"], alone["margin"]), abs=1e-5)


def test_what_is_not_finite_and_what_cannot_be(families: dict[str, Path]) -> None:
    told = Scripted([None, b"a"], 0, {b"": {1: 1.0}})
    union = Union([told.texts])
    with pytest.raises(RunFailedError, match="not finite"):
        union.spread(0, torch.tensor([[0.0, math.nan]]), union.allowed(b"")[None])
    made = Ensemble([families["bytes"], families["pieces"]], [1.0, 1.0], "generate", compute=CPU)
    with pytest.raises(ModelError, match=r"one expert for each token.*experts: all"):
        made.generate(["a"], DecodingConfig(method="sample", experts="one"))
    sampled = [made.generate(PROMPTS[:2], DecodingConfig(method="sample", max_new_tokens=3), seed=s) for s in (1, 1, 2)]
    assert sampled[0] == sampled[1] != sampled[2]
