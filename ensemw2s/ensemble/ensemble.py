"""A trained ensemble on disk: experts, weights and rule, used for scoring and generating."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ensemw2s.config.data import TemplateConfig
from ensemw2s.config.method import DecodingConfig, EnsembleConfig
from ensemw2s.config.training import ComputeConfig, ModelConfig
from ensemw2s.data.example import Example
from ensemw2s.ensemble.choices import EnsembleChoices, final_choices
from ensemw2s.ensemble.options import agreement, normalise
from ensemw2s.errors import DataError, ModelError
from ensemw2s.evaluation.matching import normalise_text
from ensemw2s.seeds import sub_seed
from ensemw2s.sink import EventSink, NullSink

if TYPE_CHECKING:
    from ensemw2s.data.encode import EncodedSplit
    from ensemw2s.models.decode import Generation
    from ensemw2s.models.load import LoadedModel

FILE_NAME = "ensemble.json"


class _Member(BaseModel):
    model_config = ConfigDict(extra="forbid")
    path: str
    alpha: float


class _EnsembleFile(BaseModel):
    """The content of ``ensemble.json``."""

    model_config = ConfigDict(extra="forbid")
    schema_version: Literal[1] = 1
    task: Literal["choice", "generate"]
    experts: list[_Member]
    ensemble: EnsembleConfig
    template: TemplateConfig
    decoding: DecodingConfig
    loading: dict[str, Any] = Field(default_factory=dict)
    """How experts are loaded: the settings of ``models.weak`` without its path and revision."""


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
        loading: how experts are loaded: settings of :class:`ModelConfig` besides path and revision.
        compute: device, threads and batch size.
    """

    experts: list[Path]
    alphas: list[float]
    task: Literal["choice", "generate"] = "choice"
    config: EnsembleConfig = field(default_factory=EnsembleConfig)
    template: TemplateConfig = field(default_factory=TemplateConfig)
    decoding: DecodingConfig = field(default_factory=DecodingConfig)
    loading: dict[str, Any] = field(default_factory=dict)
    compute: ComputeConfig = field(default_factory=ComputeConfig)

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
        folder = Path(path)
        file = folder if folder.name == FILE_NAME else folder / FILE_NAME
        if not file.is_file():
            raise ModelError(
                f"{folder} holds no {FILE_NAME}.",
                hint="Give a run directory whose experts are trained (ew2s train-experts), or a saved ensemble.",
            )
        try:
            content = _EnsembleFile.model_validate_json(file.read_text(encoding="utf-8"))
        except (ValidationError, UnicodeDecodeError) as error:
            raise ModelError(f"{file} is not a valid ensemble: {error}") from error
        experts = [(file.parent / member.path).resolve() for member in content.experts]
        for expert in experts:
            if not expert.is_dir():
                raise ModelError(f"{file} names the expert {expert}, which is missing.", hint="Was the folder moved?")
        return cls(
            experts=experts,
            alphas=[member.alpha for member in content.experts],
            task=content.task,
            config=content.ensemble,
            template=content.template,
            decoding=content.decoding,
            loading=content.loading,
            compute=compute or ComputeConfig(),
        )

    def save(self, folder: str | Path) -> Path:
        """Write ``ensemble.json``, with the experts' paths relative to it.

        Returns:
            The file's path.
        """
        target = Path(folder) / FILE_NAME
        target.parent.mkdir(parents=True, exist_ok=True)
        content = _EnsembleFile(
            task=self.task,
            experts=[
                _Member(path=Path(os.path.relpath(path, target.parent)).as_posix(), alpha=alpha)
                for path, alpha in zip(self.experts, self.alphas, strict=True)
            ],
            ensemble=self.config,
            template=self.template,
            decoding=self.decoding,
            loading=self.loading,
        )
        temporary = target.with_name(FILE_NAME + ".tmp")
        temporary.write_text(json.dumps(content.model_dump(), indent=2) + "\n", encoding="utf-8")
        temporary.replace(target)
        return target

    def model_config(self, index: int) -> ModelConfig:
        """How to load expert ``index``."""
        return ModelConfig(path=str(self.experts[index]), **self.loading)

    def load_experts(self) -> list[LoadedModel]:
        """All experts in memory at once: what decoding and ``rule: product`` need."""
        from ensemw2s.models.device import resolve_device
        from ensemw2s.models.load import load_model

        device = resolve_device(self.compute)
        return [load_model(self.model_config(k), device) for k in range(len(self.experts))]

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

        def product_rows(t: int) -> NDArray[np.floating]:
            rows = sequence_rows(enc, np.arange(enc.seq_example.size))
            with opened_models(configs[:t], self.compute) as models:
                found = score_joint(models, self.alphas[:t], enc, rows, rule="product", compute=self.compute)
            return found.target_logprob

        needed = product_rows if self.config.rule == "product" else None
        return final_choices(tables, self.alphas, enc, self.config, needed)

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
            One dict a prompt: ``prompt``, ``text``, ``token_ids``, ``confidence``, ``ended`` (whether it ended by
            itself) and, on request, ``agreement``.
        """
        sink = sink or NullSink()
        settings = decoding or self.decoding
        models = self.load_experts()
        examples = [Example(id=str(i), prompt=prompt, answer=None) for i, prompt in enumerate(prompts)]
        ids = self._prompt_ids(examples, models[0], settings)
        answers = self._decode(models, self.alphas, ids, settings, seed, sink)
        texts = [clean_text(models[0].tokenizer, a.token_ids) for a in answers]
        out: list[dict[str, Any]] = [
            {
                "prompt": prompt,
                "text": text,
                "token_ids": [int(t) for t in answer.token_ids],
                "confidence": round(confidence_of(answer), 6),
                "ended": bool(answer.ended),
            }
            for prompt, text, answer in zip(prompts, texts, answers, strict=True)
        ]
        if agreement_of_experts:
            greedy = settings.model_copy(update={"method": "greedy"})
            own = []
            for model in models:
                alone = self._decode([model], [1.0], ids, greedy, seed, sink)
                own.append(normalised(clean_text(model.tokenizer, answer.token_ids) for answer in alone))
            for row, share in zip(out, agreement(own, self.alphas, normalised(texts)), strict=True):
                row["agreement"] = round(float(share), 6)
        return out

    def _prompt_ids(self, examples: list[Example], model: LoadedModel, decoding: DecodingConfig) -> list[Any]:
        from ensemw2s.data.encode import encode_prompts
        from ensemw2s.models.info import configured_context_length

        limit = configured_context_length(self.model_config(0))
        room = None if limit is None else limit - decoding.max_new_tokens
        return encode_prompts(examples, model.tokenizer, self.template, room)

    def _decode(
        self,
        models: list[LoadedModel],
        alphas: list[float],
        ids: list[Any],
        decoding: DecodingConfig,
        seed: int,
        sink: EventSink,
    ) -> list[Generation]:
        from ensemw2s.models.decode import generate

        return generate(
            models,
            alphas,
            ids,
            decoding=decoding,
            rule=self.config.rule,
            seed=sub_seed(seed, "decoding"),
            compute=self.compute,
            sink=sink,
            tag="generate",
        )


def clean_text(tokenizer: Any, token_ids: Any) -> str:
    """An answer as text, without special tokens and surrounding white space; its own line breaks stay."""
    return str(tokenizer.decode([int(t) for t in token_ids], skip_special_tokens=True)).strip()


def normalised(texts: Iterable[str]) -> NDArray[np.str_]:
    """Texts as answers are compared by: white space normalised."""
    return np.array([normalise_text(text) for text in texts])


def confidence_of(answer: Generation) -> float:
    """Geometric mean probability of the answer's tokens, end-of-sequence left out; 0 for an empty answer."""
    logprobs = np.asarray(answer.logprobs, dtype=np.float64)[: len(answer.token_ids)]
    return float(np.exp(logprobs.mean())) if logprobs.size else 0.0
