"""The known data sets: how their rows become examples, where they lie, and their published sizes.

A new one is a function in :mod:`ensemw2s.data.converters`, a :class:`KnownSet` here and a line in
:data:`ensemw2s.registry.DATA_SETS`; that of a plug-in needs neither.
"""

from __future__ import annotations

from dataclasses import dataclass

from ensemw2s.config.data import SourceConfig
from ensemw2s.data import converters
from ensemw2s.data.fields import Convert
from ensemw2s.registry import DATA_SETS


@dataclass(frozen=True, slots=True)
class HubSet:
    """Place of a data set on the hub.

    Attributes:
        repository: ``owner/name``.
        subset: name of its configuration there, if it has several.
        splits: its splits with known answers.
    """

    repository: str
    subset: str | None = None
    splits: tuple[str, ...] = ("train", "validation", "test")


@dataclass(frozen=True, slots=True)
class Typical:
    """Typical sizes, for estimates before the data is there.

    Attributes:
        rows: with known answers.
        prompt: tokens of a prompt.
        answer: tokens of an answer or option.
        options: of a question.
    """

    rows: int = 1_000
    prompt: float = 50.0
    answer: float = 5.0
    options: float = 4.0


@dataclass(frozen=True, slots=True)
class KnownSet:
    """A kind of source that is read from files or from the hub.

    Attributes:
        convert: row and context to :class:`~ensemw2s.data.example.Example`; raises
            :class:`~ensemw2s.data.problems.RowError`.
        files: names (patterns) of its files in a folder; others, such as annotations, are left alone.
        folders: where in a folder its files lie if they are not in the folder itself, as in a download from the hub.
        header: column names of CSV files that have none.
        hub: where it lies on the hub, if it does. Splits whose answers are withheld (CommonsenseQA and BoolQ test) are
            left out.
        typical: its size.
    """

    convert: Convert
    files: tuple[str, ...]
    folders: tuple[str, ...] = ()
    header: tuple[str, ...] | None = None
    hub: HubSet | None = None
    typical: Typical = Typical()


_HUB_FILES = ("train-*.parquet", "validation-*.parquet", "test-*.parquet")

ARC = KnownSet(converters.arc, ("ARC-*.jsonl", "*.parquet"), typical=Typical(5_000, 28, 5, 4))
ARC_EASY = KnownSet(
    converters.arc,
    ("ARC-Easy-*.jsonl", *_HUB_FILES),
    folders=("ARC-Easy",),
    hub=HubSet("allenai/ai2_arc", "ARC-Easy"),
    typical=Typical(5_197, 27, 5, 4),
)
ARC_CHALLENGE = KnownSet(
    converters.arc,
    ("ARC-Challenge-*.jsonl", *_HUB_FILES),
    folders=("ARC-Challenge",),
    hub=HubSet("allenai/ai2_arc", "ARC-Challenge"),
    typical=Typical(2_590, 30, 6, 4),
)
SCIQ = KnownSet(
    converters.sciq,
    ("train.json", "valid.json", "test.json", "*.parquet"),
    folders=("data",),
    hub=HubSet("allenai/sciq"),
    typical=Typical(13_679, 20, 3, 4),
)
QUARTZ = KnownSet(
    converters.quartz,
    ("train.jsonl", "dev.jsonl", "test.jsonl", *_HUB_FILES),
    folders=("data",),
    hub=HubSet("allenai/quartz"),
    typical=Typical(3_864, 55, 2, 2),
)
GSM8K = KnownSet(
    converters.gsm8k,
    ("train.jsonl", "test.jsonl", "*.parquet"),
    folders=("main",),
    hub=HubSet("openai/gsm8k", "main", ("train", "test")),
    typical=Typical(8_792, 60, 110, 1),
)
BOOLQ = KnownSet(
    converters.boolq,
    ("train.jsonl", "dev.jsonl", *_HUB_FILES),
    folders=("data",),
    hub=HubSet("google/boolq", None, ("train", "validation")),
    typical=Typical(12_697, 150, 1, 2),
)
COMMONSENSEQA = KnownSet(
    converters.arc,
    ("train_*.jsonl", "dev_*.jsonl", "train-*.parquet", "validation-*.parquet"),
    folders=("data",),
    hub=HubSet("tau/commonsense_qa", None, ("train", "validation")),
    typical=Typical(10_962, 18, 2, 5),
)
OPENBOOKQA = KnownSet(
    converters.openbookqa,
    ("train*.jsonl", "dev*.jsonl", "test*.jsonl", *_HUB_FILES),
    folders=("main",),
    hub=HubSet("allenai/openbookqa", "main"),
    typical=Typical(5_957, 15, 4, 4),
)
MMLU = KnownSet(
    converters.mmlu,
    ("*_test.csv", "*_val.csv", "*_dev.csv", "dev-*.parquet", *_HUB_FILES[1:]),
    folders=("all",),
    header=("question", "A", "B", "C", "D", "answer"),
    hub=HubSet("cais/mmlu", "all", ("test", "validation", "dev")),
    typical=Typical(15_858, 70, 8, 4),
)
AMAZON_POLARITY = KnownSet(
    converters.amazon_polarity,
    ("train.csv", "test.csv", *_HUB_FILES),
    folders=("amazon_polarity", "data"),
    header=("label", "title", "content"),
    hub=HubSet("fancyzhx/amazon_polarity", None, ("test",)),
    typical=Typical(400_000, 100, 1, 2),
)


def known_set(cfg: SourceConfig) -> KnownSet | None:
    """The known data set of a source; None for ``synthetic`` and for ``file``.

    Raises:
        ConfigError: there is none of that name; the nearest is named.
    """
    return None if cfg.kind in ("synthetic", "file") else DATA_SETS.get(cfg.kind)


def set_in_files(cfg: SourceConfig) -> KnownSet:
    """The reader of a source that is not ``synthetic``: a known data set, or mapped columns.

    Raises:
        ConfigError: as in :func:`known_set`.
    """
    patterns = ("*.jsonl", "*.ndjson", "*.json", "*.csv", "*.tsv", "*.parquet")
    return known_set(cfg) or KnownSet(lambda row, context: converters.mapped(row, cfg.columns, context), patterns)
