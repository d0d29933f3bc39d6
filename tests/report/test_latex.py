from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from ensemw2s.report.latex import escape, latex_document, to_latex
from ensemw2s.report.over_seeds_tables import seed_tables
from ensemw2s.report.table import Column, Table
from ensemw2s.report.tables import run_tables

#: Commands that a plain LaTeX with booktabs knows.
KNOWN = {
    "addlinespace", "alpha", "begin", "bottomrule", "caption", "cdot", "centering", "csname", "def", "documentclass",
    "else", "end", "endcsname", "ensemwtwosalone", "expandafter", "fi", "footnotesize", "geq", "ifdefined", "ifx",
    "infty", "kappa", "ldots", "leq", "linewidth", "midrule", "nu", "pm", "relax", "rightarrow", "Sigma", "smallskip",
    "textasciicircum", "textasciitilde", "textbackslash", "textbf", "times", "toprule", "usepackage", "varepsilon",
    "varphi",
}  # fmt: skip


def check(source):
    """What TeX would stumble over: braces, environments, dollars, unknown commands, specials, columns of a row."""
    text = "\n".join(line for line in source.splitlines() if not line.startswith("%"))
    assert text.isascii()
    plain = re.sub(r"\\[&%$#_{}]", "", text)
    depth = 0
    for sign in plain:
        depth += (sign == "{") - (sign == "}")
        assert depth >= 0
    assert depth == 0
    stack = []
    for kind, name in re.findall(r"\\(begin|end)\{(\w+)\}", plain):
        if kind == "begin":
            stack.append(name)
        else:
            assert stack.pop() == name
    assert stack == []
    assert plain.count("$") % 2 == 0
    for formula in re.findall(r"\$([^$]*)\$", plain):
        assert formula
        assert "\n" not in formula
    assert set(re.findall(r"\\([A-Za-z]+)", plain)) <= KNOWN
    outside = re.sub(r"\$[^$]*\$", "", plain)
    assert not re.search(r"[#%^<>|\"]", outside)
    assert "_" not in outside
    for letters, body in re.findall(r"\\begin\{tabular\}\{@\{\}([lr]+)@\{\}\}(.*?)\\end\{tabular\}", text, re.S):
        rows = [line for line in body.splitlines() if line.endswith(r"\\")]
        assert rows
        for row in rows:
            assert len(re.findall(r"(?<!\\)&", row)) == len(letters) - 1
            # a bracket right behind \\ would be taken for an optional argument
            assert not row.lstrip().startswith("[")


def test_tables_of_a_run_and_of_seeds(results, seeds):
    for table in [*run_tables(results), *seed_tables(seeds)]:
        source = to_latex(table)
        check(source)
        assert source.count(r"\toprule") == source.count(r"\bottomrule") == 1
        assert source.count(r" \\") >= len(table.rows) + 1
    check(
        latex_document(run_tables(results))
        .replace("@nodocument", "")
        .replace(r"\end{document}\fi", r"\fi\end{document}")
    )


def test_numbers_are_those_of_the_table(results):
    source = to_latex(run_tables(results)[0])
    ensemble = results.arms["ensemble"]["test"]
    assert (
        rf"\textbf{{{100 * ensemble.accuracy:.1f} {{[}}{100 * ensemble.low:.1f}, {100 * ensemble.high:.1f}{{]}}}}"
        in source
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50 % & more_or #less", r"50 \% \& more\_or \#less"),
        ("a\\b {c} ~^", r"a\textbackslash{}b \{c\} \textasciitilde{}\textasciicircum{}"),
        ("−1.5 ± 2 × 3", r"$-$1.5 $\pm$ 2 $\times$ 3"),
        ("ε₀ → α", r"$\varepsilon$$_{0}$ $\rightarrow$ $\alpha$"),
        ("[1, 2] <0.001", r"{[}1, 2{]} $<$0.001"),
        ("1\u2009000\u00a0k", r"1\,000~k"),
        ("日本 é\u0301\x07", "?? é"),
        ("two\nlines", "two lines"),
    ],
)
def test_escape(text, expected):
    assert escape(text) == expected


def test_hostile_text_stays_text():
    table = Table(r"\input{/etc/passwd}", [Column("x", "left"), Column("$y$")])
    table.add(r"\\", "}{", group="last")
    table.add("[x]", "", strong=True)
    table.notes = [r"% \end{table}"]
    check(to_latex(table))


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="no TeX here")
@pytest.mark.parametrize("inside", [False, True])
def test_it_compiles(results, tmp_path, inside):
    (tmp_path / "tables.tex").write_text(latex_document(run_tables(results)), encoding="utf-8")
    head = "\\documentclass{article}\\usepackage[T1]{fontenc}\\usepackage{booktabs}\\begin{document}\n"
    (tmp_path / "outer.tex").write_text(head + "\\input{tables.tex}\nThe end.\\end{document}\n", encoding="utf-8")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "outer.tex" if inside else "tables.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", check=False)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "Output written" in done.stdout
