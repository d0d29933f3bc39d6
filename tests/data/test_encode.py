from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensemw2s.config.data import TemplateConfig
from ensemw2s.data.encode import encode_prompts, encode_split, same_tokens
from ensemw2s.data.example import Example
from ensemw2s.data.template import render_answer, render_prompt
from ensemw2s.data.tokenizer import tokenizer_identity
from ensemw2s.errors import ConfigError, DataError, ModelError

TEMPLATE = TemplateConfig(prompt="Question: {prompt}\nAnswer:")
EXAMPLES = [
    Example("a", "which is it", "the sun", ("light", "the sun", "a plant and water")),
    Example("b", "is it {prompt} or {0}?", "ja", ("ja", "nein")),
    Example("c", "Größe – 漢字?", "é", ("e", "é", "漢", "water")),
    Example("d", "hidden", None, ("x", "y")),
]


def test_encoded_split_against_a_naive_loop(bpe: Any) -> None:
    enc = encode_split(EXAMPLES, bpe, TEMPLATE, "choice", 512)
    sequences: list[tuple[int, int, list[int]]] = []
    for i, example in enumerate(EXAMPLES):
        prompt = f"Question: {example.prompt}\nAnswer:"
        prompt_ids = bpe(prompt)["input_ids"]
        assert enc.prompts[i].tolist() == prompt_ids
        for j, option in enumerate(example.choices or ()):
            whole = bpe(f"{prompt} {option}")["input_ids"]
            assert whole[: len(prompt_ids)] == prompt_ids
            assert enc.options[i][j].tolist() == whole[len(prompt_ids) :]
            sequences.append((i, j, whole[len(prompt_ids) :]))
    rows: list[int] = []
    eos: list[bool] = []
    offsets = [0]
    answer_rows: dict[bool, list[list[int]]] = {True: [[], [], [], []], False: [[], [], [], []]}
    for i, j, tokens in sequences:
        if EXAMPLES[i].answer_index == j:
            start = len(rows)
            answer_rows[False][i] = list(range(start, start + len(tokens)))
            answer_rows[True][i] = list(range(start, start + len(tokens) + 1))
        rows += [*tokens, bpe.eos_token_id]
        eos += [False] * len(tokens) + [True]
        offsets.append(len(rows))
    assert enc.seq_example.tolist() == [i for i, _, _ in sequences]
    assert enc.seq_option.tolist() == [j for _, j, _ in sequences]
    assert enc.row_offsets.tolist() == offsets
    assert enc.n_rows == len(rows)
    assert enc.row_tokens.tolist() == rows
    assert enc.is_eos.tolist() == eos
    assert enc.option_bytes.tolist() == [len((EXAMPLES[i].choices or ())[j].encode()) for i, j, _ in sequences]
    assert enc.answer_index.tolist() == [1, 0, 1, -1]
    assert enc.answer_sequence.tolist() == [1, 3, 6, -1]
    for include, expected in answer_rows.items():
        got, bounds = enc.answer_rows(include)
        assert got.tolist() == [row for own in expected for row in own]
        assert np.diff(bounds).tolist() == [len(own) for own in expected]
    assert [a.dtype for a in (enc.row_tokens, enc.seq_example, enc.seq_option, enc.row_offsets, enc.option_bytes)] == [
        np.int32, np.int64, np.int64, np.int64, np.int64,
    ]  # fmt: skip
    assert enc.prompts[0].dtype == enc.options[0][0].dtype == np.int32
    assert (len(enc), enc.vocab_size, enc.split_pairs, enc.task) == (4, len(bpe), 0, "choice")


TEXT = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=12).filter(lambda t: "</s>" not in t)


@given(st.lists(st.tuples(TEXT, st.lists(TEXT, min_size=2, max_size=4, unique=True)), min_size=1, max_size=4))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_tokens_reassemble_to_prompt_and_option(bpe: Any, rows: list[tuple[str, list[str]]]) -> None:
    examples = [Example(str(i), prompt, options[0], tuple(options)) for i, (prompt, options) in enumerate(rows)]
    enc = encode_split(examples, bpe, TEMPLATE, "choice", None)
    for s, (i, j) in enumerate(zip(enc.seq_example, enc.seq_option, strict=True)):
        tokens = enc.row_tokens[enc.row_offsets[s] : enc.row_offsets[s + 1]]
        assert tokens[-1] == enc.eos_id
        assert tokens[:-1].tolist() == enc.options[i][j].tolist()
        whole = render_prompt(examples[i], TEMPLATE) + render_answer(rows[i][1][j], TEMPLATE)
        text = bpe.decode(np.concatenate([enc.prompts[i], tokens[:-1]]), clean_up_tokenization_spaces=False)
        assert text == whole
        assert enc.option_texts[i][j] == rows[i][1][j]


def test_a_tokenizers_own_beginning_is_kept_and_nothing_else_added(bpe: Any, bpe_bos: Any) -> None:
    plain = encode_split(EXAMPLES, bpe, TEMPLATE, "choice", 512)
    begun = encode_split(EXAMPLES, bpe_bos, TEMPLATE, "choice", 512)
    assert [p.tolist() for p in begun.prompts] == [[bpe_bos.bos_token_id, *p.tolist()] for p in plain.prompts]
    assert begun.row_tokens.tolist() == plain.row_tokens.tolist()


def test_a_token_across_the_border_splits_the_pair(bpe: Any) -> None:
    """``Answer: `` with its space is one thing alone and another before a word that takes the space in."""
    spaced = TemplateConfig(prompt="Answer: ", answer="{answer}")
    examples = [Example("a", "{unused}", "the sun", ("the sun", "\x00"))]
    prompt = bpe("{unused}Answer: ")["input_ids"]
    template = TemplateConfig(prompt="{prompt}" + spaced.prompt, answer="{answer}")
    enc = encode_split(examples, bpe, template, "choice", 512)
    assert bpe("{unused}Answer: the sun")["input_ids"][: len(prompt)] != prompt, "the test needs such a token"
    assert enc.prompts[0].tolist() == prompt
    assert enc.options[0][0].tolist() == bpe("the sun")["input_ids"]
    assert enc.split_pairs == 1


def test_generate_encodes_the_answer_only(bpe: Any) -> None:
    enc = encode_split(EXAMPLES, bpe, TEMPLATE, "generate", 512)
    assert [len(options) for options in enc.options] == [1, 1, 1, 0]
    assert enc.answer_index.tolist() == [0, 0, 0, -1]
    assert enc.option_texts == [["the sun"], ["ja"], ["é"], []]
    rows, offsets = enc.answer_rows(include_eos=True)
    assert rows.tolist() == list(range(enc.n_rows))
    assert offsets.tolist() == [*enc.row_offsets.tolist(), enc.n_rows]


def test_hidden_answers_leave_prompts_only(bpe: Any) -> None:
    hidden = [example.hide_answer() for example in EXAMPLES]
    enc = encode_split(hidden, bpe, TEMPLATE, "generate", 512)
    assert (enc.n_rows, enc.seq_example.size, len(enc.prompts)) == (0, 0, 4)
    rows, offsets = enc.answer_rows(include_eos=True)
    assert rows.size == 0
    assert offsets.tolist() == [0] * 5
    choice = encode_split(hidden, bpe, TEMPLATE, "choice", 512)
    assert choice.answer_index.tolist() == [-1] * 4
    assert choice.answer_rows(include_eos=False)[0].size == 0


def test_empty_split(bpe: Any) -> None:
    enc = encode_split([], bpe, TEMPLATE, "choice", 512)
    assert (len(enc), enc.n_rows, enc.row_tokens.size, enc.option_bytes.size) == (0, 0, 0, 0)
    assert enc.answer_rows(include_eos=True)[1].tolist() == [0]
    assert encode_prompts([], bpe, TEMPLATE, 5) == []


def test_prompts_alone_are_the_same(bpe_bos: Any) -> None:
    enc = encode_split(EXAMPLES, bpe_bos, TEMPLATE, "choice", 512)
    alone = encode_prompts(EXAMPLES, bpe_bos, TEMPLATE, 512)
    assert [p.tolist() for p in alone] == [p.tolist() for p in enc.prompts]


def test_fingerprint(bpe: Any, bpe_bos: Any) -> None:
    base = encode_split(EXAMPLES, bpe, TEMPLATE, "choice", 512).fingerprint()
    assert encode_split(EXAMPLES, bpe, TEMPLATE, "choice", None).fingerprint() == base
    others = [
        encode_split(EXAMPLES[:3], bpe, TEMPLATE, "choice", 512),
        encode_split(EXAMPLES, bpe_bos, TEMPLATE, "choice", 512),
        encode_split(EXAMPLES, bpe, TemplateConfig(), "choice", 512),
        encode_split([e.hide_answer() for e in EXAMPLES], bpe, TEMPLATE, "choice", 512),
        encode_split(EXAMPLES, bpe, TEMPLATE, "generate", 512),
    ]
    assert len({base, *(enc.fingerprint() for enc in others)}) == 6
    poisoned = [Example(e.id, e.prompt, "x", e.choices) for e in EXAMPLES]
    hidden = [
        encode_split([e.hide_answer() for e in part], bpe, TEMPLATE, "choice", 512) for part in (EXAMPLES, poisoned)
    ]
    assert hidden[0].fingerprint() == hidden[1].fingerprint()


def test_context_length_counts_prompt_longest_option_and_end(bpe: Any) -> None:
    enc = encode_split(EXAMPLES, bpe, TEMPLATE, "choice", None)
    longest = [p.size + max(o.size for o in own) + 1 for p, own in zip(enc.prompts, enc.options, strict=True)]
    encode_split(EXAMPLES, bpe, TEMPLATE, "choice", max(longest))
    worst = int(np.argmax(longest))
    with pytest.raises(DataError) as caught:
        encode_split(EXAMPLES, bpe, TEMPLATE, "choice", max(longest) - 1)
    message = caught.value.message
    assert f"Example {EXAMPLES[worst].id!r} has {longest[worst]} tokens (prompt {enc.prompts[worst].size}," in message
    assert f"the model's context is {max(longest) - 1}." in message
    with pytest.raises(DataError, match="3 more examples are too long"):
        encode_split(EXAMPLES, bpe, TEMPLATE, "choice", 3)


def test_prompt_length(bpe: Any) -> None:
    sizes = [p.size for p in encode_prompts(EXAMPLES, bpe, TEMPLATE, None)]
    assert len(encode_prompts(EXAMPLES, bpe, TEMPLATE, max(sizes))) == 4
    name = EXAMPLES[int(np.argmax(sizes))].id
    with pytest.raises(
        DataError, match=f"prompt of example '{name}' has {max(sizes)} tokens.*room for {max(sizes) - 1}"
    ):
        encode_prompts(EXAMPLES, bpe, TEMPLATE, max(sizes) - 1)


def test_what_cannot_be_encoded(bpe: Any, digits: Any) -> None:
    plain = TemplateConfig(answer="{answer}")
    with pytest.raises(DataError, match="Example 'z': its option 2 has no tokens after the prompt"):
        encode_split([Example("z", "1", "2", ("2", "two"))], digits, plain, "choice", 9)
    with pytest.raises(DataError, match="Example 'z': its answer has no tokens"):
        encode_split([Example("z", "1", "two")], digits, plain, "generate", 9)
    with pytest.raises(DataError, match="Example 'z': its prompt has no tokens"):
        encode_split([Example("z", "one", "2")], digits, plain, "generate", 9)
    with pytest.raises(DataError, match="Example 'z': its prompt has no tokens"):
        encode_prompts([Example("z", "one", "2")], digits, plain, 9)
    with pytest.raises(DataError, match="Example 'z': its option 1 holds the tokenizer's end-of-sequence"):
        encode_split([Example("z", "1", "2", ("a</s>", "2"))], bpe, plain, "choice", 99)
    with pytest.raises(DataError, match="Example 'z' has no options"):
        encode_split([Example("z", "1", "2")], bpe, plain, "choice", 99)
    with pytest.raises(DataError, match="Example 'z': the answer '3' is not among its options"):
        encode_split([Example("z", "1", "3", ("1", "2"))], bpe, plain, "choice", 99)


def test_tokenizer_without_end_of_sequence(bpe: Any) -> None:
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_object=bpe.backend_tokenizer)
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        encode_split(EXAMPLES, bare, TEMPLATE, "choice", 512)


def test_larger_than_one_batch(bpe: Any) -> None:
    examples = [Example(str(i), f"it is {i}", str(i), (str(i), f"{i} and {i}")) for i in range(2500)]
    enc = encode_split(examples, bpe, TEMPLATE, "choice", 512)
    for i in (0, 2047, 2048, 2499):
        assert bpe.decode(enc.prompts[i]) == f"Question: it is {i}\nAnswer:"
        assert bpe.decode(enc.options[i][1]) == f" {i} and {i}"


# Templates.


def test_braces_in_data_mean_nothing() -> None:
    example = Example("a", "{answer} {choices} {} {0} }{ %s", "{prompt}", ("{x}", "{{y}}"))
    template = TemplateConfig(prompt="Q {prompt}\n{choices}\n{{literal}} {")
    assert render_prompt(example, template) == ("Q {answer} {choices} {} {0} }{ %s\nA. {x}\nB. {{y}}\n{literal} {")
    assert render_answer("{answer}}", template) == " {answer}}"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ({"prompt": "Q: {promt}"}, r"data.template.prompt: unknown placeholder {promt} \(did you mean 'prompt'\?\)"),
        ({"prompt": "Q"}, r"data.template.prompt: the placeholder {prompt} is missing in 'Q'"),
        ({"prompt": "{{prompt}}"}, r"the placeholder {prompt} is missing"),
        ({"prompt": "{prompt} {answer}"}, r"data.template.prompt: unknown placeholder {answer}"),
        ({"prompt": "{prompt} {}"}, r"unknown placeholder {}"),
        ({"answer": "{answers}"}, r"data.template.answer: unknown placeholder {answers} \(did you mean 'answer'\?\)"),
        ({"answer": "yes"}, r"data.template.answer: the placeholder {answer} is missing"),
    ],
)
def test_bad_templates(template: dict[str, str], message: str) -> None:
    config = TemplateConfig(**template)
    with pytest.raises(ConfigError, match=message):
        render_answer("a", config) if "answer" in template else render_prompt(EXAMPLES[0], config)


def test_template_with_options_needs_them() -> None:
    with pytest.raises(DataError, match=r"uses \{choices\}, but example 'a' has none"):
        render_prompt(Example("a", "p", "x"), TemplateConfig(prompt="{prompt}{choices}"))


#: What a tokenizer writes around a text, ``$A``.
AROUND = {
    "two in a row": "<one> <two> $A",  # as GLM's [gMASK]<sop>
    "the end": "</s> $A",  # as XGLM and BioGPT, whose bos_token is <s>
    "begin and end": "<s> $A </s>",
    "only after": "$A </s>",
    "an ordinary token": "a $A",
    "twice the same": "<s> <s> $A <two>",
}


def written_around(plain: Any, around: str, *, chat_template: str | None = None) -> Any:
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    backend = copy.deepcopy(plain.backend_tokenizer)
    backend.add_special_tokens(["<one>", "<two>"])
    names = sorted(set(around.split()) - {"$A"})
    backend.post_processor = processors.TemplateProcessing(
        single=around, special_tokens=[(name, backend.token_to_id(name)) for name in names]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")
    tokenizer.chat_template = chat_template
    return tokenizer


@pytest.mark.parametrize("around", AROUND.values(), ids=AROUND)
def test_what_the_tokenizer_puts_first_is_kept_and_what_it_puts_last_is_not(bpe: Any, around: str) -> None:
    tokenizer = written_around(bpe, around)
    examples = [*EXAMPLES, Example("x", "a a", "a", ("a", "b"))]  # this prompt begins with the ordinary token
    enc = encode_split(examples, tokenizer, TEMPLATE, "choice", 512)
    after = len(around.split("$A")[1].split())
    for example, prompt in zip(examples, enc.prompts, strict=True):
        full = tokenizer(render_prompt(example, TEMPLATE))["input_ids"]
        assert prompt.tolist() == full[: len(full) - after]
    assert enc.row_tokens.tolist() == encode_split(examples, bpe, TEMPLATE, "choice", 512).row_tokens.tolist()
    prompts = encode_prompts(examples, tokenizer, TEMPLATE, None)
    assert [p.tolist() for p in prompts] == [p.tolist() for p in enc.prompts]


@pytest.mark.parametrize("written", ["<one><two>", "<one>", ""])
def test_a_beginning_that_a_text_has_already_is_not_written_twice(bpe: Any, written: str) -> None:
    turns = written + "{% for m in messages %}[{{ m.content }}]{% endfor %}"
    tokenizer = written_around(bpe, AROUND["two in a row"], chat_template=turns)
    (prompt,) = encode_prompts(EXAMPLES[:1], tokenizer, TemplateConfig(chat=True), None)
    text = written + f"[{render_prompt(EXAMPLES[0], TemplateConfig())}]"
    beginning = "" if written else "<one><two>"  # a chat template that begins by itself says all there is
    assert prompt.tolist() == bpe_ids(tokenizer, beginning + text)
    if written == "<one><two>":  # in a plain prompt, whatever the other prompts are
        both = [Example("0", "plain", "a", ("a", "b")), Example("1", text, "a", ("a", "b"))]
        plain, begun = encode_prompts(both, tokenizer, TemplateConfig(prompt="{prompt}"), None)
        assert plain.tolist() == bpe_ids(tokenizer, "<one><two>plain")
        assert begun.tolist() == bpe_ids(tokenizer, text)


def bpe_ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _words(*, normalise: bool) -> Any:
    """Words as tokens; what is not known is <unk>; on request texts are composed, stripped and in lower case."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    known = {"<unk>": 0, "<eos>": 1, "which": 2, "red": 3, "café": 4, "cafe": 5, "Red": 6, ".": 7}
    backend = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if normalise:
        backend.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase(), normalizers.Strip()])
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="<eos>")


@pytest.mark.parametrize(
    ("choices", "plain", "normalised"),
    [
        (("日本", "中国"), (0, 1), (0, 1)),
        (("red", "日本", "cafe", "中国"), (1, 3), (1, 3)),
        (("red", "日本", "cafe"), None, None),
        (("red", " red "), (0, 1), (0, 1)),
        (("red", "Red"), None, (0, 1)),
        (("cafe\u0301", "café"), None, (0, 1)),
        (("日本 red", "中国 cafe", "what red"), (0, 2), (0, 2)),
    ],
)
def test_options_with_the_same_tokens_are_found(
    choices: tuple[str, ...], plain: tuple[int, int] | None, normalised: tuple[int, int] | None
) -> None:
    asked = [Example("q", "which", choices[0], choices), Example("fine", "which", "red", ("red", "cafe"))]
    for tokenizer, expected in ((_words(normalise=False), plain), (_words(normalise=True), normalised)):
        assert same_tokens(asked, tokenizer, TemplateConfig()) == ({} if expected is None else {"q": expected})
        enc = encode_split(asked, tokenizer, TemplateConfig(), "choice", None)
        assert enc.indistinct.tolist() == [expected is not None, False]
        first, later = expected or (0, 0)
        assert enc.twins[later] == first
        assert np.count_nonzero(enc.twins != np.arange(enc.twins.size)) == (expected is not None)


def test_options_that_the_template_makes_equal_are_found() -> None:
    asked = [Example("q", "which", "red", ("red", "red."))]
    tokenizer = _words(normalise=False)
    assert same_tokens(asked, tokenizer, TemplateConfig()) == {}
    tokenizer.backend_tokenizer.normalizer = __import__("tokenizers").normalizers.Replace(".", " ")
    assert same_tokens(asked, tokenizer, TemplateConfig(answer=" {answer}.")) == {"q": (0, 1)}


def test_the_identity_of_a_tokenizer(bpe: Any, bpe_bos: Any) -> None:
    assert tokenizer_identity(bpe) == tokenizer_identity(copy.deepcopy(bpe)) != tokenizer_identity(bpe_bos)
    assert tokenizer_identity(_words(normalise=True)) != tokenizer_identity(_words(normalise=False))
