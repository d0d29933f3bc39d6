from __future__ import annotations

from pathlib import Path

import pytest

from ensemw2s.config.training import ModelConfig


@pytest.fixture
def base(model_folders: list[Path]) -> ModelConfig:
    return ModelConfig(path=str(model_folders[0]))
