"""The date passed to chat templates: fixed at the first start of a run."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from ensemw2s.checksums import check_recorded, recording
from ensemw2s.config.data import TemplateConfig
from ensemw2s.errors import DamagedError, InputError
from ensemw2s.files import open_regular, write_text

FILE_NAME = "date.txt"


def dated(template: TemplateConfig, folder: Path, given: str | None = None) -> TemplateConfig:
    """A template with its date: its own, or else the one kept in ``folder``, or else ``given`` or now, which is kept.

    Args:
        template: of the configuration. Only chats have a date; any other template is returned as it is.
        folder: a run directory, or the folder of several runs.
        given: the date of a sweep or of several seeds, that all their runs share.

    Raises:
        InputError: the file in ``folder`` is damaged or holds no date.
    """
    if not template.chat or template.date is not None:
        return template
    from ensemw2s.data.chat import now

    file = folder / FILE_NAME
    try:
        with open_regular(file) as stream:
            date = stream.read(64).decode("ascii", "replace").strip()
    except FileNotFoundError:
        date = given or now()
        folder.mkdir(parents=True, exist_ok=True)
        with recording(folder, file.name):
            write_text(file, date + "\n")
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}.") from error
    _check(file)
    try:
        return TemplateConfig.model_validate({**template.model_dump(), "date": date})
    except ValidationError as error:
        raise InputError(
            f"{file} holds no date: {date!r}.",
            hint="Write the day the run began, such as 2026-03-05T14:00:00, or remove the file to take today.",
        ) from error


def _check(file: Path) -> None:
    """Refuse a damaged date, which nothing could make again."""
    try:
        check_recorded(file)
    except DamagedError as error:
        if error.path == file:
            hint = "Put back what was in it (data.template.date in ensemble.json), or remove the file to take today."
            raise InputError(f"{file} is damaged: {error.why}.", hint=hint, title=error.title) from error
