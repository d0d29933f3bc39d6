"""What is known of a stage from the plan in the log."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ensemw2s.arms import WEAK, arm_spec, expert_arm, student_of
from ensemw2s.cli.dashboard.model.fields import Record, text, whole


@dataclass(frozen=True, slots=True)
class StageInfo:
    """A record of the event ``plan``, as ``docs/events.md`` describes it; ``round`` is 0 where there is none."""

    kind: str = ""
    group: str = "other"
    side: str = ""
    arm: str = ""
    round: int = 0


def planned_infos(record: Record, most: int) -> dict[str, StageInfo]:
    """The records of the event ``plan``, whatever they hold."""
    found = record.get("records")
    infos = {}
    for each in found[:most] if isinstance(found, list) else ():
        if isinstance(each, dict):
            kind, group, side, arm = (text(each, what) for what in ("kind", "group", "side", "arm"))
            infos[text(each, "name")] = StageInfo(kind, group or "other", side, arm, whole(each, "round"))
    return infos


#: Logs of earlier versions have no records. Folder of a stage there, its kind, its side and its group.
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
