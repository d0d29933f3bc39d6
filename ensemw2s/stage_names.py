"""Names of the stages of a run, each of them its folder in the run directory.

What a stage is, its record in the plan tells. Only logs of earlier versions, which have no records, are told by their
names (:func:`earlier_info`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ensemw2s.arms import WEAK, arm_spec, expert_arm, student_of

DATA = "data"
#: No stage: what a run, or several, keep of their models until they are done.
TRUNK = "trunk"

#: Folders of a run in which stages lie; any file in them belongs to one.
FOLDERS = ("answers", "baselines", "ceiling", DATA, "experts", "joint", "labels", "student", "tuning")


def expert(round_: int) -> str:
    """The boosted expert of a round, from 1."""
    return f"experts/round-{round_:02d}"


def helper(round_: int, fold: int) -> str:
    """The cross-fitting helper of a fold, from 1."""
    return f"experts/helpers/round-{round_:02d}-fold-{fold}"


def helper_round(name: str) -> int | None:
    """The round of a cross-fitting helper; None for other stages, its scores among them."""
    found = re.fullmatch(r"experts/helpers/round-(\d{1,9})-fold-\d{1,9}", name)
    return None if found is None else int(found[1])


def zero_shot(side: str) -> str:
    """The weak or the strong base before any fine-tuning; it has scores only."""
    return f"baselines/zero-shot-{side}"


def baseline(arm: str, member: int | None = None) -> str:
    """The model of an unboosted weak arm, or a member, from 1, of one that has several."""
    folder = f"baselines/{arm.replace('_', '-')}"
    return folder if member is None else f"{folder}/member-{member:02d}"


def tuning(side: str, trial: int) -> str:
    """A plain fine-tune that looks for the steps and the learning rate of a side, from 1."""
    return f"tuning/{side}/trial-{trial:02d}"


def student(teacher: str, generation: int | None = None) -> str:
    """A teacher's student: the last one, or one that labels for the next ``generation``, from 1."""
    return f"student/{teacher}" if generation is None else f"student/{teacher}-generation-{generation}"


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


def labels(teacher: str, generation: int = 1) -> str:
    """A teacher's labels of the hard pool, or those that a later generation of its students learns, from 2."""
    return f"labels/{teacher}" if generation == 1 else f"labels/{teacher}-generation-{generation}"


@dataclass(frozen=True, slots=True)
class StageInfo:
    """Record of a stage, as ``docs/events.md`` describes it; ``round`` is 0 where there is none."""

    kind: str = ""
    group: str = "other"
    side: str = ""
    arm: str = ""
    round: int = 0


#: Folder of a stage in earlier versions, its kind, its side and its group.
_EARLIER = (
    (r"data", "data", "", "data"),
    (r"baselines/zero-shot-(?:weak|strong).*", "score", "", "zero-shot bases"),
    (r"experts/round-(?P<round>\d{1,9})", "train", "weak", "experts"),
    (r"experts/(?:helpers/)?round-(?P<round>\d{1,9})\D.*", "score", "weak", "experts"),
    (r"baselines/(?P<arm>[^/]+)(?:/member-\d+)?", "train", "weak", ""),
    (r"baselines/(?P<arm>[^/]+)/.*", "score", "weak", ""),
    (r"joint/(?:boosting/round-(?P<round>\d{1,9})|.*)", "joint", "weak", "joint scores"),
    (r"answers/(?:(?:expert_|experts/round-)(?P<round>\d{1,9})/)?.*", "answer", "", "answers"),
    (r"labels/(?P<arm>.*)", "label", "weak", "labels"),
    (r"student/(?P<teacher>[^/]+)", "train", "strong", "students"),
    (r"student/.*", "score", "strong", "students"),
    (r"(?P<arm>ceiling)", "train", "strong", "ceiling"),
    (r"ceiling/.*", "score", "strong", "ceiling"),
)


def earlier_info(name: str) -> StageInfo:
    """A stage in a log of an earlier version."""
    for pattern, kind, side, group in _EARLIER:
        found = re.fullmatch(pattern, name)
        if found is None:
            continue
        parts: Mapping[str, str] = found.groupdict("")
        round_, arm = int(parts.get("round") or 0), parts.get("arm", "").replace("-", "_")
        if "teacher" in parts:
            arm = student_of(parts["teacher"])
        elif round_ and kind == "train":
            arm = WEAK if round_ == 1 else expert_arm(round_)
        return StageInfo(kind, group or arm_spec(arm).short, side, arm, round_)
    return StageInfo()
