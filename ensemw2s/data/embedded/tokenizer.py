"""The character-level tokenizer of the embedded bases: one token per printable ASCII character."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

PAD, EOS, UNK = "<pad>", "<eos>", "<unk>"
#: Newline and every printable ASCII character, digits first; a character's id is its place here plus three.
ALPHABET = "0123456789\n" + "".join(c for c in map(chr, range(32, 127)) if not c.isdigit())
CONTEXT = 96


def vocabulary() -> dict[str, int]:
    """Token to id: the three special tokens, then the characters of :data:`ALPHABET`."""
    return {token: i for i, token in enumerate([PAD, EOS, UNK, *ALPHABET])}


def make_tokenizer() -> PreTrainedTokenizerFast:
    """The tokenizer. Characters outside the alphabet become ``<unk>``; no special token is added to a text."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.WordLevel(vocabulary(), unk_token=UNK))
    core.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    core.decoder = decoders.Fuse()
    options: dict[str, Any] = {"clean_up_tokenization_spaces": False, "model_max_length": CONTEXT}
    return PreTrainedTokenizerFast(tokenizer_object=core, pad_token=PAD, eos_token=EOS, unk_token=UNK, **options)
