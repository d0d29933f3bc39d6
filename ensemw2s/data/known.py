"""Adapters: how the rows of one kind of source become examples.

A new data set is one function in :mod:`ensemw2s.data.converters` and one line in :data:`ADAPTERS`; with a line in
:data:`ensemw2s.data.hub.HUB` it is read from the hub too.
"""

from __future__ import annotations

from dataclasses import dataclass

from ensemw2s.config.data import ColumnMap
from ensemw2s.data import converters
from ensemw2s.data.fields import Convert
from ensemw2s.errors import ConfigError, did_you_mean


@dataclass(frozen=True, slots=True)
class Adapter:
    """How one data set's rows become examples.

    Attributes:
        name: as in ``data.source.kind``.
        files: names (patterns) of its files in a folder; others, such as annotations, are left alone.
        convert: row and context to :class:`Example`; raises :class:`RowError`.
        folders: where in a folder its files lie if they are not in the folder itself, as in a download from the hub.
        header: column names of CSV files that have none.
    """

    name: str
    files: tuple[str, ...]
    convert: Convert
    folders: tuple[str, ...] = ()
    header: tuple[str, ...] | None = None


_HUB_FILES = ("train-*.parquet", "validation-*.parquet", "test-*.parquet")
_REVIEWS = ("label", "title", "content")

ADAPTERS: dict[str, Adapter] = {
    adapter.name: adapter
    for adapter in (
        Adapter("arc", ("ARC-*.jsonl", "*.parquet"), converters.arc),
        Adapter("arc_easy", ("ARC-Easy-*.jsonl", *_HUB_FILES), converters.arc, ("ARC-Easy",)),
        Adapter("arc_challenge", ("ARC-Challenge-*.jsonl", *_HUB_FILES), converters.arc, ("ARC-Challenge",)),
        Adapter("sciq", ("train.json", "valid.json", "test.json", "*.parquet"), converters.sciq, ("data",)),
        Adapter("quartz", ("train.jsonl", "dev.jsonl", "test.jsonl", *_HUB_FILES), converters.quartz, ("data",)),
        Adapter("gsm8k", ("train.jsonl", "test.jsonl", "*.parquet"), converters.gsm8k, ("main",)),
        Adapter("boolq", ("train.jsonl", "dev.jsonl", *_HUB_FILES), converters.boolq, ("data",)),
        Adapter(
            "commonsenseqa",
            ("train_*.jsonl", "dev_*.jsonl", "train-*.parquet", "validation-*.parquet"),
            converters.arc,
            ("data",),
        ),
        Adapter(
            "openbookqa", ("train*.jsonl", "dev*.jsonl", "test*.jsonl", *_HUB_FILES), converters.openbookqa, ("main",)
        ),
        Adapter(
            "mmlu",
            ("*_test.csv", "*_val.csv", "*_dev.csv", "dev-*.parquet", *_HUB_FILES[1:]),
            converters.mmlu,
            ("all",),
            ("question", "A", "B", "C", "D", "answer"),
        ),
        Adapter(
            "amazon_polarity",
            ("train.csv", "test.csv", *_HUB_FILES),
            converters.amazon_polarity,
            ("amazon_polarity", "data"),
            _REVIEWS,
        ),
    )
}


def columns_adapter(columns: ColumnMap) -> Adapter:
    """The adapter of ``kind: file``."""
    patterns = ("*.jsonl", "*.ndjson", "*.json", "*.csv", "*.tsv", "*.parquet")
    return Adapter("file", patterns, lambda row, context: converters.mapped(row, columns, context))


def adapter_for(kind: str, columns: ColumnMap) -> Adapter:
    """The adapter of a source kind that is read from files.

    Raises:
        ConfigError: no adapter has that name; the nearest is named.
    """
    if kind == "file":
        return columns_adapter(columns)
    if kind not in ADAPTERS:
        known = ["file", "synthetic", *ADAPTERS]
        raise ConfigError(f"Unknown source kind {kind!r}{did_you_mean(kind, known, 'kinds')}.")
    return ADAPTERS[kind]
