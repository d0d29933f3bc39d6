"""Assembles an ensemble from existing models and ensembles, of one family or several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ensemw2s.config.base import Section
from ensemw2s.config.composition import Composed
from ensemw2s.ensemble.combine.option_scores import normalise
from ensemw2s.ensemble.ensemble import Ensemble
from ensemw2s.ensemble.folder import FILE_NAME
from ensemw2s.errors import InputError, ModelError
from ensemw2s.models.loading.source import find_source

_Settings = TypeVar("_Settings", bound=Section)


@dataclass
class _Members:
    """Experts so far."""

    experts: list[Path | str] = field(default_factory=list)
    alphas: list[float] = field(default_factory=list)
    loading: list[dict[str, Any]] = field(default_factory=list)
    ensembles: list[tuple[str, Ensemble]] = field(default_factory=list)

    def add(self, name: str, alpha: float) -> None:
        place = Path(name).expanduser()
        if (place / FILE_NAME).is_file() or (place.name == FILE_NAME and place.is_file()):
            self._add_ensemble(name, Ensemble.load(place), alpha)
            return
        path, at, revision = (name, "", "") if place.exists() else name.partition("@")
        source = find_source(path)
        if at and (source.hub_id is None or not revision):
            raise ModelError(f"{name}: only a model on the hub has a revision, as in owner/name@revision.")
        local = source.hub_id is None and place.exists()
        self.experts.append(place.resolve() if local else path)
        self.alphas.append(alpha)
        self.loading.append({"revision": revision} if revision else {})

    def _add_ensemble(self, name: str, found: Ensemble, alpha: float) -> None:
        """All experts of an ensemble, which together have the weight of one model."""
        self.ensembles.append((name, found))
        for k, share in enumerate(normalise(found.alphas)):
            self.experts.append(found.experts[k])
            self.alphas.append(alpha * float(share))
            self.loading.append({**found.loading, **(found.expert_loading[k] if found.expert_loading else {})})


def assemble(members: Sequence[str], alphas: Sequence[float], settings: Composed) -> Ensemble:
    """Put an ensemble together.

    Args:
        members: models, by any name that ``models.weak.path`` takes (``owner/name@revision`` on the hub), and
            ensembles: run directories and folders with an ``ensemble.json``, whose experts share their member's weight.
        alphas: weight of each member; empty for equal weights.
        settings: task, rule, prompt template, decoding, evaluation, and how models are loaded (``models.weak``). What
            it does not set is taken from the first ensemble among the members.

    Raises:
        InputError: no members, weights that do not fit, ``labelling.decoding.experts: one`` for experts that write from
            the union of their vocabularies, or ensembles that differ in task or prompt template where
            ``settings`` do not say which.
        ModelError: a member is missing.
    """
    weights = list(alphas) or [1.0] * len(members)
    if not members or len(weights) != len(members):
        raise InputError(f"There are {len(members)} members, but {len(weights)} weights.", hint="One --alpha a member.")
    try:
        normalise(weights)
    except ValueError as error:
        raise InputError(f"--alpha: {error}.") from error
    found = _Members()
    for name, alpha in zip(members, weights, strict=True):
        found.add(name, alpha)
    ensemble = _settled(found, settings)
    if ensemble.decoding.draws_experts and ensemble.compatibility().how("generate") == "union":
        raise InputError(
            "labelling.decoding.experts: one needs experts that share a tokenizer.",
            hint="Set labelling.decoding.experts=all.",
        )
    norm = settings.config.ensemble.length_norm if "ensemble.length_norm" in _given(settings) else None
    if norm is None and ensemble.compatibility().how("choice") == "options":
        norm = "byte"
    if norm is not None:
        ensemble.config = ensemble.config.model_copy(update={"length_norm": norm})
    return ensemble


def _settled(found: _Members, settings: Composed) -> Ensemble:
    """The experts with the settings of the first ensemble among them, and those that were given."""
    given, config = _given(settings), settings.config
    first = found.ensembles[0][1] if found.ensembles else None
    for name, other in found.ensembles[1:]:
        _check_alike(found.ensembles[0], (name, other), given)
    loading = config.models.weak.model_dump(exclude={"path", "revision"})
    own = [{**loading, **each} for each in found.loading]
    if all(each == own[0] for each in own):
        loading, own = own[0], []
    rule, template = config.ensemble, config.data.template
    decoding, evaluation = config.labelling.decoding, config.evaluation
    if first is not None:
        rule = _over(first.config, rule, given, "ensemble.")
        template = _over(first.template, template, given, "data.template.")
        decoding = _over(first.decoding, decoding, given, "labelling.decoding.")
        evaluation = _over(first.evaluation, evaluation, given, "evaluation.")
    return Ensemble(
        experts=found.experts,
        alphas=found.alphas,
        task=config.task if first is None or "task" in given else first.task,
        config=rule,
        template=template,
        decoding=decoding,
        evaluation=evaluation,
        loading=loading,
        expert_loading=own,
    )


def _given(settings: Composed) -> set[str]:
    """Keys that somebody set."""
    return {key for key, origin in settings.provenance.items() if origin != "default"}


def _over(own: _Settings, other: _Settings, given: set[str], prefix: str) -> _Settings:
    """``own`` with what was given of ``other``."""
    names = {key.removeprefix(prefix).split(".")[0] for key in given if key.startswith(prefix)}
    return type(own).model_validate({**own.model_dump(), **other.model_dump(include=names)})


def _check_alike(first: tuple[str, Ensemble], other: tuple[str, Ensemble], given: set[str]) -> None:
    """Whether two ensembles ask alike, as far as that was not set anew."""
    undated = [found.template.model_copy(update={"date": None}) for found in (first[1], other[1])]
    pairs = (("task", first[1].task, other[1].task), ("data.template", undated[0], undated[1]))
    for key, mine, others in pairs:
        if mine != others and not any(name == key or name.startswith(f"{key}.") for name in given):
            raise InputError(
                f"{first[0]} and {other[0]} differ in {key}.",
                hint=f"Say which one counts, for example with --set {key}…=…",
            )
