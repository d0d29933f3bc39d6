"""What every stage of a run shares: configuration, directory, splits, bases and encodings."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from ensemw2s.config.schema import RunConfig
from ensemw2s.config.training import ModelConfig
from ensemw2s.data.example import Example, SplitName, Splits
from ensemw2s.runs import RunDirectory
from ensemw2s.sink import EventSink

if TYPE_CHECKING:
    from ensemw2s.data.encode import EncodedSplit

Side = Literal["weak", "strong"]

#: ``options``: every option of a choice task, or the answer of a generate task. ``answers``: the true answers only.
#: ``hidden``: every option, without knowing which is true.
View = Literal["options", "answers", "hidden"]


@dataclass(frozen=True)
class Base:
    """A base model as the pipeline sees it: nothing of its weights is in memory."""

    config: ModelConfig
    tokenizer: Any
    max_length: int | None
    fingerprint: str


class Context:
    """State of a run in progress.

    Args:
        config: the resolved configuration.
        run: the run directory, locked by this process.
        sink: gets events.
    """

    def __init__(self, config: RunConfig, run: RunDirectory, sink: EventSink) -> None:
        self.config = config
        self.run = run
        self.sink = sink
        self.seed = config.seed
        self._splits: Splits | None = None
        self.data_fingerprint = ""
        self._encoded: dict[tuple[Side, SplitName, View], EncodedSplit] = {}

    @property
    def splits(self) -> Splits:
        """The prepared splits; the data stage comes first."""
        if self._splits is None:
            raise RuntimeError("the data stage has not run")
        return self._splits

    def set_splits(self, splits: Splits, fingerprint: str) -> None:
        """Called by the data stage."""
        self._splits = splits
        self.data_fingerprint = fingerprint

    @cached_property
    def weak(self) -> Base:
        """The weak base."""
        return _base(self.config.models.weak)

    @cached_property
    def strong(self) -> Base:
        """The strong base."""
        return _base(self.config.models.strong)

    def base(self, side: Side) -> Base:
        """The weak or the strong base."""
        return self.weak if side == "weak" else self.strong

    def encoded(self, side: Side, split: SplitName, view: View) -> EncodedSplit:
        """A split as one of the bases tokenises it; kept."""
        key = (side, split, view)
        if key not in self._encoded:
            self._encoded[key] = self.encode(side, self._view(self.splits[split], view), view)
        return self._encoded[key]

    def encode(self, side: Side, examples: list[Example], view: View) -> EncodedSplit:
        """Tokenise examples as one of the bases does."""
        from ensemw2s.data.encode import encode_split

        base = self.base(side)
        task = "generate" if view == "answers" else self.config.task
        return encode_split(examples, base.tokenizer, self.config.data.template, task, base.max_length)

    @staticmethod
    def _view(examples: list[Example], view: View) -> list[Example]:
        if view == "hidden":
            return [example.hide_answer() for example in examples]
        return examples

    def scoring_view(self, split: SplitName) -> View:
        """Which sequences of a split are scored: all options where choices are compared, else the answers."""
        if self.config.task == "generate" or (split == "train" and self.config.boosting.error_unit == "token"):
            return "answers"
        return "hidden" if split == "hard_pool" else "options"

    @cached_property
    def numerics(self) -> dict[str, Any]:
        """What changes floating-point results: part of every model stage's inputs."""
        from ensemw2s.models.device import cpu_threads, resolve_device

        compute = self.config.compute
        device = resolve_device(compute).type
        return {"device": device, "threads": cpu_threads(compute) if device == "cpu" else None}


def _base(config: ModelConfig) -> Base:
    from ensemw2s.models.fingerprint import model_fingerprint
    from ensemw2s.models.info import configured_context_length
    from ensemw2s.models.load import load_tokenizer

    return Base(
        config=config,
        tokenizer=load_tokenizer(config),
        max_length=configured_context_length(config),
        fingerprint=model_fingerprint(config),
    )
