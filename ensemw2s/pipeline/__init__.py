"""One run: its stages in order, and resume."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = ["execute", "planned_stages"]

if TYPE_CHECKING:
    from ensemw2s.pipeline.plan import planned_stages
    from ensemw2s.pipeline.run import execute


def __getattr__(name: str) -> Any:
    if name == "execute":
        from ensemw2s.pipeline.run import execute

        return execute
    if name == "planned_stages":
        from ensemw2s.pipeline.plan import planned_stages

        return planned_stages
    raise AttributeError(f"module 'ensemw2s.pipeline' has no attribute {name!r}")
