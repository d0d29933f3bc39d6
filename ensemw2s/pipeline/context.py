"""Shared state of the stages of a run: configuration, directory, splits, bases and encodings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from ensemw2s.config.data import TemplateConfig
from ensemw2s.config.keys import plugins
from ensemw2s.config.schema import RunConfig
from ensemw2s.config.training import ModelConfig, TrainingConfig
from ensemw2s.data.example import Example, SplitName, Splits
from ensemw2s.evaluation.matching import text_correct
from ensemw2s.outputs import refuse_files, refuse_links
from ensemw2s.pipeline.joint_table import JointTables
from ensemw2s.runs.directory import RunDirectory
from ensemw2s.sink import EventSink, NullSink
from ensemw2s.stage_names import TRUNK

if TYPE_CHECKING:
    from ensemw2s.data.encode import EncodedSplit
    from ensemw2s.ensemble.combine.choices import EnsembleChoices
    from ensemw2s.models.trunk.store import TrunkStore
    from ensemw2s.student.groups import Groups

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
        template: ``config.data.template`` with its date; the same without one by default.
        shared: folder of what several runs share; the run directory by default.
    """

    splits: Splits
    """The prepared splits; the data stage sets them."""

    def __init__(
        self,
        config: RunConfig,
        run: RunDirectory,
        sink: EventSink,
        template: TemplateConfig | None = None,
        shared: Path | None = None,
    ) -> None:
        self.config = config
        self.template = template or config.data.template
        self.run = run
        self.shared = shared or run.path
        self.sink = sink
        self.seed = config.seed
        self._encoded: dict[tuple[Side, SplitName, View], EncodedSplit] = {}
        self._parameters: dict[Side, int] = {}
        self.tuned: dict[Side, TrainingConfig] = {}
        """What was found for a side that has something ``auto``."""
        self.notes: list[str] = []
        """Remarks for the report."""
        self.kept_choices: dict[object, EnsembleChoices] = {}
        """What members chose together."""
        self.groups: Groups | None = None
        """Groups of the hard pool's questions."""
        self.joint = JointTables()
        self.decoded: dict[str, str] = {}
        """Fingerprint of decoded answers → the stage that decoded them."""
        self.answered: dict[str, str] = {}
        """Stage with answers → the stage that decoded them, itself or that of the same models under another name."""
        self.stages: dict[str, str] = {}
        """Every stage of this run → the name under which it is told and reported (see :meth:`ensure_parts`)."""

    def training(self, side: Side) -> TrainingConfig:
        """Training settings of a side."""
        roles = self.config.training
        return self.tuned.get(side) or (roles.expert if side == "weak" else roles.student).fixed()

    def ensure(
        self,
        name: str,
        inputs: Mapping[str, Any],
        work: Callable[[Path], object],
        *,
        seed: int | None = None,
        resume: bool = False,
        part_of: str | None = None,
    ) -> Path:
        """A stage of the run; see :meth:`ensemw2s.runs.stage.Stages.ensure`.

        With ``part_of`` it is told and reported under that name, by the caller.
        """
        self.stages[name] = part_of or name
        sink = NullSink() if part_of else self.sink
        return self.run.stages.ensure(name, inputs, work, seed=seed, resume=resume, sink=sink)

    def ensure_parts(
        self, name: str, parts: Mapping[str, Mapping[str, Any]], work: Callable[[str, Path], object]
    ) -> Path:
        """Make those parts (part → its inputs) that changed; each is a stage of its own in the folder ``name``.

        The log hears of one stage ``name``, which is cached if all its parts are. ``work`` is called with a part and
        the folder to make it in. Returns the folder of all.
        """
        missing = [part for part, inputs in parts.items() if not self.run.stages.is_done(f"{name}/{part}", inputs)]
        reasons: dict[str, list[str]] = {}
        for part in missing:
            reason = self.run.stages.rerun_reason(f"{name}/{part}", parts[part])
            if reason is not None:
                reasons.setdefault(reason, []).append(part)
        if reasons:
            found = (f"{', '.join(of)}: {reason}" for reason, of in reasons.items())
            self.sink.event("stage_rerun", stage=name, reason="; ".join(found))
        if missing:
            self.sink.event("stage_started", stage=name)
        for part, inputs in parts.items():
            self.ensure(f"{name}/{part}", inputs, partial(work, part), part_of=name)
        records = [self.run.stages.record(f"{name}/{part}") for part in missing or parts]
        seconds = sum(record.seconds for record in records if record is not None)
        self.sink.event("stage_finished", stage=name, seconds=round(seconds, 3), cached=not missing, parts=list(parts))
        return self.run.path / name

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

    @cached_property
    def trunk(self) -> TrunkStore:
        """Hidden states below adapters, of both bases."""
        from ensemw2s.models.trunk.store import TrunkStore

        refuse_links(self.shared, TRUNK)
        refuse_files(self.shared, TRUNK)
        return TrunkStore(self.shared / TRUNK, int(self.config.compute.trunk_cache_gb * 1e9), self.sink)

    def parameters(self, side: Side) -> int:
        """Parameters of the weak or the strong base; kept."""
        from ensemw2s.models.loading.info import parameter_count

        if side not in self._parameters:
            self._parameters[side] = parameter_count(self.base(side).config)
        return self._parameters[side]

    def encoded(self, side: Side, split: SplitName, view: View) -> EncodedSplit:
        """A split as one of the bases tokenises it; kept."""
        key = (side, split, view)
        if key not in self._encoded:
            examples = self.splits[split]
            examples = [example.hide_answer() for example in examples] if view == "hidden" else examples
            self._encoded[key] = self.encode(side, examples, view)
        return self._encoded[key]

    def encode(self, side: Side, examples: list[Example], view: View) -> EncodedSplit:
        """Tokenise examples as one of the bases does."""
        from ensemw2s.data.encode import encode_split

        base = self.base(side)
        task = "generate" if view == "answers" else self.config.task
        return encode_split(examples, base.tokenizer, self.template, task, base.max_length)

    def right(self, texts: list[str], split: SplitName) -> NDArray[np.bool_]:
        """Whether written answers to a split's questions are right, bool ``[n]``."""
        true = [example.answer or "" for example in self.splits[split]]
        return text_correct(texts, true, self.config.evaluation.match, self.config.data.template.answer_pattern)

    def scoring_view(self, split: SplitName) -> View:
        """Sequences of a split that are scored: all options where choices are compared, else the answers."""
        if self.config.task == "generate" or (split == "train" and self.config.boosting.error_unit == "token"):
            return "answers"
        return "hidden" if split == "hard_pool" else "options"

    @cached_property
    def numerics(self) -> dict[str, Any]:
        """Settings that change floating-point results: part of every model stage's inputs."""
        from ensemw2s.models.loading.device import cpu_threads, resolve_device

        compute = self.config.compute
        device = resolve_device(compute).type
        used = plugins(self.config, "compute.")
        threads = cpu_threads(compute) if device == "cpu" else None
        return {"device": device, "threads": threads} | ({"plugins": used} if used else {})


def _base(config: ModelConfig) -> Base:
    from ensemw2s.models.loading.fingerprint import model_fingerprint, pinned
    from ensemw2s.models.loading.info import configured_context_length
    from ensemw2s.models.loading.load import load_tokenizer

    config = pinned(config)  # a branch that moves during the run does not change it
    return Base(
        config=config,
        tokenizer=load_tokenizer(config),
        max_length=configured_context_length(config),
        fingerprint=model_fingerprint(config),
    )
