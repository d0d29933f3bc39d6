"""The records of a plan in the log."""

from __future__ import annotations

from ensemw2s.cli.dashboard.model.fields import Record, text, whole
from ensemw2s.stage_names import StageInfo


def planned_infos(record: Record, most: int) -> dict[str, StageInfo]:
    """The records of the event ``plan``, whatever they hold."""
    found = record.get("records")
    infos = {}
    for each in found[:most] if isinstance(found, list) else ():
        if isinstance(each, dict):
            kind, group, side, arm = (text(each, what) for what in ("kind", "group", "side", "arm"))
            infos[text(each, "name")] = StageInfo(kind, group or "other", side, arm, whole(each, "round"))
    return infos
