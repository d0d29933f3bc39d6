"""A trained ensemble on disk: experts, weights and rule, used for scoring and generating."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ensemw2s.config.data import TemplateConfig
from ensemw2s.config.method import DecodingConfig, EnsembleConfig, EvaluationConfig
from ensemw2s.config.training import ComputeConfig, ModelConfig
from ensemw2s.data.example import Example
from ensemw2s.ensemble.choices import EnsembleChoices, final_choices
from ensemw2s.ensemble.file import EnsembleFile, ExpertEntry, read_ensemble_file
from ensemw2s.ensemble.folder import FILE_NAME, SavedEnsemble
from ensemw2s.ensemble.options import normalise
from ensemw2s.errors import DataError
from ensemw2s.sink import EventSink, NullSink

if TYPE_CHECKING:
    from ensemw2s.data.encode import EncodedSplit
    from ensemw2s.ensemble.causal_lm import EnsembleForCausalLM
    from ensemw2s.evaluation.results import Results
    from ensemw2s.models.load import LoadedModel


@dataclass
class Ensemble:
    """Experts with their weights.

    Attributes:
        experts: model folders, in the order of boosting.
        alphas: ``α_t``, not normalised.
        task: ``choice`` or ``generate``.
        config: rule and length norm.
        template: how prompts and answers become text.
        decoding: default decoding of :meth:`generate`.
        evaluation: how its answers are compared with true ones.
        loading: how experts are loaded: settings of :class:`ModelConfig` besides path and revision.
        compute: device, threads and batch size.
        folder: where it was read from; its ``results.json``, if there is one, goes into the model card.
    """

    experts: list[Path]
    alphas: list[float]
    task: Literal["choice", "generate"] = "choice"
    config: EnsembleConfig = field(default_factory=EnsembleConfig)
    template: TemplateConfig = field(default_factory=TemplateConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    loading: dict[str, Any] = field(default_factory=dict)
    compute: ComputeConfig = field(default_factory=ComputeConfig)
    folder: Path | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if len(self.experts) != len(self.alphas):
            raise ValueError(f"{len(self.experts)} experts, but {len(self.alphas)} weights")
        normalise(self.alphas)

    @classmethod
    def load(cls, path: str | Path, compute: ComputeConfig | None = None) -> Ensemble:
        """Read ``ensemble.json`` from a folder (a run directory is one).

        Raises:
            ModelError: the file or an expert's folder is missing, or the file is not valid.
        """
        content, experts = read_ensemble_file(Path(path))
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
        )

    @classmethod
    def from_run(cls, run: str | Path, compute: ComputeConfig | None = None) -> Ensemble:
        """The boosted ensemble of a run directory; see :meth:`load`."""
        return cls.load(run, compute)

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
            trust_remote_code: run code that comes with its models. Only you can say so: what the folder says about it
                counts for nothing.
            options: for the hub: ``revision``, ``token``, ``cache_dir``, ``local_files_only``.

        Raises:
            ModelError: as :meth:`load`, or the hub cannot be reached or has no such ensemble.
        """
        from ensemw2s.ensemble.saved import find_folder

        ensemble = cls.load(find_folder(name, **options), compute)
        loading = {key: value for key, value in ensemble.loading.items() if key != "trust_remote_code"}
        return replace(ensemble, loading=loading | ({"trust_remote_code": True} if trust_remote_code else {}))

    def save_pretrained(
        self, folder: str | Path, *, results: Results | None = None, title: str | None = None
    ) -> SavedEnsemble:
        """Write one self-contained folder: experts, tokenizer, configuration, model card.

        ``transformers`` loads it as one model (see :mod:`ensemw2s.ensemble.causal_lm`). Weights are copied as they are;
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
        from ensemw2s.ensemble.saved import save_ensemble

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
        from ensemw2s.ensemble.saved import save_ensemble

        with scratch_folder() as scratch:
            heading = title or repo_id.split("/")[-1]
            saved = save_ensemble(self, scratch / "ensemble", results, heading, address=repo_id)
            return push_folder(saved.path, repo_id, **options)

    def causal_lm(self) -> EnsembleForCausalLM:
        """The ensemble in memory as one model of ``transformers``, with ``generate()``."""
        from ensemw2s.ensemble.causal_lm import EnsembleForCausalLM

        return EnsembleForCausalLM.from_experts(
            [loaded.model for loaded in self.load_experts()],
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
        target.parent.mkdir(parents=True, exist_ok=True)
        content = self._file(
            [
                ExpertEntry(path=Path(os.path.relpath(path, target.parent)).as_posix(), alpha=alpha)
                for path, alpha in zip(self.experts, self.alphas, strict=True)
            ]
        )
        temporary = target.with_name(FILE_NAME + ".tmp")
        temporary.write_text(json.dumps(content.model_dump(), indent=2) + "\n", encoding="utf-8")
        temporary.replace(target)
        return target

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
        return ModelConfig(path=str(self.experts[index]), **self.loading)

    def load_experts(self) -> list[LoadedModel]:
        """All experts in memory at once, adapters over one base: what decoding and ``rule: product`` need."""
        from ensemw2s.models.adapters import load_models
        from ensemw2s.models.device import resolve_device

        device = resolve_device(self.compute)
        return load_models([self.model_config(k) for k in range(len(self.experts))], device)

    def encode(self, examples: Sequence[Example]) -> EncodedSplit:
        """Tokenise examples as the ensemble was trained on them."""
        from ensemw2s.data.encode import encode_split
        from ensemw2s.models.info import configured_context_length
        from ensemw2s.models.load import load_tokenizer

        tokenizer = load_tokenizer(self.model_config(0))
        limit = configured_context_length(self.model_config(0))
        return encode_split(list(examples), tokenizer, self.template, self.task, limit)

    def score(self, examples: Sequence[Example], sink: EventSink | None = None) -> list[dict[str, Any]]:
        """Score the options of questions.

        Args:
            examples: questions with choices; the answer may be unknown.
            sink: gets progress.

        Returns:
            One dict an example: ``id``, ``label``, ``option`` (index), ``scores`` (one an option), ``confidence``,
            ``margin``, ``agreement``, and ``correct`` where the answer is known.

        Raises:
            DataError: an example has fewer than two choices.
        """
        sink = sink or NullSink()
        for example in examples:
            if example.choices is None or len(example.choices) < 2:
                raise DataError(
                    f"Question {example.id!r} has fewer than two choices, which scoring needs.",
                    hint="Use `ew2s generate` for questions without choices.",
                )
        if not examples:
            return []
        enc = self._encode_choices(examples)
        found = self._choose(enc, sink)
        out = []
        starts = enc.example_offsets
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
            if example.answer is not None:
                row["correct"] = option == example.answer_index
            out.append(row)
        return out

    def _encode_choices(self, examples: Sequence[Example]) -> EncodedSplit:
        if self.task != "choice":
            raise DataError(
                "This ensemble was trained with task: generate; it has no options to score.",
                hint="Use `ew2s generate`.",
            )
        return self.encode(examples)

    def _choose(self, enc: EncodedSplit, sink: EventSink) -> EnsembleChoices:
        from ensemw2s.models.joint import score_joint, sequence_rows
        from ensemw2s.models.load import opened_models
        from ensemw2s.models.scoring import score_split

        configs = [self.model_config(k) for k in range(len(self.experts))]
        tables = [
            score_split(config, enc, compute=self.compute, top_k=1, sink=sink, tag=f"expert {k}")
            for k, config in enumerate(configs, start=1)
        ]

        product = None
        if self.config.rule == "product" and len(configs) > 1:
            rows = sequence_rows(enc, np.arange(enc.seq_example.size))
            with opened_models(configs, self.compute) as models:
                found = score_joint(models, self.alphas, enc, rows, rule="product", compute=self.compute)
            product = found.target_logprob
        return final_choices(tables, self.alphas, enc, self.config, product)

    def generate(
        self,
        prompts: Sequence[str],
        decoding: DecodingConfig | None = None,
        *,
        seed: int = 0,
        agreement_of_experts: bool = False,
        sink: EventSink | None = None,
    ) -> list[dict[str, Any]]:
        """Write answers from the combined distribution.

        Args:
            prompts: questions as text, before the prompt template.
            decoding: greedy or sampling; the ensemble's own by default.
            seed: fixes sampled answers.
            agreement_of_experts: also decode every expert by itself and report the share of ᾱ that agrees.
            sink: gets progress.

        Returns:
            One dict a prompt, as :meth:`answer` gives it.
        """
        examples = [Example(id=str(i), prompt=prompt, answer=None) for i, prompt in enumerate(prompts)]
        return self.answer(examples, decoding, seed=seed, agreement_of_experts=agreement_of_experts, sink=sink)

    def answer(
        self,
        examples: Sequence[Example],
        decoding: DecodingConfig | None = None,
        *,
        seed: int = 0,
        agreement_of_experts: bool = False,
        sink: EventSink | None = None,
    ) -> list[dict[str, Any]]:
        """Write answers to questions; their own answers are not read.

        Args:
            examples: questions, with choices where the prompt template lists them.
            decoding: as in :meth:`generate`.
            seed: as in :meth:`generate`.
            agreement_of_experts: as in :meth:`generate`.
            sink: gets progress.

        Returns:
            One dict a question: ``prompt``, ``text``, ``token_ids``, ``confidence``, ``margin``, ``ended`` (whether it
            ended by itself) and, on request, ``agreement``.
        """
        from ensemw2s.ensemble.writing import write_answers

        return write_answers(
            self,
            examples,
            decoding or self.decoding,
            seed=seed,
            agreement_of_experts=agreement_of_experts,
            sink=sink or NullSink(),
        )
