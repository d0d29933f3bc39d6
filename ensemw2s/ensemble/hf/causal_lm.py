"""The ensemble as one causal language model of ``transformers``, with ``generate()``; importing this loads torch.

:mod:`ensemw2s.ensemble` registers it with the Auto classes, so that ``AutoModelForCausalLM`` and
``pipeline("text-generation")`` take a saved ensemble, local or on the hub.
"""

from __future__ import annotations

import functools
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    GenerationConfig,
    GenerationMixin,
    PreTrainedModel,
)
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.utils import can_return_tuple

from ensemw2s.ensemble.combine.option_scores import normalise
from ensemw2s.ensemble.ensemble_json import saved_file, write_ensemble_json
from ensemw2s.ensemble.folder import FILE_NAME
from ensemw2s.ensemble.hf import members as parts
from ensemw2s.ensemble.hf.caches import EnsembleCache, StackedCache
from ensemw2s.ensemble.hf.config import EnsembleConfig
from ensemw2s.ensemble.hub import HUB_OPTIONS, push_folder
from ensemw2s.kernels import combine
from ensemw2s.models.forward import positions_of, vocabulary_size
from ensemw2s.models.inference.reading import Reading, reading_of
from ensemw2s.models.loading.scaling import length_scaling


class EnsembleForCausalLM(PreTrainedModel, GenerationMixin):  # type: ignore[misc]
    """A causal language model whose logits are the ensemble's log-probabilities.

    ``softmax`` of them is the combined distribution itself, so ``generate()`` decodes it greedily, by sampling or by
    beams. No gradient is recorded: an ensemble is not trained as a whole.
    Without ``experts`` (whole models or :class:`~ensemw2s.models.loading.adapters.AdapterView`) they are made from
    ``config`` with new weights.
    """

    config_class = EnsembleConfig
    main_input_name = "input_ids"
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: EnsembleConfig, experts: Sequence[Any] | None = None) -> None:
        super().__init__(config)
        members = parts.build(config) if experts is None else list(experts)
        alphas = config.alphas or []
        if len(members) != len(alphas):
            raise ValueError(f"{len(members)} experts, but {len(alphas)} weights")
        normalise(alphas)
        self.members = members
        self.experts = nn.ModuleList(parts.modules_of(members))
        self._active = [k for k, alpha in enumerate(alphas) if alpha != 0.0]
        self._accepted = [parts.accepted(member) for member in members]
        self._scalings = [scaling for k in self._active if (scaling := length_scaling(members[k])) is not None]
        self._as_one_batch = parts.batchable([members[k] for k in self._active])
        self.post_init()

    @functools.cached_property
    def _readings(self) -> dict[int, Reading]:
        """Reading modes of the active experts; found out when first needed, with the weights where they belong."""
        return {k: reading_of(self.members[k]) for k in self._active}

    @property
    def stateful(self) -> bool:
        """Whether an expert has no cache that can be shared by prompts of different lengths."""
        return not all(reading.cached for reading in self._readings.values())

    def init_weights(self) -> None:
        """Nothing: the experts come with their weights."""

    @classmethod
    def from_experts(
        cls,
        experts: Sequence[Any],
        alphas: Sequence[float],
        *,
        rule: str = "mixture",
        backend: str = "auto",
        ensemble: dict[str, Any] | None = None,
    ) -> EnsembleForCausalLM:
        """Combine models that are in memory.

        Args:
            experts: causal language models of one vocabulary, or adapters over one base as
                :func:`ensemw2s.models.loading.adapters.load_models` gives them.
            alphas: their weights, not normalised; an expert of weight 0 does not run.
            rule: ``mixture``, ``product`` or ``vote``.
            backend: the kernel that combines them.
            ensemble: settings that :class:`~ensemw2s.ensemble.Ensemble` reads back from the saved folder.

        Raises:
            ValueError: the vocabularies differ, or adapters are mixed with whole models or have several bases.
        """
        experts = list(experts)
        sizes = {vocabulary_size(expert) for expert in experts}
        if len(sizes) != 1:
            raise ValueError(f"experts of one causal language model share a vocabulary; these have {sorted(sizes)}")
        dtype = next(p.dtype for p in experts[0].parameters() if p.is_floating_point())
        base, each = parts.describe(experts)
        config = EnsembleConfig.of(
            [expert.config for expert in experts],
            alphas,
            experts=each,
            base=base,
            rule=rule,
            backend=backend,
            ensemble=ensemble,
            vocab_size=sizes.pop(),
            dtype=dtype,
        )
        model = cls(config, experts)
        model.generation_config = parts.generation_of(experts)
        model.eval()
        return model

    @can_return_tuple  # type: ignore[untyped-decorator]
    @torch.no_grad()
    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: EnsembleCache | None = None,
        inputs_embeds: Tensor | None = None,
        labels: Tensor | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Tensor = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """The ensemble's next-token distribution at every position; arguments as in ``transformers``.

        ``logits_to_keep`` are the last so many positions, or those of an index; 0 is all. ``inputs_embeds`` is refused.

        Returns:
            ``logits`` float32 ``[B, L, V]``: natural log-probabilities, −inf where ``rule: vote`` has no vote.
        """
        if input_ids is None or inputs_embeds is not None:
            raise ValueError("an ensemble reads input_ids; its experts have embeddings of their own")
        if past_key_values is not None and not isinstance(past_key_values, EnsembleCache):
            raise ValueError(f"an ensemble needs an EnsembleCache, not {type(past_key_values).__name__}")
        use_cache = (self.config.use_cache if use_cache is None else use_cache) and not self.stateful
        if use_cache and past_key_values is None:
            past_key_values = self.new_cache()
        inputs: dict[str, Any] = {"input_ids": input_ids, "attention_mask": attention_mask}
        if position_ids is None and self._scalings and attention_mask is not None and attention_mask.ndim == 2:
            position_ids = positions_of(attention_mask)[:, -input_ids.shape[1] :]
        inputs |= {"position_ids": position_ids, "logits_to_keep": logits_to_keep, "use_cache": use_cache}
        log_probs = self._log_probs(inputs, past_key_values)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=log_probs, labels=labels, vocab_size=log_probs.shape[-1], **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=log_probs, past_key_values=past_key_values)

    def _log_probs(self, inputs: dict[str, Any], cache: EnsembleCache | None) -> Tensor:
        """The combined distribution at the positions that are wanted, float32 ``[B, L, V]``."""
        if isinstance(cache, StackedCache):
            every = self._stacked_logits(inputs, cache)
        else:
            every = [self._logits(place, inputs, cache) for place in range(len(self._active))]
        shape = every[0].shape
        log_probs = combine(
            [logits.reshape(-1, shape[-1]).to(every[0].device) for logits in every],
            [self.config.alphas[k] for k in self._active],
            rule=self.config.rule,
            return_probs=True,
            backend=self.config.backend,
        ).log_probs
        if log_probs is None:
            raise RuntimeError("the kernel left out the distribution that was asked for")
        return log_probs.view(shape)

    def _logits(self, place: int, inputs: dict[str, Any], cache: EnsembleCache | None) -> Tensor:
        """Logits ``[B, L, V]`` of one active expert, at the positions that are wanted."""
        k = self._active[place]
        if parts.is_read_by_row(self._readings[k], inputs["attention_mask"]):
            return parts.logits_by_row(self.members[k], inputs)
        given = self._given(k, inputs)
        if not self._readings[k].cached and length_scaling(self.members[k]) is None:
            given.pop("position_ids", None)  # without padding it counts best by itself
        if cache is not None:
            given["past_key_values"] = cache.parts[place]
        return self._kept(k, self.members[k](**given).logits, inputs["logits_to_keep"])

    def _stacked_logits(self, inputs: dict[str, Any], cache: StackedCache) -> list[Tensor]:
        """The same of all active experts, which are adapters, in one pass over the base: its weights are read once."""
        first, rows = self._active[0], inputs["input_ids"].shape[0]
        given = self._given(first, inputs)
        for name in ("input_ids", "attention_mask", "position_ids"):
            if name in given:
                given[name] = given[name].repeat(len(self._active), *[1] * (given[name].ndim - 1))
        names = [self.members[k].name for k in self._active for _ in range(rows)]
        output = self.members[first].shared(**given, past_key_values=cache.parts[0], adapter_names=names)
        kept = self._kept(first, output.logits, inputs["logits_to_keep"])
        return list(kept.view(len(self._active), rows, *kept.shape[1:]).unbind(0))

    def _given(self, k: int, inputs: dict[str, Any]) -> dict[str, Any]:
        """The inputs that an expert's ``forward`` accepts."""
        return {name: value for name, value in inputs.items() if name in self._accepted[k] and value is not None}

    def _kept(self, k: int, logits: Tensor, keep: int | Tensor) -> Tensor:
        if "logits_to_keep" in self._accepted[k]:
            return logits
        return logits[:, slice(-keep, None) if isinstance(keep, int) else keep]

    def new_cache(self) -> EnsembleCache:
        """Empty key-value caches for all experts that run."""
        if self._as_one_batch:
            return StackedCache(self.members[self._active[0]].config, len(self._active))
        return EnsembleCache([self.members[k].config for k in self._active])

    def _prepare_cache_for_generation(
        self, generation_config: Any, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> None:
        if model_kwargs.get("past_key_values") is not None or generation_config.use_cache is False:
            super()._prepare_cache_for_generation(generation_config, model_kwargs, *args, **kwargs)
        elif self.stateful:
            generation_config.use_cache = model_kwargs["use_cache"] = False
        elif generation_config.cache_implementation not in (None, "dynamic"):
            raise ValueError(f"an ensemble has no {generation_config.cache_implementation} cache, only a dynamic one")
        else:
            model_kwargs["past_key_values"] = self.new_cache()

    def prepare_inputs_for_generation(
        self,
        input_ids: Tensor,
        next_sequence_length: int | None = None,
        past_key_values: Any = None,
        attention_mask: Tensor | None = None,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """Next input of ``generate()``; all of it again where an expert's positions are scaled anew at its length."""
        if isinstance(past_key_values, EnsembleCache) and self._scalings and past_key_values.get_seq_length():
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            new, lengths = input_ids.shape[1] - past_key_values.get_seq_length(), mask.sum(dim=1).cpu().numpy()
            if any(scaling.differs(lengths - new, lengths).any() for scaling in self._scalings):
                past_key_values, next_sequence_length = self.new_cache(), None
                kwargs["position_ids"] = positions_of(mask)
        kwargs |= {"past_key_values": past_key_values, "attention_mask": attention_mask}
        given: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, next_sequence_length, **kwargs)
        return given

    def get_input_embeddings(self) -> nn.Module:
        """The first expert's; every expert has its own."""
        first: nn.Module = self.members[0].get_input_embeddings()
        return first

    def get_output_embeddings(self) -> None:
        """None: the logits come from several projections."""

    @classmethod
    def from_pretrained(cls, name: str | os.PathLike[str], *args: Any, config: Any = None, **kwargs: Any) -> Any:
        """Load a saved ensemble from a folder or the hub; its experts get the keywords of ``transformers``."""
        where = {option: kwargs.pop(option) for option in HUB_OPTIONS if option in kwargs}
        folder = kwargs.pop("subfolder", None) or ""
        with_info = kwargs.pop("output_loading_info", False)
        for option in ("_from_auto", "_commit_hash", "adapter_kwargs", "weights_only"):
            kwargs.pop(option, None)
        if not isinstance(config, EnsembleConfig):
            config = EnsembleConfig.from_pretrained(config or name, subfolder=folder, **where)
        experts, info = parts.load(name, config, folder, where, kwargs)
        config.dtype = experts[0].config.dtype
        model = cls(config, experts).eval()
        model.name_or_path = config.name_or_path = str(name)
        try:
            model.generation_config = GenerationConfig.from_pretrained(name, subfolder=folder, **where)
        except OSError:
            model.generation_config = parts.generation_of(experts)
        return (model, info) if with_info else model

    def save_pretrained(
        self,
        save_directory: str | os.PathLike[str],
        is_main_process: bool = True,
        state_dict: dict[str, Tensor] | None = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "50GB",
        **kwargs: Any,
    ) -> None:
        """Write a folder that :meth:`from_pretrained` and :meth:`ensemw2s.ensemble.Ensemble.from_pretrained` load.

        Save the tokenizer into the same folder. ``push_to_hub`` also uploads it, to ``repo_id`` or the folder's name;
        ``kwargs`` are those of :meth:`push_to_hub`, and those that only concern single weight files are ignored.
        """
        folder = Path(save_directory)
        if is_main_process:
            folder.mkdir(parents=True, exist_ok=True)
            self.config.architectures = [type(self).__name__]
            parts.save(self.members, folder, state_dict, max_shard_size)
            self.config.save_pretrained(folder)
            self.generation_config.save_pretrained(folder)
            content = saved_file(self.config.ensemble, self.config.alphas, self.config.rule)
            write_ensemble_json(folder / FILE_NAME, content)
        if push_to_hub:
            known = ("token", "private", "commit_message", "revision", "create_pr")
            options = {name: kwargs[name] for name in known if name in kwargs}
            push_folder(folder, kwargs.get("repo_id", folder.name), **options)

    def push_to_hub(self, repo_id: str, *, tokenizer: Any = None, **options: Any) -> str:
        """Save and upload in one commit, with the tokenizer; ``options`` are those of ``push_folder``.

        Returns:
            The commit's address.
        """
        with tempfile.TemporaryDirectory(prefix="ensemw2s-") as scratch:
            folder = Path(scratch)
            self.save_pretrained(folder, max_shard_size=options.pop("max_shard_size", "50GB"))
            if tokenizer is not None:
                tokenizer.save_pretrained(folder)
            return push_folder(folder, repo_id, **options)


AutoConfig.register(EnsembleConfig.model_type, EnsembleConfig, exist_ok=True)
AutoModelForCausalLM.register(EnsembleConfig, EnsembleForCausalLM, exist_ok=True)
