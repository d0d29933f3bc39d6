"""The arms of a run in one table, and the comparisons that are planned before a result is seen."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

#: The in-distribution (held-out easy) and the out-of-distribution (held-out hard) test.
TEST_SPLITS = ("test", "hard_test")

#: W of every PGR, C, and the boosted ensemble.
WEAK, CEILING, ENSEMBLE = "plain", "ceiling", "ensemble"
#: The first expert where it is no plain fine-tune (W in results of earlier versions); the boosted ensemble with equal
#: weights, and of all rounds, chosen or not.
SINGLE, BAGGING, EQUAL_WEIGHTS, ALL_ROUNDS = "single", "bagging", "ensemble_equal", "ensemble_all"
#: How events and results name the rounds of the boosted ensemble; those of other ensembles have their arm's name.
BOOSTING = "boosting"

_STUDENT, _LABELS = "student_", "labels_"
_EXPERT = re.compile(r"expert_([0-9]{1,9})")

#: What an arm is: a base before any fine-tuning, a weak arm that may teach, a variant of one, a student, or C.
Kind = Literal["zero-shot", "teacher", "variant", "student", "ceiling"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmSpec:
    """An arm.

    Attributes:
        name: in results, events and names of stages.
        kind: what it is.
        side: the base that it is built on.
        option: the field of ``arms`` that asks for it; empty: every run has it, or a teacher's student.
        several: whether it is an ensemble of models.
        of: the arm whose models it has; empty: it has its own.
        draw: how its models' training sets are drawn from ``D_1``: ``none`` is all data, ``example`` a bootstrap
            resample. The first model of ``none`` is the plain fine-tune, that of ``example`` the first boosted expert.
            Empty: its models are its own alone.
        all_steps: whether its model is trained for the steps of all rounds together.
        chained: whether each of its models goes on from the one before.
        vote: how the boosted experts are weighted, where ``ensemble.vote`` is not that already.
        label: in tables, at most 27 characters.
        short: on the dashboard, at most 19 characters.
        brief: in a comparison, and as a teacher; empty: ``label``.
        word: in one word; empty: ``brief``.
        phrase: inside a sentence; empty: ``label``.
        plot: colour, marker and line in the report's plots.
        screen: colour and marker on the dashboard.
        rival: its place among the planned comparisons of the boosted ensemble; 0: it is not compared.
        spare: where a table has no room for all, 1 goes first; 0 stays.
    """

    name: str
    kind: Kind
    side: Literal["weak", "strong"] = "weak"
    option: str = ""
    several: bool = False
    of: str = ""
    draw: Literal["", "none", "example"] = ""
    all_steps: bool = False
    chained: bool = False
    vote: Literal["", "rule", "equal", "fitted"] = ""
    label: str
    short: str
    brief: str = ""
    word: str = ""
    phrase: str = ""
    plot: tuple[str, str, str] = ("faint", "d", "-")
    screen: tuple[str, str] = ("dim", "·")
    rival: int = 0
    spare: int = 0

    @property
    def boosted(self) -> bool:
        """Whether it is made of boosted experts, or taught by them."""
        return self.of == ENSEMBLE or is_boosted(self.name)

    @property
    def main(self) -> bool:
        """Whether it is a teacher, a student or the ceiling: what plots of arms and of calibration show."""
        return self.kind in ("teacher", "student", "ceiling")


#: In the order of tables and plots: each side from the base to the best informed.
ARMS: tuple[ArmSpec, ...] = (
    ArmSpec(
        name="weak_zero_shot", kind="zero-shot", option="zero_shot", label="weak base, zero-shot", short="weak base",
        screen=("dim", "▽"),
    ),
    ArmSpec(
        name=WEAK, kind="teacher", option="plain", draw="none", label="plain fine-tune", short="plain fine-tune",
        word="plain", phrase="the plain fine-tune", plot=("vermillion", "x", "-"), screen=("green", "+"), rival=1,
    ),
    ArmSpec(
        name=SINGLE, kind="teacher", draw="example", label="single expert", short="single expert",
        word="single", phrase="the single expert", plot=("vermillion", "+", "-"), screen=("vermillion", "✕"), rival=2,
        spare=3,
    ),
    ArmSpec(
        name="plain_long", kind="teacher", option="plain_long", all_steps=True, label="plain fine-tune, T× steps",
        short="plain, T× steps", brief="plain, T× steps", word="T× steps",
        phrase="the plain fine-tune with T times the steps", plot=("faint", "<", "-"), screen=("green", "+"), rival=8,
        spare=2,
    ),
    ArmSpec(
        name=BAGGING, kind="teacher", option="bagging", several=True, draw="example", label="bagging",
        short="bagging", plot=("orange", "s", "--"), screen=("orange", "■"), rival=3,
    ),
    # ``*_equal_rounds``: as many members as the boosted ensemble; without the suffix each has its own best number
    ArmSpec(
        name="bagging_equal_rounds", kind="variant", option="bagging", several=True, of=BAGGING,
        label="bagging, same T", short="bagging, same T",
        phrase="bagging with as many members", plot=("orange", "s", "-"), screen=("orange", "□"), rival=4, spare=2,
    ),
    ArmSpec(
        name="seeds", kind="teacher", option="seeds", several=True, draw="none", label="plain ensemble",
        short="plain ensemble", word="seeds", phrase="the plain ensemble", plot=("green", "^", "-."),
        screen=("green", "▲"), rival=5,
    ),
    ArmSpec(
        name="seeds_equal_rounds", kind="variant", option="seeds", several=True, of="seeds",
        label="plain ensemble, same T",
        short="plain ens., same T", phrase="the plain ensemble with as many members", plot=("green", "^", "-"),
        screen=("green", "△"), rival=6, spare=2,
    ),
    ArmSpec(
        name="chain", kind="teacher", option="chain", several=True, draw="none", chained=True, label="uniform chain",
        short="chain", word="chain", phrase="the uniform chain", plot=("green", "v", "-."),
        screen=("green", "▼"), rival=9,
    ),
    ArmSpec(
        name="chain_equal_rounds", kind="variant", option="chain", several=True, of="chain",
        label="uniform chain, same T", short="chain, same T", phrase="the uniform chain with as many members",
        plot=("green", "v", "-"), screen=("green", "▽"), rival=10, spare=2,
    ),
    ArmSpec(
        name=EQUAL_WEIGHTS, kind="variant", several=True, of=ENSEMBLE, vote="equal",
        label="same experts, equal α", short="boosted, equal α",
        brief="equal weights", phrase="the same experts with equal weights", plot=("blue", "p", "-"),
        screen=("blue", "○"), rival=7, spare=2,
    ),
    ArmSpec(
        name="ensemble_fitted", kind="variant", several=True, of=ENSEMBLE, vote="fitted",
        label="same experts, fitted vote", short="boosted, fitted",
        brief="fitted vote", phrase="the same experts with a vote fitted on validation", plot=("blue", "P", "-"),
        screen=("blue", "○"), rival=11, spare=2,
    ),
    ArmSpec(
        name="ensemble_rule", kind="variant", several=True, of=ENSEMBLE, vote="rule",
        label="same experts, vote by α", short="boosted, vote by α",
        brief="vote by α", phrase="the same experts with the vote of the rule", plot=("blue", "8", "-"),
        screen=("blue", "○"), rival=12, spare=2,
    ),
    ArmSpec(
        name=ALL_ROUNDS, kind="variant", several=True, of=ENSEMBLE,
        label="boosted, all rounds", short="boosted, all rounds",
        plot=("blue", "h", "-"), screen=("blue", "○"), spare=2,
    ),
    ArmSpec(
        name=ENSEMBLE, kind="teacher", several=True,
        label="boosted ensemble", short="boosted ensemble", brief="ensemble",
        phrase="the boosted ensemble", plot=("blue", "o", "-"), screen=("blue", "●"),
    ),
    ArmSpec(
        name="strong_zero_shot", kind="zero-shot", side="strong", option="zero_shot", label="strong base, zero-shot",
        short="strong base", screen=("dim", "△"), spare=4,
    ),
    ArmSpec(
        name="student_plain", kind="student", side="strong", label="student from fine-tune", short="student ← plain",
        plot=("vermillion", "D", "-"), screen=("green", "◇"),
    ),
    ArmSpec(
        name="student_single", kind="student", side="strong", label="student from single expert",
        short="student ← single", plot=("vermillion", "d", "-"), screen=("vermillion", "◇"), spare=3,
    ),
    ArmSpec(
        name="student_plain_long", kind="student", side="strong", label="student from T× steps",
        short="student ← T× steps", plot=("faint", "D", "-"), screen=("green", "◇"), spare=3,
    ),
    ArmSpec(
        name="student_bagging", kind="student", side="strong", label="student from bagging",
        short="student ← bagging", plot=("orange", "D", "-"), screen=("orange", "◈"),
    ),
    ArmSpec(
        name="student_seeds", kind="student", side="strong", label="student from plain ensemble",
        short="student ← seeds", plot=("green", "D", "-"), screen=("green", "◈"), spare=3,
    ),
    ArmSpec(
        name="student_chain", kind="student", side="strong", label="student from chain",
        short="student ← chain", plot=("green", "d", "-"), screen=("green", "◈"),
    ),
    ArmSpec(
        name="student_ensemble", kind="student", side="strong", label="student from ensemble",
        short="student ← ensemble", plot=("blue", "D", "-"), screen=("blue", "◆"),
    ),
    ArmSpec(
        name=CEILING, kind="ceiling", side="strong", option="ceiling", label="ceiling (true labels)", short="ceiling",
        phrase="the ceiling", plot=("purple", "*", "-"), screen=("purple", "★"),
    ),
)  # fmt: skip


def arm_spec(name: str) -> ArmSpec:
    """The row of an arm. Experts by number, and names that are not in the table, get one made from the name."""
    found = next((spec for spec in ARMS if spec.name == name), None)
    if found is not None:
        return found
    words = name.replace("_", " ")
    if name == "expert" or is_expert(name):
        look = ("vermillion", "x", ":")
        return ArmSpec(
            name=name, kind="variant", label=words, short=words, plot=look, screen=("vermillion", "✕"), spare=1
        )
    if is_student(name):
        return ArmSpec(name=name, kind="student", side="strong", label=words, short=words)
    return ArmSpec(name=name, kind="variant", label=words, short=words)


def arm_word(name: str) -> str:
    """Name of an arm in one word, where rows are narrow."""
    spec = arm_spec(name)
    return spec.word or spec.brief or spec.label


def student_of(teacher: str) -> str:
    """The arm that is a teacher's student."""
    return _STUDENT + teacher


def is_student(arm: str) -> bool:
    """Whether an arm is a student."""
    return arm.startswith(_STUDENT)


def teacher_of(arm: str) -> str | None:
    """The teacher of a student; None for other arms."""
    return arm.removeprefix(_STUDENT) if is_student(arm) else None


def labels_of(teacher: str) -> str:
    """Name of the calibration of a teacher's labels, beside those of arms."""
    return _LABELS + teacher


def labelling_teacher(name: str) -> str | None:
    """The teacher whose labels a calibration is of; None for an arm's."""
    return name.removeprefix(_LABELS) if name.startswith(_LABELS) else None


def expert_arm(number: int) -> str:
    """The arm of one boosted expert alone, from the second on; the first is ``plain`` or ``single``."""
    return f"expert_{number}"


def expert_number(arm: str) -> int | None:
    """The round of an expert's arm; None for other arms."""
    found = _EXPERT.fullmatch(arm)
    return None if found is None else int(found[1])


def is_expert(arm: str) -> bool:
    """Whether an arm is one boosted expert by number."""
    return expert_number(arm) is not None


def is_strong(arm: str) -> bool:
    """Whether an arm is built on the strong base."""
    return arm_spec(arm).side == "strong"


def sorted_arms(arms: Iterable[str]) -> list[str]:
    """Weak arms first, then strong ones; each group from the base to the best informed, unknown ones last.

    Experts by number follow the single expert.
    """
    place = {spec.name: k for k, spec in enumerate(ARMS)}

    def key(arm: str) -> tuple[bool, float, int, str]:
        number = expert_number(arm)
        known = place.get(arm, len(ARMS)) if number is None else place[SINGLE] + 0.5
        return is_strong(arm), known, number or 0, arm

    return sorted(arms, key=key)


def without_experts(arms: Iterable[str]) -> list[str]:
    """:func:`sorted_arms` without the experts by number."""
    return [arm for arm in sorted_arms(arms) if not is_expert(arm)]


def is_boosted(arm: str) -> bool:
    """Whether an arm is the boosted ensemble or its student: what a run is about."""
    return arm in (ENSEMBLE, student_of(ENSEMBLE))


def arm_names(keep: Callable[[ArmSpec], bool]) -> tuple[str, ...]:
    """Names of the arms of the table that a test picks, in its order."""
    return tuple(spec.name for spec in ARMS if keep(spec))


def teachers() -> tuple[str, ...]:
    """The arms that may teach a student."""
    return arm_names(lambda spec: spec.kind == "teacher")


#: The arms in listings of runs, and their headers there.
HEADLINES = ((WEAK, "weak"), (ENSEMBLE, "ensemble"), (student_of(ENSEMBLE), "student"), (CEILING, "ceiling"))


def claims(weak: str = WEAK) -> tuple[tuple[str, str], ...]:
    """The claims about methods that are tested over seeds, on ID and OOD, with Holm's adjustment.

    The boosted ensemble less every other teacher, and its student less every other student. ``single`` takes part where
    it is W.
    """
    rivals = (weak, *(name for name in teachers() if name not in (ENSEMBLE, SINGLE, WEAK)))
    boosted = [(ENSEMBLE, rival) for rival in rivals]
    return (*boosted, *((student_of(a), student_of(b)) for a, b in boosted))


def students(arms: Iterable[str]) -> list[str]:
    """The students among the arms, in a fixed order: from a single model first, from the boosted ensemble last."""
    return sorted_arms(filter(is_student, arms))


def planned_pairs(arms: Iterable[str], weak: str = WEAK) -> list[tuple[str, str]]:
    """The planned comparisons ``(a, b)``, read "a − b", between the arms that exist.

    The boosted ensemble against the other weak arms; each student against the student of W, and the boosted ensemble's
    against every other; then for each student S − W and C − S; and C − W.
    """
    have = list(arms)
    rivals = sorted((spec for spec in ARMS if spec.rival), key=lambda spec: spec.rival)
    pairs = [(ENSEMBLE, spec.name) for spec in rivals if {ENSEMBLE, spec.name} <= set(have)]
    learners = students(have)
    taught = student_of(weak)
    if taught in learners:
        pairs += [(student, taught) for student in learners if student != taught]
    pairs += [pair for pair in claims(weak) if set(pair) <= set(have) and pair not in pairs]
    if weak in have:
        pairs += [(student, weak) for student in learners]
    if CEILING in have:
        pairs += [(CEILING, student) for student in learners]
        pairs += [(CEILING, weak)] if weak in have else []
    return pairs
