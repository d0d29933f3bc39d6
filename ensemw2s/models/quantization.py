"""Bases in 8 or 4 bits, through ``bitsandbytes``."""

from __future__ import annotations

import importlib.util
import logging
from typing import Any

import torch

from ensemw2s.config.training import ModelConfig
from ensemw2s.errors import ModelError


def quantization_config(cfg: ModelConfig) -> Any:
    """The ``transformers`` setting for ``cfg.quantization``; 4 bits are NF4, computed in ``cfg.dtype``.

    Raises:
        ModelError: ``bitsandbytes`` is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ModelError(
            f"quantization: {cfg.quantization} needs the Python package bitsandbytes, which is not installed.",
            hint="Install it: pip install 'ensemw2s[quantization]', or leave quantization out.",
        )
    from transformers import BitsAndBytesConfig

    if cfg.quantization == "8bit":
        logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells at every product that float32 is cast
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=getattr(torch, cfg.dtype)
    )
