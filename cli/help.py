"""Help texts: one line that says what a command does, examples right below, then the rest."""

from __future__ import annotations

EXIT_CODES = "Exit codes: 0 done, 1 failed midway, 2 usage or bad input, 130 interrupted."


def help_text(summary: str, examples: list[str], *paragraphs: str) -> str:
    r"""A command's help; ``\b`` keeps the examples as they are when the rest is wrapped.

    Args:
        summary: the first line, also shown in the list of commands.
        examples: command lines, with a remark behind ``  #`` where one helps; at most 76 characters.
        paragraphs: wrapped to the terminal; one that begins with two spaces keeps its line breaks.
    """
    blocks = [summary, "\b\nExamples:\n" + "\n".join(f"  {example}" for example in examples)]
    for paragraph in paragraphs:
        blocks.append("\b\n" + paragraph if paragraph.startswith("  ") else paragraph)
    return "\n\n".join(blocks)
