"""Where results go, looked at before the work: an output that cannot be written costs nothing then."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import stat
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from ensemw2s.errors import InputError
from ensemw2s.files import refuse_links, remove_abandoned

_MEANT = "Choose another name."


def check_output_file(path: Path, *, inputs: Iterable[Path] = (), ours: Callable[[Path], bool]) -> None:
    """Find out whether results can be written to a file; nothing is left behind.

    Args:
        path: the file to write.
        inputs: files and folders that are read; the output is none of them, under whatever name, and lies in none.
        ours: whether a file that is there holds results of this kind, which may be replaced. An empty one may.

    Raises:
        InputError: it is an input; something else is there; or its folder is missing or cannot be written to.
    """
    status = _status(path)
    _refuse_inputs(path, status, inputs)
    if status is not None:
        if stat.S_ISDIR(status.st_mode):
            raise InputError(f"{path} is a folder; results go into a file.", hint="Add the file's name.")
        if not stat.S_ISREG(status.st_mode):
            raise InputError(f"{path} is not a regular file.", hint=_MEANT)
        if not os.access(path, os.W_OK):
            raise InputError(f"{path} is write-protected.", hint=_MEANT)
        if status.st_size and not ours(path):
            raise InputError(
                f"{path} exists, and does not hold results of this command.", hint=f"{_MEANT} Nothing was overwritten."
            )
    if not path.parent.is_dir():
        raise InputError(f"{path} cannot be written: there is no folder {path.parent}.", hint="Make it first.")
    _try_writing(path, path.parent)


def check_output_folder(path: Path, *, inputs: Iterable[Path] = (), ours: Callable[[Path], bool], what: str) -> bool:
    """The same for a folder; those above it are made later.

    Args:
        path: the folder to write.
        inputs: as in :func:`check_output_file`. The output contains none of them either.
        ours: whether a folder that is there, and not empty, may be written over.
        what: what such a folder is, in words.

    Returns:
        Whether there is something to write over.

    Raises:
        InputError: as in :func:`check_output_file`.
    """
    status = _status(path)
    inputs = list(inputs)
    _refuse_inputs(path, status, inputs)
    if status is not None and not stat.S_ISDIR(status.st_mode):
        raise InputError(f"{path} is a file.", hint="Choose a folder.")
    for given in inputs:
        if status is not None and given.exists() and given.resolve().is_relative_to(path.resolve()):
            raise InputError(f"{path} holds {given}, which is read.", hint="Choose another folder.")
    place = path
    while not _exists(place) and place != place.parent:
        place = place.parent
    if not place.is_dir():
        raise InputError(f"{path} cannot be made: {place} is not a folder.", hint=_MEANT)
    try:
        if place == path:
            remove_abandoned(path)  # of the same command, killed
        held = place == path and any(path.iterdir())
    except OSError as error:
        raise _unwritable(path, error) from error
    if held and not ours(path):
        raise InputError(f"{path} is not empty, and not {what}.", hint="Choose another folder.")
    _try_writing(path, place)
    return held


def beside(output: Path, suffix: str) -> Path:
    """The folder of unfinished work beside an output; where its name is too long, it is cut and gets a hash."""
    name = f"{output.name}.{suffix}"
    if len(os.fsencode(name)) > 255:
        digest = hashlib.sha256(os.fsencode(output.name)).hexdigest()[:16]
        name = f"{os.fsencode(output.name)[:200].decode(errors='ignore')}.{digest}.{suffix}"
    return output.with_name(name)


def check_work_folder(folder: Path, ours: re.Pattern[str]) -> None:
    """Whether a folder of unfinished work, which will be removed, holds nothing else.

    Args:
        folder: it need not exist.
        ours: matches the names of what may be in it.

    Raises:
        InputError: it is a link or a file, or holds something of another name.
    """
    refuse_links(folder.parent, folder.name)
    if not folder.exists():
        return
    if not folder.is_dir():
        raise InputError(f"{folder} is a file, where unfinished work would be kept.", hint="Move it away.")
    strange = sorted(path.name for path in folder.iterdir() if not ours.fullmatch(path.name))
    if strange:
        raise InputError(
            f"{folder}, where unfinished work would be kept, holds something else: {strange[0]}.",
            hint="Choose another output, or move that folder away.",
        )


def _status(path: Path) -> os.stat_result | None:
    """What is at a path; None where nothing is. A link is refused: what it leads to was not named."""
    try:
        status = path.lstat()
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            return None
        raise _unwritable(path, error) from error
    if stat.S_ISLNK(status.st_mode):
        raise InputError(f"{path} is a symbolic link.", hint="Name the place itself that it leads to, or another one.")
    return status


def _refuse_inputs(path: Path, status: os.stat_result | None, inputs: Iterable[Path]) -> None:
    place = Path(os.path.realpath(path))
    for given in inputs:
        try:
            same = status is not None and os.path.samestat(status, given.stat())  # also by a link or in other case
        except OSError:
            continue
        if same:
            raise InputError(f"{path} is {given}, which is read.", hint=f"{_MEANT} Nothing was overwritten.")
        if given.is_dir() and place.is_relative_to(given.resolve()):
            raise InputError(f"{path} lies in {given}, which is read.", hint="Choose a place outside.")


def _exists(place: Path) -> bool:
    try:
        return place.exists()
    except OSError as error:
        raise _unwritable(place, error) from error


def _try_writing(path: Path, folder: Path) -> None:
    try:
        tempfile.TemporaryFile(dir=folder).close()  # without a name where the system can, so that a kill leaves nothing
    except OSError as error:
        raise _unwritable(path, error) from error


def _unwritable(path: Path, error: OSError) -> InputError:
    if error.errno == errno.ENAMETOOLONG:
        return InputError(f"{str(path)[:80]}… is too long for a name.", hint="Most file systems take 255 bytes.")
    return InputError(f"{path} cannot be written: {error.strerror or error}.", hint=_MEANT)
