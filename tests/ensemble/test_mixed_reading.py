"""What tokens of different tokenizers stand for, and how experts read an answer in their own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensemw2s.ensemble.mixed.reader import Reader
from ensemw2s.ensemble.mixed.token_texts import token_texts
from ensemw2s.ensemble.mixed.union import settled, split_text
from ensemw2s.errors import ModelError


def opened(folder: Path) -> Any:
    from ensemw2s.config.training import ModelConfig
    from ensemw2s.models.loading.load import load_model

    return load_model(ModelConfig(path=str(folder)))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", ("", b"")),
        ("é日".encode(), ("é日", b"")),
        (b"a\xe6\x97", ("a", b"\xe6\x97")),
        (b"\xf0\x9f\x98", ("", b"\xf0\x9f\x98")),
        (b"\x80", None),
        (b"\xe6a", None),
        (b"\xe0\x80", None),
        (b"\xff", None),
    ],
)
def test_texts_and_incomplete_characters(data: bytes, expected: Any) -> None:
    assert split_text(data) == expected


@pytest.mark.parametrize(
    ("pieces", "text", "last"),
    [
        ([], "", []),
        ([b"a", b" b"], "a b", []),
        ([b"a", b"\n", b"\n"], "a", [b"\n", b"\n"]),
        ([b"a", b".\n", b" "], "a", [b".\n", b" "]),
        ([b"a", b".\n", b"b"], "a.\nb", []),
        ([b" "], "", [b" "]),
        ([b"a", b"\xe6", b"\x97"], "a", [b"\xe6", b"\x97"]),
        ([b"a", b"\xe6", b"\x97", b"\xa5"], "a日", []),
        ([b"a", b"\xe6\x97", b"\xa5\n"], "a", [b"\xe6\x97", b"\xa5\n"]),
        ([b"\n", b"\xe6\x97"], "\n", [b"\xe6\x97"]),
    ],
)
def test_what_is_open_at_the_end_keeps_its_tokens(pieces: list[bytes], text: str, last: list[bytes]) -> None:
    assert settled(pieces) == (text, last)


def test_white_space_is_cut_by_what_follows(families: dict[str, Path]) -> None:
    loaded = opened(families["bytes"])
    tokenizer = loaded.tokenizer
    reader = Reader(loaded, token_texts(tokenizer))
    reader.begin([("the cat", np.array(tokenizer("the cat")["input_ids"]))])
    pieces = [b" is", b" ", b" ", b" the"]
    space = tokenizer.convert_tokens_to_ids("Ġ")
    words = [tokenizer(word)["input_ids"] for word in (" is", " the")]
    assert reader.answer_ids(0, pieces[:3]) == [*words[0], space, space]
    assert (
        reader.answer_ids(0, pieces)
        == tokenizer("the cat is   the")["input_ids"][len(tokenizer("the cat")["input_ids"]) :]
    )


def test_token_texts_of_three_kinds_of_tokenizers(families: dict[str, Path]) -> None:
    from transformers import AutoTokenizer

    for name in ("bytes", "pieces", "unigram"):
        tokenizer = AutoTokenizer.from_pretrained(families[name])
        texts = token_texts(tokenizer)
        assert len(texts.texts) == len(tokenizer)
        assert texts.texts[tokenizer.eos_token_id] is None
        for line in ("the cat sat", "is happier", "café 日本" if name != "unigram" else "on the mat"):
            joined = texts.join(tokenizer(line, add_special_tokens=False)["input_ids"])
            assert joined is not None
            assert joined.decode().removeprefix(" ") == line
        assert (texts.bytes_as_tokens("日".encode()) is None) == (name == "unigram")


def test_a_tokenizer_of_an_unknown_kind_is_refused() -> None:
    from tokenizers import Tokenizer, decoders, models
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.WordLevel({"a": 0, "<e>": 1}, unk_token="<e>"))
    for decoder, words in ((None, "putting spaces between"), (decoders.WordPiece(), "WordPiece")):
        if decoder is not None:
            backend.decoder = decoder
        with pytest.raises(ModelError, match=words):
            token_texts(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<e>"))
    with pytest.raises(ModelError, match="not one of the tokenizers library"):
        token_texts(object())


def test_a_reader_reads_only_what_changed(families: dict[str, Path]) -> None:
    loaded = opened(families["bytes"])
    reader = Reader(loaded, token_texts(loaded.tokenizer))
    seen: list[int] = []
    plain = loaded.model.forward

    def counted(*args: Any, **inputs: Any) -> Any:
        seen.append(inputs["input_ids"].shape[1])
        return plain(*args, **inputs)

    ids = np.array(loaded.tokenizer("the cat sat on")["input_ids"])
    reader.begin([("the cat sat on", ids)])
    texts: list[list[bytes]] = [
        [],
        [b" t"],
        [b" t", b"h"],
        [b" the"],
        [b" the", b" m"],
        [b" the", b" mat"],
        [b" the mat"],
    ]
    loaded.model.forward = counted
    try:
        with torch.inference_mode():
            found = [reader.logits([reader.ids(0, pieces)])[0] for pieces in texts]
    finally:
        del loaded.model.forward
    for pieces, logits in zip(texts, found, strict=True):
        whole = [*ids, *(reader.answer_ids(0, pieces) or [])]
        with torch.no_grad():
            np.testing.assert_allclose(logits, loaded.model(torch.tensor([whole])).logits[0, -1], atol=1e-5)
    assert seen[0] == len(ids)
    assert max(seen[1:]) <= 2


@pytest.mark.parametrize("kind", ["llama", "gpt2", "bloom", "mamba", "gemma2"])
def test_rows_are_read_together(kind: str, make_model: Any, tokenizer: Any) -> None:
    from ensemw2s.models.loading.load import LoadedModel

    model = make_model(0, kind)
    reader = Reader(LoadedModel(model, tokenizer, kind, None, 0, "float32", "sdpa"), token_texts(tokenizer))
    prompts = ["abc 12", "j", "1 2 3 4"]
    reader.begin([(prompt, np.array(tokenizer(prompt)["input_ids"])) for prompt in prompts])
    # Rows grow by different lengths, go back on what was read, wait (None) and leave.
    steps: list[list[str | None]] = [
        ["", "", ""], ["a", "b", "c"], ["ab", "bcde", "c"], ["ab1", None, "d"], ["ab12", "bcj", None],
        ["j", "bcja", "de"],
    ]  # fmt: skip
    rows = [0, 1, 2]
    for texts in [*steps, ["ja", "ed"], ["jab", "e"]]:
        if len(texts) < len(rows):
            rows = [0, 2]
            reader.keep(rows)
        ids = [None if text is None else reader.ids(i, [text.encode()] if text else []) for i, text in enumerate(texts)]
        with torch.inference_mode():
            found = reader.logits(ids)
            for row, text, logits in zip(rows, texts, found, strict=True):
                if text is not None:
                    whole = tokenizer(prompts[row] + text)["input_ids"]
                    np.testing.assert_allclose(logits, model(torch.tensor([whole])).logits[0, -1], atol=2e-5)
