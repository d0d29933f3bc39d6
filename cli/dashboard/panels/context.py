"""Shared state of the panels: watcher, theme and the user's choices."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ensemw2s.cli.dashboard.model.model import Part, RunModel
from ensemw2s.cli.dashboard.reading.watch import Watcher

#: What a panel may show: a part of the run, this machine's load, the list of runs.
Shown = Part | Literal["machine", "runs"]
TokenSort = Literal["weight", "wrong", "growth", "prompt"]
TOKEN_SORTS: tuple[TokenSort, ...] = ("weight", "wrong", "growth", "prompt")


@dataclass
class Choices:
    """The user's choices; each change counts in ``revision``.

    Attributes:
        round: of the Tokens view; None is the newest.
        teacher: of the Labelling view; None is the newest.
        marked: runs to compare.
    """

    round: int | None = None
    token_sort: TokenSort = "weight"
    token_search: str = ""
    token_example: str = ""
    teacher: str | None = None
    label_search: str = ""
    run_search: str = ""
    marked: list[Path] = field(default_factory=list)
    revision: int = 0

    def changed(self) -> None:
        """Count a change."""
        self.revision += 1


@dataclass
class PanelContext:
    """The watcher (with the model that it keeps), the choices, and how panels look.

    Attributes:
        boxed: panels have boxes; in small terminals a line above each.
        plain: there are no colours (``NO_COLOR``).
    """

    watcher: Watcher
    choices: Choices = field(default_factory=Choices)
    dark: bool = True
    boxed: bool = True
    plain: bool = False

    @property
    def model(self) -> RunModel:
        """The model of the run that is shown."""
        return self.watcher.model

    def stamp(self, parts: tuple[Shown, ...]) -> tuple[object, ...]:
        """Changes whenever something of these parts does."""
        return (id(self.model), self.choices.revision, self.dark, *map(self._revision, parts))

    def _revision(self, part: Shown) -> object:
        watcher = self.watcher
        if part == "machine":
            return watcher.samples[-1][0] if watcher.samples else 0.0
        return (watcher.runs_revision, watcher.others_revision) if part == "runs" else watcher.model.revisions[part]
