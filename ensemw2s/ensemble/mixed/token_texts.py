"""Byte strings of a vocabulary's tokens: what experts with different tokenizers have in common."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from ensemw2s.data.tokenizer import special_ids
from ensemw2s.errors import ModelError

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")


@dataclass(frozen=True, slots=True)
class TokenTexts:
    """The texts of one tokenizer's tokens."""

    texts: tuple[bytes | None, ...]
    """By token id; None for special tokens, for ids without a token, and for tokens without text."""
    end_ids: frozenset[int]
    """The tokens that end an answer."""
    ids: dict[bytes, int] = field(repr=False)
    """The token of every text: of several the first, and one that spells its text before one that names its byte."""

    def ended_by(self, end_ids: Iterable[int]) -> TokenTexts:
        """The same with other tokens that end an answer, which stand for no text."""
        ends = frozenset(end_ids)
        texts = tuple(None if i in ends else text for i, text in enumerate(self.texts))
        return TokenTexts(texts, ends, {text: i for text, i in self.ids.items() if i not in ends})

    def join(self, ids: Iterable[int]) -> bytes | None:
        """The bytes that some tokens stand for together; None where one of them stands for none."""
        parts = [self.texts[i] if i < len(self.texts) else None for i in ids]
        known = [part for part in parts if part is not None]
        return b"".join(known) if len(known) == len(parts) else None

    def bytes_as_tokens(self, data: bytes) -> list[int] | None:
        """One token for every byte; None where a byte has none."""
        return self.pieces_as_tokens([bytes([byte]) for byte in data])

    def pieces_as_tokens(self, pieces: Sequence[bytes]) -> list[int] | None:
        """One token for every text; None where one of them has none."""
        found = [self.ids[piece] for piece in pieces if piece in self.ids]
        return found if len(found) == len(pieces) else None


def token_texts(tokenizer: Any) -> TokenTexts:
    """Read the bytes of all tokens from a tokenizer's decoder.

    Known are byte-level vocabularies (``Ġ`` is a space), those in the manner of SentencePiece (``▁`` is a space,
    ``<0x0A>`` a byte), and plain texts.

    Raises:
        ModelError: the tokenizer is not of the ``tokenizers`` library, or decodes in another way.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    name = getattr(tokenizer, "name_or_path", "") or type(tokenizer).__name__
    if backend is None:
        raise ModelError(
            f"The tokenizer of {name} is not one of the tokenizers library, so the texts of its tokens are not known.",
            hint="Experts of different tokenizers can still answer questions with choices (task: choice).",
        )
    steps = list(_steps(_state(backend.decoder)))
    unknown = [str(step["type"]) for step in steps if not _is_known(step)]
    if unknown or not steps:
        what = f"in a way that is not known here ({', '.join(unknown)})" if unknown else "by putting spaces between"
        raise ModelError(
            f"The tokenizer of {name} turns tokens into text {what}, so they cannot be compared with another's.",
            hint="Experts of different tokenizers can still answer questions with choices (task: choice).",
        )
    special = special_ids(tokenizer)
    vocabulary = {int(i): str(token) for token, i in tokenizer.get_vocab().items()}
    texts = tuple(
        None if i in special or i not in vocabulary else _text(vocabulary[i], steps) or None
        for i in range(max(vocabulary, default=-1) + 1)
    )
    ids: dict[bytes, int] = {}
    for i in sorted(range(len(texts)), key=lambda i: (_BYTE_TOKEN.fullmatch(vocabulary.get(i, "")) is not None, i)):
        text = texts[i]
        if text is not None:
            ids.setdefault(text, i)
    return TokenTexts(texts, frozenset({int(tokenizer.eos_token_id)}), ids)


def _state(part: Any) -> Any:
    """The settings of a part of a tokenizer; None where it has no such part."""
    return None if part is None else json.loads(part.__getstate__())


def _steps(decoder: Any) -> Iterable[dict[str, Any]]:
    """A decoder as a list of its single steps."""
    if decoder is None:
        return
    if decoder["type"] == "Sequence":
        for part in decoder["decoders"]:
            yield from _steps(part)
    else:
        yield decoder


def _is_known(step: dict[str, Any]) -> bool:
    if step["type"] == "Replace":
        return "String" in step["pattern"]
    # Strip and the first space that Metaspace takes off belong to a whole text, not to a token in it.
    return step["type"] in ("ByteLevel", "ByteFallback", "Metaspace", "Fuse", "Strip")


def _text(token: str, steps: list[dict[str, Any]]) -> bytes:
    """The bytes of a token inside a text."""
    for step in steps:
        match step["type"]:
            case "ByteLevel":
                found = [_byte_level().get(character) for character in token]
                known = [byte for byte in found if byte is not None]
                return bytes(known) if len(known) == len(found) else token.encode()
            case "ByteFallback":
                byte = _BYTE_TOKEN.fullmatch(token)
                if byte is not None:
                    return bytes([int(byte.group(1), 16)])
            case "Metaspace":
                token = token.replace(step["replacement"], " ")
            case "Replace":
                token = token.replace(step["pattern"]["String"], step["content"])
    return token.encode()


@lru_cache(maxsize=1)
def _byte_level() -> dict[str, int]:
    """Character → byte of byte-level vocabularies: printable bytes stand for themselves, the others follow from 256."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(byte): byte for byte in plain} | {chr(256 + n): byte for n, byte in enumerate(others)}
