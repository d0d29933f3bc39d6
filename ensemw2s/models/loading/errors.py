"""Errors of ``from_pretrained`` in words: what cannot be loaded, and what to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from ensemw2s.errors import Ew2sError, ModelError, causes, first_line, shortened
from ensemw2s.models.loading.source import ModelSource

_UNREACHABLE = {
    *("OfflineModeIsEnabled", "LocalEntryNotFoundError", "ConnectError", "ConnectionError"),
    *("ConnectTimeout", "TimeoutException"),
}


@contextlib.contextmanager
def explain_loading(source: ModelSource, part: str) -> Iterator[None]:
    """Turn the errors of ``from_pretrained`` into a :class:`ModelError` that says what to do."""
    try:
        yield
    except Ew2sError:
        raise
    except Exception as error:  # readers of foreign files raise anything
        raise _explained(source, part, error) from error
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # a panic of a library in Rust
            raise
        raise _explained(source, part, error) from error


def _explained(source: ModelSource, part: str, error: BaseException) -> ModelError:
    first = first_line(error, 400)
    rest = str(error).strip().partition("\n")[2].split()
    if first.endswith(":") and rest:  # the reason is on the lines below
        first = shortened(f"{first} {' '.join(rest)}", 400)
    if "trust_remote_code" in str(error):
        return ModelError(
            f"{source.name} comes with its own Python code, which is not run unless you allow it.",
            hint="If you trust its authors, set trust_remote_code: true for it; for an ensemble: --trust-remote-code.",
        )
    if source.gguf is not None:
        return ModelError(
            f"The {part} of {source.name} cannot be loaded: {first}",
            hint="It may be damaged, or of an architecture that transformers does not read from GGUF.",
        )
    if "report" in first and "above" in first:  # the table that transformers logs, which is not shown
        first = "its tensors do not have the shapes that config.json says"
    if source.folder is not None:
        hint = f"Check the files in {source.folder}."
        if "safetensors" in str(error) and not list(source.folder.glob("*.safetensors")):
            hint = "Weights are read from .safetensors files only; save the model again with save_pretrained."
        return ModelError(f"The {part} of {source.name} cannot be loaded: {first}", hint=hint)
    names = {type(e).__name__ for e in causes(error)}
    fetch = f"Fetch it where there is a network (hf download {source.hub_id}), then set path to that folder."
    if "GatedRepoError" in names:
        return ModelError(f"{source.name} is gated on the hub.", hint="Ask for access there and log in: hf auth login.")
    if names & {"RepositoryNotFoundError", "RevisionNotFoundError", "HFValidationError"}:
        return ModelError(
            f"{source.name} is neither a local folder nor a model on the hub that you can read: {first}",
            hint="Check path and revision, or log in for a private model: hf auth login.",
        )
    if names & _UNREACHABLE or "connect" in first.lower() or "offline" in first.lower():
        return ModelError(
            f"{source.name} is not a local folder, and the hub cannot be reached to fetch its {part}.", hint=fetch
        )
    return ModelError(f"The {part} of {source.name} cannot be loaded: {first}", hint=fetch)
