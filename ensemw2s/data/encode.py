"""Examples as tokens, in a flat layout: one row for every token of every option, and one for the end of it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ensemw2s.arrays import offsets_of
from ensemw2s.config.data import TemplateConfig
from ensemw2s.data.chat import prompt_texts
from ensemw2s.data.example import Example
from ensemw2s.data.template import render_answer
from ensemw2s.data.tokenizer import beginning, special_ids, tokenise
from ensemw2s.errors import DataError, ModelError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Task = Literal["choice", "generate"]
Ints = NDArray[np.int64]
Tokens = NDArray[np.int32]


@dataclass(frozen=True, eq=False)
class EncodedSplit:
    """A split as tokens. A *sequence* is one option of one example; sequences are ordered by example, then by option.

    The rows of a sequence are the tokens of its option and then one end-of-sequence row. With ``task: generate`` an
    example has one option, its answer, or none where the answer is hidden.

    Attributes:
        ids: id of every example, n of them.
        prompts: int32 tokens of every prompt, after those that the tokenizer itself puts first.
        options: for every example the int32 tokens of each option, without end-of-sequence; none is empty.
        option_texts: for every example the text of each option, before the answer template.
        answer_index: int64 [n], which option is true; -1 where that is hidden.
        eos_id: the end-of-sequence token.
        vocab_size: number of tokens that the tokenizer knows.
        task: ``choice`` or ``generate``.
        split_pairs: number of sequences whose prompt and option were tokenised apart, because in the whole text a token
            reaches across their border.
    """

    ids: list[str]
    prompts: list[Tokens]
    options: list[list[Tokens]]
    option_texts: list[list[str]]
    answer_index: Ints
    eos_id: int
    vocab_size: int
    task: Task
    split_pairs: int = 0

    def __len__(self) -> int:
        """Number of examples."""
        return len(self.ids)

    @cached_property
    def example_offsets(self) -> Ints:
        """int64 [n+1]: the sequences of example i are ``example_offsets[i]:example_offsets[i + 1]``."""
        return offsets_of([len(options) for options in self.options])

    @cached_property
    def seq_example(self) -> Ints:
        """int64 [S]: the example of every sequence."""
        return np.repeat(np.arange(len(self.ids), dtype=np.int64), np.diff(self.example_offsets))

    @cached_property
    def seq_option(self) -> Ints:
        """int64 [S]: which option of its example every sequence is."""
        return np.arange(self.seq_example.size, dtype=np.int64) - self.example_offsets[self.seq_example]

    @cached_property
    def row_offsets(self) -> Ints:
        """int64 [S+1]: the rows of sequence s are ``row_offsets[s]:row_offsets[s + 1]``, the last of them EOS."""
        return offsets_of([option.size + 1 for options in self.options for option in options])

    @property
    def n_rows(self) -> int:
        """Number of rows."""
        return int(self.row_offsets[-1])

    @cached_property
    def is_eos(self) -> NDArray[np.bool_]:
        """Boolean [rows]: whether a row is the end-of-sequence row of its sequence."""
        mask = np.zeros(self.n_rows, dtype=np.bool_)
        mask[self.row_offsets[1:] - 1] = True
        return mask

    @cached_property
    def row_tokens(self) -> Tokens:
        """int32 [rows]: the token that every row is about."""
        tokens = np.full(self.n_rows, self.eos_id, dtype=np.int32)
        flat = [option for options in self.options for option in options]
        if flat:
            tokens[~self.is_eos] = np.concatenate(flat)
        return tokens

    @cached_property
    def twins(self) -> Ints:
        """int64 [S]: the first sequence of the same example with the same tokens; itself where there is none before."""
        found = np.arange(self.seq_example.size, dtype=np.int64)
        for start, options in zip(self.example_offsets, self.options, strict=False):
            for at, first in enumerate(_first_alike([option.tobytes() for option in options])):
                found[start + at] = start + first
        return found

    @cached_property
    def indistinct(self) -> NDArray[np.bool_]:
        """Boolean [n]: whether two options of an example have the same tokens, so that no model tells them apart."""
        found = np.zeros(len(self.ids), dtype=np.bool_)
        found[self.seq_example[self.twins != np.arange(self.twins.size)]] = True
        return found

    @cached_property
    def option_bytes(self) -> Ints:
        """int64 [S]: UTF-8 bytes of every option's text."""
        return np.asarray([len(text.encode()) for texts in self.option_texts for text in texts], dtype=np.int64)

    @cached_property
    def answer_sequence(self) -> Ints:
        """int64 [n]: the sequence of every true answer; -1 where it is hidden."""
        return np.where(self.answer_index < 0, -1, self.example_offsets[:-1] + self.answer_index)

    def fingerprint(self) -> str:
        """SHA-256 (hex) of everything that scores depend on; a hidden answer leaves no trace in it."""
        head = [self.task, self.eos_id, self.vocab_size, self.ids, self.option_texts]
        digest = hashlib.sha256(json.dumps(head).encode())
        prompt_offsets = offsets_of([prompt.size for prompt in self.prompts])
        arrays = [prompt_offsets, *self.prompts, self.example_offsets, self.row_offsets, self.row_tokens]
        for array in (*arrays, self.answer_index):
            digest.update(np.ascontiguousarray(array).data)
        return digest.hexdigest()

    def answer_rows(self, include_eos: bool) -> tuple[Ints, Ints]:
        """Rows of the true answers in example order, ``include_eos``: with their end-of-sequence rows.

        Returns:
            ``rows`` int64 [A] and ``offsets`` int64 [n+1]: those of example i are ``rows[offsets[i]:offsets[i + 1]]``,
            none where the answer is hidden.
        """
        known = self.answer_sequence >= 0
        sequence = self.answer_sequence[known]
        counts = np.zeros(len(self.ids), dtype=np.int64)
        counts[known] = np.diff(self.row_offsets)[sequence] - (0 if include_eos else 1)
        starts = np.zeros(len(self.ids), dtype=np.int64)
        starts[known] = self.row_offsets[sequence]
        offsets = offsets_of(counts)
        rows = np.arange(offsets[-1], dtype=np.int64) + np.repeat(starts - offsets[:-1], counts)
        return rows, offsets


def _first_alike(keys: Sequence[Hashable]) -> list[int]:
    """For every key the place of the first one that is equal."""
    first: dict[Hashable, int] = {}
    return [first.setdefault(key, at) for at, key in enumerate(keys)]


def same_tokens(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, template: TemplateConfig
) -> dict[str, tuple[int, int]]:
    """The examples of which two options have the same tokens, so that no model with this tokenizer tells them apart.

    Such are characters that the tokenizer does not know, or texts that it or the template makes equal.

    Returns:
        Id → the two options, counted from 0; the first two of an example.
    """
    before = prompt_texts(examples, tokenizer, template)
    texts = [[render_answer(text, template) for text in example.choices or ()] for example in examples]
    options, _ = _continuations(tokenizer, before, tokenise(tokenizer, before), texts)
    found = {}
    for example, own in zip(examples, options, strict=True):
        alike = _first_alike([tuple(option) for option in own])
        pairs = [(first, at) for at, first in enumerate(alike) if first != at and own[at]]  # none at all is an error
        if pairs:
            found[example.id] = pairs[0]
    return found


def encode_split(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    template: TemplateConfig,
    task: Task,
    max_length: int | None,
) -> EncodedSplit:
    """Examples as tokens.

    Prompt and option are tokenised together and cut where the prompt's own tokens end, as evaluation harnesses do it;
    where the prompt's tokens are not the beginning of the whole, the two are tokenised apart (counted in
    ``split_pairs``). No special token is added but those that the tokenizer itself puts before a text, and those of a
    chat template.

    Args:
        examples: the examples; a hidden answer (None) has index -1.
        tokenizer: a tokenizer with an end-of-sequence token.
        template: how prompt and answer are written.
        task: ``choice`` encodes every option, ``generate`` the answer.
        max_length: the model's context in tokens; None is no limit.

    Raises:
        ModelError: the tokenizer has no end-of-sequence token.
        DataError: an example has no options (``choice``), a prompt or option has no token, an option holds the
            end-of-sequence token, or prompt, longest option and end-of-sequence exceed ``max_length``.
    """
    if tokenizer.eos_token_id is None:
        raise ModelError("The tokenizer has no end-of-sequence token.", hint="Set eos_token in its configuration.")
    texts = [_option_texts(example, task) for example in examples]
    before = prompt_texts(examples, tokenizer, template)
    answer_texts = [[render_answer(text, template) for text in options] for options in texts]
    prompts = tokenise(tokenizer, before)
    options, split_pairs = _continuations(tokenizer, before, prompts, answer_texts)
    _check_options(examples, options, int(tokenizer.eos_token_id))
    encoded = EncodedSplit(
        ids=[example.id for example in examples],
        prompts=_prompt_arrays(examples, tokenizer, template, prompts),
        options=[[np.asarray(option, dtype=np.int32) for option in own] for own in options],
        option_texts=texts,
        answer_index=np.asarray([_answer_index(example, task) for example in examples], dtype=np.int64),
        eos_id=int(tokenizer.eos_token_id),
        vocab_size=len(tokenizer),
        task=task,
        split_pairs=split_pairs,
    )
    if max_length is not None:
        _check_lengths(encoded, max_length)
    return encoded


def _option_texts(example: Example, task: Task) -> list[str]:
    if task == "generate":
        return [] if example.answer is None else [example.answer]
    if not example.choices:
        raise DataError(f"Example {example.id!r} has no options, which task: choice needs.")
    return list(example.choices)


def _answer_index(example: Example, task: Task) -> int:
    if example.answer is None:
        return -1
    if task == "generate":
        return 0
    choices = example.choices or ()
    if example.answer not in choices:
        raise DataError(f"Example {example.id!r}: the answer {example.answer!r} is not among its options.")
    return choices.index(example.answer)


def _continuations(
    tokenizer: PreTrainedTokenizerBase,
    before: list[str],
    prompts: list[list[int]],
    answer_texts: list[list[str]],
) -> tuple[list[list[list[int]]], int]:
    """Tokens of every option after its prompt, and how many of them were tokenised apart."""
    pairs = [(i, j) for i, answers in enumerate(answer_texts) for j in range(len(answers))]
    whole = tokenise(tokenizer, [before[i] + answer_texts[i][j] for i, j in pairs])
    options: list[list[list[int]]] = [[] for _ in prompts]
    apart: list[tuple[int, int]] = []
    for (i, j), tokens in zip(pairs, whole, strict=True):
        end = len(prompts[i])
        options[i].append(tokens[end:])
        if tokens[:end] != prompts[i]:
            apart.append((i, j))
    for (i, j), tokens in zip(apart, tokenise(tokenizer, [answer_texts[i][j] for i, j in apart]), strict=True):
        options[i][j] = tokens
    return options, len(apart)


def _prompt_arrays(
    examples: Sequence[Example], tokenizer: PreTrainedTokenizerBase, template: TemplateConfig, prompts: list[list[int]]
) -> list[Tokens]:
    """Prompts as arrays, after the tokens that the tokenizer puts first unless the prompt's text begins with them."""
    start = beginning(tokenizer)
    # A chat template that writes the first of them has decided on the beginning. Ordinary tokens may be the user's own.
    written = start[:1] if template.chat else start
    can_be_written = set(written) <= special_ids(tokenizer)
    out: list[Tokens] = []
    for example, prompt in zip(examples, prompts, strict=True):
        begun = can_be_written and prompt[: len(written)] == written
        whole = prompt if begun else start + prompt
        if not whole:
            raise DataError(
                f"Example {example.id!r}: its prompt has no tokens, so its answer cannot be predicted.",
                hint="The tokenizer may not know its characters.",
            )
        out.append(np.asarray(whole, dtype=np.int32))
    return out


def _check_options(examples: Sequence[Example], options: list[list[list[int]]], eos_id: int) -> None:
    for example, own in zip(examples, options, strict=True):
        for at, option in enumerate(own):
            which = "its answer" if len(own) == 1 else f"its option {at + 1}"
            if not option:
                raise DataError(
                    f"Example {example.id!r}: {which} has no tokens after the prompt.",
                    hint="The tokenizer may not know its characters.",
                )
            if eos_id in option:
                raise DataError(
                    f"Example {example.id!r}: {which} holds the tokenizer's end-of-sequence token.",
                    hint="Remove it from the data: it is added after every answer.",
                )


def encode_prompts(
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    template: TemplateConfig,
    max_length: int | None,
) -> list[Tokens]:
    """Prompts alone, with the same tokens as in :func:`encode_split`: what decoding starts from.

    Returns:
        int32 tokens of every prompt.

    Raises:
        DataError: a prompt has no token, or more than ``max_length``.
    """
    tokens = tokenise(tokenizer, prompt_texts(examples, tokenizer, template))
    prompts = _prompt_arrays(examples, tokenizer, template, tokens)
    too_long = [at for at, prompt in enumerate(prompts) if max_length is not None and prompt.size > max_length]
    if too_long:
        at = too_long[0]
        more = f" {len(too_long) - 1} more prompts are too long." if len(too_long) > 1 else ""
        raise DataError(
            f"The prompt of example {examples[at].id!r} has {prompts[at].size} tokens, but the model's context leaves "
            f"room for {max_length} before the answer.{more}",
            hint="Shorten or remove it, lower decoding.max_new_tokens, or use a model with a longer context.",
        )
    return prompts


def _check_lengths(encoded: EncodedSplit, max_length: int) -> None:
    prompt = np.asarray([tokens.size for tokens in encoded.prompts], dtype=np.int64)
    longest = np.asarray([max((o.size for o in own), default=0) for own in encoded.options], dtype=np.int64)
    total = prompt + longest + 1
    too_long = np.flatnonzero(total > max_length)
    if too_long.size:
        at = int(too_long[0])
        more = f" {too_long.size - 1} more examples are too long." if too_long.size > 1 else ""
        part = "answer" if encoded.task == "generate" else "longest option"
        raise DataError(
            f"Example {encoded.ids[at]!r} has {total[at]} tokens (prompt {prompt[at]}, {part} {longest[at]}, "
            f"end-of-sequence 1), but the model's context is {max_length}.{more}",
            hint="Shorten or remove it, shorten data.template, or use a model with a longer context.",
        )
