"""Data sets on the Hugging Face hub, read through ``datasets``."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from ensemw2s.config.data import SourceConfig
from ensemw2s.data.known import HubSet, known_set
from ensemw2s.data.problems import Row
from ensemw2s.errors import ConfigError, DataError, first_line


def _known(cfg: SourceConfig) -> HubSet | None:
    found = known_set(cfg)
    return None if found is None else found.hub


def is_hub(cfg: SourceConfig) -> bool:
    """Whether a source is read from the hub: it is named there, or is of a known kind without a path."""
    return cfg.hub is not None or (cfg.path is None and _known(cfg) is not None)


def hub_set(cfg: SourceConfig) -> HubSet:
    """The data set on the hub that a source reads.

    Raises:
        ConfigError: a data set that is not known needs the names of its splits.
    """
    known = _known(cfg)
    repository = cfg.hub or (known.repository if known else "")
    own = known is not None and repository == known.repository
    subset = cfg.subset if cfg.subset is not None or not own else known.subset  # type: ignore[union-attr]
    splits = tuple(cfg.hub_splits) or (known.splits if known else ())
    if not splits:
        raise ConfigError(
            f"data.source.hub: {repository} needs data.source.hub_splits.",
            hint="For example: hub_splits: [train, test]",
        )
    return HubSet(repository, subset, splits)


def hub_identity(cfg: SourceConfig) -> list[list[str]]:
    """Data set with its commit, and the splits that are read: what a run remembers of a hub source.

    Raises:
        DataError: it is not there, or the hub cannot be reached and it was never fetched.
    """
    found = hub_set(cfg)
    builder = _builder(cfg, found)
    return [[f"{found.repository}@{builder.hash}", str(found.subset), *found.splits]]


def hub_rows(cfg: SourceConfig) -> Iterator[tuple[str, Row]]:
    """Name of the split and row, for all rows of all splits; fetched at the first call, from the cache afterwards.

    Raises:
        DataError: as in :func:`hub_identity`, or a split is missing.
    """
    found = hub_set(cfg)
    builder = _builder(cfg, found)
    with _explained(found), _quiet():
        builder.download_and_prepare()
        parts = [(split, builder.as_dataset(split)) for split in found.splits]
    for split, part in parts:
        place = "/".join(filter(None, (found.repository, found.subset, split)))
        for number, data in enumerate(part, start=1):
            yield split, Row(dict(data), place, number, number, "row")


def _builder(cfg: SourceConfig, found: HubSet) -> Any:
    from datasets import load_dataset_builder

    with _explained(found), _quiet():
        return load_dataset_builder(found.repository, found.subset, revision=cfg.revision)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep ``datasets`` and the hub's client from writing progress bars and remarks of their own."""
    import datasets

    client = logging.getLogger("huggingface_hub")
    level = client.level
    client.setLevel(logging.ERROR)
    verbosity, bars = datasets.logging.get_verbosity(), datasets.is_progress_bar_enabled()
    datasets.logging.set_verbosity_error()
    datasets.disable_progress_bars()
    try:
        yield
    finally:
        client.setLevel(level)
        datasets.logging.set_verbosity(verbosity)
        if bars:
            datasets.enable_progress_bars()


@contextlib.contextmanager
def _explained(found: HubSet) -> Iterator[None]:
    from datasets.exceptions import DatasetsError
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except (DatasetsError, HfHubHTTPError, OSError, ValueError, RuntimeError) as error:
        raise _error(found, error) from error


def _error(found: HubSet, error: BaseException) -> DataError:
    what = f"{found.repository} ({', '.join(filter(None, (found.subset, *found.splits)))})"
    first = first_line(error, 400)
    fetch = (
        f"Fetch it where there is a network, hf download {found.repository} --repo-type dataset --local-dir FOLDER, "
        "then set data.source.path: FOLDER."
    )
    if isinstance(error, ConnectionError) or "offline" in first.lower() or "reach" in first.lower():
        return DataError(
            f"The data set {what} is not on this machine, and the hub cannot be reached to fetch it.", hint=fetch
        )
    if "scripts are no longer supported" in first:
        hint = "Set revision: refs/convert/parquet, the hub's own conversion."
        return DataError(f"The data set {found.repository} is a Python script, which is not run.", hint=hint)
    if "doesn't exist" in first or "gated" in first:
        return DataError(
            f"The data set {found.repository} cannot be read on the hub: {first}",
            hint="Check hub and revision, or log in for a private or gated data set: hf auth login.",
        )
    return DataError(f"The data set {what} cannot be read: {first}", hint="Check hub, subset and hub_splits.")
