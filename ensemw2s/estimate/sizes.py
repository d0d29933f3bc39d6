"""Sizes of models and data, known without a download."""

from __future__ import annotations

import json
import os
import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ensemw2s.config.data import SourceConfig, SplitConfig, TemplateConfig
from ensemw2s.config.schema import RunConfig
from ensemw2s.config.training import ModelConfig
from ensemw2s.data.example import SPLITS, Example
from ensemw2s.data.known import Typical, known_set
from ensemw2s.errors import Ew2sError

_SAMPLE = 256
_CHARACTERS_A_TOKEN = 4.0
_PATIENCE = 3.0
_IN_NAME = re.compile(r"(?<![A-Za-z0-9.])(\d+(?:\.\d+)?)\s*([mMbB])(?![A-Za-z])")


@dataclass(frozen=True)
class ModelSize:
    """Size of a model.

    Attributes:
        parameters: number of parameters, tied ones once; None where nothing is known.
        layers: number of layers, or None.
        hidden: width, or None.
        vocabulary: rows of the head, or None.
        known_from: where this comes from, in words.
    """

    parameters: int | None
    layers: int | None
    hidden: int | None
    vocabulary: int | None
    known_from: str


def model_size(cfg: ModelConfig) -> ModelSize:
    """Size of a model from its configuration; of a hub model that is not here and out of reach, from its name."""
    from ensemw2s.models.loading.source import find_source

    try:
        source = find_source(cfg.path)
        if source.hub_id is None:
            return _from_configuration(cfg, "its configuration")
        return _of_hub(cfg, source.hub_id)
    except Ew2sError as error:
        return _from_name(cfg, error.message)


def _from_configuration(cfg: ModelConfig, known_from: str) -> ModelSize:
    from ensemw2s.models.loading.info import configuration, parameter_count

    text = configuration(cfg).get_text_config()
    return ModelSize(
        parameters=parameter_count(cfg),
        layers=getattr(text, "num_hidden_layers", None),
        hidden=getattr(text, "hidden_size", None),
        vocabulary=getattr(text, "vocab_size", None),
        known_from=known_from,
    )


def _of_hub(cfg: ModelConfig, hub_id: str) -> ModelSize:
    """From the hub's configuration file alone: the cached one, or a small download that is thrown away."""
    from huggingface_hub import try_to_load_from_cache

    cached = try_to_load_from_cache(hub_id, "config.json", revision=cfg.revision)
    if isinstance(cached, str):
        return _from_configuration(cfg.model_copy(update={"path": str(Path(cached).parent)}), "its configuration")
    content = _fetch_configuration(hub_id, cfg.revision or "main")
    if content is None:
        return _from_name(cfg, "the hub cannot be reached")
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_bytes(content)
        return _from_configuration(cfg.model_copy(update={"path": folder}), "its configuration on the hub")


def _fetch_configuration(hub_id: str, revision: str) -> bytes | None:
    import urllib.request
    from urllib.error import URLError

    from huggingface_hub.constants import HF_HUB_OFFLINE

    if HF_HUB_OFFLINE:
        return None
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co").rstrip("/")
    try:
        with urllib.request.urlopen(f"{endpoint}/{hub_id}/resolve/{revision}/config.json", timeout=_PATIENCE) as answer:
            content = bytes(answer.read())
        json.loads(content)
    except (URLError, OSError, ValueError):
        return None
    return content


def _from_name(cfg: ModelConfig, why: str) -> ModelSize:
    """``pythia-160m`` has about 160 million parameters; kept layers are left out of the guess."""
    found = _IN_NAME.findall(cfg.path.rpartition("/")[2])
    if not found:
        return ModelSize(None, None, None, None, f"unknown ({why})")
    number, unit = found[-1]
    return ModelSize(round(float(number) * (1e9 if unit in "bB" else 1e6)), None, None, None, f"its name ({why})")


@dataclass(frozen=True)
class Lengths:
    """Mean lengths of questions.

    Attributes:
        prompt: tokens of a prompt.
        answer: tokens of an answer or option, end-of-sequence excluded.
    """

    prompt: float
    answer: float
    options: float


@dataclass(frozen=True)
class DataSize:
    """Size of the prepared data.

    Attributes:
        counts: examples by split.
        known_from: where this comes from, in words.
    """

    counts: dict[str, int]
    easy: Lengths
    hard: Lengths
    known_from: str

    def of(self, split: str) -> Lengths:
        """Lengths of a split's questions."""
        return self.hard if split in ("hard_pool", "hard_test") else self.easy


def data_size(config: RunConfig) -> DataSize:
    """Sizes of the splits, and of a sample's texts; of a hub data set its published size, for nothing is fetched."""
    from ensemw2s.data.hub import is_hub

    sources = [config.data.source, *([] if config.data.hard_source is None else [config.data.hard_source])]
    if any(is_hub(source) for source in sources):
        return _published(config, sources, "published sizes")
    try:
        return _measured(config)
    except Ew2sError as error:
        return _published(config, sources, f"guessed: {error.message}")


def _measured(config: RunConfig) -> DataSize:
    from ensemw2s.data.split import make_splits
    from ensemw2s.seeds import sub_seed

    seed = config.seed if config.data.seed is None else config.data.seed
    splits = make_splits(config.data, sub_seed(seed, "data"), config.task)
    tokenizer = _local_tokenizer(config.models.weak)
    template = config.data.template
    if tokenizer is None:
        template = template.model_copy(update={"chat": False, "system": None})
    return DataSize(
        counts={name: len(splits[name]) for name in SPLITS},
        easy=_lengths(splits.train, tokenizer, template),
        hard=_lengths([*splits.hard_pool, *splits.hard_test] or splits.train, tokenizer, template),
        known_from="the data" if tokenizer is not None else f"the data, {_CHARACTERS_A_TOKEN:g} characters a token",
    )


def _lengths(examples: Sequence[Example], tokenizer: Any, template: TemplateConfig) -> Lengths:
    """Mean lengths of a sample."""
    from ensemw2s.data.chat import prompt_texts
    from ensemw2s.data.template import render_answer

    sample = examples[:_SAMPLE]
    texts = [render_answer(text, template) for example in sample for text in _options(example)]
    return Lengths(
        prompt=_mean_tokens(prompt_texts(sample, tokenizer, template), tokenizer),
        answer=_mean_tokens(texts, tokenizer),
        options=len(texts) / len(sample),
    )


def _options(example: Example) -> tuple[str, ...]:
    return example.choices if example.choices is not None else (example.answer or "",)


def _local_tokenizer(cfg: ModelConfig) -> Any:
    from ensemw2s.models.loading.load import load_tokenizer
    from ensemw2s.models.loading.source import find_source

    try:
        return load_tokenizer(cfg) if find_source(cfg.path).hub_id is None else None
    except Ew2sError:
        return None


def _mean_tokens(texts: Sequence[str], tokenizer: Any) -> float:
    from ensemw2s.data.tokenizer import tokenise

    if tokenizer is None:
        return sum(len(text) for text in texts) / _CHARACTERS_A_TOKEN / len(texts)
    return sum(len(tokens) for tokens in tokenise(tokenizer, texts)) / len(texts)


def _published(config: RunConfig, sources: Sequence[SourceConfig], known_from: str) -> DataSize:
    rows = [_rows(source) for source in sources]
    split = config.data.split
    if len(sources) == 2:
        easy, hard = rows
    else:
        share = 0.5 if split.hard_quantile is None else split.hard_quantile
        easy, hard = round(share * rows[0]), rows[0] - round(share * rows[0])
    lengths = [_typical(config, source) for source in sources]
    return DataSize(_planned(split, easy, hard), lengths[0], lengths[-1], known_from)


def _typical_of(source: SourceConfig) -> Typical:
    known = known_set(source)
    return Typical() if known is None else known.typical


def _typical(config: RunConfig, source: SourceConfig) -> Lengths:
    found = _typical_of(source)
    around = len(config.data.template.prompt.replace("{prompt}", "")) / _CHARACTERS_A_TOKEN
    return Lengths(found.prompt + around, found.answer, 1.0 if config.task == "generate" else found.options)


def _rows(source: SourceConfig) -> int:
    rows = _typical_of(source).rows
    return rows if source.limit is None else min(rows, source.limit)


def _planned(split: SplitConfig, easy: int, hard: int) -> dict[str, int]:
    """Numbers as configured, shares of the pools."""
    pools = {"train": easy, "validation": easy, "test": easy, "hard_pool": hard, "hard_test": hard}
    sizes = {name: getattr(split, name) for name in pools}
    return {name: size if isinstance(size, int) else round(size * pools[name]) for name, size in sizes.items()}
