"""A trained ensemble on disk: experts, weights and rule, used for scoring and generating."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ensemw2s.config.data import TemplateConfig
from ensemw2s.config.method import DecodingConfig, EnsembleConfig, EvaluationConfig
from ensemw2s.config.training import ComputeConfig, ModelConfig
from ensemw2s.data.example import Example
from ensemw2s.ensemble.combine.option_scores import normalise
from ensemw2s.ensemble.folder import FILE_NAME, SavedEnsemble
from ensemw2s.ensemble.mixed.compatibility import (
    Compatibility,
    check_compatibility,
    cut_vocabulary,
    require_common_tokens,
)
from ensemw2s.ensemble.saving.ensemble_json import EnsembleFile, ExpertEntry, read_ensemble_file, write_ensemble_json
from ensemw2s.errors import shortened
from ensemw2s.sink import EventSink, NullSink

if TYPE_CHECKING:
    from ensemw2s.data.encode import EncodedSplit
    from ensemw2s.ensemble.hf.causal_lm import EnsembleForCausalLM
    from ensemw2s.evaluation.results import Results
    from ensemw2s.models.loading.load import LoadedModel


@dataclass
class Ensemble:
    """Experts with their weights.

    They are combined token by token where they share a tokenizer, as the experts of a run do. Experts with different
    tokenizers are combined by their probabilities of whole options, or write from the union of their vocabularies
    (:meth:`compatibility` says what is the case).

    Attributes:
        experts: model folders, in the order of boosting; a string is any other name that ``ModelConfig.path`` takes.
        alphas: ``α_t``, not normalised.
        task: ``choice`` or ``generate``.
        config: rule and length norm. Experts with different tokenizers use the norm ``byte`` unless one is given here.
        template: how prompts and answers become text; a chat without a date gets that of now.
        decoding: default decoding of :meth:`generate`.
        evaluation: how its answers are compared with true ones.
        loading: how experts are loaded: settings of :class:`ModelConfig` besides path and revision.
        expert_loading: settings of single experts that go before ``loading``, revision included; empty for none.
        compute: device, threads and batch size.
        folder: where it was read from; its ``results.json``, if there is one, goes into the model card.
    """

    experts: Sequence[Path | str]
    alphas: list[float]
    task: Literal["choice", "generate"] = "choice"
    config: EnsembleConfig = field(default_factory=EnsembleConfig)
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
    _told: bool = field(default=False, init=False, repr=False, compare=False)
    _kept: list[LoadedModel] | None = field(default=None, init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.experts) != len(self.alphas):
            raise ValueError(f"{len(self.experts)} experts, but {len(self.alphas)} weights")
        if self.expert_loading and len(self.expert_loading) != len(self.experts):
            raise ValueError(f"{len(self.experts)} experts, but {len(self.expert_loading)} settings for their loading")
        normalise(self.alphas)
        if self.template.chat and self.template.date is None:
            from ensemw2s.data.chat import now

            self.undated = True
            self.template = self.template.model_copy(update={"date": now()})

    @classmethod
    def load(
        cls,
        path: str | Path,
        compute: ComputeConfig | None = None,
        *,
        trust_remote_code: bool = False,
        self_contained: bool = False,
    ) -> Ensemble:
        """Read ``ensemble.json`` from a folder (a run directory is one).

        Args:
            path: the folder, or the file.
            compute: device, threads and batch size.
            trust_remote_code: run code that comes with its models. Only you can say so: what the file says about it
                counts for nothing.
            self_contained: refuse experts outside of the folder, as in what others published.

        Raises:
            ModelError: the file or an expert's folder is missing, or the file is not valid.
        """
        content, experts = read_ensemble_file(
            Path(path), trust_remote_code=trust_remote_code, self_contained=self_contained
        )
        own = [member.loading for member in content.experts]
        return cls(
            experts=experts,
            alphas=[member.alpha for member in content.experts],
            task=content.task,
            config=content.ensemble,
            template=content.template,
            decoding=content.decoding,
            evaluation=content.evaluation,
            loading=content.loading,
            compute=compute or ComputeConfig(),
            folder=Path(path) if Path(path).is_dir() else Path(path).parent,
            expert_loading=own if any(own) else [],
        )

    @classmethod
    def from_run(
        cls, run: str | Path, compute: ComputeConfig | None = None, *, trust_remote_code: bool = False
    ) -> Ensemble:
        """The boosted ensemble of a run directory; see :meth:`load`."""
        return cls.load(run, compute, trust_remote_code=trust_remote_code)

    @classmethod
    def from_pretrained(
        cls,
        name: str | Path,
        compute: ComputeConfig | None = None,
        *,
        trust_remote_code: bool = False,
        **options: Any,
    ) -> Ensemble:
        """An ensemble that :meth:`save_pretrained` or :meth:`push_to_hub` wrote.

        Args:
            name: a folder, or ``owner/name`` on the hub.
            compute: device, threads and batch size.
            trust_remote_code: as in :meth:`load`.
            options: for the hub: ``revision``, ``token``, ``cache_dir``, ``local_files_only``.

        Raises:
            ModelError: as :meth:`load`, or the hub cannot be reached or has no such ensemble.
        """
        from ensemw2s.ensemble.saving.save import find_folder

        folder = find_folder(name, **options)
        fetched = folder != Path(name).expanduser()
        return cls.load(folder, compute, trust_remote_code=trust_remote_code, self_contained=fetched)

    def save_pretrained(
        self, folder: str | Path, *, results: Results | None = None, title: str | None = None
    ) -> SavedEnsemble:
        """Write one self-contained folder: experts, tokenizer, configuration, model card.

        ``transformers`` loads it as one model (:mod:`ensemw2s.ensemble.hf.causal_lm`). Weights are copied as they are;
        experts that are LoRA adapters become adapters over one copy of their base.

        Args:
            folder: empty, missing, or a saved ensemble that is replaced.
            results: numbers for the model card; by default those in the folder that the ensemble was read from.
            title: the model card's heading; by default the folder's name.

        Returns:
            What was written, with its size.

        Raises:
            ModelError: the folder holds something else, or the experts do not make one model.
        """
        from ensemw2s.ensemble.saving.save import save_ensemble

        require_common_tokens(self.compatibility(), "do not make one model folder")
        return save_ensemble(self, Path(folder), results, title)

    def push_to_hub(
        self, repo_id: str, *, results: Results | None = None, title: str | None = None, **options: Any
    ) -> str:
        """Save into a temporary folder and upload it in one commit.

        Args:
            repo_id: ``owner/name``; made if it is not there.
            results: as in :meth:`save_pretrained`.
            title: the model card's heading; by default the repository's name.
            options: of :func:`ensemw2s.ensemble.hub.push_folder`: ``private``, ``token``, ``revision``, …

        Returns:
            The commit's address.
        """
        from ensemw2s.ensemble.hub import push_folder, scratch_folder
        from ensemw2s.ensemble.saving.save import save_ensemble

        require_common_tokens(self.compatibility(), "do not make one model on the hub")
        with scratch_folder() as scratch:
            heading = title or repo_id.split("/")[-1]
            saved = save_ensemble(self, scratch / "ensemble", results, heading, address=repo_id)
            return push_folder(saved.path, repo_id, **options)

    def causal_lm(self) -> EnsembleForCausalLM:
        """The ensemble in memory as one model of ``transformers``, with ``generate()``.

        Raises:
            ModelError: the experts have different tokenizers.
        """
        from ensemw2s.ensemble.hf.causal_lm import EnsembleForCausalLM

        found = self.compatibility()
        require_common_tokens(found, "do not make one causal language model")
        return EnsembleForCausalLM.from_experts(
            [cut_vocabulary(loaded, found.common_size).model for loaded in self.load_experts()],
            self.alphas,
            rule=self.config.rule,
            backend=self.compute.backend,
            ensemble=self.settings(),
        )

    def settings(self) -> dict[str, Any]:
        """The content of ``ensemble.json`` besides the experts."""
        return self._file([]).model_dump(exclude={"experts"})

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
        """How to load expert ``index``."""
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
    def effective_config(self) -> EnsembleConfig:
        """Rule and length norm as used: ``byte`` for experts with different tokenizers unless a norm was given."""
        if self.compatibility().how("choice") == "tokens" or "length_norm" in self.config.model_fields_set:
            return self.config
        return self.config.model_copy(update={"length_norm": "byte"})

    def tell(self, task: str, sink: EventSink) -> None:
        """Send a message, once, about how experts that differ are combined for ``task``."""
        text = self.compatibility().describe(task, self.effective_config.length_norm)
        if text is not None and not self._told:
            self._told = True
            sink.event("message", level="info", text=text)

    def load_experts(self) -> list[LoadedModel]:
        """All experts in memory at once, adapters over one base: what decoding and ``rule: product`` need."""
        from ensemw2s.models.loading.adapters import load_models
        from ensemw2s.models.loading.device import resolve_device

        if self._kept is not None:
            return self._kept
        device = resolve_device(self.compute)
        return load_models([self.model_config(k) for k in range(len(self.experts))], device)

    def expert(self, index: int) -> LoadedModel:
        """One expert in memory; see :meth:`kept_in_memory`."""
        from ensemw2s.models.loading.device import resolve_device
        from ensemw2s.models.loading.load import load_model

        if self._kept is not None:
            return self._kept[index]
        return load_model(self.model_config(index), resolve_device(self.compute))

    @contextlib.contextmanager
    def kept_in_memory(self, room: int = 0) -> Iterator[None]:
        """Calls within the block do not read the experts' weights anew.

        Work that needs all experts together (decoding, ``rule: product``) keeps them; other work does so where they
        take at most half of ``room`` bytes, and otherwise reads one after the other at each call.
        """
        import gc

        from ensemw2s.models.loading.device import free_memory, resolve_device
        from ensemw2s.models.loading.info import weight_bytes

        configs = [self.model_config(k) for k in range(len(self.experts))]
        together = self.task == "generate" or self.config.rule == "product"
        if self._kept is not None or not (together or 2 * sum(map(weight_bytes, configs)) <= room):
            yield
            return
        self._kept = self.load_experts()
        try:
            yield
        finally:
            self._kept = None
            gc.collect()
            free_memory(resolve_device(self.compute))

    def identity(self) -> dict[str, Any]:
        """What answers depend on besides the questions and the decoding, as JSON: the experts' content and settings.

        Raises:
            ModelError: an expert's files are missing.
        """
        from ensemw2s.ensemble.mixed.compatibility import tokenizer_identity
        from ensemw2s.models.loading.fingerprint import model_fingerprint

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
        from ensemw2s.data.encode import encode_split
        from ensemw2s.models.loading.info import configured_context_length
        from ensemw2s.models.loading.load import load_tokenizer

        tokenizer = load_tokenizer(self.model_config(index)) if self._kept is None else self._kept[index].tokenizer
        limit = configured_context_length(self.model_config(index))
        return encode_split(list(examples), tokenizer, self.template, self.task, limit)

    def score(self, examples: Sequence[Example], sink: EventSink | None = None) -> list[dict[str, Any]]:
        """Score the options of questions.

        Args:
            examples: questions with choices; the answer may be unknown.
            sink: gets progress.

        Returns:
            One dict an example: ``id``, ``label``, ``option`` (index), ``scores`` (one an option), ``confidence``,
            ``margin``, ``agreement``, and ``correct`` where the answer is known. ``indistinct`` is true where two
            options have the same tokens, so that nothing tells them apart; such a question has no ``correct``.

        Raises:
            DataError: an example has fewer than two choices.
        """
        from ensemw2s.ensemble.score import check_choices, choose_options

        sink = sink or NullSink()
        check_choices(self, examples)
        if not examples:
            return []
        self.tell("choice", sink)
        found, starts, indistinct = choose_options(self, examples, sink)
        if indistinct.any():
            first = next(example.id for example, alike in zip(examples, indistinct, strict=True) if alike)
            text = (
                f"{int(indistinct.sum())} of {len(examples)} questions (the first is {shortened(first)!r}) have "
                "options with the same tokens, which no model tells apart: the label among those is a coin's."
            )
            sink.event("message", level="warning", text=text)
        out = []
        for i, example in enumerate(examples):
            option = int(found.choices.option[i])
            row: dict[str, Any] = {
                "id": example.id,
                "label": (example.choices or ())[option],
                "option": option,
                "scores": [round(float(s), 6) for s in found.choices.scores[starts[i] : starts[i + 1]]],
                "confidence": round(float(found.confidence[i]), 6),
                "margin": round(float(found.choices.margin[i]), 6),
                "agreement": round(float(found.agreement[i]), 6),
            }
            if indistinct[i]:
                row["indistinct"] = True
            elif example.answer is not None:
                row["correct"] = option == example.answer_index
            out.append(row)
        return out

    def generate(
        self,
        prompts: Sequence[str],
        decoding: DecodingConfig | None = None,
        *,
        seed: int = 0,
        first: int = 0,
        agreement_of_experts: bool = False,
        sink: EventSink | None = None,
    ) -> list[dict[str, Any]]:
        """Write answers from the combined distribution.

        Args:
            prompts: questions as text, before the prompt template.
            decoding: greedy or sampling; the ensemble's own by default.
            seed: fixes sampled answers.
            first: number of the first prompt, where these are some of more: each is sampled as it would be among all.
            agreement_of_experts: also decode every expert by itself and report the share of ᾱ that agrees.
            sink: gets progress.

        Returns:
            One dict a prompt, as :meth:`answer` gives it.
        """
        examples = [Example(id=str(i), prompt=prompt, answer=None) for i, prompt in enumerate(prompts)]
        return self.answer(
            examples, decoding, seed=seed, first=first, agreement_of_experts=agreement_of_experts, sink=sink
        )

    def answer(
        self,
        examples: Sequence[Example],
        decoding: DecodingConfig | None = None,
        *,
        seed: int = 0,
        first: int = 0,
        agreement_of_experts: bool = False,
        sink: EventSink | None = None,
    ) -> list[dict[str, Any]]:
        """Write answers to questions; their own answers are not read.

        Args:
            examples: questions, with choices where the prompt template lists them.
            decoding: as in :meth:`generate`.
            seed: as in :meth:`generate`.
            first: as in :meth:`generate`.
            agreement_of_experts: as in :meth:`generate`.
            sink: gets progress.

        Returns:
            One dict a question: ``prompt``, ``text``, ``token_ids`` (the first expert's, where tokenizers differ),
            ``confidence``, ``margin``, ``ended`` (whether it ended by itself) and, on request, ``agreement``.
        """
        from ensemw2s.ensemble.answer import write_answers

        self.tell("generate", sink or NullSink())
        return write_answers(
            self,
            examples,
            decoding or self.decoding,
            seed=seed,
            first=first,
            agreement_of_experts=agreement_of_experts,
            sink=sink or NullSink(),
        )
