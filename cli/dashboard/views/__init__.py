"""The seven views of the dashboard."""

from __future__ import annotations

from ensemw2s.cli.dashboard.views.base import View
from ensemw2s.cli.dashboard.views.charts import Boosting, Student, System
from ensemw2s.cli.dashboard.views.lists import Labelling, Runs, Tokens
from ensemw2s.cli.dashboard.views.overview import Overview

VIEWS: tuple[type[View], ...] = (Overview, Boosting, Tokens, Labelling, Student, Runs, System)

__all__ = ["VIEWS", "Boosting", "Labelling", "Overview", "Runs", "Student", "System", "Tokens", "View"]
