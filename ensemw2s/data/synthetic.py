"""The embedded question set: puzzles about short lists of digits that need different skills.

A question names a skill in words and a list of three to six digits (``sort 4172``); its answer has one to six
characters. Skills differ in how often they are asked and in how hard they are, and each can be worded in several ways.
Longer lists are harder: the length of the list is the example's ``difficulty``, the skill its ``group``.

Half of all lists (:func:`is_question_list`) are reserved for questions. The embedded base models are pre-trained on the
other half only, in another notation, so no fact that a question asks for was ever seen in pre-training.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np

from ensemw2s.data.example import Example
from ensemw2s.errors import DataError
from ensemw2s.seeds import sub_seed

#: Lengths of the lists and how often each is asked; the longest list fixes the longest answer.
LENGTHS: tuple[int, ...] = (3, 4, 5, 6)
LENGTH_WEIGHTS: tuple[float, ...] = (0.18, 0.36, 0.23, 0.23)
#: Share of the questions about a skill that use its first, second and third wording.
WORDING_WEIGHTS: tuple[float, ...] = (0.5, 0.3, 0.2)
#: No fact (skill and list) is asked twice; beyond this size the short lists run out and longer ones fill their place.
MAX_SIZE = 100_000
N_CHOICES = 4

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Skill:
    """One kind of question.

    Attributes:
        name: the example's ``group``.
        codes: what stands for it in the notation of pre-training.
        weight: share of the questions; the weights of all skills sum to 1.
        kind: what the answer is, which decides the plausible wrong answers: a rearranged list, another list, a digit of
            the list, or a number.
        wordings: prompts with ``{}`` for the list, the most frequent one first.
        solve: the answer for a list of digits.
    """

    name: str
    codes: tuple[str, ...]
    weight: float
    kind: Literal["permutation", "list", "digit", "number"]
    wordings: tuple[str, str, str]
    solve: Callable[[str], str]


def _keep_large(digits: str) -> str:
    return "".join(d for d in digits if d > "4")


def _step(digits: str) -> str:
    return "".join(str((int(d) + 1) % 10) for d in digits)


def _count_odd(digits: str) -> str:
    return str(sum(int(d) % 2 for d in digits))


SKILLS: tuple[Skill, ...] = (
    Skill("reverse", ("rev", "inv", "mir", "bk", "fp", "neg"), 0.14, "permutation",
          ("reverse {}", "{} backwards", "flip {}"), lambda s: s[::-1]),
    Skill("sort", ("srt", "asc", "ord", "up", "rank", "qs"), 0.13, "permutation",
          ("sort {}", "put {} in order", "arrange {}"), lambda s: "".join(sorted(s))),
    Skill("largest", ("max", "hi", "top", "pk", "ub", "lrg"), 0.12, "digit",
          ("largest of {}", "max of {}", "biggest in {}"), max),
    Skill("smallest", ("min", "lo", "bot", "flr", "lb", "sml"), 0.11, "digit",
          ("smallest of {}", "min of {}", "least in {}"), min),
    Skill("rotate", ("rot", "cyc", "shl", "wrp", "rl", "trn"), 0.11, "permutation",
          ("rotate {}", "first of {} to end", "turn {}"), lambda s: s[1:] + s[0]),
    Skill("keep", ("gt", "flt", "big", "sel", "kp", "ge"), 0.10, "list",
          ("keep large in {}", "only big of {}", "drop small in {}"), _keep_large),
    Skill("sum", ("sum", "ttl", "acc", "sg", "agg", "ad"), 0.07, "number",
          ("sum of {}", "add up {}", "total of {}"), lambda s: str(sum(map(int, s)))),
    Skill("count", ("cnt", "odd", "num", "par", "nod", "ct"), 0.08, "number",
          ("how many odd in {}", "count odd in {}", "odd ones in {}"), _count_odd),
    Skill("step", ("nxt", "inc", "suc", "pp", "plus", "rs"), 0.08, "list",
          ("add one to {}", "raise {} by one", "next of {}"), _step),
    Skill("swap", ("swp", "tog", "xc", "oi", "ends", "tr"), 0.06, "permutation",
          ("swap ends of {}", "trade ends of {}", "{} ends swapped"), lambda s: s[-1] + s[1:-1] + s[0]),
)  # fmt: skip


def is_question_list(digits: str) -> bool:
    """Whether a list is reserved for questions (about half are); pre-training uses the others only."""
    return zlib.crc32(digits.encode()) % 2 == 0


def draw_digits(rng: np.random.Generator, length: int) -> str:
    """A list of ``length`` digits, uniform over all ``10**length``."""
    return "".join(str(d) for d in rng.integers(0, 10, size=length))


def solvable(skill: Skill, digits: str) -> bool:
    """Whether the question makes sense: the answer is not empty and the digits are not all equal."""
    return len(set(digits)) > 1 and skill.solve(digits) != ""


def make_synthetic(size: int, seed: int) -> list[Example]:
    """Make the embedded question set.

    The same seed gives the same examples, and a smaller size gives the first ones of a larger size. No two examples ask
    for the same skill of the same list, so no prompt occurs twice.

    Returns:
        Examples with four choices, exactly one of them right and at a uniformly drawn position.

    Raises:
        DataError: ``size`` is not between 1 and :data:`MAX_SIZE`.
    """
    if not 1 <= size <= MAX_SIZE:
        raise DataError(
            f"The synthetic source makes 1 to {MAX_SIZE} examples, not {size}.", hint="Change data.source.size."
        )
    rng = np.random.Generator(np.random.PCG64(sub_seed(seed, "synthetic")))
    examples: list[Example] = []
    seen: set[tuple[str, str]] = set()
    while len(examples) < size:
        skill = _pick(rng, SKILLS, [s.weight for s in SKILLS])
        digits = draw_digits(rng, _pick(rng, LENGTHS, LENGTH_WEIGHTS))
        if (skill.name, digits) in seen or not is_question_list(digits) or not solvable(skill, digits):
            continue
        seen.add((skill.name, digits))
        answer = skill.solve(digits)
        choices = _wrong_answers(rng, skill, digits, answer)
        choices.insert(int(rng.integers(0, N_CHOICES)), answer)
        examples.append(
            Example(
                id=f"synthetic-{len(examples):06d}",
                prompt=_pick(rng, skill.wordings, WORDING_WEIGHTS).format(digits),
                answer=answer,
                choices=tuple(choices),
                difficulty=float(len(digits)),
                group=skill.name,
            )
        )
    return examples


def _pick(rng: np.random.Generator, items: Sequence[_T], weights: Sequence[float]) -> _T:
    """One item by weight, through a single uniform number."""
    edges = np.cumsum(weights)
    return items[min(int(np.searchsorted(edges, rng.random() * edges[-1], side="right")), len(items) - 1)]


def _wrong_answers(rng: np.random.Generator, skill: Skill, digits: str, answer: str) -> list[str]:
    """Three distinct wrong answers, each one edit away from the right one."""
    tiers = _near_misses(skill, digits, answer)
    wrong: list[str] = []
    for tier in tiers:
        pool = sorted(tier - {answer} - set(wrong))
        order = rng.permutation(len(pool))
        wrong.extend(pool[int(i)] for i in order[: N_CHOICES - 1 - len(wrong)])
    return wrong


def _near_misses(skill: Skill, digits: str, answer: str) -> list[set[str]]:
    """Wrong answers one edit away, the most plausible set first; together at least three."""
    if skill.kind == "number":
        value = int(answer)
        return [{str(v) for v in (value - 2, value - 1, value + 1, value + 2, value + 10, value - 10) if v >= 0}]
    replaced = {
        answer[:i] + str(d) + answer[i + 1 :]
        for i in range(len(answer))
        for d in (int(answer[i]) - 1, int(answer[i]) + 1)
        if 0 <= d <= 9
    }
    if skill.kind == "digit":
        return [set(digits), replaced, {str(d) for d in range(10)}]
    swapped = {answer[:i] + answer[i + 1] + answer[i] + answer[i + 2 :] for i in range(len(answer) - 1)}
    if skill.kind == "permutation":
        return [swapped | replaced]
    dropped = {answer[:i] + answer[i + 1 :] for i in range(len(answer)) if len(answer) > 1}
    added = {answer[:i] + d + answer[i:] for i in range(len(answer) + 1) for d in digits}
    return [swapped | replaced | dropped | added]
