"""Names of the stages of a run, each of them its folder in the run directory; nothing reads a name apart again."""

from __future__ import annotations

DATA = "data"


def expert(round_: int) -> str:
    """The boosted expert of a round, from 1."""
    return f"experts/round-{round_:02d}"


def helper(round_: int, fold: int) -> str:
    """The cross-fitting helper of a fold, from 1."""
    return f"experts/helpers/round-{round_:02d}-fold-{fold}"


def zero_shot(side: str) -> str:
    """The weak or the strong base before any fine-tuning; it has scores only."""
    return f"baselines/zero-shot-{side}"


def baseline(arm: str, member: int | None = None) -> str:
    """The model of an unboosted weak arm, or a member, from 1, of one that has several."""
    folder = f"baselines/{arm.replace('_', '-')}"
    return folder if member is None else f"{folder}/member-{member:02d}"


def student(teacher: str) -> str:
    """A teacher's student."""
    return f"student/{teacher}"


def ceiling() -> str:
    """The strong base fine-tuned on true labels."""
    return "ceiling"


def scores(model: str) -> str:
    """Scores of a model; each split is a stage of its own in this folder."""
    return f"{model}/scores"


def joint(ensemble: str, round_: int | None = None) -> str:
    """Joint scores of all prefixes of an ensemble, or of boosting's first ``round_`` experts."""
    return f"joint/{ensemble}" if round_ is None else f"joint/{ensemble}/round-{round_:02d}"


def joint_labels(teacher: str) -> str:
    """Joint scores of a teacher's members on the hard pool."""
    return f"joint/labels/{teacher}"


def answers(who: str, split: str) -> str:
    """Decoded answers of an arm, or of a model by its stage."""
    return f"answers/{who}/{split}"


def labels(teacher: str) -> str:
    """A teacher's labels of the hard pool."""
    return f"labels/{teacher}"
