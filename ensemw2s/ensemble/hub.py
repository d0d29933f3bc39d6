"""Folders to and from the Hugging Face hub, through its own client."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ensemw2s.errors import ModelError

#: Arguments of ``from_pretrained`` that say where files come from.
HUB_OPTIONS = ("cache_dir", "force_download", "local_files_only", "proxies", "revision", "token")


def push_folder(
    folder: Path,
    repo_id: str,
    *,
    kind: str = "model",
    private: bool | None = None,
    token: str | bool | None = None,
    revision: str | None = None,
    commit_message: str | None = None,
    create_pr: bool = False,
) -> str:
    """Upload a folder in one commit; files that the repository has besides stay.

    The repository ``owner/name``, a ``model`` or ``dataset`` as ``kind`` says, is made if it is not there; ``private``
    None leaves to the hub who sees it. ``token`` None takes that of ``hf auth login`` or ``HF_TOKEN``.

    Returns:
        The commit's address.

    Raises:
        ModelError: the hub cannot be reached, or does not let you write there.
    """
    from huggingface_hub import HfApi

    api = HfApi(token=token)
    with hub_errors(repo_id, "uploaded to"):
        made = api.create_repo(repo_id, repo_type=kind, private=private, exist_ok=True)
        commit = api.upload_folder(
            folder_path=folder,
            repo_id=made.repo_id,
            repo_type=kind,
            revision=revision,
            commit_message=commit_message or "Upload from ensemw2s",
            create_pr=create_pr,
        )
    return str(commit.pr_url if create_pr else commit.commit_url)


def find_folder(name: str | Path, **options: Any) -> Path:
    """The local folder of a saved ensemble: ``name`` itself, or the copy of a repository ``owner/name`` on the hub.

    Args:
        name: the folder or the repository, which is downloaded where needed.
        options: those of :data:`HUB_OPTIONS`.

    Raises:
        ModelError: the repository is not there, or the hub cannot be reached and there is no local copy.
    """
    from huggingface_hub import snapshot_download

    text, folder = str(name), Path(name).expanduser()
    if text.startswith((".", "~", os.sep)) or text.count("/") != 1 or folder.exists():
        return folder
    with hub_errors(text, "fetched from"):
        return Path(snapshot_download(text, **options))


@contextlib.contextmanager
def hub_errors(repo_id: str, what: str) -> Iterator[None]:
    """Turn the client's errors into a :class:`ModelError` that says what to do."""
    from huggingface_hub import errors

    # The HTTP client behind the hub's is one or another by version; its base error is re-exported.
    network = getattr(errors, "HTTPError", errors.HfHubHTTPError)
    try:
        yield
    except errors.HFValidationError as error:
        raise ModelError(
            f"{repo_id!r} is neither a local folder nor of the form owner/name.", hint="Check the path."
        ) from error
    except (errors.HfHubHTTPError, errors.LocalTokenNotFoundError, network, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if status in (401, 403) or isinstance(error, errors.LocalTokenNotFoundError):
            hint = "Log in with a token that may write there: hf auth login."
        elif status == 404:
            hint = "Check the name, or log in for a private repository: hf auth login."
        else:
            hint = "Try again where there is a network; HF_ENDPOINT names another hub."
        raise ModelError(f"{repo_id} cannot be {what} the hub: {first}", hint=hint) from error
