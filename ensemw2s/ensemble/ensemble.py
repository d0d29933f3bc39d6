"""A trained ensemble on disk: loaded, saved, and used for scoring and generating."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ensemw2s.config.method import DecodingConfig
from ensemw2s.config.training import ComputeConfig
from ensemw2s.data.example import Example
from ensemw2s.ensemble.answer import write_answers
from ensemw2s.ensemble.ensemble_json import read_ensemble_file
from ensemw2s.ensemble.folder import SavedEnsemble
from ensemw2s.ensemble.hf.causal_lm import EnsembleForCausalLM
from ensemw2s.ensemble.hub import find_folder, push_folder
from ensemw2s.ensemble.mixed.compatibility import cut_vocabulary, require_common_tokens
from ensemw2s.ensemble.saving.save import save_ensemble
from ensemw2s.ensemble.score import score_options
from ensemw2s.ensemble.spec import EnsembleSpec
from ensemw2s.evaluation.results import Results
from ensemw2s.sink import EventSink, NullSink


class Ensemble(EnsembleSpec):
    """A trained ensemble: read from disk, saved, and used for scoring and generating.

    Experts that share a tokenizer, as those of a run do, are combined token by token. Experts with different tokenizers
    are combined by their probabilities of whole options, or write from the union of their vocabularies
    (:meth:`compatibility` says which). :class:`~ensemw2s.ensemble.spec.EnsembleSpec` describes the fields.
    """

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
        require_common_tokens(self.compatibility(), "do not make one model folder")
        return save_ensemble(self, Path(folder), results, title)

    def push_to_hub(
        self, repo_id: str, *, results: Results | None = None, title: str | None = None, **options: Any
    ) -> str:
        """Save into a temporary folder and upload it in one commit; ``repo_id`` is made if it is not there.

        ``results`` and ``title`` as in :meth:`save_pretrained`; ``options`` are those of
        :func:`ensemw2s.ensemble.hub.push_folder`: ``private``, ``token``, ``revision``, …

        Returns:
            The commit's address.
        """
        require_common_tokens(self.compatibility(), "do not make one model on the hub")
        with tempfile.TemporaryDirectory(prefix="ensemw2s-") as scratch:
            heading = title or repo_id.split("/")[-1]
            saved = save_ensemble(self, Path(scratch) / "ensemble", results, heading, address=repo_id)
            return push_folder(saved.path, repo_id, **options)

    def causal_lm(self) -> EnsembleForCausalLM:
        """The ensemble in memory as one model of ``transformers``, with ``generate()``.

        Raises:
            ModelError: the experts have different tokenizers.
        """
        found = self.compatibility()
        require_common_tokens(found, "do not make one causal language model")
        return EnsembleForCausalLM.from_experts(
            [cut_vocabulary(loaded, found.common_size).model for loaded in self.load_experts()],
            self.alphas,
            rule=self.config.rule,
            backend=self.compute.backend,
            ensemble=self.settings(),
        )

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
        return score_options(self, examples, sink or NullSink())

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
        """Write answers to prompts given as text, before the prompt template; see :meth:`answer`."""
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
            decoding: greedy or sampling; the ensemble's own by default.
            seed: fixes sampled answers.
            first: number of the first question, where these are some of more: each is sampled as among all.
            agreement_of_experts: also decode every expert by itself and report the share of ᾱ that agrees.
            sink: gets progress.

        Returns:
            One dict a question: ``prompt``, ``text``, ``token_ids`` (the first expert's, where tokenizers differ),
            ``confidence``, ``margin``, ``ended`` (whether it ended by itself) and, on request, ``agreement``.
        """
        return write_answers(
            self,
            examples,
            decoding or self.decoding,
            seed=seed,
            first=first,
            agreement_of_experts=agreement_of_experts,
            sink=sink or NullSink(),
        )
