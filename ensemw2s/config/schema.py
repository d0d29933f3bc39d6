"""``RunConfig``: the one schema of a run, with a section a phase."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from ensemw2s.arms import SINGLE, WEAK, arm_spec, teacher_of
from ensemw2s.config.base import Section
from ensemw2s.config.data import DataConfig
from ensemw2s.config.method import (
    ArmsConfig,
    BoostingConfig,
    CombineConfig,
    EvaluationConfig,
    LabellingConfig,
    StudentConfig,
)
from ensemw2s.config.training import ComputeConfig, ModelsConfig, TrainingSettings


class TrainingRoles(Section):
    """Fine-tuning settings by role; every expert and weak arm shares one, every student and the ceiling the other."""

    expert: TrainingSettings = TrainingSettings()
    """Experts, bagging members and plain fine-tunes of the weak base."""
    student: TrainingSettings = TrainingSettings()
    """Students and the ceiling."""


class RunConfig(Section):
    """A whole run."""

    name: str = Field(default="run", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)
    """Short name; part of the run directory's name."""
    seed: int = Field(default=0, ge=0)
    """The one seed that fixes everything."""
    task: Literal["choice", "generate"] = "choice"
    """Choose among given options, or write an answer."""
    data: DataConfig = DataConfig()
    """Sources of the examples, and their splits."""
    models: ModelsConfig = ModelsConfig()
    """The weak and the strong base."""
    training: TrainingRoles = TrainingRoles()
    """Fine-tuning settings by role."""
    boosting: BoostingConfig = BoostingConfig()
    """Phase 1: experts by token-level boosting."""
    ensemble: CombineConfig = CombineConfig()
    """Combination of experts."""
    labelling: LabellingConfig = LabellingConfig()
    """Phase 2: the ensemble labels the hard pool."""
    student: StudentConfig = StudentConfig()
    """Phase 3: the student learns from pseudo-labels."""
    arms: ArmsConfig = ArmsConfig()
    """What the run compares."""
    evaluation: EvaluationConfig = EvaluationConfig()
    """Metrics and their uncertainty."""
    compute: ComputeConfig = ComputeConfig()
    """Where and how the work runs."""

    @model_validator(mode="after")
    def _combinations(self) -> RunConfig:
        if self.task == "generate" and self.boosting.error_unit == "choice":
            raise ValueError("boosting.error_unit: choice needs task: choice")
        if self.task == "generate" and self.student.labels == "posterior":
            raise ValueError("student.labels: posterior needs task: choice (it is a distribution over options)")
        if self.task == "generate" and self.student.generations > 1:
            raise ValueError("student.generations above 1 needs task: choice")
        stop, taught = self.student.early_stop, self.training.student
        steps, most = (taught.max_steps, "at most ") if taught.steps == "auto" else (taught.steps, "")
        if stop is not None and stop.every > steps:
            raise ValueError(f"student.early_stop.every is {stop.every}, but students take {most}{steps} steps")
        if self.task == "generate" and self.labelling.noise_model != "none":
            raise ValueError("labelling.noise_model: em needs task: choice (its votes are over options)")
        if self.task == "generate" and self.labelling.voters:
            raise ValueError("labelling.voters needs task: choice (a voter scores options)")
        if self.labelling.decoding.experts == "one" and self.ensemble.rule != "mixture":
            raise ValueError("labelling.decoding.experts: one needs ensemble.rule: mixture")
        for side, role in (("weak", "expert"), ("strong", "student")):
            if getattr(self.models, side).quantization is not None and getattr(self.training, role).lora is None:
                raise ValueError(f"models.{side}.quantization needs training.{role}.lora: adapters over the base")
        for teacher in self.teachers:
            if not self.has_arm(teacher):
                raise ValueError(f"arms.students lists {teacher!r}, but arms.{arm_spec(teacher).option} is off")
        return self

    @property
    def teachers(self) -> list[str]:
        """Teachers with a student, one name a model: ``single`` is ``plain`` where round 1 is the plain fine-tune."""
        plain = self.boosting.first_is_plain
        return list(dict.fromkeys(WEAK if plain and name == SINGLE else name for name in self.arms.students))

    def has_arm(self, name: str) -> bool:
        """Whether the run builds an arm of the table.

        The first expert is the plain fine-tune or an arm of its own (``single``).
        """
        teacher, option = teacher_of(name), arm_spec(name).option
        if teacher is not None:
            return teacher in self.teachers
        if name in (WEAK, SINGLE) and self.boosting.first_is_plain:
            return name == WEAK
        if vote := arm_spec(name).vote:
            mixed = self.task == "choice" and self.ensemble.rule == "mixture"
            return vote != self.ensemble.vote and (vote != "fitted" or mixed)
        return not option or getattr(self.arms, option)
