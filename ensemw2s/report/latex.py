"""Tables in LaTeX, with the rules of the package ``booktabs``."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

from ensemw2s.report.table import Table

_SPECIAL = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"$<$",
    ">": r"$>$",
    "|": r"$|$",
    '"': "''",
    # after the end of a row TeX would take a bracket for the row's spacing
    "[": "{[}",
    "]": "{]}",
    "−": "$-$",
    "–": "--",
    "—": "---",
    "×": r"$\times$",
    "±": r"$\pm$",
    "·": r"$\cdot$",
    "→": r"$\rightarrow$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "∞": r"$\infty$",
    "Σ": r"$\Sigma$",
    "α": r"$\alpha$",
    "ε": r"$\varepsilon$",
    "κ": r"$\kappa$",
    "ν": r"$\nu$",
    "φ": r"$\varphi$",
    "…": r"\ldots{}",
    "’": "'",
    "\u00a0": "~",
    "\u2009": r"\,",
}
_SCRIPTS = {"₀": "_0", "²": "^2", "³": "^3"}

_HEAD = r"""% Tables of one report. Alone this file is a document; inside one that loads booktabs, \input{tables.tex}
% takes the tables alone.
\expandafter\ifx\csname @nodocument\endcsname\relax\else
\documentclass{article}
\usepackage[T1]{fontenc}
\usepackage[utf8]{inputenc}
\usepackage{booktabs}
\usepackage[margin=1.5cm]{geometry}
\def\ensemwtwosalone{}
\begin{document}
\fi
"""
_TAIL = r"\ifdefined\ensemwtwosalone\end{document}\fi" + "\n"


def escape(text: str) -> str:
    """Text as LaTeX: special signs and those of the method are written out; what no 8-bit font has becomes ``?``."""
    out: list[str] = []
    for sign in text:
        if sign in _SCRIPTS:
            out.append(f"${_SCRIPTS[sign][0]}{{{_SCRIPTS[sign][1:]}}}$")
        elif sign in _SPECIAL:
            out.append(_SPECIAL[sign])
        elif sign.isspace():
            out.append(" ")
        elif unicodedata.category(sign) in ("Cc", "Cf", "Mn"):
            continue
        else:
            out.append(sign if ord(sign) < 0x180 else "?")
    return "".join(out)


def to_latex(table: Table) -> str:
    """A ``table`` environment with caption, ``booktabs`` rules and the notes below; ends in a newline."""
    letters = "".join("r" if column.align == "right" else "l" for column in table.columns)
    lines = [r"\begin{table}[htbp]", r"\centering", rf"\caption{{{escape(table.title)}}}"]
    lines += [rf"\begin{{tabular}}{{@{{}}{letters}@{{}}}}", r"\toprule"]
    lines += [" & ".join(escape(column.header) for column in table.columns) + r" \\", r"\midrule"]
    for place, row in enumerate(table.rows):
        lines += [r"\addlinespace"] if row.rule and place else []
        cells = (escape(cell) for cell in row.cells)
        lines.append(" & ".join(rf"\textbf{{{cell}}}" if row.strong and cell else cell for cell in cells) + r" \\")
    lines += [r"\bottomrule", r"\end{tabular}"]
    if table.notes:
        lines += ["", r"\smallskip", r"\begin{minipage}{0.95\linewidth}\footnotesize"]
        lines += [escape(note) + (r" \\" if note is not table.notes[-1] else "") for note in table.notes]
        lines += [r"\end{minipage}"]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def latex_document(tables: Iterable[Table]) -> str:
    r"""All tables as one file that compiles by itself and can also be read into another document with ``\input``."""
    return _HEAD + "\n" + "\n".join(to_latex(table) for table in tables) + "\n" + _TAIL
