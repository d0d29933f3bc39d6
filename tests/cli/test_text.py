"""Text of strangers on the way to a terminal, to JSON and to a spreadsheet."""

from __future__ import annotations

import ast
import csv
import io
import json
import sys
import unicodedata
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st
from rich.table import Table

from ensemw2s.cli.terminal import Terminal
from ensemw2s.files import dump_json
from ensemw2s.text import csv_text, drawn, escaped_json, markdown, printable, quoted, scalar, without_hidden

ANY = st.text(st.characters(exclude_categories=()))
VISIBLE_FORMAT = {chr(code) for code in (*range(0x600, 0x606), 0x6DD, 0x70F, 0x890, 0x891, 0x8E2, 0x110BD, 0x110CD)}
CLIPBOARD = "\x1b]52;c;cm0gLXJmIH4=\x07"
HOSTILE = (
    CLIPBOARD, "\x1b[2J\x1b[1;1H", "\x9b31m", "\x1bP+q544e\x1b\\", "\x1b]8;;http://x\x1b\\a\x1b]8;;\x1b\\",
    "\u202etxt.exe",
    "a\rb", "a\x08b", "\u2066x\u2069", "\u200bz", "\U000e0041", "\udcff", "\x00", "\x7f", "\u2028", "\x85", "\x0b\x0c",
)  # fmt: skip


def dangerous(char: str) -> bool:
    """By Unicode's categories, not by the table of the package."""
    return unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or (
        unicodedata.category(char) == "Cf" and char not in VISIBLE_FORMAT
    )


def test_every_character_of_unicode() -> None:
    for code in range(sys.maxunicode + 1):
        char = chr(code)
        if dangerous(char):
            shown = printable(char)
            assert shown != char
            assert len(shown) == 1
            assert not dangerous(shown)
            assert without_hidden(char) == ""
        elif unicodedata.category(char) not in ("Cn", "Lo", "Mn"):  # some of these are invisible, too
            assert printable(char) == char == without_hidden(char)
    letters = "Grüße, 日本語, العربية, 🙂 ❤️, e\u0301"
    assert printable(letters) == letters


@given(ANY)
def test_nothing_hidden_stays(text: str) -> None:
    shown = printable(text, "\n\t")
    assert len(shown) == len(text)
    assert all(char in "\n\t" or not dangerous(char) for char in shown)
    assert printable(shown, "\n\t") == shown


@given(ANY)
def test_json_is_the_same_value(text: str) -> None:
    value = {"a": [text], text: 1}
    for indent in (None, 2):
        said = escaped_json(dump_json(value, indent=indent))
        assert json.loads(said) == json.loads(json.dumps(value))
        assert not any(dangerous(char) for char in said if char != "\n")


@pytest.mark.parametrize("text", HOSTILE)
def test_only_drawing_passes(text: str) -> None:
    ours = "\x1b[1;31mError:\x1b[0m a\n\x1b[2K\x1b[1A\r\x1b[?25l"
    assert drawn(ours) == ours
    left = drawn(ours + text).removeprefix(ours)
    assert not any(dangerous(char) and char not in "\r\b" for char in left)


@pytest.mark.parametrize("text", HOSTILE)
def test_everything_that_is_printed(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    from ensemw2s.errors import InputError

    terminal = Terminal()
    terminal.say(text)
    terminal.next(text, text)
    terminal.warn(text)
    terminal.error(InputError(text, hint=text, title=text))
    terminal.fail(text)
    terminal.trace(text)
    terminal.out(text)
    terminal.json({text: text})
    terminal.json_line(text)
    table = Table(text, title=text, caption=text)
    table.add_row(f"[red]{text}[/red] [link=http://x]")
    terminal.render(table)
    terminal.console(sys.stderr).print(text)
    said = capsys.readouterr()
    assert not any(dangerous(char) for char in said.out + said.err if char != "\n")
    assert "[red]" in said.out
    assert "[link=http://x]" in said.out


def test_data_is_as_it_is_in_a_pipe_and_harmless_on_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    Terminal().data(CLIPBOARD)
    assert capsys.readouterr().out == CLIPBOARD + "\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    Terminal().data(CLIPBOARD)
    assert capsys.readouterr().out == "␛]52;c;cm0gLXJmIH4=␇\n"


@pytest.mark.parametrize(
    "text",
    [
        "=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "＝1", "-", "=", "-1e5x",
        '=HYPERLINK("a")',
    ],
)  # fmt: skip
def test_formulas_are_text(text: str) -> None:
    rows = list(csv.reader(io.StringIO(csv_text([text], [[text], ["a;" + text]]))))
    assert rows == [["'" + text], ["'" + text], ["a;" + text]]


@pytest.mark.parametrize("value", [-1, -0.5, "-0.5", "+3", "-1e-05", "1.", ".5", "a=b", "", None, True, "x-y", 1e300])
def test_numbers_and_words_stay(value: Any) -> None:
    assert list(csv.reader(io.StringIO(csv_text(["x", "y"], [[value, 1]]))))[1][0] == (
        "" if value is None else str(value)
    )


def test_a_separator_of_another_locale_is_quoted() -> None:
    assert csv_text(["x", "y"], [["a;=1", 1], ["a", 2]]) == 'x,y\n"a;=1","1"\na,2\n'


@pytest.mark.parametrize(
    "text",
    [
        "a](http://x)", "a\\](http://x)", "a\\\\](http://x)", "![i](x)", "[a][b]", "[b]: http://x", "x\n[b]: http://x",
        "<script>", "<http://x>", "a\n# title", "a\r# title",
    ],
)  # fmt: skip
def test_markdown_of_a_text_is_that_text(text: str) -> None:
    from markdown_it import MarkdownIt  # a full parser of CommonMark, which rich brings along

    for line in (f"# {markdown(text)}", f"- {markdown(text)}", markdown(text)):
        tokens = MarkdownIt().parse(f"{line}\n\n[a]: http://y")
        inline = [child.type for token in tokens for child in token.children or ()]
        assert set(inline) == {"text"}, inline
        assert [token.type for token in tokens].count("heading_open") == line.startswith("# ")
        assert not any(token.type == "html_block" for token in tokens)


@given(ANY)
@example("\U000e0000")
@example("\x85\u2028")
def test_quoted_text_reads_back(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    assert ast.literal_eval(quoted(text)) == text
    assert yaml.safe_load(f"key: {quoted(text)}") == {"key": text}
    assert yaml.safe_load(f"key: {quoted(text)}\nother: 1") == {"key": text, "other": 1}


@pytest.mark.parametrize("text", ["org/name", "my labels", "a: b", "x\nlicense: mit", "- a", "#x", "'", "", "1", "é"])
def test_a_scalar_of_yaml_is_that_text(text: str) -> None:
    assert yaml.safe_load(f"key: {scalar(text)}") == {"key": text}
