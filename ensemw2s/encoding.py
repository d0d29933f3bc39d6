"""Decode the bytes of a file as UTF-8; errors name the line."""

from __future__ import annotations

import codecs


class TextError(ValueError):
    """Bytes that are no text in UTF-8. The message can stand behind ``file:line:``.

    Attributes:
        line: on which it was noticed, from 1.
        hint: how to convert the file, or None.
    """

    def __init__(self, message: str, line: int = 1, hint: str | None = None) -> None:
        super().__init__(message)
        self.line = line
        self.hint = hint


#: Longer marks first: that of UTF-32 begins like that of UTF-16.
_BYTE_ORDER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def _wide_encoding(content: bytes) -> str | None:
    """The name of an encoding of two or four bytes a character, by its byte order mark or by where its zeros are."""
    for mark, name in _BYTE_ORDER_MARKS:
        if content.startswith(mark):
            return name
    sample = content[:4096]
    zeros = [sample[offset::4].count(0) for offset in range(4)]
    quarter = max(len(sample) // 4, 1)
    if sum(zeros) > 2.5 * quarter:
        return "UTF-32BE" if zeros[0] > zeros[3] else "UTF-32LE"
    even, odd = zeros[0] + zeros[2], zeros[1] + zeros[3]
    if max(even, odd) > 0.1 * quarter and min(even, odd) < 0.1 * max(even, odd):
        return "UTF-16BE" if even > odd else "UTF-16LE"
    return None


def decode_text(content: bytes) -> str:
    """UTF-8 text, without its byte order mark.

    Raises:
        TextError: another encoding, or no text at all.
    """
    wide = _wide_encoding(content)
    if wide is not None:
        raise TextError(f"the text is {wide}, not UTF-8", hint=f"Convert it: iconv -f {wide} -t UTF-8 OLD > NEW.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"not UTF-8 text (byte 0x{content[error.start]:02x} at position {error.start})"
        raise TextError(message, line, "Convert it, for example with: iconv -f WINDOWS-1252 -t UTF-8.") from None
    at = text.find("\0")
    if at >= 0:
        raise TextError(f"not text (a zero byte at position {at})", text.count("\n", 0, at) + 1)
    return text
