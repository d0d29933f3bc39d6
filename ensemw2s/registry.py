"""Registries of α rules, student losses, data sets and kernel backends, extended through entry points.

A name stands for an object in a module, which is imported when the object is asked for. Installed distributions add
names through entry points; they are looked up where a name is not built in, or names are
listed.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ensemw2s.errors import ConfigError, did_you_mean, shortened

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


def _load(place: str) -> Any:
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


class Registry:
    """Objects of one kind by name.

    Args:
        kind: what they are, in words: ``data set``.
        builtin: name → ``module:object``.
        group: the entry points of plug-ins. A name that is built in is never taken from one.
        of: ``module:class`` of the objects.
    """

    def __init__(self, kind: str, builtin: Mapping[str, str], group: str, of: str) -> None:
        self.kind = kind
        self.builtin = dict(builtin)
        self.group = group
        self._of = of
        self._added: dict[str, Any] = {}
        self._loaded: dict[str, Any] = {}

    def own_names(self) -> tuple[str, ...]:
        """The built-in names and those of :meth:`add`, in order; looks for no plug-ins."""
        return (*self.builtin, *self._added)

    def names(self) -> tuple[str, ...]:
        """All names: the own ones, then those of plug-ins in alphabetical order. Imports none of them."""
        own = self.own_names()
        return own + tuple(sorted({point.name for point in self._points()} - set(own)))

    def __contains__(self, name: str) -> bool:
        return name in self.own_names() or name in self._loaded or any(point.name == name for point in self._points())

    def add(self, name: str, value: Any) -> None:
        """Make an object of this process known.

        Raises:
            ValueError: the name is taken.
        """
        if name in self.own_names():
            raise ValueError(f"a {self.kind} cannot be registered as {name!r}: that name is taken")
        self._added[name] = value

    def get(self, name: str) -> Any:
        """The object of a name; a plug-in is imported here.

        Raises:
            ConfigError: there is none of that name (the nearest is named), or the plug-in cannot be used.
        """
        if name in self._added:
            return self._added[name]
        if name not in self._loaded:
            self._loaded[name] = _load(self.builtin[name]) if name in self.builtin else self._plugin(name)
        return self._loaded[name]

    def origin(self, name: str) -> str | None:
        """Distribution and version of a plug-in; None for a name that is not one's."""
        return None if name in self.own_names() else _distribution(self._point(name))

    def did_you_mean(self, name: str) -> str:
        """`` (did you mean 'x'?)`` for a name that is unknown, or the list of names; starts with a space."""
        return did_you_mean(name, self.names(), "known")

    def _plugin(self, name: str) -> Any:
        point = self._point(name)
        what = f"The {self.kind} {shortened(name)!r} of {_distribution(point)} ({shortened(point.value)})"
        hint = "Mend or remove that distribution: it is not part of EnsemW2S."
        try:
            found = point.load()
        except Exception as error:  # importing foreign code raises anything
            reason = shortened(" ".join(f"{type(error).__name__}: {error}".split()), 200)
            raise ConfigError(f"{what} cannot be loaded: {reason}", hint=hint) from error
        expected = _load(self._of)
        if isinstance(found, type) or not isinstance(found, expected):
            raise ConfigError(f"{what} is no {expected.__name__}, but {shortened(repr(found))}.", hint=hint)
        return found

    def _point(self, name: str) -> EntryPoint:
        points = [point for point in self._points() if point.name == name]
        if not points:
            raise ConfigError(
                f"Unknown {self.kind} {shortened(name)!r}{self.did_you_mean(name)}.",
                hint=f"Known: {', '.join(self.names())}.",
            )
        if len(points) > 1:
            raise ConfigError(
                f"The {self.kind} {shortened(name)!r} is offered by {' and by '.join(map(_distribution, points))}.",
                hint="Remove all but one of them.",
            )
        return points[0]

    def _points(self) -> list[EntryPoint]:
        from importlib.metadata import entry_points

        return sorted(entry_points(group=self.group), key=lambda point: (point.name, _distribution(point)))


def _distribution(point: EntryPoint) -> str:
    return "an unnamed distribution" if point.dist is None else f"{point.dist.name} {point.dist.version}"


ALPHA_RULES = Registry(
    "α rule",
    {
        "prior": "ensemw2s.boosting.alpha:PRIOR",
        "adaptive": "ensemw2s.boosting.alpha:ADAPTIVE",
        "samme": "ensemw2s.boosting.alpha:SAMME",
        "binary": "ensemw2s.boosting.alpha:BINARY",
        "uniform": "ensemw2s.boosting.alpha:UNIFORM",
    },
    "ensemw2s.alpha_rules",
    "ensemw2s.boosting.alpha:AlphaRule",
)

STUDENT_LOSSES = Registry(
    "student loss",
    {
        "xent": "ensemw2s.models.training.losses:XENT",
        "soft": "ensemw2s.models.training.losses:SOFT",
        "logconf": "ensemw2s.models.training.losses:LOGCONF",
        "rce": "ensemw2s.models.training.losses:RCE",
    },
    "ensemw2s.student_losses",
    "ensemw2s.models.training.losses:StudentLoss",
)

DATA_SETS = Registry(
    "data set",
    {
        "arc": "ensemw2s.data.known:ARC",
        "arc_easy": "ensemw2s.data.known:ARC_EASY",
        "arc_challenge": "ensemw2s.data.known:ARC_CHALLENGE",
        "sciq": "ensemw2s.data.known:SCIQ",
        "quartz": "ensemw2s.data.known:QUARTZ",
        "gsm8k": "ensemw2s.data.known:GSM8K",
        "boolq": "ensemw2s.data.known:BOOLQ",
        "commonsenseqa": "ensemw2s.data.known:COMMONSENSEQA",
        "openbookqa": "ensemw2s.data.known:OPENBOOKQA",
        "mmlu": "ensemw2s.data.known:MMLU",
        "amazon_polarity": "ensemw2s.data.known:AMAZON_POLARITY",
    },
    "ensemw2s.data_sets",
    "ensemw2s.data.known:KnownSet",
)

KERNEL_BACKENDS = Registry(
    "kernel backend",
    {
        "native": "ensemw2s.kernels.native:BACKEND",
        "triton": "ensemw2s.kernels.gpu.backend:BACKEND",
        "reference": "ensemw2s.kernels.dispatch:REFERENCE",
    },
    "ensemw2s.kernel_backends",
    "ensemw2s.kernels.dispatch:Backend",
)
