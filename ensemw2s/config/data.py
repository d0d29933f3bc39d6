"""Configuration of data sources, splits and prompt templates."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from ensemw2s.config.base import Known, Section
from ensemw2s.registry import DATA_SETS

#: How answers are read; the order is that of preference between readings that agree.
AnswerReading = Literal["label", "text", "letter", "index", "index1"]


class ColumnMap(Section):
    """Columns of a local file by content; a dotted name reaches into nested objects."""

    prompt: str = "prompt"
    """Column with the question."""
    answer: str = "answer"
    """Column with the answer: its text; with ``choices`` also a label, a letter, an index from 0 or from 1, or the
    name of the option's column, whichever fits all rows."""
    answer_is: AnswerReading | None = None
    """How all answers are read: ``text``, ``label`` (or name of a column), ``letter``, ``index`` (from 0) or ``index1``
    (from 1). Null finds it out; where the answers fit in more ways than one, or in none, it has to be said."""
    choices: str | list[str] | None = None
    """Column with the list of options, or a list of columns that hold one option each; null where there are none."""
    distractors: list[str] = Field(default_factory=list)
    """Columns that each hold one wrong option; used instead of ``choices``. The options are then shuffled by seed."""
    difficulty: str | None = None
    """Column with a number or a level name."""
    id: str | None = None
    """Column with a unique id; null numbers the rows."""
    group: str | None = None
    """Column with a skill or subject, kept for tables."""

    @model_validator(mode="after")
    def _one_kind_of_options(self) -> ColumnMap:
        if self.choices is not None and self.distractors:
            raise ValueError("give choices or distractors, not both")
        if isinstance(self.choices, list) and (len(self.choices) < 2 or len(set(self.choices)) < len(self.choices)):
            raise ValueError(f"choices lists two columns or more, each once, got {', '.join(self.choices) or 'none'}")
        if self.choices is None and self.answer_is not in (None, "text"):
            raise ValueError(f"answer_is: {self.answer_is} needs choices, the options that are meant")
        return self


class SourceConfig(Section):
    """One place that examples come from."""

    kind: Annotated[str, Known(DATA_SETS, "synthetic", "file")] = "synthetic"
    """``synthetic`` is the embedded list puzzles; ``file`` maps columns; the others are known data sets, whose
    published raw files (``path``) and hub versions (no ``path``) are read alike. ``arc`` is any raw ARC file."""
    path: str | list[str] | None = None
    """File or files (JSONL, JSON, CSV, TSV or Parquet), or a folder: then all files in it that the kind knows.
    Null reads a known data set from the hub."""
    hub: str | None = None
    """Data set on the hub, ``owner/name``: with ``kind: file`` any one, else instead of the kind's own."""
    subset: str | None = None
    """Name of the hub data set's configuration; null takes the kind's own."""
    hub_splits: list[str] = Field(default_factory=list)
    """Which of the hub data set's splits are read, one after the other; empty takes all with known answers."""
    revision: str | None = None
    """Branch, tag or commit of the hub data set. The commit that it stands for is recorded either way."""
    columns: ColumnMap = ColumnMap()
    """Column mapping for ``kind: file``."""
    annotations: str | None = None
    """A JSON file ``{id: {field: value}}`` with difficulty by example id."""
    annotation_field: str = "difficulty"
    """Which field of the annotations is the difficulty (a number, or a level name such as ``High``)."""
    support: bool | None = None
    """Put the supporting passage, where the data has one, before the question. Null does so for ``boolq`` and
    ``quartz``, which cannot be answered without."""
    limit: int | None = Field(default=None, ge=1)
    """Use at most this many examples, drawn by the data seed."""
    size: int = Field(default=6000, ge=1)
    """Number of examples that ``synthetic`` makes before splitting."""

    @model_validator(mode="after")
    def _one_place(self) -> SourceConfig:
        given = [name for name in ("hub", "subset", "hub_splits", "revision") if getattr(self, name)]
        if self.path is not None and given:
            raise ValueError(f"{given[0]} belongs to a hub data set, and path to local files; leave one of them out")
        if given and self.hub is None and not (self.kind in DATA_SETS and DATA_SETS.get(self.kind).hub):
            raise ValueError(f"{given[0]} needs the name of a hub data set: hub: owner/name")
        if self.kind == "synthetic" and self.hub is not None:
            raise ValueError("kind: synthetic is not on the hub; use kind: file with columns, or a known kind")
        return self


class SplitConfig(Section):
    """Division of examples into easy and hard, and of easy ones into train, validation and test."""

    by: Literal["difficulty", "random"] = "difficulty"
    """``difficulty`` needs one of the three rules below, or takes the median; ``random`` ignores difficulty: hard
    splits are then drawn like the others, from a share of ``1 - hard_quantile`` (half, if that is null)."""
    hard_quantile: float | None = Field(default=None, gt=0.0, lt=1.0)
    """Examples with difficulty above this quantile (the smallest value that so large a share does not exceed) are
    hard."""
    hard_above: float | None = None
    """Examples with difficulty above this number are hard."""
    hard_values: list[str] = Field(default_factory=list)
    """Level names that are hard (for example ``High``), whatever their case; all others with a level are easy."""
    train: int | float = 0.6
    """Number (integer) or share (fraction) of the easy examples."""
    validation: int | float = 0.2
    """Number or share of the easy examples."""
    test: int | float = 0.2
    """Number or share of the easy examples: the in-distribution test."""
    hard_pool: int | float = 0.7
    """Number or share of the hard examples that are labelled by the ensemble."""
    hard_test: int | float = 0.3
    """Number or share of the hard examples: the out-of-distribution test."""

    @model_validator(mode="after")
    def _one_rule(self) -> SplitConfig:
        rules = [self.hard_quantile is not None, self.hard_above is not None, bool(self.hard_values)]
        if self.by == "difficulty" and sum(rules) > 1:
            raise ValueError("give at most one of hard_quantile, hard_above and hard_values")
        if self.by == "random" and (self.hard_above is not None or self.hard_values):
            raise ValueError("by: random ignores difficulty; leave out hard_above and hard_values")
        return self

    @model_validator(mode="after")
    def _sizes(self) -> SplitConfig:
        for group in (("train", "validation", "test"), ("hard_pool", "hard_test")):
            shares = 0.0
            for name in group:
                size = getattr(self, name)
                if not size >= 0:
                    raise ValueError(f"{name} must not be negative, got {size}")
                if isinstance(size, float) and size > 1.0:
                    raise ValueError(f"{name} is a share above 1 ({size}); write a number of examples without a point")
                shares += size if isinstance(size, float) else 0.0
            if shares > 1.0 + 1e-9:
                raise ValueError(f"the shares of {', '.join(group)} add up to {shares:g}, more than 1")
        return self


class TemplateConfig(Section):
    """Templates of an example's text. ``{prompt}``, ``{choices}`` and ``{answer}`` are replaced."""

    prompt: str = "{prompt}"
    """Text before the answer; ``{choices}`` lists the options, one a line, as ``A. text``."""
    answer: str = " {answer}"
    """Text of the answer (and of every option), usually with a leading space (``chat``: without)."""
    chat: bool = False
    """The prompt is the user's turn in the tokenizer's own chat template, and the answer begins the assistant's."""
    system: str | None = None
    """With ``chat``: the system message; null leaves that to the chat template."""
    date: str | None = None
    """With ``chat``: what the chat template is told where it asks for the date, as ``2026-03-05`` or with a time; null
    takes the time at which the run began, and keeps it in ``date.txt``."""
    answer_pattern: str | None = None
    """Regular expression whose first group is the final answer: what generated text is compared by. One that takes too
    long is stopped."""

    @field_validator("date", mode="before")
    @classmethod
    def _iso(cls, value: Any) -> Any:
        """YAML reads a date as one; it is kept as text, in one form."""
        if value is None:
            return None
        text = value.isoformat() if isinstance(value, date) else str(value)
        try:
            found = datetime.fromisoformat(text)
        except ValueError:
            raise ValueError(f"expected a date such as 2026-03-05 or 2026-03-05T14:00:00, got {text[:40]!r}") from None
        return found.replace(microsecond=0, tzinfo=None).isoformat()

    @field_validator("answer_pattern")
    @classmethod
    def _compiles(cls, value: str | None) -> str | None:
        if value is not None:
            from ensemw2s.config.answer_pattern import compiled  # loads the engine, for generated answers only

            compiled(value)
        return value

    @model_validator(mode="after")
    def _parts_of_a_chat(self) -> TemplateConfig:
        for name in ("system", "date"):
            if getattr(self, name) is not None and not self.chat:
                raise ValueError(f"{name} has no place without chat: true")
        return self


class DataConfig(Section):
    """Sources of the examples, and their splits."""

    source: SourceConfig = SourceConfig()
    """Where examples come from."""
    hard_source: SourceConfig | None = None
    """A second source for the hard splits (easy from one data set, hard from another); then no difficulty is needed."""
    split: SplitConfig = SplitConfig()
    """How the examples are split."""
    template: TemplateConfig = TemplateConfig()
    """How an example becomes text."""
    near_duplicates: Literal["drop", "error", "keep"] = "drop"
    """What happens to an example whose question (the prompt and, for choices, the options in any order; white space and
    case aside) was seen before in the data: left out (the first one stays), an error, or kept even if splits then
    overlap (the overlap is counted)."""
    label_noise: float = Field(default=0.0, ge=0.0, le=1.0)
    """Share of the training split's answers that are replaced by another option of the question (``task: generate``: by
    another training example's answer), for studies of what learns from mistakes: data sets in use have 0.08 to 0.38
    (Song et al. 2022). All other splits keep the true answers, validation too."""
    seed: int | None = None
    """Seed of sampling, splitting and label noise; null follows the run's seed."""

    @model_validator(mode="after")
    def _one_idea_of_hard(self) -> DataConfig:
        split = self.split
        if self.hard_source is not None and (
            split.hard_quantile is not None or split.hard_above is not None or split.hard_values
        ):
            raise ValueError("hard_source says what is hard; leave out hard_quantile, hard_above and hard_values")
        return self
