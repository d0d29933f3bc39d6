"""The configuration of an ensemble as a ``transformers`` model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from transformers import PretrainedConfig

from ensemw2s.models.loading.scaling import context_of


class EnsembleConfig(PretrainedConfig):  # type: ignore[misc]
    """``config.json`` of a saved ensemble (not the section ``ensemble`` of a run's configuration).

    Attributes:
        experts: one an expert: its model's configuration; with a ``base``, its adapter's.
        base: configuration of the base that the adapters share; None where every expert is a whole model.
        alphas: the experts' weights ``α_t``, not normalised.
        rule: ``mixture``, ``product`` or ``vote``.
        backend: the kernel that combines experts.
        ensemble: what ``ensemble.json`` says besides the experts: task, template, decoding, length norm, loading.
        vocab_size: tokens; the same for all experts.
        max_position_embeddings: the shortest context among the experts; None where none says.
    """

    model_type = "ensemw2s"
    keys_to_ignore_at_inference = ["past_key_values"]  # noqa: RUF012 (a field of the dataclass if it were annotated)

    experts: list[dict[str, Any]] | None = None
    base: dict[str, Any] | None = None
    alphas: list[float] | None = None
    rule: str = "mixture"
    backend: str = "auto"
    ensemble: dict[str, Any] | None = None
    vocab_size: int | None = None
    max_position_embeddings: int | None = None
    use_cache: bool = True
    bos_token_id: int | None = None
    eos_token_id: int | list[int] | None = None
    pad_token_id: int | None = None

    @classmethod
    def of(cls, models: Sequence[Any], alphas: Sequence[float], **fields: Any) -> EnsembleConfig:
        """With the context and the special tokens that the models' configurations (or the base's) declare."""
        limits = [limit for model in models if (limit := context_of(model)) is not None]
        special = {name: getattr(models[0], name, None) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
        weights = [float(alpha) for alpha in alphas]
        return cls(alphas=weights, max_position_embeddings=min(limits, default=None), **special, **fields)
