"""An ensemble's experts, weights and settings, and how its experts are loaded."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ensemw2s.config.data import TemplateConfig
from ensemw2s.config.method import CombineConfig, DecodingConfig, EvaluationConfig
from ensemw2s.config.training import ComputeConfig, ModelConfig
from ensemw2s.data.chat import now
from ensemw2s.data.encode import EncodedSplit, encode_split
from ensemw2s.data.example import Example
from ensemw2s.ensemble.combine.option_scores import normalise
from ensemw2s.ensemble.ensemble_json import EnsembleFile, ExpertEntry, write_ensemble_json
from ensemw2s.ensemble.folder import FILE_NAME
from ensemw2s.ensemble.mixed.compatibility import (
    Compatibility,
    check_compatibility,
    require_common_tokens,
    tokenizer_identity,
)
from ensemw2s.models.loading.adapters import load_models
from ensemw2s.models.loading.device import memory_freed, resolve_device
from ensemw2s.models.loading.fingerprint import model_fingerprint
from ensemw2s.models.loading.info import configured_context_length, weight_bytes
from ensemw2s.models.loading.load import LoadedModel, load_model, load_tokenizer
from ensemw2s.sink import EventSink


@dataclass
class EnsembleSpec:
    """Experts with their weights, and the settings of prompts, decoding and loading.

    Attributes:
        experts: model folders, in the order of boosting; a string is any other name that ``ModelConfig.path`` takes.
        alphas: ``α_t``, not normalised.
        task: ``choice`` or ``generate``.
        config: rule and length norm. Experts with different tokenizers use the norm ``byte`` unless one is given here.
        template: how prompts and answers become text; a chat without a date gets that of now.
        decoding: default decoding of written answers.
        evaluation: how its answers are compared with true ones.
        loading: how experts are loaded: settings of :class:`ModelConfig` besides path and revision.
        expert_loading: settings of single experts that go before ``loading``, revision included; empty for none.
        compute: device, threads and batch size.
        folder: where it was read from; its ``results.json``, if there is one, goes into the model card.
    """

    experts: Sequence[Path | str]
    alphas: list[float]
    task: Literal["choice", "generate"] = "choice"
    config: CombineConfig = field(default_factory=CombineConfig)
    template: TemplateConfig = field(default_factory=TemplateConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    loading: dict[str, Any] = field(default_factory=dict)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    folder: Path | None = field(default=None, compare=False)
    expert_loading: list[dict[str, Any]] = field(default_factory=list)
    undated: bool = field(default=False, init=False, repr=False, compare=False)
    """Whether the template is a chat that came without a date."""
    _known: dict[str, Compatibility] = field(default_factory=dict, init=False, repr=False, compare=False)
    _reported: bool = field(default=False, init=False, repr=False, compare=False)
    _kept: list[LoadedModel] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.experts) != len(self.alphas):
            raise ValueError(f"{len(self.experts)} experts, but {len(self.alphas)} weights")
        if self.expert_loading and len(self.expert_loading) != len(self.experts):
            raise ValueError(f"{len(self.experts)} experts, but {len(self.expert_loading)} settings for their loading")
        normalise(self.alphas)
        if self.template.chat and self.template.date is None:
            self.undated = True
            self.template = self.template.model_copy(update={"date": now()})

    def settings(self) -> dict[str, Any]:
        """The content of ``ensemble.json`` besides the experts."""
        return self._file([]).model_dump(exclude={"experts": True, "ensemble": {"vote"}})

    def save(self, folder: str | Path) -> Path:
        """Write ``ensemble.json``, with the experts' paths relative to it.

        Returns:
            The file's path.
        """
        target = Path(folder) / FILE_NAME
        own = self.expert_loading or [{} for _ in self.experts]
        members = []
        for expert, alpha, loading in zip(self.experts, self.alphas, own, strict=True):
            if isinstance(expert, str):
                members.append(ExpertEntry(name=expert, alpha=alpha, loading=loading))
            else:
                path = Path(os.path.relpath(expert, target.parent)).as_posix()
                members.append(ExpertEntry(path=path, alpha=alpha, loading=loading))
        return write_ensemble_json(target, self._file(members))

    def _file(self, members: list[ExpertEntry]) -> EnsembleFile:
        return EnsembleFile(
            task=self.task,
            experts=members,
            ensemble=self.config,
            template=self.template,
            decoding=self.decoding,
            evaluation=self.evaluation,
            loading=self.loading,
        )

    def model_config(self, index: int) -> ModelConfig:
        """Loading settings of expert ``index``."""
        own = self.expert_loading[index] if self.expert_loading else {}
        return ModelConfig(path=str(self.experts[index]), **{**self.loading, **own})

    def compatibility(self) -> Compatibility:
        """Whether the experts share a tokenizer, and how they are combined; no weights are read.

        Raises:
            ModelError: an expert's tokenizer or configuration is missing.
        """
        configs = [self.model_config(k) for k in range(len(self.experts))]
        key = repr((configs, self.template.chat))
        if key not in self._known:
            self._known[key] = check_compatibility(configs, self.template)
        return self._known[key]

    @property
    def effective_config(self) -> CombineConfig:
        """Rule and length norm as used: ``byte`` for experts with different tokenizers unless a norm was given."""
        if self.compatibility().how("choice") == "tokens" or "length_norm" in self.config.model_fields_set:
            return self.config
        return self.config.model_copy(update={"length_norm": "byte"})

    def report_mixing_once(self, task: str, sink: EventSink) -> None:
        """Send a message, once, about how experts that differ are combined for ``task``."""
        text = self.compatibility().describe(task, self.effective_config.length_norm)
        if text is not None and not self._reported:
            self._reported = True
            sink.event("message", level="info", text=text)

    def load_experts(self) -> list[LoadedModel]:
        """All experts in memory at once, adapters over one base: what decoding and ``rule: product`` need."""
        if self._kept is not None:
            return self._kept
        device = resolve_device(self.compute)
        return load_models([self.model_config(k) for k in range(len(self.experts))], device)

    def expert(self, index: int) -> LoadedModel:
        """One expert in memory; see :meth:`kept_in_memory`."""
        if self._kept is not None:
            return self._kept[index]
        return load_model(self.model_config(index), resolve_device(self.compute))

    @contextlib.contextmanager
    def kept_in_memory(self, room: int = 0) -> Iterator[None]:
        """Calls within the block do not read the experts' weights anew.

        Work that needs all experts together (decoding, ``rule: product``) keeps them; other work does so where they
        take at most half of ``room`` bytes, and otherwise reads one after the other at each call.
        """
        configs = [self.model_config(k) for k in range(len(self.experts))]
        together = self.task == "generate" or self.config.rule == "product"
        if self._kept is not None or not (together or 2 * sum(map(weight_bytes, configs)) <= room):
            yield
            return
        with memory_freed(resolve_device(self.compute)):
            self._kept = self.load_experts()
            try:
                yield
            finally:
                self._kept = None

    def identity(self) -> dict[str, Any]:
        """Inputs of answers besides the questions and the decoding, as JSON: the experts' content and settings.

        Raises:
            ModelError: an expert's files are missing.
        """
        configs = [self.model_config(k) for k in range(len(self.experts))]
        return {
            "experts": [[model_fingerprint(config), tokenizer_identity(config)] for config in configs],
            "alphas": self.alphas,
            "task": self.task,
            "config": self.effective_config.model_dump(mode="json", include={"rule", "length_norm"}),
            "template": self.template.model_dump(mode="json", exclude={"date"} if self.undated else None),
        }

    def encode(self, examples: Sequence[Example]) -> EncodedSplit:
        """Tokenise examples as the ensemble was trained on them.

        Raises:
            ModelError: the experts have different tokenizers.
        """
        require_common_tokens(self.compatibility(), "do not read questions in the same tokens", self.task)
        return self.encode_for(0, examples)

    def encode_for(self, index: int, examples: Sequence[Example]) -> EncodedSplit:
        """Tokenise examples for expert ``index``."""
        tokenizer = load_tokenizer(self.model_config(index)) if self._kept is None else self._kept[index].tokenizer
        limit = configured_context_length(self.model_config(index))
        return encode_split(list(examples), tokenizer, self.template, self.task, limit)
