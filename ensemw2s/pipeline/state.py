"""State that the phases of a run hand on."""

from __future__ import annotations

from dataclasses import dataclass, field

from ensemw2s.boosting.loop import BoostingResult
from ensemw2s.evaluation.results import LabelResult, RoundResult
from ensemw2s.pipeline.evaluate import Scoreboard
from ensemw2s.pipeline.scored_model import ScoredModel


@dataclass
class RunState:
    """Each phase of a run adds to it."""

    board: Scoreboard = field(default_factory=Scoreboard)
    boosting: BoostingResult | None = None
    rounds: dict[str, list[RoundResult]] = field(default_factory=dict)
    selected: dict[str, int] = field(default_factory=dict)
    members: dict[str, list[ScoredModel]] = field(default_factory=dict)
    labels: dict[str, LabelResult] = field(default_factory=dict)
