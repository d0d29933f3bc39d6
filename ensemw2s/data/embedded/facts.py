"""The pre-training text of the embedded bases: facts about lists in a terse notation.

A line holds a few facts such as ``rev(4172)=2714;`` or ``4172.inv=2714;``: a list, one of the codes of a skill, and the
result. The questions of :mod:`ensemw2s.data.synthetic` ask for the same skills in words, and about lists that never
occur here. Several codes a skill make a base read the whole code before it acts; with a single letter for each skill
it learned nothing that fine-tuning on words could use.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from ensemw2s.data.embedded.tokenizer import PAD, vocabulary
from ensemw2s.data.synthetic import SKILLS, draw_digits, is_question_list, solvable

#: Tokens in a line; shorter lines are padded, facts are never cut.
LINE = 48
#: Lengths of the lists, equally often; the short ones are easier and are learned first.
LENGTHS: tuple[int, ...] = (2, 3, 4, 5, 6)
IGNORED = -100


def make_line(rng: np.random.Generator, sums: int = 1) -> str:
    """Facts that fit into :data:`LINE` characters; ``sums`` as in :func:`make_fact`."""
    line = ""
    while True:
        fact = make_fact(rng, sums)
        if len(line) + len(fact) > LINE:
            return line
        line += fact


def make_fact(rng: np.random.Generator, sums: int = 1) -> str:
    """One fact: its length uniform, its list uniform over those that are not reserved for questions.

    There are ``sums`` facts about ``sum`` for each fact about any other skill; the others are equally frequent.
    """
    skills = [s for s in SKILLS for _ in range(sums if s.name == "sum" else 1)]
    skill = skills[int(rng.integers(0, len(skills)))]
    length = LENGTHS[int(rng.integers(0, len(LENGTHS)))]
    while True:
        digits = draw_digits(rng, length)
        if not is_question_list(digits) and solvable(skill, digits):
            code = skill.codes[int(rng.integers(0, len(skill.codes)))]
            call = f"{code}({digits})" if rng.random() < 0.5 else f"{digits}.{code}"
            return f"{call}={skill.solve(digits)};"


def encode_lines(lines: list[str]) -> tuple[npt.NDArray[np.int16], npt.NDArray[np.int16]]:
    """Token ids and labels, both ``int16[len(lines), LINE]``.

    Only results and the ``;`` after them are labels: the rest is drawn at random and cannot be learned.
    """
    ids_of = vocabulary()
    ids = np.full((len(lines), LINE), ids_of[PAD], dtype=np.int16)
    labels = np.full((len(lines), LINE), IGNORED, dtype=np.int16)
    for row, line in enumerate(lines):
        ids[row, : len(line)] = [ids_of[c] for c in line]
        inside = False
        for j, c in enumerate(line):
            if inside:
                labels[row, j] = ids[row, j]
            inside = c == "=" or (inside and c != ";")
    return ids, labels
